//! Supervised fine-tuning of the generator on one passage at a time: the first stage of RA-DIT ("LM-ft").
//!
//! `L = -(1/B) sum_b (1/K) sum_k sum_t log p(y_t | x, z_k, y_<t)`: each of the K passages is prepended by itself and makes
//! a training instance of its own (Lin et al. 2023, arXiv 2310.01352: the top 3). Unlike RAG-Token, no passage
//! counts more than another, however badly it fits. Tokens are summed, passages and questions averaged.
//!
//! Deviations: the paper packs instances into sequences of 2048 tokens and mixes instruction data in; here a batch is one of
//! questions.
//!
//! Trains: generator. The retriever gets no gradient. Labels: answers.

use candle_core::Tensor;

use super::choice::Length;
use super::kernel::{log_likelihood, mean};
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

/// Negative log-likelihood of the answer after each passage by itself.
pub struct SftSeparate;

impl Objective for SftSeparate {
    fn name(&self) -> &'static str {
        "sft-separate"
    }

    fn equation(&self) -> &'static str {
        "-(1/K) sum_k sum_t log p(y_t|x,z_k,y_<t), one prompt a passage, tokens summed, mean over passages and questions \
         (arXiv 2310.01352, LM-ft)"
    }

    fn needs(&self) -> Needs {
        Needs { answers: true, retrieval: true, moves_generator: true, single_prompts: true, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let (log_probs, mask) = step.answer_token_log_probs(ToGenerator::Flows)?;
        sft_separate_loss(&log_probs, &mask)
    }
}

/// The equation alone: `log_probs` (B, K, T) in nats, `mask` (B, T) 1 on answer tokens. Scalar, tokens summed, mean over K
/// and B.
pub fn sft_separate_loss(log_probs: &Tensor, mask: &Tensor) -> Result<Tensor> {
    mean(&log_likelihood(log_probs, mask, Length::Sum)?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, var};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "sft_separate");
        let log_probs = var(&golden["log_probs"]);
        let loss = sft_separate_loss(&log_probs, &golden["mask"]).unwrap();
        check_golden("sft-separate", &golden, &loss, &[("log_probs", &log_probs)]);
    }
}
