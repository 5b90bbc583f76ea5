//! Leave-one-out perplexity distillation (LOOP): a passage is worth what the answer loses without it.
//!
//! `L = -log p(y | x, Z) + KL(t || p)`, `p = softmax(s / tau)`, `t = softmax(-l / tau_g)` with the generator's log-likelihood
//! `l_k = log p(y | x, Z without z_k)` of the answer after the other passages in one prompt, a constant (Izacard et al. 2022,
//! Atlas, arXiv 2208.03299, section 2.2). Gradient on a score: `(p_k - t_k) / tau`.
//!
//! Length normalisation is a setting (Atlas's code: mean, temperatures 0.01). Deviations: Atlas masks a passage in the
//! encoder states of its fusion-in-decoder T5, which a decoder-only generator has not: here the prompt is written without
//! the passage, at K prompts of K - 1 passages; and its KL is also divided by K. One passage is an error: nothing would be
//! left. Where the generator is frozen the first term is a constant and left out.
//!
//! Trains: generator (first term); question side, and passage side when passage vectors are live. Labels: answers.

use candle_core::Tensor;

use super::choice::{Length, Value};
use super::kernel::{log_likelihood, log_target};
use super::pdist::pdist_loss;
use super::sft_concat::with_reader;
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::Step;

/// LOOP with its two temperatures.
pub struct Loop {
    /// Temperature tau of the retriever's distribution, above 0.
    pub temperature: f64,
    /// Temperature tau_g of the target, above 0.
    pub target_temperature: f64,
    /// Sum or mean of the answer's token log-probabilities.
    pub length: Length,
}

impl Objective for Loop {
    fn name(&self) -> &'static str {
        "loop"
    }

    fn equation(&self) -> &'static str {
        "-log p(y|x,Z) + KL(softmax(-l/tau_g) || softmax(s/tau)), l_k = log p(y|x,Z without z_k) constant, mean over \
         questions (arXiv 2208.03299)"
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
            concat: true,
            leave_one_out: true,
            ..Needs::default()
        }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let scores = step.retrieval_scores()?;
        let (log_probs, mask) = step.leave_one_out_log_probs()?;
        let others = log_likelihood(&log_probs, &mask, self.length)?;
        step.note_target(&log_target(&others.neg()?, Value::LogProbability, self.target_temperature)?)?;
        with_reader(loop_loss(&scores, self.temperature, &others, self.target_temperature)?, step)
    }
}

/// The retriever's term alone: `scores` (B, K); `without` (B, K) log-likelihood of the answer, in nats, after all passages
/// but one, taken as a constant. Scalar, mean over B.
pub fn loop_loss(scores: &Tensor, temperature: f64, without: &Tensor, target_temperature: f64) -> Result<Tensor> {
    pdist_loss(scores, temperature, &without.neg()?, target_temperature)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, gradient, tensor, var, variable};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "loop");
        let scores = var(&golden["scores"]);
        let without = log_likelihood(&golden["log_probs"], &golden["mask"], Length::Mean).unwrap();
        let loss = loop_loss(&scores, 0.05, &without, 0.3).unwrap();
        check_golden("loop", &golden, &loss, &[("scores", &scores)]);
    }

    #[test]
    fn of_two_passages_each_is_judged_by_the_other_alone() {
        // STRATEGIES oracle 9: without z_1 the prompt holds z_2 alone.
        let scores = variable(&[0.3, -0.1], &[1, 2]);
        let single = [-1.0f32, -2.5];
        let without = [single[1], single[0]];
        let got = gradient(&loop_loss(&scores, 1.0, &tensor(&without, &[1, 2]), 1.0).unwrap(), &scores);
        let softmax = |a: f32, b: f32| (a.exp() / (a.exp() + b.exp()), b.exp() / (a.exp() + b.exp()));
        let (p, t) = (softmax(0.3, -0.1), softmax(-single[1], -single[0]));
        assert!((got[0] - (p.0 - t.0)).abs() < 1e-6 && (got[1] - (p.1 - t.1)).abs() < 1e-6, "{got:?}");
    }
}
