//! The papers' quantities for one batch, computed and charged when they are first asked for.
//!
//! `retrieve` finds passages (`words` where words count) and scores them, `candidates` scores passages that labels name, `score` asks the generator how
//! likely answers are, `attention` where it looks; `selected` what a selector chooses; `observed` is what reports hear of it.
//!
//! Dimension letters: B questions, K retrieved passages a question, C candidates, T answer tokens, D vector width.
//! Retrieval is over the current generation, however stale; scores are recomputed from live vectors where the passage
//! side trains (REALM, arXiv 2002.08909, section 3.3: the index only selects).

mod attention;
mod candidates;
mod observed;
mod remember;
mod retrieve;
mod score;
mod selected;
mod words;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use candle_core::Tensor;
use ragtune_index::Passage;

use super::Pipeline;
use super::fresh::Fresh;
use super::memo::Memo;
use crate::cost::Ledger;
use crate::data::Question;
use crate::models::Grad;
use crate::models::dropout::Draw;
use crate::models::encoder::Encoder;
use crate::strategies::Trains;

pub use candidates::{BatchScores, Candidates};
pub use observed::{Observed, Signal};
pub use score::check_answers;

/// Settings of a step that no objective changes.
#[derive(Clone, Copy, Debug)]
pub struct StepSettings {
    /// K, passages retrieved for a question.
    pub top_k: usize,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The most tokens of an answer, end-of-sequence not counted.
    pub max_answer_tokens: usize,
}

/// Whether a loss may move the generator through the likelihoods it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToGenerator {
    /// The gradient flows where the generator trains.
    Flows,
    /// The likelihoods are constants even where it trains, and no memory is kept for a backward pass.
    Stopped,
}

/// Passages by question id, as ordinals of the corpus.
pub type ByQuestion = BTreeMap<String, Vec<u32>>;

/// The quantities of one batch of questions.
pub struct Step<'a> {
    pipeline: &'a Pipeline,
    questions: &'a [&'a Question],
    trains: Trains,
    settings: StepSettings,
    ledger: &'a Ledger,
    mined: Option<&'a ByQuestion>,
    given: Option<&'a ByQuestion>,
    reference: Option<&'a Encoder>,
    memo: Option<&'a RefCell<Memo>>,
    fresh: Option<&'a RefCell<Fresh>>,
    question_vectors: Option<Tensor>,
    retrieved: Option<Vec<Vec<u32>>>,
    passages: BTreeMap<u32, Passage>,
    /// What passes with gradients draw their dropout from, and how many have.
    draw: Option<Draw>,
    drawn: Cell<u64>,
    selected: selected::Selected,
    /// What was seen on the way.
    pub observed: Observed,
}

impl<'a> Step<'a> {
    /// A step over some questions; nothing is computed yet.
    pub fn new(
        pipeline: &'a Pipeline,
        questions: &'a [&'a Question],
        trains: Trains,
        settings: StepSettings,
        ledger: &'a Ledger,
    ) -> Self {
        Self {
            pipeline,
            questions,
            trains,
            settings,
            ledger,
            mined: None,
            given: None,
            reference: None,
            memo: None,
            fresh: None,
            question_vectors: None,
            retrieved: None,
            passages: BTreeMap::new(),
            draw: None,
            drawn: Cell::new(0),
            selected: selected::Selected::default(),
            observed: Observed::default(),
        }
    }

    /// Hard negatives that were mined, hardest first, by question id. A question that is there takes these instead of those
    /// of the question file.
    pub fn with_mined(mut self, mined: Option<&'a ByQuestion>) -> Self {
        self.mined = mined;
        self
    }

    /// The passages of each question, best first, in place of a search: chosen once (RA-DIT), or mixed by a curriculum. Every
    /// question must be there, all with the same number of passages, none twice; that number is K.
    pub fn with_passages(mut self, given: Option<&'a ByQuestion>) -> Self {
        self.given = given;
        self
    }

    /// The encoder as it was when the stage began ([`Encoder::try_clone`] of it, kept by the caller), for objectives that
    /// compare with it. A run that is resumed must find it again: it is what the stage began with, not the checkpoint's.
    pub fn with_reference(mut self, reference: Option<&'a Encoder>) -> Self {
        self.reference = reference;
        self
    }

    /// Where a frozen generator's likelihoods are kept from step to step. Of a step that trains the generator it keeps
    /// nothing, and it forgets everything: the weights are about to change.
    pub fn with_memo(mut self, memo: Option<&'a RefCell<Memo>>) -> Self {
        if let (Some(memo), true) = (memo, self.trains.generator) {
            memo.borrow_mut().forget();
        }
        self.memo = memo.filter(|_| !self.trains.generator);
        self
    }

    /// Searches by way of live vectors of candidates, where the policy that keeps the index true says so.
    pub fn with_fresh(mut self, fresh: Option<&'a RefCell<Fresh>>) -> Self {
        self.fresh = fresh;
        self
    }

    /// The same step in training: passes over parts that train drop what their models are set to, by these random numbers.
    pub fn drawing(self, draw: Draw) -> Self {
        Self { draw: Some(draw), ..self }
    }

    /// What the next pass draws from; nothing where it has no gradients.
    fn draw(&self, grad: Grad) -> Option<Draw> {
        let draw = self.draw.filter(|_| grad == Grad::On)?;
        Some(draw.of(self.drawn.replace(self.drawn.get() + 1)))
    }

    /// The parts that this step trains.
    pub fn trains(&self) -> Trains {
        self.trains
    }
}
