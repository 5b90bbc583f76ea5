//! Supervised fine-tuning of the generator on all K retrieved passages in one prompt.
//!
//! `L = -(1/B) sum_b sum_t log p(y_t | x, z_1..z_K, y_<t)`: the "vanilla SFT" baseline of the RAG papers (for instance
//! DRO, arXiv 2505.03075, table 1). Tokens are summed, questions averaged, so that its scale is RAG-Token's.
//!
//! Trains: generator. The retriever gets no gradient: the prompt is text. Labels: answers.

use candle_core::Tensor;

use super::kernel::mean;
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::Step;

/// Negative log-likelihood of the answer after the concatenated passages.
pub struct SftConcat;

impl Objective for SftConcat {
    fn name(&self) -> &'static str {
        "sft-concat"
    }

    fn equation(&self) -> &'static str {
        "-sum_t log p(y_t|x,z_1..z_K,y_<t), all passages in one prompt, tokens summed, mean over questions"
    }

    fn needs(&self) -> Needs {
        Needs { answers: true, retrieval: true, moves_generator: true, concat: true, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let (log_probs, _mask) = step.answer_token_log_probs_concat()?;
        sft_loss(&log_probs)
    }
}

/// Adds the reader's own term, `-log p(y | x, z_1..z_K)`, to the loss of a retriever where the generator trains. Where it
/// is frozen the term would be a constant that costs a pass of the generator: it is left out of the loss.
pub(super) fn with_reader(retriever: Tensor, step: &mut Step<'_>) -> Result<Tensor> {
    if !step.trains().generator {
        return Ok(retriever);
    }
    let (log_probs, _mask) = step.answer_token_log_probs_concat()?;
    Ok((sft_loss(&log_probs)? + retriever)?)
}

/// The equation alone: `log_probs` (B, T) of the answer tokens in nats, 0 on padding. Scalar, tokens summed, mean over B.
pub fn sft_loss(log_probs: &Tensor) -> Result<Tensor> {
    mean(&log_probs.sum(1)?.neg()?)
}
