//! Multiple negatives ranking loss: a question's gold passage against the gold passages of the other questions.
//!
//! `L = -(1/B) sum_i log [ exp(c s_ii) / sum_j exp(c s_ij) ]` with cosine scores `s` and scale `c` (Henderson et al.
//! 2017, arXiv 1705.00652; sentence-transformers' default scale is 20, a temperature of 0.05; Lawton et al. 2025 use it
//! to fine-tune the embedder). Deviation: where two questions of a batch share their gold passage, it is not a negative
//! of the other (sentence-transformers counts it as one).
//!
//! With hard negatives every question's own become candidates of the whole batch, as sentence-transformers does it; ANCE
//! (arXiv 2007.00808) mines them from the model's own index. Those the trainer mined come before those of the question
//! file; the first `hard_negatives` of them are taken, and fewer where there are fewer. A gold passage of a question is
//! never its negative. Deviation from ANCE: its loss is of a question's own negatives alone, over unscaled inner products;
//! here those of the other questions and their gold passages count too, over scaled cosines.
//!
//! Trains: question side; passage side when passage vectors are live. Labels: one gold passage a question (the first).
//! Reduction: mean over questions. Batches of any size fit: vectors are computed in chunks and their gradients are those
//! of the whole batch (`models/encoder/cached.rs`).

use candle_core::Tensor;

use super::kernel::mean;
use super::{Needs, Objective};
use crate::error::Result;
use crate::models::nn;
use crate::pipeline::step::Step;

/// MNRL with in-batch negatives.
pub struct Mnrl {
    /// Scale c on the cosine scores (one over the temperature).
    pub scale: f64,
    /// The most hard negatives of a question; 0: only the other questions' gold passages.
    pub hard_negatives: usize,
}

impl Objective for Mnrl {
    fn name(&self) -> &'static str {
        "mnrl"
    }

    fn equation(&self) -> &'static str {
        "-log softmax_j(scale cos(q_i, d_j))_i over the batch's gold passages and hard negatives, mean over questions (arXiv 1705.00652)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("scale", self.scale.to_string()), ("hard negatives a question", self.hard_negatives.to_string())]
    }

    fn needs(&self) -> Needs {
        Needs { gold: true, hard_negatives: self.hard_negatives > 0, moves_retriever: true, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        false
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let batch = step.batch_scores(self.hard_negatives)?;
        mnrl_loss(&batch.scores, &batch.gold, &batch.excluded, self.scale)
    }
}

/// The equation alone.
///
/// `scores` (B, C) of B questions against C candidates; `gold` (B) u32, the column of each question's gold passage;
/// `excluded` (B, C) f32, 1 where a candidate must not count as a negative. Scalar, nats, mean over B.
pub fn mnrl_loss(scores: &Tensor, gold: &Tensor, excluded: &Tensor, scale: f64) -> Result<Tensor> {
    // Far below every cosine score, and finite, so that no gradient becomes NaN.
    let penalty = (excluded * -1e9)?;
    let logits = ((scores * scale)? + penalty)?;
    mean(&nn::log_prob_of(&logits, gold)?.neg()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn one_question_without_negatives_has_no_loss_and_no_gradient() {
        // STRATEGIES oracle 13.
        let scores = Var::new(&[[0.3f32]], &Device::Cpu).unwrap();
        let gold = Tensor::new(&[0u32], &Device::Cpu).unwrap();
        let none = Tensor::zeros((1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let loss = mnrl_loss(&scores, &gold, &none, 20.0).unwrap();
        assert_eq!(loss.to_scalar::<f32>().unwrap(), 0.0);
        let gradients = loss.backward().unwrap();
        assert_eq!(gradients.get(&scores).unwrap().to_vec2::<f32>().unwrap(), vec![vec![0.0]]);
    }

    #[test]
    fn gradient_is_softmax_minus_one_hot_and_excluded_candidates_get_none() {
        let values = [[0.5f32, 0.1, 0.4], [0.2, 0.7, 0.0]];
        let scores = Var::new(&values, &Device::Cpu).unwrap();
        let gold = Tensor::new(&[0u32, 1], &Device::Cpu).unwrap();
        let excluded = Tensor::new(&[[0f32, 1.0, 0.0], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
        let scale = 5.0;
        let loss = mnrl_loss(&scores, &gold, &excluded, scale).unwrap();
        let gradients = loss.backward().unwrap();
        let got = gradients.get(&scores).unwrap().to_vec2::<f32>().unwrap();
        for (i, row) in values.iter().enumerate() {
            let weight = |j: usize| if i == 0 && j == 1 { 0.0 } else { (scale * f64::from(row[j])).exp() };
            let sum: f64 = (0..3).map(weight).sum();
            for (j, got) in got[i].iter().enumerate() {
                let one_hot = if i == j { 1.0 } else { 0.0 };
                let expected = scale * (weight(j) / sum - one_hot) / 2.0;
                assert!((f64::from(*got) - expected).abs() < 1e-6, "{i} {j}");
            }
        }
    }
}
