//! Negatives mined from the live index (ANCE, arXiv 2007.00808): kept as a file of the run that says how they were found, so that
//! a resumed run trains against the very same.

use serde::{Deserialize, Serialize};

use super::Trainer;
use super::context::drawn;
use crate::error::{Error, Result};
use crate::pipeline::step::ByQuestion;
use crate::strategies::Mining;

/// What a checkpoint keeps of the negatives in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mined {
    /// The file in the run folder.
    pub file: String,
    /// Hex blake3 of the file.
    pub hash: String,
}

/// `negatives-<step>.json`.
#[derive(Serialize, Deserialize)]
struct Negatives {
    /// Optimiser steps done in all when they were mined.
    step: u64,
    /// The generation that was searched.
    generation: u32,
    /// The encoder that embedded it, by its fingerprint's id.
    vectors: String,
    /// Hash of the questions.
    questions: String,
    /// Seed of the draw.
    seed: u64,
    /// Depth and number.
    settings: Mining,
    /// Ids of passages by question.
    negatives: std::collections::BTreeMap<String, Vec<String>>,
    /// The same as ordinals of the corpus.
    ordinals: ByQuestion,
}

impl Trainer<'_> {
    /// Searches the live index for every training question and draws negatives among what is near and not gold, uniformly, as
    /// the paper does.
    pub(super) fn mine(&mut self, settings: Mining) -> Result<()> {
        let step = self.steps_done();
        let found = self.found_passages(&self.questions.questions, settings.depth)?;
        let _span = self.ledger.span(crate::cost::Phase::Retrieve);
        let (mut negatives, mut ordinals) = (std::collections::BTreeMap::new(), ByQuestion::new());
        for (question, found) in self.questions.questions.iter().zip(found) {
            let gold = self.gold(question)?;
            let wrong: Vec<u32> = found.into_iter().filter(|one| !gold.contains(one)).collect();
            let chosen = drawn(wrong, settings.negatives, self.config.seed, &format!("{step} {}", question.id));
            let read = self.pipeline.corpus.get(&chosen)?;
            negatives.insert(question.id.clone(), read.into_iter().map(|passage| passage.id).collect());
            ordinals.insert(question.id.clone(), chosen);
        }
        let mined = Negatives {
            step,
            generation: self.pipeline.generation.number(),
            vectors: self.pipeline.generation.fingerprint().id(),
            questions: self.questions.hash.clone(),
            seed: self.config.seed,
            settings,
            negatives,
            ordinals,
        };
        let text = serde_json::to_vec(&mined)?;
        let file = format!("negatives-{step:08}.json");
        self.run.write(&file, &text)?;
        self.state.mined = Some(Mined { file, hash: blake3::hash(&text).to_hex().to_string() });
        self.context.mined = Some(mined.ordinals);
        Ok(())
    }

    /// The negatives that a checkpoint trained against.
    pub(super) fn mined_before(&self) -> Result<Option<ByQuestion>> {
        let Some(mined) = &self.state.mined else { return Ok(None) };
        let path = self.run.dir().join(&mined.file);
        let broken = |what: String| {
            Error::new(format!("the mined negatives `{}` cannot be gone on with: {what}", path.display()))
                .hint("put the file back, or train again into a new `--out`")
        };
        let text = std::fs::read(&path).map_err(|source| broken("they cannot be read".into()).because(source))?;
        let hash = blake3::hash(&text).to_hex().to_string();
        if hash != mined.hash {
            return Err(broken(format!("their hash is `{hash}`, expected `{}`", mined.hash)));
        }
        let negatives: Negatives =
            serde_json::from_slice(&text).map_err(|source| broken("they are no negatives".into()).because(source))?;
        Ok(Some(negatives.ordinals))
    }
}
