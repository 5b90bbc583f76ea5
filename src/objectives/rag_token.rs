//! RAG-Token: every answer token is drawn from the mixture of the K passages' readers.
//!
//! `L = -(1/B) sum_b sum_t log sum_k p_k p(y_t | x, z_k, y_<t)`, with the prior `p = softmax(s / tau)` over the K
//! retrieved passages only (Lewis et al. 2020, arXiv 2005.11401, section 2.1; Lawton et al. 2025 train it jointly and,
//! with the embedder frozen, as "fine-tune the generator"). Gradient on a score, for tau = 1: `sum_t (p_k - q_kt)` with
//! the token's posterior `q`. Tokens are summed (the probability model), questions averaged.
//!
//! Trains: generator; question side; passage side when scores are computed from live passage vectors. Labels: answers.

use candle_core::Tensor;

use super::kernel::{log_prior, mean, token_mixture};
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

/// RAG-Token with a temperature on the retrieval scores.
pub struct RagToken {
    /// Temperature tau of the prior over the retrieved passages, above 0; cosine scores need a small one.
    pub temperature: f64,
}

impl Objective for RagToken {
    fn name(&self) -> &'static str {
        "rag-token"
    }

    fn equation(&self) -> &'static str {
        "-sum_t log sum_k softmax(s/tau)_k p(y_t|x,z_k,y_<t), tokens summed, mean over questions (arXiv 2005.11401)"
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
        rag_token_loss(&scores, self.temperature, &log_probs, &mask)
    }
}

/// The equation alone.
///
/// `scores` (B, K) retrieval scores; `log_probs` (B, K, T) log p(y_t | x, z_k, y_<t) in nats; `mask` (B, T) 1 on answer
/// tokens, 0 on padding. Returns the scalar mean over B of the summed token losses; gradients flow into both.
pub fn rag_token_loss(scores: &Tensor, temperature: f64, log_probs: &Tensor, mask: &Tensor) -> Result<Tensor> {
    mean(&token_mixture(&log_prior(scores, temperature)?, log_probs, mask)?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    fn tensor(values: &[f32], shape: &[usize]) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn loss_of(token_probabilities: &[[f32; 2]; 2]) -> f32 {
        let scores = tensor(&[0.3, 0.3], &[1, 2]);
        let logs: Vec<f32> = token_probabilities.iter().flatten().map(|p| p.ln()).collect();
        rag_token_loss(&scores, 1.0, &tensor(&logs, &[1, 2, 2]), &tensor(&[1.0, 1.0], &[1, 2]))
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    #[test]
    fn hand_computed_vectors() {
        // STRATEGIES oracle 3: prior (.5, .5).
        assert!((loss_of(&[[0.9, 0.1], [0.1, 0.9]]) - 1.386294).abs() < 1e-5);
        assert!((loss_of(&[[0.9, 0.9], [0.1, 0.1]]) - 1.386294).abs() < 1e-5);
    }

    #[test]
    fn one_passage_is_plain_likelihood_and_leaves_the_retriever_alone() {
        // Oracle 1.
        let scores = Var::from_tensor(&tensor(&[0.7, -0.2], &[2, 1])).unwrap();
        let logs = tensor(&[-1.0, -2.0, -0.5, -0.25], &[2, 1, 2]);
        let loss = rag_token_loss(&scores, 0.05, &logs, &tensor(&[1.0; 4], &[2, 2])).unwrap();
        assert!((loss.to_scalar::<f32>().unwrap() - 3.75 / 2.0).abs() < 1e-6);
        let gradient = loss.backward().unwrap();
        let gradient = gradient.get(&scores).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient.iter().all(|g| g.abs() < 1e-7), "{gradient:?}");
    }

    #[test]
    fn score_gradient_is_prior_minus_posterior_and_sums_to_zero() {
        // Oracle 4, with tau = 1 and a padded token that must not count.
        let scores = Var::from_tensor(&tensor(&[0.2, -0.4, 0.9], &[1, 3])).unwrap();
        let probabilities = [[0.5f64, 0.2], [0.1, 0.6], [0.3, 0.9]];
        let logs: Vec<f32> = probabilities.iter().flat_map(|p| [p[0].ln() as f32, p[1].ln() as f32, -9.0]).collect();
        let mask = tensor(&[1.0, 1.0, 0.0], &[1, 3]);
        let loss = rag_token_loss(&scores, 1.0, &tensor(&logs, &[1, 3, 3]), &mask).unwrap();
        let gradients = loss.backward().unwrap();
        let got = gradients.get(&scores).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let exponentials: Vec<f64> = [0.2f64, -0.4, 0.9].iter().map(|s| s.exp()).collect();
        let prior: Vec<f64> = exponentials.iter().map(|e| e / exponentials.iter().sum::<f64>()).collect();
        for (k, got) in got.iter().enumerate() {
            let expected: f64 = (0..2)
                .map(|t| {
                    let evidence: f64 = (0..3).map(|j| prior[j] * probabilities[j][t]).sum();
                    prior[k] - prior[k] * probabilities[k][t] / evidence
                })
                .sum();
            assert!((f64::from(*got) - expected).abs() < 1e-6, "{k}: {got} against {expected}");
        }
        assert!(got.iter().sum::<f32>().abs() < 1e-6);
    }

    #[test]
    fn order_of_passages_and_constants_do_not_matter() {
        // Oracles 4 and 6.
        let mask = tensor(&[1.0, 1.0], &[1, 2]);
        let loss = |scores: &[f32], logs: &[f32]| {
            rag_token_loss(&tensor(scores, &[1, 2]), 0.5, &tensor(logs, &[1, 2, 2]), &mask)
                .unwrap()
                .to_scalar::<f32>()
                .unwrap()
        };
        let base = loss(&[0.1, 0.6], &[-1.0, -2.0, -3.0, -0.1]);
        assert!((base - loss(&[0.6, 0.1], &[-3.0, -0.1, -1.0, -2.0])).abs() < 1e-6);
        assert!((base - loss(&[5.1, 5.6], &[-1.0, -2.0, -3.0, -0.1])).abs() < 1e-5);
    }

    #[test]
    fn equal_likelihoods_send_no_gradient_to_the_retriever() {
        // Oracle 5.
        let scores = Var::from_tensor(&tensor(&[0.7, -0.2], &[1, 2])).unwrap();
        let logs = tensor(&[-1.0, -2.0, -1.0, -2.0], &[1, 2, 2]);
        let loss = rag_token_loss(&scores, 0.1, &logs, &tensor(&[1.0; 2], &[1, 2])).unwrap();
        let gradients = loss.backward().unwrap();
        let gradient = gradients.get(&scores).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(gradient.iter().all(|g| g.abs() < 1e-5), "{gradient:?}");
    }
}
