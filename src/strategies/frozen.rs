//! Nothing trains: the reference every other strategy is measured against ("No Ft." in Lawton et al. 2025).

use super::{Recipe, Stage, Strategy, leaves_passages};
use crate::error::Result;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "frozen",
    about: "nothing trains: the pipeline as it is",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"No Ft.\"",
    cost: "none",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    leaves_passages(recipe, STRATEGY.name)?;
    Ok(Vec::new())
}
