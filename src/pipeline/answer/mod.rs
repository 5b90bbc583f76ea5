//! How a trained pipeline answers: which prompts are read, and how an answer is read off them.
//!
//! [`AnswerReader`] says what is maximised, [`Order`] how passages stand in a prompt of all of them, the number of beams how
//! far is searched. `rows` is what a search sees
//! of a model, `mixture` makes one distribution of K readers, `greedy` and `beam` search, `sequence` weighs the
//! hypotheses of RAG-Sequence. Dimension letters: B questions, K passages a question, N beams, V vocabulary.

use ragtune_index::Passage;

use super::Pipeline;
use crate::cost::Span;
use crate::error::{Error, Result};

mod beam;
mod candidates;
mod greedy;
mod mixture;
mod order;
mod reader;
mod rows;
mod search;
mod sequence;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

pub use order::Order;
pub use reader::{AnswerReader, check_order, check_search};
use rows::Reading;
use search::{Hypothesis, Search};

/// How answers are read off.
#[derive(Clone, Copy, Debug)]
pub struct AnswerSettings {
    /// One prompt a passage or one for all, and what is maximised.
    pub reader: AnswerReader,
    /// How the passages of one prompt are ordered (concat only).
    pub order: Order,
    /// N, hypotheses that are followed at a time; 1 is greedy.
    pub beams: usize,
    /// Hypotheses of a beam search are compared by their log-probability / tokens^penalty; 0 compares probabilities.
    pub length_penalty: f64,
    /// Temperature of the prior over the passages (all readers but concat).
    pub temperature: f64,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The most tokens of an answer, the one that ends it included.
    pub max_answer_tokens: usize,
}

impl AnswerSettings {
    /// The name of reader and search in records and tables, such as `mixture`, `concat beam 4 penalty 0.6`.
    pub fn label(&self) -> String {
        self.reader.label(self.order, self.beams, self.length_penalty)
    }
}

/// Passages of one question, best first, with their retrieval scores. No passage at all reads closed book.
pub struct Context<'a> {
    /// The question.
    pub question: &'a str,
    /// K passages.
    pub passages: Vec<&'a Passage>,
    /// K retrieval scores.
    pub scores: Vec<f32>,
}

/// The answers, and how many prompts had a passage shortened.
pub struct Answers {
    /// One for each context, blanks trimmed.
    pub texts: Vec<String>,
    /// Prompts with a shortened passage.
    pub truncated: u64,
    /// Prompts made.
    pub prompts: u64,
}

/// Answers a batch of questions; charges tokens and FLOPs to `span`. Every context must hold the same number of passages.
pub fn answer(
    pipeline: &Pipeline,
    contexts: &[Context<'_>],
    settings: &AnswerSettings,
    span: &Span,
) -> Result<Answers> {
    let generator = &pipeline.generator;
    let mut prompts = Vec::new();
    let (mut truncated, mut width) = (0, 1);
    for context in contexts {
        let groups: Vec<Vec<&Passage>> = match settings.reader {
            AnswerReader::Concat => vec![settings.order.arrange(&context.passages)],
            _ if context.passages.is_empty() => vec![Vec::new()],
            _ => context.passages.iter().map(|passage| vec![*passage]).collect(),
        };
        width = groups.len();
        for group in groups {
            let prompt = pipeline.prompt.ids(generator.text(), &group, context.question, settings.max_prompt_tokens)?;
            truncated += u64::from(prompt.truncated);
            prompts.push(prompt.ids);
        }
    }
    if prompts.len() != contexts.len() * width {
        return Err(Error::new("the questions of one batch were given different numbers of passages"));
    }
    let priors: Vec<Vec<f32>> =
        contexts.iter().map(|context| mixture::log_prior(&context.scores, settings.temperature, width)).collect();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let stop = pipeline.prompt.stop_ids();
    let search = Search {
        width,
        beams: settings.beams,
        best: 1,
        length_penalty: settings.length_penalty,
        max_new: settings.max_answer_tokens.min(generator.max_positions().saturating_sub(longest)),
        stop: &stop,
    };
    let mut texts = Vec::with_capacity(contexts.len());
    if search.max_new == 0 {
        texts.resize(contexts.len(), String::new());
    } else if !contexts.is_empty() {
        let mut reading = Reading::start(generator, &prompts, span)?;
        let found = match settings.reader {
            AnswerReader::Mixture | AnswerReader::Concat => best_of(search.run(&mut reading, &priors)?),
            AnswerReader::SequenceThorough => sequence::thorough(&mut reading, &priors, &search)?,
            AnswerReader::SequenceFast => sequence::fast(&mut reading, &priors, &search)?,
        };
        for hypothesis in found {
            texts.push(generator.text().decode(hypothesis.words())?.trim().to_owned());
        }
    }
    Ok(Answers { texts, truncated, prompts: prompts.len() as u64 })
}

/// The first hypothesis of each question.
fn best_of(found: Vec<Vec<Hypothesis>>) -> Vec<Hypothesis> {
    found.into_iter().map(|hypotheses| hypotheses.into_iter().next().unwrap_or_default()).collect()
}
