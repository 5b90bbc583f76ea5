//! RAG-Token's distribution: K readers of one passage each, mixed by the retrieval prior.
//!
//! `log sum_k p_k p(w | x, z_k, y_<t)` (arXiv 2005.11401, section 2.5): probabilities are mixed, never logits, and the sum
//! over the vocabulary is 1 without further ado, so that a sum over steps is the log-probability of the model that
//! RAG-Token trains.

use candle_core::Tensor;

use crate::error::Result;
use crate::models::nn;

/// log p(next token) of every group of `width` rows: `log_probs` (G·width, V), `priors` G times `width` numbers log p_k;
/// result (G, V) f32 in nats.
pub(super) fn mix(log_probs: &Tensor, priors: &[&[f32]], width: usize) -> Result<Tensor> {
    if width == 1 {
        return Ok(log_probs.clone());
    }
    let (groups, vocabulary) = (priors.len(), log_probs.dim(1)?);
    let prior = Tensor::from_vec(priors.concat(), (groups, width, 1), log_probs.device())?;
    let joint = log_probs.reshape((groups, width, vocabulary))?.broadcast_add(&prior)?;
    nn::log_sum_exp(&joint.transpose(1, 2)?.contiguous()?)
}

/// `log softmax(scores / temperature)`; where nothing is mixed, a prior of 0.
pub(super) fn log_prior(scores: &[f32], temperature: f64, width: usize) -> Vec<f32> {
    if scores.len() != width || width == 1 {
        return vec![0.0; width];
    }
    let scaled: Vec<f64> = scores.iter().map(|score| f64::from(*score) / temperature).collect();
    let normaliser = log_sum_exp(&scaled);
    scaled.iter().map(|s| (s - normaliser) as f32).collect()
}

/// ln Σ exp(x), −∞ of nothing.
pub(super) fn log_sum_exp(x: &[f64]) -> f64 {
    let largest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + x.iter().map(|x| (x - largest).exp()).sum::<f64>().ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn prior_is_a_distribution_and_mixes_probabilities() {
        let prior = log_prior(&[0.5, 0.4, 0.1], 0.1, 3);
        assert!((prior.iter().map(|p| p.exp()).sum::<f32>() - 1.0).abs() < 1e-6);
        assert!((prior[0] - prior[1] - 1.0).abs() < 1e-5);
        // Reader 0 is sure of token 0, reader 1 of token 1; the prior decides, not the larger logit.
        let log_probs = Tensor::new(&[[-0.01f32, -5.0], [-3.0, -0.05]], &Device::Cpu).unwrap();
        for (p, likeliest) in [(0.7f32, 0u32), (0.2, 1)] {
            let mixed = mix(&log_probs, &[&[p.ln(), (1.0 - p).ln()]], 2).unwrap();
            assert_eq!(mixed.argmax(1).unwrap().to_vec1::<u32>().unwrap(), [likeliest]);
            let expected = p * (-0.01f32).exp() + (1.0 - p) * (-3f32).exp();
            assert!((mixed.to_vec2::<f32>().unwrap()[0][0].exp() - expected).abs() < 1e-6);
        }
    }
}
