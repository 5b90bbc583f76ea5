//! Sequences of different lengths one after the other, without padding.
//!
//! B sequences, N tokens of all of them together. Whatever works on single tokens (projections, norms, activations) sees a
//! plain matrix with N rows; only attention, pooling and positions need to know where a sequence begins.

use std::ops::Range;

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Where each sequence lies among the tokens of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans {
    /// First token of each sequence, and N at the end.
    starts: Vec<usize>,
}

impl Spans {
    /// Sequences of these lengths one after the other.
    pub fn of_lengths(lengths: &[usize]) -> Self {
        let mut starts = Vec::with_capacity(lengths.len() + 1);
        let mut next = 0;
        starts.push(next);
        for length in lengths {
            next += length;
            starts.push(next);
        }
        Self { starts }
    }

    /// B.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there is no sequence.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// N.
    pub fn tokens(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// The tokens of sequence `i`.
    pub fn range(&self, i: usize) -> Range<usize> {
        self.starts[i]..self.starts[i + 1]
    }

    /// Tokens of sequence `i`.
    pub fn length(&self, i: usize) -> usize {
        self.range(i).len()
    }

    /// Tokens of each sequence.
    pub fn lengths(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len()).map(|i| self.length(i))
    }

    /// Tokens of the longest sequence.
    pub fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }
}

/// The tokens of a batch.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// Token ids, (N) u32.
    pub ids: Tensor,
    /// The place of each token in its own sequence, from 0, (N) u32.
    pub positions: Tensor,
    /// Where each sequence lies.
    pub spans: Spans,
}

impl TokenBatch {
    /// Puts sequences one after the other; no sequence at all and an empty sequence are errors.
    pub fn new(sequences: &[Vec<u32>], device: &Device) -> Result<Self> {
        if sequences.is_empty() {
            return Err(Error::new("a batch needs at least one sequence"));
        }
        if let Some(empty) = sequences.iter().position(Vec::is_empty) {
            return Err(Error::new(format!("sequence {empty} of a batch of {} has no token", sequences.len())));
        }
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let spans = Spans::of_lengths(&lengths);
        let ids = sequences.concat();
        let positions: Vec<u32> = lengths.iter().flat_map(|&length| 0..length as u32).collect();
        Ok(Self {
            ids: Tensor::from_vec(ids, spans.tokens(), device)?,
            positions: Tensor::from_vec(positions, spans.tokens(), device)?,
            spans,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_follow_each_other_without_padding() {
        let batch = TokenBatch::new(&[vec![7], vec![1, 2, 3]], &Device::Cpu).unwrap();
        assert_eq!(batch.ids.to_vec1::<u32>().unwrap(), [7, 1, 2, 3]);
        assert_eq!(batch.positions.to_vec1::<u32>().unwrap(), [0, 0, 1, 2]);
        let spans = &batch.spans;
        assert_eq!((spans.len(), spans.tokens(), spans.longest()), (2, 4, 3));
        assert_eq!((spans.range(0), spans.range(1), spans.length(1)), (0..1, 1..4, 3));
        assert_eq!(spans.lengths().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn refuses_nothing() {
        assert!(TokenBatch::new(&[], &Device::Cpu).is_err());
        let error = TokenBatch::new(&[vec![1], vec![]], &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains("sequence 1"), "{error}");
    }
}
