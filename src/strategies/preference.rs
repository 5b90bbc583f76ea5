//! Only the encoder trains, by preferences between two passages against its own beginning: DPO's loss over passages, as DDRO uses
//! it for document ids.

use super::{Begins, Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::{Preference, Preferred};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "preference",
    about: "the encoder learns to prefer one passage to another (DPO), by likelihood or gold label",
    source: "Rafailov et al. 2023, arXiv 2305.18290; DDRO, arXiv 2504.05181",
    cost: "by likelihood: K prompts a question through the frozen generator forward; the encoder forward twice and backward",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    let objective = Preference {
        temperature: recipe.temperature,
        beta: recipe.beta,
        preferred: recipe.preferred,
        // By likelihood only what was retrieved is compared.
        hard_negatives: if recipe.preferred == Preferred::Gold { recipe.hard_negatives } else { 0 },
    };
    let trains = Trains { questions: true, passages: recipe.train_passages, generator: false, ..Trains::default() };
    Ok(vec![Stage::new("preference", Box::new(objective), trains).beginning(Begins::Base, Begins::Base)])
}
