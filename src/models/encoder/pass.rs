//! One pass of token ids through the encoder: transformer and pooling, then the modules after them.

use candle_core::Tensor;

use super::Encoder;
use crate::error::{Error, Result};
use crate::models::batch::TokenBatch;
use crate::models::dropout::{Draw, Drops};
use crate::models::params::View;

impl Encoder {
    /// The vectors of sequences whose first `prompt` tokens the pooling leaves out.
    pub(super) fn forward_after(
        &self,
        sequences: &[Vec<u32>],
        prompt: usize,
        view: View<'_>,
        draw: Option<Draw>,
    ) -> Result<Tensor> {
        self.after_pooling(self.pooled(sequences, prompt, view, draw)?, view)
    }

    /// The transformer, with what it drops, and the pooling.
    pub(super) fn pooled(
        &self,
        sequences: &[Vec<u32>],
        prompt: usize,
        view: View<'_>,
        draw: Option<Draw>,
    ) -> Result<Tensor> {
        let batch = TokenBatch::new(sequences, &self.device)?;
        let (longest, limit) = (batch.spans.longest(), self.backbone.max_positions());
        if longest > limit {
            return Err(Error::new(format!(
                "a sequence of `{longest}` tokens is longer than the {limit} positions of the encoder"
            ))
            .hint("cut texts with `tokenize`, which knows the limit"));
        }
        let drops = draw.map(|draw| Drops::new(draw, self.rates, &batch.spans));
        let states = self.backbone.states(view.dropping(drops.as_ref()), &batch)?;
        self.modules.pooling.apply(&states, &batch.spans, prompt)
    }

    /// What follows the pooling.
    pub(super) fn after_pooling(&self, mut vectors: Tensor, view: View<'_>) -> Result<Tensor> {
        for module in &self.modules.chain {
            vectors = module.apply(&vectors, view)?;
        }
        match self.modules.cut() {
            Some(dim) => Ok(vectors.narrow(1, 0, dim)?.contiguous()?),
            None => Ok(vectors),
        }
    }
}
