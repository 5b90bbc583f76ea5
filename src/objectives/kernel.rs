//! The kernel that the objectives over a retriever's scores share: a prior over passages, how likely each makes the answer,
//! and either their mixture or a divergence from what the likelihoods ask for.
//!
//! With `p = softmax(s / tau)` over the K passages and log-likelihoods `l`, the gradients on a score are, for tau = 1:
//!
//! | | loss of a question | dL/ds_k |
//! |---|---|---|
//! | mixture | `-log sum_k p_k exp(l_k)` | `p_k - q_k`, `q = softmax(log p + l)` |
//! | `KL(t \|\| p)`, t constant | `sum_k t_k (log t_k - log p_k)` | `p_k - t_k` |
//! | `KL(p \|\| t)`, t constant | `sum_k p_k (log p_k - log t_k)` | `p_k [(log p_k - log t_k) - KL]` |
//!
//! Each sums to 0 over the passages: scores may drift by a constant, and one passage alone moves nothing. Everything is in
//! nats; distributions are over the last dimension.

use candle_core::Tensor;

use super::choice::{Direction, Length, Value};
use crate::error::{Error, Result};
use crate::models::nn;

/// Stands for minus infinity where a candidate is not there: far below every score, and finite, so that no gradient
/// becomes NaN.
const ABSENT: f64 = 1e9;

/// `log softmax(scores / temperature)` over the last dimension.
pub fn log_prior(scores: &Tensor, temperature: f64) -> Result<Tensor> {
    nn::log_softmax(&(scores / positive("temperature", temperature)?)?)
}

/// `log sum_k p_k exp(l_k)` over the last dimension, which disappears: `log_prior` and `log_likelihood` (..., K), of shapes
/// that broadcast.
pub fn mixture(log_prior: &Tensor, log_likelihood: &Tensor) -> Result<Tensor> {
    nn::log_sum_exp(&log_prior.broadcast_add(log_likelihood)?.contiguous()?)
}

/// `sum_t log sum_k p_k p(y_t | z_k)` of each question, (B): `log_prior` (B, K), `log_probs` (B, K, T), `mask` (B, T).
pub fn token_mixture(log_prior: &Tensor, log_probs: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let by_token = log_probs.transpose(1, 2)?.contiguous()?;
    let tokens = mixture(&log_prior.unsqueeze(1)?, &by_token)?;
    Ok((tokens * mask)?.sum(1)?)
}

/// The log-likelihood of an answer under each passage, (B, K), from `log_probs` (B, K, T) of its tokens and `mask` (B, T).
pub fn log_likelihood(log_probs: &Tensor, mask: &Tensor, length: Length) -> Result<Tensor> {
    let sum = log_probs.broadcast_mul(&mask.unsqueeze(1)?)?.sum(2)?;
    match length {
        Length::Sum => Ok(sum),
        Length::Mean => Ok(sum.broadcast_div(&mask.sum_keepdim(1)?)?),
    }
}

/// The constant `log t = log softmax(value(l) / temperature)` that a prior is to follow, from log-likelihoods (..., K).
pub fn log_target(log_likelihood: &Tensor, value: Value, temperature: f64) -> Result<Tensor> {
    let log_likelihood = log_likelihood.detach();
    match value {
        Value::LogProbability => log_prior(&log_likelihood, temperature),
        Value::Probability => log_prior(&log_likelihood.exp()?, temperature),
    }
}

/// The divergence of each question, over the last dimension, which disappears. `log_target` is a constant; gradients flow
/// into `log_prior` alone. Entries absent on both sides ([`present`]) add nothing.
pub fn divergence(log_target: &Tensor, log_prior: &Tensor, direction: Direction) -> Result<Tensor> {
    let log_target = log_target.detach();
    let terms = match direction {
        Direction::TargetToPrior => (log_target.exp()? * (&log_target - log_prior)?)?,
        Direction::PriorToTarget => (log_prior.exp()? * (log_prior - &log_target)?)?,
    };
    Ok(terms.sum(terms.rank() - 1)?)
}

/// `values` (..., C) where `mask` (..., C) is 1, and a number that no softmax sees where it is 0.
pub fn present(values: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let absent = ((mask - 1.0)? * ABSENT)?;
    Ok((values.broadcast_mul(mask)? + absent)?)
}

/// The mean over the B questions: the reduction of every objective.
pub fn mean(per_question: &Tensor) -> Result<Tensor> {
    let questions = per_question.elem_count();
    Ok((per_question.sum_all()? / questions as f64)?)
}

/// Refuses a setting by which nothing can be divided.
pub fn positive(name: &str, value: f64) -> Result<f64> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(Error::new(format!("the {name} `{value}` is not a number above 0"))
        .hint("cosine scores call for about 0.05, log-likelihoods for about 1"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gradient, numbers, tensor, variable};
    use super::*;

    const SCORES: [f32; 6] = [0.2, -0.4, 0.9, 1.3, 0.0, -2.0];
    const LIKELIHOODS: [f32; 6] = [-1.0, -3.0, -0.2, -7.0, -2.5, -2.0];

    fn softmax(values: &[f64]) -> Vec<f64> {
        let sum: f64 = values.iter().map(|value| value.exp()).sum();
        values.iter().map(|value| value.exp() / sum).collect()
    }

    /// Rows of three: prior, and softmax of log prior plus log-likelihood.
    fn rows() -> Vec<(Vec<f64>, Vec<f64>)> {
        let row = |scores: &[f32], likelihoods: &[f32]| {
            let joint: Vec<f64> = scores.iter().zip(likelihoods).map(|(s, l)| f64::from(s + l)).collect();
            (softmax(&scores.iter().map(|s| f64::from(*s)).collect::<Vec<_>>()), softmax(&joint))
        };
        SCORES.chunks(3).zip(LIKELIHOODS.chunks(3)).map(|(s, l)| row(s, l)).collect()
    }

    #[test]
    fn gradient_of_a_mixture_is_prior_minus_posterior() {
        // STRATEGIES oracle 4.
        let scores = variable(&SCORES, &[2, 3]);
        let likelihoods = variable(&LIKELIHOODS, &[2, 3]);
        let loss = mixture(&log_prior(&scores, 1.0).unwrap(), &likelihoods).unwrap().neg().unwrap();
        let loss = mean(&loss).unwrap();
        let (on_scores, on_likelihoods) = (gradient(&loss, &scores), gradient(&loss, &likelihoods));
        for (row, (prior, posterior)) in rows().iter().enumerate() {
            for k in 0..3 {
                let expected = (prior[k] - posterior[k]) / 2.0;
                assert!((f64::from(on_scores[row * 3 + k]) - expected).abs() < 1e-6);
                // The generator's: supervised fine-tuning weighted by the posterior.
                assert!((f64::from(on_likelihoods[row * 3 + k]) + posterior[k] / 2.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn divergences_vanish_where_both_agree_and_have_the_gradients_of_the_table() {
        // Oracle 10.
        for direction in Direction::ALL {
            let target = log_target(&tensor(&LIKELIHOODS, &[2, 3]), Value::LogProbability, 1.0).unwrap();
            let same = variable(&numbers(&target), &[2, 3]);
            let loss = mean(&divergence(&target, &log_prior(&same, 1.0).unwrap(), *direction).unwrap()).unwrap();
            assert!(numbers(&loss)[0].abs() < 1e-6);
            assert!(gradient(&loss, &same).iter().all(|g| g.abs() < 1e-6));

            let scores = variable(&SCORES, &[2, 3]);
            let divergences = divergence(&target, &log_prior(&scores, 1.0).unwrap(), *direction).unwrap();
            let got = gradient(&mean(&divergences).unwrap(), &scores);
            for (row, (p, _)) in rows().iter().enumerate() {
                let t = softmax(&LIKELIHOODS[row * 3..row * 3 + 3].iter().map(|l| f64::from(*l)).collect::<Vec<_>>());
                let kl: f64 = match direction {
                    Direction::TargetToPrior => (0..3).map(|k| t[k] * (t[k] / p[k]).ln()).sum(),
                    Direction::PriorToTarget => (0..3).map(|k| p[k] * (p[k] / t[k]).ln()).sum(),
                };
                assert!((f64::from(numbers(&divergences)[row]) - kl).abs() < 1e-5 && kl > 0.01);
                for k in 0..3 {
                    let expected = match direction {
                        Direction::TargetToPrior => p[k] - t[k],
                        Direction::PriorToTarget => p[k] * ((p[k] / t[k]).ln() - kl),
                    };
                    assert!((f64::from(got[row * 3 + k]) - expected / 2.0).abs() < 1e-6, "{direction:?} {row} {k}");
                }
            }
        }
    }

    #[test]
    fn absent_candidates_have_no_part() {
        let mask = tensor(&[1.0, 1.0, 0.0], &[1, 3]);
        for direction in Direction::ALL {
            let loss = |scores: &candle_core::Var, target: &Tensor| {
                let prior = log_prior(&present(scores, &mask).unwrap(), 0.1).unwrap();
                let target = log_prior(&present(target, &mask).unwrap(), 0.5).unwrap();
                mean(&divergence(&target, &prior, *direction).unwrap()).unwrap()
            };
            let (one, other) = (variable(&[0.1, 0.4, 9.0], &[1, 3]), variable(&[0.1, 0.4, -3.0], &[1, 3]));
            let first = loss(&one, &tensor(&[0.3, 0.2, 7.0], &[1, 3]));
            let second = loss(&other, &tensor(&[0.3, 0.2, 0.0], &[1, 3]));
            assert_eq!(numbers(&first), numbers(&second));
            let gradient = gradient(&first, &one);
            assert_eq!(gradient[2], 0.0);
            assert!(gradient[0] != 0.0 && (gradient[0] + gradient[1]).abs() < 1e-6);
        }
    }

    #[test]
    fn a_temperature_of_nothing_is_refused() {
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = log_prior(&tensor(&[1.0], &[1, 1]), temperature).unwrap_err();
            assert!(error.to_string().contains("is not a number above 0") && error.find_hint().is_some());
        }
    }

    #[test]
    fn means_are_over_the_tokens_of_an_answer() {
        let log_probs = tensor(&[-1.0, -2.0, -3.0, -4.0, -9.0, -9.0, -5.0, -9.0, -9.0, -6.0, -9.0, -9.0], &[2, 2, 3]);
        let mask = tensor(&[1.0, 1.0, 0.0, 1.0, 0.0, 0.0], &[2, 3]);
        let of = |length| numbers(&log_likelihood(&log_probs, &mask, length).unwrap());
        assert_eq!(of(Length::Sum), [-3.0, -13.0, -5.0, -6.0]);
        assert_eq!(of(Length::Mean), [-1.5, -6.5, -5.0, -6.0]);
    }
}
