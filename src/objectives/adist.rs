//! Attention distillation (ADist): the retriever's distribution over passages follows where the reader looks.
//!
//! `L = -log p(y | x, Z) + KL(t || p)`, `p = softmax(s / tau)`, `t = softmax(a / tau_g)` with the attention mass `a_k` that
//! the answer's tokens give to passage k of the one prompt with all of them, times the norm of the values there, averaged
//! over heads, layers and tokens, a constant (Izacard and Grave 2021, arXiv 2012.04584; with value norms Izacard et al. 2022,
//! Atlas, arXiv 2208.03299, section 2.2, `evalnormsum` in its code). Gradient on a score: `(p_k - t_k) / tau`.
//!
//! Deviations: Atlas reads the cross-attention of a fusion-in-decoder T5; a decoder-only generator has self-attention, whose
//! mass also goes to the question, the instruction and the answer itself, and is here read over the passages' tokens only. A
//! passage's place in the prompt matters, as it does for what is learnt from the prompt. Atlas's KL is also divided by K.
//! Where the generator is frozen the first term is a constant and left out.
//!
//! Trains: generator (first term); question side, and passage side when passage vectors are live. Labels: answers.

use candle_core::Tensor;

use super::choice::Value;
use super::kernel::log_target;
use super::pdist::pdist_loss;
use super::sft_concat::with_reader;
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::Step;

/// ADist with its two temperatures.
pub struct Adist {
    /// Temperature tau of the retriever's distribution, above 0.
    pub temperature: f64,
    /// Temperature tau_g of the target, above 0, in units of attention mass times value norm.
    pub target_temperature: f64,
}

impl Objective for Adist {
    fn name(&self) -> &'static str {
        "adist"
    }

    fn equation(&self) -> &'static str {
        "-log p(y|x,Z) + KL(softmax(a/tau_g) || softmax(s/tau)), a_k attention mass times value norm on z_k, constant, mean \
         over questions (arXiv 2208.03299)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("temperature", self.temperature.to_string()),
            ("target temperature", self.target_temperature.to_string()),
            ("attention", "mass times value norm, mean over heads, layers and answer tokens".to_owned()),
        ]
    }

    fn needs(&self) -> Needs {
        Needs {
            answers: true,
            retrieval: true,
            moves_retriever: true,
            moves_generator: true,
            concat: true,
            attention: true,
            ..Needs::default()
        }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let scores = step.retrieval_scores()?;
        let mass = step.attention_mass()?;
        step.note_target(&log_target(&mass, Value::LogProbability, self.target_temperature)?)?;
        with_reader(adist_loss(&scores, self.temperature, &mass, self.target_temperature)?, step)
    }
}

/// The retriever's term alone: `scores` (B, K); `mass` (B, K) attention, not negative, taken as a constant. Scalar, mean
/// over B.
pub fn adist_loss(scores: &Tensor, temperature: f64, mass: &Tensor, target_temperature: f64) -> Result<Tensor> {
    pdist_loss(scores, temperature, mass, target_temperature)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, var};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "adist");
        let (scores, mass) = (var(&golden["scores"]), var(&golden["mass"]));
        let loss = adist_loss(&scores, 0.05, &mass, 0.01).unwrap();
        check_golden("adist", &golden, &loss, &[("scores", &scores)]);
        assert!(loss.backward().unwrap().get(&mass).is_none(), "the generator gets no gradient");
    }
}
