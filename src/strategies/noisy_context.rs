//! Robustness to long contexts: the generator trains on retrieved contexts with their hard negatives, the best passages at both
//! ends, where a reader looks first.

use super::{Begins, Passages, Recipe, Stage, Strategy, Trains, leaves_passages};
use crate::error::Result;
use crate::objectives::SftConcat;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "noisy-context",
    about: "the generator trains on whole noisy contexts, the best passages at both ends",
    source: "Jin et al. 2024, arXiv 2410.05983, sections 4 and 5",
    cost: "one long prompt a question through the generator, forward and backward",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    leaves_passages(recipe, STRATEGY.name)?;
    let trains = Trains { generator: true, ..Trains::default() };
    Ok(vec![
        Stage::new("noisy-context", Box::new(SftConcat), trains)
            .beginning(Begins::Base, Begins::Base)
            .reading(Passages::BothEnds),
    ])
}
