//! Only the generator trains, over the context the frozen retriever finds: "Ft. Gen." in Lawton et al. 2025 (their figure
//! 1c: RAG-Token with a frozen embedder). With the `concat` reader it is plain supervised fine-tuning on one prompt.

use super::{Begins, Reader, Recipe, Stage, Strategy, Trains, leaves_passages};
use crate::error::Result;
use crate::objectives::{Objective, RagToken, SftConcat};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "generator",
    about: "the generator trains on what the frozen retriever finds",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"Ft. Gen.\" (figure 1c)",
    cost: "K prompts (concat: one long prompt) a question through the generator, forward and backward",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    leaves_passages(recipe, STRATEGY.name)?;
    Ok(vec![stage(recipe)])
}

/// The stage, which `independent` and `two-phase` begin with.
pub(super) fn stage(recipe: &Recipe) -> Stage {
    let objective: Box<dyn Objective> = match recipe.reader {
        Reader::Concat => Box::new(SftConcat),
        _ => Box::new(RagToken { temperature: recipe.temperature }),
    };
    let trains = Trains { generator: true, ..Trains::default() };
    Stage::new("generator", objective, trains).beginning(Begins::Base, Begins::Base)
}
