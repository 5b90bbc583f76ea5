//! Both models train, each by itself on the base of the other, and are put together without further training: "Indp." in Lawton
//! et al. 2025. Its stages are those of `generator` and `embedder`, which a comparison trains once.

use super::{Recipe, Stage, Strategy, embedder, generator};
use crate::error::Result;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "independent",
    about: "generator and encoder train apart and are put together",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"Indp.\"",
    cost: "those of `generator` and `embedder` together",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    Ok(vec![generator::stage(recipe), embedder::stage(recipe)])
}
