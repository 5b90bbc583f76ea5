//! ImpRAG's schedule on a pipeline of two models: the retriever is warmed up on a teacher's scores, then both train together and
//! the retriever distils the generator's likelihoods (PDist). Without the warm-up a retriever that finds nothing learns nothing.
//! Deviations: ImpRAG is one model. It warms up by multi-label NCE, with the passages that Contriever ranks highest as positives;
//! here the warm-up is the KL divergence from the distribution over a question's `teacher_scores`, which uses the scores and not
//! only who is on top. The temperatures of teacher (`--teacher-temperature`) and of the generator's likelihoods
//! (`--target-temperature`) are two settings, because their scales have nothing to do with each other.

use super::{Begins, Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::{Distillation, Pdist, TeacherLoss};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "self-distil",
    about: "the encoder warms up on a teacher's scores, then both train and it distils the generator (PDist)",
    source: "ImpRAG, arXiv 2506.02279; Atlas, arXiv 2208.03299",
    cost: "questions and scored passages through the encoder; then those of `joint --objective pdist`",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    let (temperature, passages) = (recipe.temperature, recipe.train_passages);
    let warm_up = Distillation {
        form: TeacherLoss::Kl,
        temperature,
        teacher_temperature: recipe.teacher_temperature.unwrap_or(1.0),
        direction: recipe.direction,
    };
    let pdist =
        Pdist { temperature, target_temperature: recipe.target_temperature.unwrap_or(1.0), length: recipe.length };
    let retriever = Trains { questions: true, passages, generator: false, ..Trains::default() };
    Ok(vec![
        Stage::new("warm-up", Box::new(warm_up), retriever).beginning(Begins::Base, Begins::Base),
        Stage::new("self-distil", Box::new(pdist), Trains { generator: true, ..retriever }),
    ])
}
