//! The readers: how a trained pipeline answers. Greedy decoding, one prompt a passage (mixture) or one for all (concat).
//!
//! Mixture decoding is RAG-Token's (arXiv 2005.11401, section 2.5): at every position the next token maximises
//! `log sum_k p_k p(w | x, z_k, y_<t)`; probabilities are mixed, never logits, and every passage's reader continues with
//! the same token. Dimension letters: B questions, K passages a question, V vocabulary.

use candle_core::Tensor;
use ragtune_index::Passage;

use super::Pipeline;
use crate::cost::Span;
use crate::error::{Error, Result};
use crate::models::nn;
use crate::strategies::Reader;

/// How answers are read off.
#[derive(Clone, Copy, Debug)]
pub struct AnswerSettings {
    /// One prompt a passage, or one for all.
    pub reader: Reader,
    /// Temperature of the prior over the passages (mixture only).
    pub temperature: f64,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The most tokens of an answer.
    pub max_answer_tokens: usize,
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
            Reader::Mixture if !context.passages.is_empty() => context.passages.iter().map(|p| vec![*p]).collect(),
            _ => vec![context.passages.clone()],
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
    let lengths: Vec<usize> = prompts.iter().map(Vec::len).collect();
    span.tokens(lengths.iter().sum::<usize>() as u64);
    span.flops(generator.forward_flops(&lengths, lengths.len()));
    let priors: Vec<Vec<f32>> =
        contexts.iter().map(|context| log_prior(&context.scores, settings.temperature, width)).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let room = generator.max_positions().saturating_sub(longest);
    let generated = mixture_greedy(pipeline, &prompts, &priors, width, settings.max_answer_tokens.min(room), span)?;
    let mut texts = Vec::with_capacity(generated.len());
    for ids in &generated {
        texts.push(generator.text().decode(ids)?.trim().to_owned());
    }
    Ok(Answers { texts, truncated, prompts: prompts.len() as u64 })
}

/// Greedy decoding of B mixtures of `width` rows each; width 1 is plain greedy decoding.
fn mixture_greedy(
    pipeline: &Pipeline,
    prompts: &[Vec<u32>],
    priors: &[Vec<f32>],
    width: usize,
    max_new: usize,
    span: &Span,
) -> Result<Vec<Vec<u32>>> {
    let generator = &pipeline.generator;
    let stop = pipeline.prompt.stop_ids();
    let mut answers = vec![Vec::new(); priors.len()];
    if priors.is_empty() || max_new == 0 {
        return Ok(answers);
    }
    // Questions still being answered, in order; the rows of the others are dropped.
    let mut open: Vec<usize> = (0..priors.len()).collect();
    let mut decoding = generator.start(prompts)?;
    for position in 0..max_new {
        let kept: Vec<f32> = open.iter().filter_map(|question| priors.get(*question)).flatten().copied().collect();
        let log_probs = decoding.log_probs()?;
        let prior = Tensor::from_vec(kept, (open.len(), width, 1), log_probs.device())?;
        let next = best_tokens(&log_probs, &prior, open.len(), width)?;
        let (mut rows, mut fed, mut still) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (question, token)) in open.iter().zip(next).enumerate() {
            if stop.contains(&token) {
                continue;
            }
            if let Some(answer) = answers.get_mut(*question) {
                answer.push(token);
            }
            rows.extend(place * width..(place + 1) * width);
            fed.extend(std::iter::repeat_n(token, width));
            still.push(*question);
        }
        if still.is_empty() || position + 1 == max_new {
            break;
        }
        if still.len() < open.len() {
            decoding.select(&rows)?;
        }
        open = still;
        span.tokens(fed.len() as u64);
        span.flops(generator.forward_flops(&vec![1; fed.len()], fed.len()));
        decoding.advance(&fed)?;
    }
    Ok(answers)
}

/// The most likely next token of each question: `log_probs` (B*K, V), `prior` (B, K, 1) log p_k.
fn best_tokens(log_probs: &Tensor, prior: &Tensor, questions: usize, width: usize) -> Result<Vec<u32>> {
    let vocabulary = log_probs.dim(1)?;
    let mixed = if width == 1 {
        log_probs.clone()
    } else {
        let joint = log_probs.reshape((questions, width, vocabulary))?.broadcast_add(prior)?;
        nn::log_sum_exp(&joint.transpose(1, 2)?.contiguous()?)?
    };
    Ok(mixed.argmax(1)?.to_vec1::<u32>()?)
}

/// `log softmax(scores / temperature)`; a closed-book context has one row of prior 0.
fn log_prior(scores: &[f32], temperature: f64, width: usize) -> Vec<f32> {
    if scores.len() != width || width == 1 {
        return vec![0.0; width];
    }
    let scaled: Vec<f64> = scores.iter().map(|score| f64::from(*score) / temperature).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let normaliser = largest + scaled.iter().map(|s| (s - largest).exp()).sum::<f64>().ln();
    scaled.iter().map(|s| (s - normaliser) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prior_is_a_distribution_and_mixes_probabilities() {
        let prior = log_prior(&[0.5, 0.4, 0.1], 0.1, 3);
        assert!((prior.iter().map(|p| p.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((prior[0] - prior[1] - 1.0).abs() < 1e-5);
        // Reader 0 is sure of token 0, reader 1 of token 1; the prior decides, not the larger logit.
        let log_probs = Tensor::new(&[[-0.01f32, -5.0], [-3.0, -0.05]], &candle_core::Device::Cpu).unwrap();
        let prior = |p: f32| Tensor::new(&[[[p.ln()], [(1.0 - p).ln()]]], &candle_core::Device::Cpu).unwrap();
        assert_eq!(best_tokens(&log_probs, &prior(0.7), 1, 2).unwrap(), vec![0]);
        assert_eq!(best_tokens(&log_probs, &prior(0.2), 1, 2).unwrap(), vec![1]);
    }
}
