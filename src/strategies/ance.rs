//! ANCE: the encoder trains on gold passages against negatives that its own live index finds, mined again after every refresh.
//!
//! Deviations: in the paper a question's loss is against its own mined negatives alone, scores are unscaled dot products, the
//! encoder is warmed up on negatives that BM25 found, and trainer and miner run beside each other. Here mined negatives and gold
//! passages of the other questions of a batch count too ([`Mnrl`]), scores are cosines times `--scale`, training begins with the
//! base encoder, and mining follows each refresh.

use super::{Begins, Mining, Recipe, Stage, Strategy, Trains};
use crate::error::{Error, Result};
use crate::objectives::Mnrl;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "ance",
    about: "the encoder trains against negatives mined from its own live index",
    source: "Xiong et al. 2020, arXiv 2007.00808",
    cost: "those of `embedder` with trained passages, one search a question for every mining, and the refreshes before them",
    stages,
};

/// Passages among which negatives are drawn.
const DEPTH: usize = 200;

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    if !recipe.train_passages {
        return Err(Error::new("`--strategy ance` trains questions and passages, and `--train-passages` is false")
            .hint("add `--train-passages true`, and say how often the index follows: `--refresh-every 100`"));
    }
    // One negative a question in the paper.
    let negatives = recipe.hard_negatives.max(1);
    let objective = Mnrl { scale: recipe.scale, hard_negatives: negatives };
    let trains = Trains { questions: true, passages: true, generator: false, ..Trains::default() };
    Ok(vec![
        Stage::new("ance", Box::new(objective), trains)
            .beginning(Begins::Base, Begins::Base)
            .mining(Mining { depth: DEPTH, negatives }),
    ])
}
