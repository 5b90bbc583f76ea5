//! RAG-Sequence: one passage writes the whole answer, and which one is summed out.
//!
//! `L = -(1/B) sum_b log sum_k p_k prod_t p(y_t | x, z_k, y_<t)`, with the prior `p = softmax(s / tau)` over the K retrieved
//! passages only (Lewis et al. 2020, arXiv 2005.11401, section 2.1; Lawton et al. 2025, "RAG-Seq."). Gradient on a score,
//! for tau = 1: `p_k - q_k` with the posterior `q = softmax(log p + l)`; on the generator: supervised fine-tuning weighted
//! by the posterior. Tokens are summed (the probability model; no length normalisation), questions averaged.
//!
//! Deviation from transformers' `RagSequenceForGeneration.get_nll`: that adds `log p_k` at the second target position, after
//! BART's begin-of-sequence token, and so loses the prior where an answer has one token only; here the prior is added once,
//! whatever the length. On answers of two tokens and more both are equal (golden test).
//!
//! Trains: generator; question side; passage side when scores are computed from live passage vectors. Labels: answers.

use candle_core::Tensor;

use super::choice::Length;
use super::kernel::{log_likelihood, log_prior, mean, mixture};
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

/// RAG-Sequence with a temperature on the retrieval scores.
pub struct RagSequence {
    /// Temperature tau of the prior over the retrieved passages, above 0; cosine scores need a small one.
    pub temperature: f64,
}

impl Objective for RagSequence {
    fn name(&self) -> &'static str {
        "rag-sequence"
    }

    fn equation(&self) -> &'static str {
        "-log sum_k softmax(s/tau)_k prod_t p(y_t|x,z_k,y_<t), tokens summed, mean over questions (arXiv 2005.11401)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("temperature", self.temperature.to_string())]
    }

    fn needs(&self) -> Needs {
        Needs {
            answers: true,
            retrieval: true,
            moves_retriever: true,
            moves_generator: true,
            single_prompts: true,
            ..Needs::default()
        }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let scores = step.retrieval_scores()?;
        let (log_probs, mask) = step.answer_token_log_probs(ToGenerator::Flows)?;
        rag_sequence_loss(&scores, self.temperature, &log_probs, &mask)
    }
}

/// The equation alone.
///
/// `scores` (B, K) retrieval scores; `log_probs` (B, K, T) log p(y_t | x, z_k, y_<t) in nats; `mask` (B, T) 1 on answer
/// tokens, 0 on padding. Scalar, mean over B; gradients flow into both.
pub fn rag_sequence_loss(scores: &Tensor, temperature: f64, log_probs: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let answer = log_likelihood(log_probs, mask, Length::Sum)?;
    mean(&mixture(&log_prior(scores, temperature)?, &answer)?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::super::rag_token_loss;
    use super::super::testing::{check_golden, golden, gradient, numbers, tensor, var, variable};
    use super::*;

    fn loss(scores: &[f32], token_probabilities: &[f32]) -> f32 {
        let k = scores.len();
        let logs: Vec<f32> = token_probabilities.iter().map(|p| p.ln()).collect();
        let t = logs.len() / k;
        let mask = tensor(&vec![1.0; t], &[1, t]);
        numbers(&rag_sequence_loss(&tensor(scores, &[1, k]), 1.0, &tensor(&logs, &[1, k, t]), &mask).unwrap())[0]
    }

    #[test]
    fn equals_pytorch_and_transformers() {
        let of_torch = golden("objectives_retriever", "rag_sequence");
        let (scores, log_probs) = (var(&of_torch["scores"]), var(&of_torch["log_probs"]));
        let loss = rag_sequence_loss(&scores, 0.05, &log_probs, &of_torch["mask"]).unwrap();
        check_golden("rag-sequence", &of_torch, &loss, &[("scores", &scores), ("log_probs", &log_probs)]);
    }

    #[test]
    fn hand_computed_vectors() {
        // STRATEGIES oracle 3: prior (.5, .5).
        assert!((loss(&[0.3, 0.3], &[0.9, 0.1, 0.1, 0.9]) - 2.407946).abs() < 1e-5);
        assert!((loss(&[0.3, 0.3], &[0.9, 0.9, 0.1, 0.1]) - 0.891598).abs() < 1e-5);
    }

    #[test]
    fn one_passage_or_one_token_make_it_rag_token() {
        // Oracles 1 and 2.
        let logs = tensor(&[-1.0, -2.0, -0.5, -0.25], &[2, 1, 2]);
        let mask = tensor(&[1.0, 1.0, 1.0, 1.0], &[2, 2]);
        let scores = variable(&[0.7, -0.2], &[2, 1]);
        let sequence = rag_sequence_loss(&scores, 0.05, &logs, &mask).unwrap();
        let token = rag_token_loss(&scores, 0.05, &logs, &mask).unwrap();
        assert!((numbers(&sequence)[0] - 3.75 / 2.0).abs() < 1e-6);
        assert!((numbers(&token)[0] - 3.75 / 2.0).abs() < 1e-6);
        assert_eq!(gradient(&sequence, &scores), [0.0, 0.0]);
        assert_eq!(gradient(&token, &scores), [0.0, 0.0]);

        let (scores, logs) = (variable(&[0.7, -0.2, 0.1], &[1, 3]), variable(&[-1.0, -2.0, -0.5], &[1, 3, 1]));
        let mask = tensor(&[1.0], &[1, 1]);
        let sequence = rag_sequence_loss(&scores, 0.3, &logs, &mask).unwrap();
        let token = rag_token_loss(&scores, 0.3, &logs, &mask).unwrap();
        assert!((numbers(&sequence)[0] - numbers(&token)[0]).abs() < 1e-6);
        for of in [&scores, &logs] {
            for (sequence, token) in gradient(&sequence, of).iter().zip(gradient(&token, of)) {
                assert!((sequence - token).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn gradients_are_the_finite_differences_and_sum_to_zero() {
        // Oracle 4.
        let scores = [0.2f32, -0.4, 0.9];
        let probabilities = [0.5f32, 0.2, 0.1, 0.6, 0.3, 0.9];
        let logs: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
        let live = variable(&scores, &[1, 3]);
        let mask = tensor(&[1.0, 1.0], &[1, 2]);
        let got = gradient(&rag_sequence_loss(&live, 1.0, &tensor(&logs, &[1, 3, 2]), &mask).unwrap(), &live);
        assert!(got.iter().sum::<f32>().abs() < 1e-6);
        for (k, got) in got.iter().enumerate() {
            let at = |change: f64| {
                let exponentials: Vec<f64> =
                    (0..3).map(|j| (f64::from(scores[j]) + if j == k { change } else { 0.0 }).exp()).collect();
                let sum: f64 = exponentials.iter().sum();
                let answer = |j: usize| f64::from(probabilities[2 * j]) * f64::from(probabilities[2 * j + 1]);
                -(0..3).map(|j| exponentials[j] / sum * answer(j)).sum::<f64>().ln()
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((f64::from(*got) - expected).abs() < 1e-5, "{k}: {got} against {expected}");
        }
    }

    #[test]
    fn constants_order_and_doubled_passages_change_nothing() {
        // Oracles 4, 6 and 11.
        let base = loss(&[0.1, 0.6], &[0.3, 0.2, 0.05, 0.9]);
        assert!((base - loss(&[0.6, 0.1], &[0.05, 0.9, 0.3, 0.2])).abs() < 1e-6);
        assert!((base - loss(&[5.1, 5.6], &[0.3, 0.2, 0.05, 0.9])).abs() < 1e-5);
        // The second passage twice, each with half of its prior.
        let half = 0.6 - 2f32.ln();
        assert!((base - loss(&[0.1, half, half], &[0.3, 0.2, 0.05, 0.9, 0.05, 0.9])).abs() < 1e-6);
        let mask = tensor(&[1.0, 1.0], &[1, 2]);
        let token = |scores: &[f32], probabilities: &[f32]| {
            let logs: Vec<f32> = probabilities.iter().map(|p| p.ln()).collect();
            let k = scores.len();
            numbers(&rag_token_loss(&tensor(scores, &[1, k]), 1.0, &tensor(&logs, &[1, k, 2]), &mask).unwrap())[0]
        };
        let once = token(&[0.1, 0.6], &[0.3, 0.2, 0.05, 0.9]);
        assert!((once - token(&[0.1, half, half], &[0.3, 0.2, 0.05, 0.9, 0.05, 0.9])).abs() < 1e-6);
    }

    #[test]
    fn equal_likelihoods_move_nothing_and_a_sure_prior_leaves_one_reader() {
        // Oracle 5.
        let scores = variable(&[0.7, -0.2], &[1, 2]);
        let mask = tensor(&[1.0; 2], &[1, 2]);
        let equal = tensor(&[-1.0, -2.0, -2.0, -1.0], &[1, 2, 2]);
        let got = gradient(&rag_sequence_loss(&scores, 0.1, &equal, &mask).unwrap(), &scores);
        assert!(got.iter().all(|g| g.abs() < 1e-5), "{got:?}");
        let sure = loss(&[60.0, -60.0], &[0.3, 0.2, 0.9, 0.9]);
        assert!((sure + (0.3f32 * 0.2).ln()).abs() < 1e-5);
    }
}
