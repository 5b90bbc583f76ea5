//! CL-RAG: the generator trains on contexts from easy to hard, then the retriever on the ranking that the tuned generator gives
//! its passages. Deviation: the paper's easiest and hardest contexts are rewritten by a teacher model; here the easiest hold the
//! gold passage first and the hardest passages drawn at random.

use super::{Begins, Passages, Recipe, Stage, Strategy, Trains};
use crate::error::Result;
use crate::objectives::{ClRag, SftConcat};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "cl-rag",
    about: "the generator learns from easy contexts to hard ones, then the encoder from its ranking of passages",
    source: "CL-RAG, arXiv 2505.10493",
    cost: "three times one long prompt a question through the generator, forward and backward; K prompts through it forward, the encoder forward and backward",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    let lm = Trains { generator: true, ..Trains::default() };
    let retriever = Trains { questions: true, passages: recipe.train_passages, generator: false, ..Trains::default() };
    let level = |name, passages| {
        Stage::new(name, Box::new(SftConcat), lm).beginning(Begins::Base, Begins::Trained).reading(passages)
    };
    Ok(vec![
        level("easy", Passages::GoldFirst),
        level("common", Passages::Once),
        level("hard", Passages::Irrelevant),
        Stage::new("retriever", Box::new(ClRag { temperature: recipe.temperature }), retriever),
    ])
}
