//! How likely the generator finds the answers: after each passage alone, after all of them, after all but one.

use candle_core::Tensor;
use ragtune_index::Passage;

use super::observed::is_flat;
use super::{Step, StepSettings, ToGenerator};
use crate::cost::{Phase, Span};
use crate::data::Question;
use crate::error::{Error, Result};
use crate::models::Grad;
use crate::models::generator::{Generator, Scored};
use crate::pipeline::prompt::{Prompt, PromptIds};

/// One prompt to score the answer of a question after: row number of the question, passages in the order they are read.
pub(super) struct Asked {
    pub question: usize,
    pub passages: Vec<u32>,
}

impl Step<'_> {
    /// (B, K, T) log p(y_t | x, z_k, y_<t) in nats, one prompt a passage, and the mask (B, T). Where the generator trains,
    /// `gradient` says whether it gets one.
    pub fn answer_token_log_probs(&mut self, gradient: ToGenerator) -> Result<(Tensor, Tensor)> {
        let asked = self.ask(|row| row.iter().map(|ordinal| vec![*ordinal]).collect())?;
        self.of_each_passage(&asked, gradient)
    }

    /// (B, T) log p(y_t | x, z_1..z_K, y_<t) in nats, all passages in one prompt, best first, and the mask (B, T). Gradient to
    /// the generator where it trains.
    pub fn answer_token_log_probs_concat(&mut self) -> Result<(Tensor, Tensor)> {
        let asked = self.ask(|row| vec![row.to_vec()])?;
        self.log_probs(&asked, ToGenerator::Flows)
    }

    /// (B, K, T) log p(y_t | x, Z without z_k, y_<t) in nats, the other K - 1 passages in one prompt, best first, and the mask
    /// (B, T). Constants. One passage a question is an error.
    pub fn leave_one_out_log_probs(&mut self) -> Result<(Tensor, Tensor)> {
        let asked = self.ask(|row| {
            let without = |left: usize| row.iter().enumerate().filter(move |(k, _)| *k != left).map(|(_, z)| *z);
            (0..row.len()).map(|k| without(k).collect()).collect()
        })?;
        if asked.iter().any(|asked| asked.passages.is_empty()) {
            return Err(Error::new("one passage a question leaves nothing when it is left out, expected two at least")
                .hint("use `--top-k 2` or more"));
        }
        self.of_each_passage(&asked, ToGenerator::Stopped)
    }

    /// The prompts of every question, made from its retrieved passages.
    fn ask(&mut self, prompts: impl Fn(&[u32]) -> Vec<Vec<u32>>) -> Result<Vec<Asked>> {
        let retrieved = self.retrieved_ordinals()?;
        let of_question = |(question, row): (usize, &Vec<u32>)| {
            prompts(row).into_iter().map(move |passages| Asked { question, passages })
        };
        Ok(retrieved.iter().enumerate().flat_map(of_question).collect())
    }

    /// B·K prompts as (B, K, T) and (B, T); notes which questions find all of theirs equally likely.
    fn of_each_passage(&mut self, asked: &[Asked], gradient: ToGenerator) -> Result<(Tensor, Tensor)> {
        let (log_probs, mask) = self.log_probs(asked, gradient)?;
        let questions = self.questions.len();
        let (rows, tokens) = log_probs.dims2()?;
        let shape = (questions, rows / questions.max(1), tokens);
        let sums = log_probs.detach().sum(1)?.reshape((shape.0, shape.1))?.to_vec2::<f32>()?;
        self.observed.likelihoods.note(questions, sums.iter().filter(|row| is_flat(row)).count());
        let mask = mask.reshape(shape)?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
        Ok((log_probs.reshape(shape)?, mask))
    }

    /// (N, T) log-probabilities of the answers' tokens after N prompts, 0 beyond an answer, and their mask. With a memo only
    /// what it does not know is computed.
    pub(super) fn log_probs(&mut self, asked: &[Asked], gradient: ToGenerator) -> Result<(Tensor, Tensor)> {
        let span = self.ledger.span(Phase::Score);
        self.observed.prompts += asked.len() as u64;
        let Some(memo) = self.memo else {
            let mut sequences = Vec::with_capacity(asked.len());
            for asked in asked {
                let (sequence, truncated) = self.sequence(asked)?;
                self.observed.truncated_prompts += u64::from(truncated);
                sequences.push(sequence);
            }
            let on = self.trains.generator && gradient == ToGenerator::Flows;
            return self.score(&sequences, if on { Grad::On } else { Grad::Off }, &span);
        };
        self.remembered(memo, asked, &span)
    }

    pub(super) fn question(&self, row: usize) -> Result<&Question> {
        self.questions.get(row).copied().ok_or_else(|| Error::new("a prompt belongs to no question of the batch"))
    }

    /// Prompt and answer, and whether a passage was shortened.
    pub(super) fn sequence(&mut self, asked: &Asked) -> Result<(Scored, bool)> {
        let (prompt, sequence) = self.prompt_and_answer(asked.question, &asked.passages)?;
        Ok((sequence, prompt.truncated))
    }

    /// The prompt of a question over some passages, and the sequence that it and the answer make.
    pub(super) fn prompt_and_answer(&mut self, question: usize, passages: &[u32]) -> Result<(PromptIds, Scored)> {
        let question = self.question(question)?;
        let generator = &self.pipeline.generator;
        let (answer, cut) = answer_ids(generator, &self.pipeline.prompt, question, &self.settings)?;
        let mut texts: Vec<&Passage> = Vec::with_capacity(passages.len());
        for ordinal in passages {
            let read = self.passages.get(ordinal);
            texts.push(read.ok_or_else(|| Error::new("a retrieved passage was not read"))?);
        }
        let limit = self.settings.max_prompt_tokens;
        let prompt = self.pipeline.prompt.ids(generator.text(), &texts, &question.question, limit)?;
        self.observed.truncated_answers += u64::from(cut);
        let answer_start = prompt.ids.len();
        let ids: Vec<u32> = prompt.ids.iter().chain(&answer).copied().collect();
        Ok((prompt, Scored { ids, answer_start }))
    }

    pub(super) fn score(&mut self, sequences: &[Scored], grad: Grad, span: &Span) -> Result<(Tensor, Tensor)> {
        let generator = &self.pipeline.generator;
        let flops = self.charge_generator(sequences, span);
        if grad == Grad::On {
            self.observed.generator_flops += flops;
        }
        match self.draw(grad) {
            Some(draw) => generator.answer_log_probs_drawing(sequences, draw),
            None => generator.answer_log_probs(sequences, grad),
        }
    }

    /// Charges a forward pass over prompts and answers; its modelled operations.
    pub(super) fn charge_generator(&self, sequences: &[Scored], span: &Span) -> f64 {
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.ids.len()).collect();
        let logits = sequences.iter().map(Scored::answer_length).sum();
        let flops = self.pipeline.generator.forward_flops(&lengths, logits);
        span.tokens(lengths.iter().sum::<usize>() as u64);
        span.flops(flops);
        flops
    }
}

pub(super) fn first_answer(question: &Question) -> Result<&str> {
    question.answers.first().map(String::as_str).ok_or_else(|| {
        Error::new(format!("question `{}` has no answer to learn from", question.id)).hint(
            "remove it from the training questions, or train with `--strategy embedder`, which needs gold passages only",
        )
    })
}

/// The tokens of the answer that is learnt, at most the limit of the settings and one that ends it, and whether it was cut.
/// An answer that the generator could not read whole, whatever the prompt, is refused: what was cut off would be most of it.
fn answer_ids(
    generator: &Generator,
    prompt: &Prompt,
    question: &Question,
    settings: &StepSettings,
) -> Result<(Vec<u32>, bool)> {
    let answer = first_answer(question)?;
    let room = generator.max_positions().saturating_sub(1);
    let whole = prompt.answer_ids(generator.text(), answer, usize::MAX)?;
    if whole.ids.len() > room {
        return Err(Error::new(format!(
            "the answer of question `{}` takes {} tokens, more than the {room} that the generator can read after a prompt of \
             one token",
            question.id,
            whole.ids.len()
        ))
        .hint("shorten the answer or remove the question, or take a generator with more positions"));
    }
    let learnt = prompt.answer_ids(generator.text(), answer, settings.max_answer_tokens)?;
    Ok((learnt.ids, learnt.truncated))
}

/// Refuses questions without an answer and with one that the generator could not read, before any is trained on; the number
/// of answers that training will cut to the limit of answer tokens.
pub fn check_answers(
    generator: &Generator,
    prompt: &Prompt,
    questions: &[Question],
    settings: &StepSettings,
) -> Result<usize> {
    let mut cut = 0;
    for question in questions {
        cut += usize::from(answer_ids(generator, prompt, question, settings)?.1);
    }
    Ok(cut)
}
