//! RA-DIT: two decoupled stages on the base of each other. LM-ft: the generator on each retrieved passage by itself. R-ft: the
//! question encoder towards the likelihoods of the base generator, over passages that were retrieved once. Deviation: the paper
//! reads the top 3 in LM-ft and scores the top 10 in R-ft; here both are `--top-k`.

use super::{Begins, Passages, Recipe, Stage, Strategy, Trains, leaves_passages};
use crate::error::Result;
use crate::objectives::{RaDitRetriever, SftSeparate};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "ra-dit",
    about: "the generator on single passages, and the question encoder on the base generator's likelihoods, apart",
    source: "Lin et al. 2023, arXiv 2310.01352",
    cost: "K prompts a question through the generator, forward and backward; K prompts through the base generator once; questions through the encoder, forward and backward",
    stages,
};

/// The temperature of the paper's target.
const TEMPERATURE: f64 = 0.01;

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    leaves_passages(recipe, STRATEGY.name)?;
    let lm = Trains { generator: true, ..Trains::default() };
    let retriever = Trains { questions: true, ..Trains::default() };
    let objective = RaDitRetriever {
        temperature: recipe.temperature,
        target_temperature: recipe.target_temperature.unwrap_or(TEMPERATURE),
    };
    Ok(vec![
        Stage::new("lm-ft", Box::new(SftSeparate), lm).beginning(Begins::Base, Begins::Base),
        Stage::new("r-ft", Box::new(objective), retriever)
            .beginning(Begins::Base, Begins::Base)
            .reading(Passages::Once),
    ])
}
