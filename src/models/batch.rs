//! Sequences of different lengths as one rectangle of token ids.
//!
//! B sequences, T tokens of the longest.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Sequences padded on the right to the longest of them.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// Token ids, (B, T) u32; the padding id beyond each length.
    pub ids: Tensor,
    /// 1 for a token, 0 for padding, (B, T) f32.
    pub mask: Tensor,
    /// Tokens of each sequence, B of them.
    pub lengths: Vec<usize>,
}

impl TokenBatch {
    /// Pads sequences to their longest; no sequence at all and an empty sequence are errors.
    pub fn new(sequences: &[Vec<u32>], pad_id: u32, device: &Device) -> Result<Self> {
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        if let Some(empty) = lengths.iter().position(|&length| length == 0) {
            return Err(Error::new(format!("sequence {empty} of a batch of {} has no token", sequences.len())));
        }
        if longest == 0 {
            return Err(Error::new("a batch needs at least one sequence"));
        }
        let mut ids = Vec::with_capacity(sequences.len() * longest);
        let mut mask = Vec::with_capacity(sequences.len() * longest);
        for sequence in sequences {
            ids.extend_from_slice(sequence);
            ids.resize(ids.len() + longest - sequence.len(), pad_id);
            mask.resize(mask.len() + sequence.len(), 1f32);
            mask.resize(mask.len() + longest - sequence.len(), 0f32);
        }
        let shape = (sequences.len(), longest);
        Ok(Self { ids: Tensor::from_vec(ids, shape, device)?, mask: Tensor::from_vec(mask, shape, device)?, lengths })
    }

    /// Tokens that are not padding.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pads_on_the_right_to_the_longest() {
        let batch = TokenBatch::new(&[vec![7], vec![1, 2, 3]], 9, &Device::Cpu).unwrap();
        assert_eq!(batch.ids.to_vec2::<u32>().unwrap(), [[7, 9, 9], [1, 2, 3]]);
        assert_eq!(batch.mask.to_vec2::<f32>().unwrap(), [[1., 0., 0.], [1., 1., 1.]]);
        assert_eq!((batch.lengths.clone(), batch.tokens()), (vec![1, 3], 4));
    }

    #[test]
    fn refuses_nothing() {
        assert!(TokenBatch::new(&[], 0, &Device::Cpu).is_err());
        let error = TokenBatch::new(&[vec![1], vec![]], 0, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("sequence 1"), "{error}");
    }
}
