//! Only the retriever trains, to rank passages as the frozen generator's likelihoods do: REPLUG LSR.

use super::{Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::ReplugLsr;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "replug",
    about: "the encoder learns to rank passages as the frozen generator's likelihoods do",
    source: "Shi et al. 2023, arXiv 2301.12652, LSR",
    cost: "K prompts a question through the frozen generator forward (none for what is remembered), the encoder forward and backward",
    stages,
};

/// beta of the paper. Its gamma, 0.1 too, is `--temperature`, which has one default for all strategies.
const TEMPERATURE: f64 = 0.1;

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    let objective = ReplugLsr {
        temperature: recipe.temperature,
        target_temperature: recipe.target_temperature.unwrap_or(TEMPERATURE),
        direction: recipe.direction,
        value: recipe.value,
        length: recipe.length,
    };
    let trains = Trains { questions: true, passages: recipe.train_passages, generator: false, ..Trains::default() };
    Ok(vec![Stage::new("retriever", Box::new(objective), trains)])
}
