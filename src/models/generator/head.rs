//! The output layer: states to logits and log-probabilities.
//!
//! M tokens, D hidden width, V vocabulary.

use candle_core::Tensor;

use crate::error::Result;
use crate::models::nn;

/// The weights of the output layer as one forward pass sees them.
#[derive(Clone, Debug)]
pub(in crate::models) struct Head {
    weight: Tensor,
    soft_cap: Option<f64>,
}

impl Head {
    /// `weight` (V, D); logits z become cap · tanh(z / cap) where there is a cap (Gemma 2, arXiv 2408.00118).
    pub fn new(weight: Tensor, soft_cap: Option<f64>) -> Self {
        Self { weight, soft_cap }
    }

    /// The same layer with these tokens as its whole vocabulary: `tokens` (U) u32. Gradient to the weight.
    pub fn among(&self, tokens: &Tensor) -> Result<Self> {
        Ok(Self { weight: nn::embedding(&self.weight, tokens)?, soft_cap: self.soft_cap })
    }

    /// Logits of states after the last norm: (M, D) to (M, V).
    pub fn logits(&self, states: &Tensor) -> Result<Tensor> {
        let logits = nn::linear(states, &self.weight, None)?;
        match self.soft_cap {
            Some(cap) => Ok(((logits / cap)?.tanh()? * cap)?),
            None => Ok(logits),
        }
    }

    /// log p of one token after each state, without keeping logits: `states` (M, D), `targets` u32 (M); result (M) f32 in
    /// nats. Gradients to states and weight.
    pub fn log_probs(&self, states: &Tensor, targets: &Tensor) -> Result<Tensor> {
        nn::linear_log_prob(states, &self.weight, targets, self.soft_cap)
    }
}
