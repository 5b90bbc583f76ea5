//! First one model, then the other through it. `two-phase`: the generator with a frozen encoder, then the encoder by the
//! RAG-Token likelihood of the tuned, frozen generator ("2-Phase" in Lawton et al. 2025; its first stage is `generator`'s).
//! `two-phase-reversed`: the encoder through the base generator first, then the generator on what the tuned encoder finds.

use super::{Begins, Recipe, Stage, Strategy, Trains, generator, needs_mixture};
use crate::error::Result;
use crate::objectives::RagToken;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "two-phase",
    about: "the generator trains, then the encoder through the frozen generator (RAG-Token)",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"2-Phase\"",
    cost: "`generator`, then K prompts a question through the frozen generator forward (none for what is remembered), the encoder forward and backward",
    stages,
};

pub(super) const REVERSED: Strategy = Strategy {
    name: "two-phase-reversed",
    about: "the encoder trains through the base generator, then the generator on what it finds",
    source: "the other order of Lawton et al. 2025, arXiv 2510.01600, \"2-Phase\"",
    cost: "those of `two-phase`",
    stages: reversed,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    needs_mixture(recipe, STRATEGY.name)?;
    Ok(vec![generator::stage(recipe), encoder(recipe)])
}

fn reversed(recipe: &Recipe) -> Result<Vec<Stage>> {
    needs_mixture(recipe, REVERSED.name)?;
    let generator = generator::stage(recipe).beginning(Begins::Trained, Begins::Trained);
    Ok(vec![encoder(recipe), generator])
}

fn encoder(recipe: &Recipe) -> Stage {
    let objective = RagToken { temperature: recipe.temperature };
    let trains = Trains { questions: true, passages: recipe.train_passages, generator: false, ..Trains::default() };
    Stage::new("encoder-through-generator", Box::new(objective), trains)
}
