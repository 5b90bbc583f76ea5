//! Embedding with rounded matrices: faster, a little less exact, and without gradients.

use candle_core::Tensor;

use super::Encoder;
use super::backbone::Backbone;
use crate::error::Result;
use crate::models::params::RoundedLayers;
use crate::models::{Precision, Role};

/// An encoder as it was when its matrices were rounded.
#[derive(Debug)]
pub struct Rounded<'a> {
    encoder: &'a Encoder,
    layers: RoundedLayers,
}

impl Encoder {
    /// Rounds the matrices of all layers once, for many passes; tables, norms and biases stay f32. With
    /// [`Precision::F32`] the vectors are those of [`Encoder::forward_as`] to the bit.
    pub fn rounded(&self, precision: Precision) -> Result<Rounded<'_>> {
        let paths = self
            .params()
            .iter()
            .filter(|(name, param)| param.var.rank() == 2 && !Backbone::is_table(name) && !Backbone::is_unused(name))
            .filter_map(|(name, _)| name.strip_suffix(".weight").map(str::to_owned));
        Ok(Rounded { layers: self.params().rounded(paths, precision)?, encoder: self })
    }
}

impl Rounded<'_> {
    /// The vectors of tokenized texts of one role, (B, D) f32; see [`Encoder::forward`].
    pub fn forward(&self, sequences: &[Vec<u32>], role: Role) -> Result<Tensor> {
        let prompt = self.encoder.left_out_of(role);
        self.encoder.forward_after(sequences, prompt, self.encoder.params().view_rounded(&self.layers), None)
    }
}
