//! Only the encoder trains, on gold passages by MNRL: "Ft. Embed." in Lawton et al. 2025, who keep passage vectors frozen.
//! With trained passages it is sentence-transformers' usual fine-tuning, after which the index must be rebuilt. Questions with
//! `hard_negatives` bring them along where the settings ask for some.

use super::{Begins, Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::Mnrl;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "embedder",
    about: "the encoder trains on gold passages (MNRL, in-batch negatives)",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"Ft. Embed.\"; Henderson et al. 2017, arXiv 1705.00652",
    cost: "questions (and gold passages, where their side trains) through the encoder, forward and backward",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    Ok(vec![stage(recipe)])
}

/// The stage, which `independent` contains too.
pub(super) fn stage(recipe: &Recipe) -> Stage {
    let objective = Mnrl { scale: recipe.scale, hard_negatives: recipe.hard_negatives };
    let trains = Trains { questions: true, passages: recipe.train_passages, generator: false, ..Trains::default() };
    Stage::new("embedder", Box::new(objective), trains).beginning(Begins::Base, Begins::Base)
}
