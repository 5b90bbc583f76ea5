//! Only the generator trains, over the context the frozen retriever finds: "Ft. Gen." in Lawton et al. 2025 (their figure
//! 1c: RAG-Token with a frozen embedder). With the `concat` reader it is plain supervised fine-tuning on one prompt.

use super::{Reader, Recipe, Stage, Strategy, Trains};
use crate::error::{Error, Result};
use crate::objectives::{Objective, RagToken, SftConcat};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "generator",
    about: "the generator trains on what the frozen retriever finds",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"Ft. Gen.\" (figure 1c)",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    if recipe.train_passages {
        return Err(Error::new(
            "`--train-passages true` contradicts `--strategy generator`, which leaves the encoder alone",
        )
        .hint("drop `--train-passages`, or choose `--strategy joint`"));
    }
    let objective: Box<dyn Objective> = match recipe.reader {
        Reader::Mixture => Box::new(RagToken { temperature: recipe.temperature }),
        Reader::Concat => Box::new(SftConcat),
    };
    Ok(vec![Stage {
        name: "generator",
        objective,
        trains: Trains { generator: true, ..Trains::default() },
        needs_gold: false,
    }])
}
