//! Both models train at once on the RAG-Token likelihood: "RAG-Tok." in Lawton et al. 2025 (question side only), REALM and
//! RAG-end2end with trained passages: the stale index only selects passages, their scores are recomputed with live weights.

use super::{Reader, Recipe, Stage, Strategy, Trains};
use crate::error::{Error, Result};
use crate::objectives::RagToken;

pub(super) const STRATEGY: Strategy = Strategy {
    name: "joint",
    about: "encoder and generator train together on the RAG-Token likelihood",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"RAG-Tok.\"; with trained passages REALM, arXiv 2002.08909, and RAG-end2end, arXiv 2210.02627",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    if recipe.reader == Reader::Concat {
        return Err(Error::new(
            "`--reader concat` gives the retriever no gradient, so `--strategy joint` cannot train with it",
        )
        .hint("use `--reader mixture` for joint training; `ragtune eval --reader concat` can still read that way"));
    }
    Ok(vec![Stage {
        name: "joint",
        objective: Box::new(RagToken { temperature: recipe.temperature }),
        trains: Trains { questions: true, passages: recipe.train_passages, generator: true },
        needs_gold: false,
    }])
}
