//! RA-DIT's retriever stage ("R-ft"): the retriever learns from the likelihoods of the base generator. The generator's own stage
//! ([`super::SftSeparate`]) is decoupled from it.
//!
//! `L = KL(p_R || p_LSR)`, `p_R = softmax(s / gamma)` over the K passages, `p_LSR = softmax(p(y | x, z_k) / tau)`, the
//! softmax of the probability, with tau = 0.01 (Lin et al. 2023, arXiv 2310.01352). It is
//! [`super::ReplugLsr`] with RA-DIT's settings: that direction, that value, summed tokens. Questions are averaged.
//!
//! Deviations: the paper has no temperature on scores (gamma = 1 with unbounded inner products); cosine scores need one.
//! The paper computes candidates and probabilities once, with the base models, over the top 10; here that holds where the
//! trainer gives each question's passages ([`crate::pipeline::step::Step::with_passages`]) and a memo, and their number is K
//! of all stages (`--top-k`), where the paper tunes the generator on the top 3.
//!
//! Trains: question side (the paper found both sides worse). Labels: answers.

use candle_core::Tensor;

use super::choice::{Direction, Length, Value};
use super::{Needs, Objective, ReplugLsr};
use crate::error::Result;
use crate::pipeline::step::Step;

/// RA-DIT's loss on the retriever.
pub struct RaDitRetriever {
    /// Temperature gamma of the retriever's distribution, above 0.
    pub temperature: f64,
    /// Temperature tau of the target, above 0; 0.01 in the paper.
    pub target_temperature: f64,
}

impl RaDitRetriever {
    fn lsr(&self) -> ReplugLsr {
        ReplugLsr {
            temperature: self.temperature,
            target_temperature: self.target_temperature,
            direction: Direction::PriorToTarget,
            value: Value::Probability,
            length: Length::Sum,
        }
    }
}

impl Objective for RaDitRetriever {
    fn name(&self) -> &'static str {
        "ra-dit-retriever"
    }

    fn equation(&self) -> &'static str {
        "KL(softmax(s/gamma) || softmax(p(y|x,z_k)/tau)), tokens summed, mean over questions (arXiv 2310.01352, R-ft)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let mut settings = self.lsr().settings();
        for (name, _) in &mut settings {
            if *name == "beta" {
                *name = "tau";
            }
        }
        settings
    }

    fn needs(&self) -> Needs {
        self.lsr().needs()
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        self.lsr().loss(step)
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernel::{log_likelihood, log_target};
    use super::super::lsr_loss;
    use super::super::testing::{check_golden, golden, var};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "ra_dit");
        let scores = var(&golden["scores"]);
        let lsr = RaDitRetriever { temperature: 0.05, target_temperature: 0.01 }.lsr();
        let answer = log_likelihood(&golden["log_probs"], &golden["mask"], lsr.length).unwrap();
        let target = log_target(&answer, lsr.value, lsr.target_temperature).unwrap();
        let loss = lsr_loss(&scores, lsr.temperature, &target, lsr.direction).unwrap();
        check_golden("ra-dit", &golden, &loss, &[("scores", &scores)]);
    }
}
