//! Only the encoder trains, on gold passages by MNRL: "Ft. Embed." in Lawton et al. 2025, who keep passage vectors frozen.
//! With trained passages it is sentence-transformers' usual fine-tuning, after which the index must be rebuilt.

use super::{Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::Mnrl;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "embedder",
    about: "the encoder trains on gold passages (MNRL, in-batch negatives)",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"Ft. Embed.\"; Henderson et al. 2017, arXiv 1705.00652",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    Ok(vec![Stage {
        name: "embedder",
        objective: Box::new(Mnrl { scale: recipe.scale, hard_negatives: 0 }),
        trains: Trains { questions: true, passages: recipe.train_passages, generator: false },
        needs_gold: true,
    }])
}
