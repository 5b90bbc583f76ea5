//! What stands still while a stage trains: passages chosen at its beginning, the encoder it began with, what the frozen generator
//! said before. Negatives, mined anew after refreshes, are in `mining`.

use std::cell::RefCell;

use ragtune_index::Trust;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Trainer;
use crate::cost::{Ledger, Phase};
use crate::data::Question;
use crate::error::Result;
use crate::models::encoder::Encoder;
use crate::models::{Grad, Role};
use crate::pipeline::answer::Order;
use crate::pipeline::fresh::{Fresh, FreshSettings};
use crate::pipeline::memo::Memo;
use crate::pipeline::step::{ByQuestion, Step};
use crate::strategies::{Passages, Stage};

/// Questions embedded at a time.
const BATCH: usize = 256;

/// What the steps of a stage are given besides their questions.
#[derive(Default)]
pub(super) struct Context {
    /// Passages by question, where they are not searched for at every step.
    pub(super) given: Option<ByQuestion>,
    /// Mined negatives by question.
    pub(super) mined: Option<ByQuestion>,
    /// The encoder the stage began with.
    pub(super) reference: Option<Encoder>,
    /// Likelihoods of the frozen generator.
    pub(super) memo: Option<RefCell<Memo>>,
    /// Live vectors of passages that questions come near, where candidates are ranked by them.
    pub(super) fresh: Option<RefCell<Fresh>>,
}

impl Trainer<'_> {
    /// Gives the steps of a stage what they need, with the models as they are.
    pub fn set_context(&mut self, stage: &Stage) -> Result<()> {
        self.context = self.context(stage)?;
        match stage.mining {
            Some(mining) => self.mine(mining),
            None => Ok(()),
        }
    }

    /// A step of a stage over some questions; nothing is computed yet.
    pub fn step_over<'s>(&'s self, stage: &Stage, questions: &'s [&'s Question], ledger: &'s Ledger) -> Step<'s> {
        Step::new(&self.pipeline, questions, stage.trains, self.step_settings, ledger)
            .with_passages(self.context.given.as_ref())
            .with_mined(self.context.mined.as_ref())
            .with_reference(self.context.reference.as_ref())
            .with_memo(self.context.memo.as_ref())
            .with_fresh(self.context.fresh.as_ref())
    }

    /// The context of a stage whose models are those it begins with.
    pub(super) fn context(&self, stage: &Stage) -> Result<Context> {
        let needs = stage.objective.needs();
        let reference = if needs.reference { Some(self.pipeline.encoder.try_clone()?) } else { None };
        let reads = needs.single_prompts || needs.concat || needs.leave_one_out;
        let budget = self.config.memo_mib << 20;
        let memo = if reads && !stage.trains.generator && budget > 0 {
            let _span = self.ledger.span(Phase::Load);
            let mut memo = Memo::new(budget);
            memo.follow(&self.pipeline.generator, &self.pipeline.prompt)?;
            Some(RefCell::new(memo))
        } else {
            None
        };
        let following = &self.following;
        let fresh = (self.ranks_live() && stage.trains.passages).then(|| {
            let (depth, age) = (following.depth, following.age);
            RefCell::new(Fresh::new(FreshSettings { depth, age, embed: self.embed_settings }))
        });
        Ok(Context { given: self.given(stage.passages)?, mined: None, reference, memo, fresh })
    }

    /// The passages of every training question, where a stage chooses them once.
    fn given(&self, passages: Passages) -> Result<Option<ByQuestion>> {
        if passages == Passages::Search {
            return Ok(None);
        }
        let questions = &self.questions.questions;
        let found = self.found_passages(questions, self.config.top_k)?;
        let mut given = ByQuestion::new();
        for (question, found) in questions.iter().zip(found) {
            let chosen = match passages {
                Passages::GoldFirst => gold_first(&self.gold(question)?, &found),
                Passages::Irrelevant => {
                    let avoid = [&self.gold(question)?, &found[..], self.pipeline.corpus.deleted()].concat();
                    with_irrelevant(&found, &avoid, self.pipeline.corpus.len() as u32, self.config.seed, &question.id)
                }
                Passages::BothEnds => Order::BothEnds.arrange(&found),
                Passages::Once | Passages::Search => found,
            };
            given.insert(question.id.clone(), chosen);
        }
        Ok(Some(given))
    }

    /// The `depth` best passages of each question: the nearest in the searched generation, as the live encoder sees the questions,
    /// or what the retriever finds.
    pub(super) fn found_passages(&self, questions: &[Question], depth: usize) -> Result<Vec<Vec<u32>>> {
        let mut found = Vec::with_capacity(questions.len());
        for batch in questions.chunks(BATCH) {
            let texts: Vec<&str> = batch.iter().map(|question| question.question.as_str()).collect();
            if !self.pipeline.retriever.is_dense() {
                found.extend(self.found_otherwise(&texts, depth)?);
                continue;
            }
            let vectors = {
                let span = self.ledger.span(Phase::Embed);
                let encoder = &self.pipeline.encoder;
                let tokenized = encoder.tokenize(&texts, Role::Question)?;
                let lengths: Vec<usize> = tokenized.ids.iter().map(Vec::len).collect();
                span.tokens(lengths.iter().sum::<usize>() as u64).flops(encoder.forward_flops(&lengths));
                encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?
            };
            let span = self.ledger.span(Phase::Retrieve);
            span.searches(texts.len() as u64);
            let pipeline = &self.pipeline;
            let depth = depth.min(pipeline.corpus.passages());
            let hits = pipeline.generation.search(&vectors, depth, pipeline.search, Trust::StaleAllowed)?;
            found.extend(hits.iter().map(|row| row.iter().map(|hit| hit.ordinal).collect::<Vec<u32>>()));
        }
        Ok(found)
    }

    /// The same by a retriever that looks at words too.
    fn found_otherwise(&self, texts: &[&str], depth: usize) -> Result<Vec<Vec<u32>>> {
        let pipeline = &self.pipeline;
        let vectors = match pipeline.retriever.embeds_questions() {
            true => {
                let span = self.ledger.span(Phase::Embed);
                let tokenized = pipeline.encoder.tokenize(texts, Role::Question)?;
                let lengths: Vec<usize> = tokenized.ids.iter().map(Vec::len).collect();
                span.tokens(lengths.iter().sum::<usize>() as u64).flops(pipeline.encoder.forward_flops(&lengths));
                let vectors = pipeline.encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?;
                Some(vectors.flatten_all()?.to_vec1::<f32>()?)
            }
            false => None,
        };
        let span = self.ledger.span(Phase::Retrieve);
        span.searches(texts.len() as u64);
        let depth = depth.min(pipeline.corpus.passages());
        let found = pipeline.find(texts, vectors.as_deref(), depth, Trust::StaleAllowed)?;
        Ok(found.hits.iter().map(|row| row.iter().map(|hit| hit.ordinal).collect()).collect())
    }

    /// The gold passages of a question that the corpus has.
    pub(super) fn gold(&self, question: &Question) -> Result<Vec<u32>> {
        let mut ordinals = Vec::with_capacity(question.gold_passages.len());
        for id in &question.gold_passages {
            ordinals.extend(self.pipeline.corpus.ordinal(id)?);
        }
        Ok(ordinals)
    }
}

/// The first gold passage, then what was found, as many as were found.
fn gold_first(gold: &[u32], found: &[u32]) -> Vec<u32> {
    let first = gold.first().copied();
    first.into_iter().chain(found.iter().copied().filter(|one| Some(*one) != first)).take(found.len()).collect()
}

/// What was found with every second passage replaced by one drawn at random from (seed, question) that is not to be avoided. A
/// corpus with nothing else keeps what was found.
fn with_irrelevant(found: &[u32], avoid: &[u32], corpus: u32, seed: u64, question: &str) -> Vec<u32> {
    let mut random = random_of(seed, question);
    let mut chosen = found.to_vec();
    let others = corpus as usize - avoid.iter().collect::<std::collections::BTreeSet<_>>().len();
    for place in (1..found.len()).step_by(2).take(others) {
        loop {
            let one = random.random_range(0..corpus);
            if !avoid.contains(&one) && !chosen.contains(&one) {
                chosen[place] = one;
                break;
            }
        }
    }
    chosen
}

/// Some of what is given, drawn without replacement from (seed, name).
pub(super) fn drawn(mut from: Vec<u32>, count: usize, seed: u64, name: &str) -> Vec<u32> {
    from.shuffle(&mut random_of(seed, name));
    from.truncate(count);
    from
}

/// Randomness that depends on a seed and a name alone.
fn random_of(seed: u64, name: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(name.as_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passages_are_arranged_as_they_are_named() {
        assert_eq!(gold_first(&[9, 8], &[1, 2, 3]), [9, 1, 2]);
        assert_eq!(gold_first(&[2], &[1, 2, 3]), [2, 1, 3]);
        assert_eq!(gold_first(&[], &[1, 2]), [1, 2]);
    }

    #[test]
    fn irrelevant_passages_are_none_of_those_to_avoid_and_depend_on_seed_and_question_alone() {
        let found = [1, 2, 3, 4, 5];
        let chosen = with_irrelevant(&found, &[1, 2, 3, 4, 5, 6], 100, 7, "q");
        assert_eq!((chosen[0], chosen[2], chosen[4]), (1, 3, 5));
        assert!(chosen[1] > 6 || chosen[1] == 0, "{chosen:?}");
        assert_ne!(chosen[1], chosen[3]);
        assert_eq!(chosen, with_irrelevant(&found, &[1, 2, 3, 4, 5, 6], 100, 7, "q"));
        assert_ne!(chosen, with_irrelevant(&found, &[1, 2, 3, 4, 5, 6], 100, 7, "r"));
        // A corpus of what was found and one more has one other passage to give.
        assert_eq!(with_irrelevant(&[0, 1, 2, 3], &[0, 1, 2, 3], 5, 0, "q"), [0, 4, 2, 3]);
        assert_eq!(drawn((0..9).collect(), 3, 1, "a").len(), 3);
    }
}
