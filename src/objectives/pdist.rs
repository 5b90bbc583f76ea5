//! Perplexity distillation (PDist): the retriever's distribution over passages follows how likely each makes the answer.
//!
//! `L = -log p(y | x, Z) + KL(t || p)`, `p = softmax(s / tau)`, `t = softmax(l / tau_g)` with the generator's log-likelihood
//! `l_k` of the answer after passage k alone, a constant (Izacard et al. 2022, Atlas, arXiv 2208.03299, section 2.2; `ppmean`
//! in its code). Gradient on a score: `(p_k - t_k) / tau`. With tau_g = 1, summed tokens and a uniform prior that is EMDR2's.
//!
//! Length normalisation is a setting: Atlas's code takes the mean over tokens, with both temperatures at 0.01 and scores
//! divided by the root of the vector width. Questions are averaged; deviation: Atlas's code also divides by K, because its
//! KL takes the mean over all entries. Where the generator is frozen the first term is a constant and left out.
//!
//! Trains: generator (first term); question side, and passage side when passage vectors are live. Labels: answers.

use candle_core::Tensor;

use super::choice::{Direction, Length, Value};
use super::kernel::{divergence, log_likelihood, log_prior, log_target, mean};
use super::sft_concat::with_reader;
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

/// PDist with its two temperatures.
pub struct Pdist {
    /// Temperature tau of the retriever's distribution, above 0.
    pub temperature: f64,
    /// Temperature tau_g of the target, above 0.
    pub target_temperature: f64,
    /// Sum or mean of the answer's token log-probabilities.
    pub length: Length,
}

impl Objective for Pdist {
    fn name(&self) -> &'static str {
        "pdist"
    }

    fn equation(&self) -> &'static str {
        "-log p(y|x,Z) + KL(softmax(l/tau_g) || softmax(s/tau)), l_k = log p(y|x,z_k) constant, mean over questions \
         (arXiv 2208.03299)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("temperature", self.temperature.to_string()),
            ("target temperature", self.target_temperature.to_string()),
            ("length normalisation", self.length.name().to_owned()),
        ]
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
        let answer = log_likelihood(&log_probs, &mask, self.length)?;
        step.note_target(&log_target(&answer, Value::LogProbability, self.target_temperature)?)?;
        let retriever = pdist_loss(&scores, self.temperature, &answer, self.target_temperature)?;
        with_reader(retriever, step)
    }
}

/// The retriever's term alone: `scores` (B, K); `log_likelihood` (B, K) of the answer, in nats, summed or averaged over its
/// tokens, taken as a constant. Scalar, mean over B.
pub fn pdist_loss(
    scores: &Tensor,
    temperature: f64,
    log_likelihood: &Tensor,
    target_temperature: f64,
) -> Result<Tensor> {
    let target = log_target(log_likelihood, Value::LogProbability, target_temperature)?;
    mean(&divergence(&target, &log_prior(scores, temperature)?, Direction::TargetToPrior)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, gradient, numbers, tensor, var, variable};
    use super::super::{Mixture, emdr2_retriever_loss};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "pdist");
        let scores = var(&golden["scores"]);
        for length in Length::ALL {
            let answer = log_likelihood(&golden["log_probs"], &golden["mask"], *length).unwrap();
            let loss = pdist_loss(&scores, 0.05, &answer, 0.3).unwrap();
            let named = |what: &str| golden[&format!("{}.{what}", length.name())].clone();
            let expected = [("loss".to_owned(), named("loss")), ("scores.grad".to_owned(), named("scores.grad"))];
            check_golden(length.name(), &expected.into(), &loss, &[("scores", &scores)]);
        }
    }

    #[test]
    fn targets_are_those_of_the_atlas_note() {
        // STRATEGIES oracle 7.
        for (likelihoods, expected) in
            [([-1.0, -3.0, -3.0], [0.787, 0.1065, 0.1065]), ([-2.0, -2.0, -4.0], [0.468, 0.468, 0.0634])]
        {
            let target = log_target(&tensor(&likelihoods, &[1, 3]), Value::LogProbability, 1.0).unwrap();
            for (got, expected) in numbers(&target.exp().unwrap()).iter().zip(expected) {
                assert!((got - expected).abs() < 5e-4, "{got} against {expected}");
            }
        }
    }

    #[test]
    fn with_a_uniform_prior_it_is_emdr2() {
        // Oracle 8.
        let scores = variable(&[0.4; 6], &[2, 3]);
        let likelihoods = [-1.0, -3.0, -0.2, -7.0, -2.5, -2.0];
        let pdist = pdist_loss(&scores, 1.0, &tensor(&likelihoods, &[2, 3]), 1.0).unwrap();
        let mask = tensor(&[1.0, 1.0], &[2, 1]);
        let emdr2 =
            emdr2_retriever_loss(&scores, 1.0, &tensor(&likelihoods, &[2, 3, 1]), &mask, Mixture::Sequence).unwrap();
        let (pdist, emdr2) = (gradient(&pdist, &scores), gradient(&emdr2, &scores));
        for (one, other) in pdist.iter().zip(&emdr2) {
            assert!((one - other).abs() < 1e-6 && one.abs() > 1e-3, "{pdist:?} {emdr2:?}");
        }
    }

    #[test]
    fn order_does_not_matter_and_one_passage_moves_nothing() {
        // Oracle 6.
        let loss = |scores: &[f32], likelihoods: &[f32]| {
            let shape = [1, scores.len()];
            numbers(&pdist_loss(&tensor(scores, &shape), 0.1, &tensor(likelihoods, &shape), 0.5).unwrap())[0]
        };
        assert!(
            (loss(&[0.1, 0.5, 0.3], &[-1.0, -2.0, -3.0]) - loss(&[0.3, 0.1, 0.5], &[-3.0, -1.0, -2.0])).abs() < 1e-5
        );
        let scores = variable(&[0.7], &[1, 1]);
        let alone = pdist_loss(&scores, 0.1, &tensor(&[-2.0], &[1, 1]), 0.5).unwrap();
        assert_eq!((numbers(&alone)[0], gradient(&alone, &scores)[0]), (0.0, 0.0));
    }
}
