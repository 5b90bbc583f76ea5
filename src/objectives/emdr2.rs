//! EMDR2: the reader learns from all passages in one prompt, the retriever from how well each passage does by itself.
//!
//! `L = -log p(y | x, Z) - log sum_k SG[p(y | x, z_k)] p_k`, with `p = softmax(s / tau)` over the K retrieved passages and no
//! gradient to the generator through the second term (Sachan et al. 2021, arXiv 2106.05346). Two forms of that
//! term, named:
//!
//! * `sequence`, the paper's: whole answers are mixed. Gradient on a score, for tau = 1: `p_k - q_k`, RAG-Sequence's.
//! * `token`: `-sum_t log sum_k SG[p(y_t | x, z_k, y_<t)] p_k`, what Atlas's code calls `emdr`. Gradient: RAG-Token's.
//!
//! Tokens are summed, questions averaged, no length normalisation. Deviations: the paper's reader is a fusion-in-decoder
//! T5 and its scores are divided by the root of the vector width (here tau says so); Atlas averages over the answer tokens
//! of the batch instead of questions and divides the reader's logits by a temperature. Where the generator is frozen the
//! first term is a constant and left out.
//!
//! Trains: generator (first term); question side, and passage side when passage vectors are live (second term). Labels:
//! answers.

use candle_core::Tensor;

use super::choice::Length;
use super::kernel::{log_likelihood, log_prior, mean, mixture, token_mixture};
use super::sft_concat::with_reader;
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

choice! {
    /// What is mixed over passages.
    Mixture ("form of emdr2") {
        /// Whole answers, as in the paper.
        Sequence = "sequence",
        /// Each token, as in Atlas's code.
        Token = "token",
    }
}

/// EMDR2 in one of its two forms.
pub struct Emdr2 {
    /// Temperature tau of the prior over the retrieved passages, above 0.
    pub temperature: f64,
    /// What is mixed.
    pub mixture: Mixture,
}

impl Objective for Emdr2 {
    fn name(&self) -> &'static str {
        "emdr2"
    }

    fn equation(&self) -> &'static str {
        match self.mixture {
            Mixture::Sequence => {
                "-log p(y|x,Z) - log sum_k SG[p(y|x,z_k)] softmax(s/tau)_k, tokens summed, mean over questions \
                 (arXiv 2106.05346)"
            }
            Mixture::Token => {
                "-log p(y|x,Z) - sum_t log sum_k SG[p(y_t|x,z_k,y_<t)] softmax(s/tau)_k, tokens summed, mean over \
                 questions (`emdr` of Atlas's code, arXiv 2208.03299)"
            }
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("temperature", self.temperature.to_string()), ("form", self.mixture.name().to_owned())]
    }

    fn needs(&self) -> Needs {
        Needs {
            answers: true,
            retrieval: true,
            moves_retriever: true,
            moves_generator: true,
            single_prompts: true,
            concat: true,
            ..Needs::default()
        }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let scores = step.retrieval_scores()?;
        let (log_probs, mask) = step.answer_token_log_probs(ToGenerator::Stopped)?;
        let retriever = emdr2_retriever_loss(&scores, self.temperature, &log_probs, &mask, self.mixture)?;
        with_reader(retriever, step)
    }
}

/// The retriever's term alone.
///
/// `scores` (B, K); `log_probs` (B, K, T) in nats, taken as constants; `mask` (B, T) 1 on answer tokens. Scalar, mean over B.
pub fn emdr2_retriever_loss(
    scores: &Tensor,
    temperature: f64,
    log_probs: &Tensor,
    mask: &Tensor,
    form: Mixture,
) -> Result<Tensor> {
    let (log_prior, log_probs) = (log_prior(scores, temperature)?, log_probs.detach());
    let evidence = match form {
        Mixture::Sequence => mixture(&log_prior, &log_likelihood(&log_probs, mask, Length::Sum)?)?,
        Mixture::Token => token_mixture(&log_prior, &log_probs, mask)?,
    };
    mean(&evidence.neg()?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, gradient, numbers, var};
    use super::super::{rag_sequence_loss, rag_token_loss};
    use super::*;

    #[test]
    fn equals_pytorch() {
        for form in Mixture::ALL {
            let golden = golden("objectives_retriever", &format!("emdr2_{}", form.name()));
            let (scores, log_probs) = (var(&golden["scores"]), var(&golden["log_probs"]));
            let loss = emdr2_retriever_loss(&scores, 0.05, &log_probs, &golden["mask"], *form).unwrap();
            check_golden(form.name(), &golden, &loss, &[("scores", &scores)]);
            assert!(loss.backward().unwrap().get(&log_probs).is_none(), "the generator gets no gradient");
        }
    }

    #[test]
    fn the_retriever_sees_rag_s_gradient() {
        // STRATEGIES oracle 8.
        let golden = golden("objectives_retriever", "emdr2_sequence");
        let (scores, log_probs, mask) = (var(&golden["scores"]), &golden["log_probs"], &golden["mask"]);
        for form in Mixture::ALL {
            let emdr2 = emdr2_retriever_loss(&scores, 0.2, log_probs, mask, *form).unwrap();
            let rag = match form {
                Mixture::Sequence => rag_sequence_loss(&scores, 0.2, log_probs, mask),
                Mixture::Token => rag_token_loss(&scores, 0.2, log_probs, mask),
            }
            .unwrap();
            assert_eq!(numbers(&emdr2), numbers(&rag));
            assert_eq!(gradient(&emdr2, &scores), gradient(&rag, &scores));
        }
    }
}
