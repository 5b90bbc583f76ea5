//! Embedding many texts without gradients: with matrices that are packed and, if wanted, rounded once, and in small parts.

use candle_core::Tensor;
use rayon::prelude::*;

use super::Encoder;
use super::backbone::Backbone;
use crate::error::Result;
use crate::models::nn;
use crate::models::params::RoundedLayers;
use crate::models::{Precision, Role};

/// Tokens of a part, at least: what a layer makes of them stays in the second and third level of the cache, and a core that
/// computes one part from end to end waits for no other.
const PART_TOKENS: usize = 1024;

/// An encoder as it was when its matrices were rounded.
#[derive(Debug)]
pub struct Rounded<'a> {
    encoder: &'a Encoder,
    layers: RoundedLayers,
}

impl Encoder {
    /// Rounds and packs the matrices of all layers once, for many passes; tables, norms and biases stay f32. Takes a second
    /// copy of the matrices, in its own precision. With [`Precision::F32`] the vectors are those of [`Encoder::forward_as`] to the bit.
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
        let view = self.encoder.params().view_rounded(&self.layers);
        // Parts are for the caches and cores of a processor; a device wants everything at once.
        if self.encoder.params().iter().any(|(_, param)| nn::is_portable(&param.var)) {
            return self.encoder.forward_after(sequences, prompt, view, None);
        }
        let parts: Vec<Tensor> = parts(sequences)
            .into_par_iter()
            .map(|part| self.encoder.pooled(part, prompt, view, None))
            .collect::<Result<_>>()?;
        self.encoder.after_pooling(Tensor::cat(&parts, 0)?, view)
    }
}

/// Consecutive sequences with [`PART_TOKENS`] tokens or a few more together; what is left at the end goes to the last part.
fn parts(sequences: &[Vec<u32>]) -> Vec<&[Vec<u32>]> {
    let mut parts = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    let mut left: usize = sequences.iter().map(Vec::len).sum();
    for (i, sequence) in sequences.iter().enumerate() {
        tokens += sequence.len();
        left -= sequence.len();
        if tokens >= PART_TOKENS && left >= PART_TOKENS {
            parts.push(&sequences[start..=i]);
            (start, tokens) = (i + 1, 0);
        }
    }
    parts.push(&sequences[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_order_and_have_enough_tokens_each() {
        for lengths in [vec![], vec![3], vec![600; 7], vec![5000, 3, 3], vec![100; 31], vec![3, 5000, 7, 2000]] {
            let sequences: Vec<Vec<u32>> = lengths.iter().map(|&length| vec![0; length]).collect();
            let found = parts(&sequences);
            assert_eq!(found.concat(), sequences);
            let tokens = |part: &[Vec<u32>]| part.iter().map(Vec::len).sum::<usize>();
            assert!(found.len() == 1 || found.iter().all(|part| tokens(part) >= PART_TOKENS), "{lengths:?}");
        }
    }
}
