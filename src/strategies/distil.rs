//! Only the encoder trains, on scores that a cross-encoder or another teacher gave to passages of each question.

use super::{Begins, Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::Distillation;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "distil",
    about: "the encoder learns a teacher's scores of passages (KL or margin-MSE)",
    source: "Hofstätter et al. 2020, arXiv 2010.02666 (margin-MSE); Ren et al. 2021, RocketQAv2, arXiv 2110.07367 (KL)",
    cost: "questions (and scored passages, where their side trains) through the encoder, forward and backward",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    let objective = Distillation {
        form: recipe.teacher_loss,
        temperature: recipe.temperature,
        teacher_temperature: recipe.teacher_temperature.unwrap_or(1.0),
        direction: recipe.direction,
    };
    let trains = Trains { questions: true, passages: recipe.train_passages, generator: false, ..Trains::default() };
    Ok(vec![Stage::new("distil", Box::new(objective), trains).beginning(Begins::Base, Begins::Base)])
}
