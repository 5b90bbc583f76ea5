//! REPLUG LSR: a frozen black-box generator supervises the retriever ("LM-supervised retrieval").
//!
//! `P = softmax(s / gamma)` over the K retrieved passages, `Q = softmax(p(y | x, z_k) / beta)`: the softmax of the
//! *probability* (Shi et al. 2023, arXiv 2301.12652, section 4). What the sources leave open or write differently is named:
//!
//! * direction: the arXiv text minimises `KL(P || Q)` (`prior-to-target`), the NAACL text `KL(Q || P)` (`target-to-prior`).
//! * value: of the `probability` as written, or of the `log-probability`; of long or unlikely answers every probability is
//!   near 0 and Q near uniform, which the step reports as a target without a signal.
//! * length: the sum of an answer's token log-probabilities, or their mean.
//!
//! The paper has gamma = beta = 0.1 (here gamma is `--temperature`, by default 0.05) and both towers trained; its batches are
//! text spans, here they are questions with their answers. Questions are averaged.
//!
//! Trains: question side, and passage side when passage vectors are live. Labels: answers.

use candle_core::Tensor;

use super::choice::{Direction, Length, Value};
use super::kernel::{divergence, log_likelihood, log_prior, log_target, mean};
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

/// LSR with everything the papers choose differently.
pub struct ReplugLsr {
    /// Temperature gamma of the retriever's distribution, above 0.
    pub temperature: f64,
    /// Temperature beta of the target, above 0.
    pub target_temperature: f64,
    /// Which way the divergence is taken.
    pub direction: Direction,
    /// What of the likelihood the target is the softmax of.
    pub value: Value,
    /// Sum or mean of the answer's token log-probabilities.
    pub length: Length,
}

impl Objective for ReplugLsr {
    fn name(&self) -> &'static str {
        "replug-lsr"
    }

    fn equation(&self) -> &'static str {
        match self.direction {
            Direction::PriorToTarget => {
                "KL(softmax(s/gamma) || softmax(v/beta)), v_k = p(y|x,z_k) or its logarithm, mean over questions \
                 (arXiv 2301.12652)"
            }
            Direction::TargetToPrior => {
                "KL(softmax(v/beta) || softmax(s/gamma)), v_k = p(y|x,z_k) or its logarithm, mean over questions \
                 (REPLUG, NAACL 2024)"
            }
        }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("gamma", self.temperature.to_string()),
            ("beta", self.target_temperature.to_string()),
            ("direction", self.direction.name().to_owned()),
            ("target value", self.value.name().to_owned()),
            ("length normalisation", self.length.name().to_owned()),
        ]
    }

    fn needs(&self) -> Needs {
        Needs { answers: true, retrieval: true, moves_retriever: true, single_prompts: true, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let scores = step.retrieval_scores()?;
        let (log_probs, mask) = step.answer_token_log_probs(ToGenerator::Stopped)?;
        let answer = log_likelihood(&log_probs, &mask, self.length)?;
        let target = log_target(&answer, self.value, self.target_temperature)?;
        step.note_target(&target)?;
        lsr_loss(&scores, self.temperature, &target, self.direction)
    }
}

/// The equation alone: `scores` (B, K); `log_target` (B, K) of a distribution, a constant
/// ([`super::kernel::log_target`]). Scalar, mean over B.
pub fn lsr_loss(scores: &Tensor, temperature: f64, log_target: &Tensor, direction: Direction) -> Result<Tensor> {
    mean(&divergence(log_target, &log_prior(scores, temperature)?, direction)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, numbers, tensor, var};
    use super::*;

    #[test]
    fn equals_pytorch_in_every_form() {
        let golden = golden("objectives_retriever", "replug");
        let scores = var(&golden["scores"]);
        let answer = log_likelihood(&golden["log_probs"], &golden["mask"], Length::Sum).unwrap();
        for direction in Direction::ALL {
            for value in Value::ALL {
                let target = log_target(&answer, *value, 0.1).unwrap();
                let loss = lsr_loss(&scores, 0.1, &target, *direction).unwrap();
                let form = format!("{}.{}", direction.name(), value.name());
                let named = |what: &str| (what.to_owned(), golden[&format!("{form}.{what}")].clone());
                check_golden(&form, &[named("loss"), named("scores.grad")].into(), &loss, &[("scores", &scores)]);
            }
        }
    }

    #[test]
    fn targets_of_probabilities_are_nearly_uniform() {
        // STRATEGIES section 3.7: P = (1e-6, 1e-4, 1e-2), beta = 0.1.
        let logs: Vec<f32> = [1e-6f32, 1e-4, 1e-2].iter().map(|p| p.ln()).collect();
        let of = |value, temperature| {
            numbers(&log_target(&tensor(&logs, &[1, 3]), value, temperature).unwrap().exp().unwrap())
        };
        for (got, expected) in of(Value::Probability, 0.1).iter().zip([0.322, 0.322, 0.356]) {
            assert!((got - expected).abs() < 1e-3, "{got} against {expected}");
        }
        for (got, expected) in of(Value::LogProbability, 1.0).iter().zip([0.0001, 0.0099, 0.99]) {
            assert!((got - expected).abs() < 1e-3, "{got} against {expected}");
        }
    }
}
