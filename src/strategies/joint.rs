//! Both models train at once. With the RAG-Token and RAG-Sequence likelihoods these are "RAG-Tok." and "RAG-Seq." of Lawton et
//! al. 2025 (question side only); with trained passages REALM and RAG-end2end: the stale index only selects passages, their
//! scores are recomputed with live weights. The other objectives are EMDR2's and Atlas's, whose reader sees all passages in one
//! prompt.

use super::{Recipe, Stage, Strategy, Trains, needs_mixture};
use crate::error::Result;
use crate::objectives::choice::choice;
use crate::objectives::{Adist, Emdr2, Loop, Mixture, Objective, Pdist, RagSequence, RagToken};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "joint",
    about: "encoder and generator train together on one likelihood (--objective)",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"RAG-Tok.\" and \"RAG-Seq.\"; with trained passages REALM, arXiv 2002.08909, and RAG-end2end, arXiv 2210.02627; EMDR2, arXiv 2106.05346; PDist, LOOP and ADist of Atlas, arXiv 2208.03299",
    cost: "K prompts a question through the generator and the question (with trained passages: K passages too) through the encoder, forward and backward; refreshes where passages train",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    let objective = recipe.objective;
    if matches!(objective, JointObjective::RagToken | JointObjective::RagSequence) {
        needs_mixture(recipe, STRATEGY.name)?;
    }
    let trains = Trains { questions: true, passages: recipe.train_passages, generator: true, ..Trains::default() };
    Ok(vec![Stage::new("joint", equation(recipe), trains)])
}

choice! {
    /// The equation of joint training.
    JointObjective ("objective") {
        /// Every answer token from the mixture of the passages' readers.
        RagToken = "rag-token",
        /// The whole answer from the mixture.
        RagSequence = "rag-sequence",
        /// All passages in one prompt; the retriever by the likelihoods of whole answers.
        Emdr2 = "emdr2",
        /// The same with the likelihoods mixed token by token, as Atlas's code does.
        Emdr2Token = "emdr2-token",
        /// The retriever is pulled to the softmax of the passages' likelihoods.
        Pdist = "pdist",
        /// ... of how much the answer loses without each passage.
        Loop = "loop",
        /// ... of the generator's attention.
        Adist = "adist",
    }
}

/// The equation with the settings.
pub(super) fn equation(recipe: &Recipe) -> Box<dyn Objective> {
    let temperature = recipe.temperature;
    let target_temperature = recipe.target_temperature.unwrap_or(1.0);
    let length = recipe.length;
    match recipe.objective {
        JointObjective::RagToken => Box::new(RagToken { temperature }),
        JointObjective::RagSequence => Box::new(RagSequence { temperature }),
        JointObjective::Emdr2 => Box::new(Emdr2 { temperature, mixture: Mixture::Sequence }),
        JointObjective::Emdr2Token => Box::new(Emdr2 { temperature, mixture: Mixture::Token }),
        JointObjective::Pdist => Box::new(Pdist { temperature, target_temperature, length }),
        JointObjective::Loop => Box::new(Loop { temperature, target_temperature, length }),
        // Atlas's own temperature; attention masses lie close together.
        JointObjective::Adist => {
            Box::new(Adist { temperature, target_temperature: recipe.target_temperature.unwrap_or(0.01) })
        }
    }
}
