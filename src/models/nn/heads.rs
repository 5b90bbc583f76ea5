//! Where the numbers of one attention head lie in a tensor, and matrix products on them in place.

use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, Layout, Result as CandleResult};
use rayon::prelude::*;

/// Where the numbers of each sequence and head are.
#[derive(Clone)]
pub(super) struct Side {
    pub batch: usize,
    pub heads: usize,
    pub tokens: usize,
    pub width: usize,
    /// Of sequence, head and token; the numbers of one token and head are dense.
    pub strides: [usize; 3],
    pub offset: usize,
}

impl Side {
    fn start(&self, sequence: usize, head: usize) -> usize {
        self.offset + sequence * self.strides[0] + head * self.strides[1]
    }

    /// The first `tokens` rows of a head as a matrix (tokens, width).
    pub fn rows(&self, sequence: usize, head: usize, tokens: usize) -> Layout {
        let strides = vec![self.strides[2], 1];
        Layout::new((tokens, self.width).into(), strides, self.start(sequence, head))
    }

    /// The same, transposed: (width, tokens).
    pub fn columns(&self, sequence: usize, head: usize, tokens: usize) -> Layout {
        let strides = vec![1, self.strides[2]];
        Layout::new((self.width, tokens).into(), strides, self.start(sequence, head))
    }
}

/// Matrix product of two views, as a dense matrix.
pub(super) fn product(a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> CandleResult<CpuStorage> {
    let (m, k) = al.shape().dims2()?;
    let (_, n) = bl.shape().dims2()?;
    a.matmul(b, (1, m, n, k), al, bl)
}

/// The numbers of a result.
pub(super) fn inner(storage: &mut CpuStorage) -> CandleResult<&mut Vec<f32>> {
    match storage {
        CpuStorage::F32(values) => Ok(values),
        _ => candle_core::bail!("attention: expected f32, got another type"),
    }
}

/// Adds a matrix to a sum that may not have begun.
pub(super) fn add(sum: &mut Option<CpuStorage>, mut part: CpuStorage) -> CandleResult<()> {
    match sum {
        None => *sum = Some(part),
        Some(sum) => {
            let part = inner(&mut part)?;
            inner(sum)?.iter_mut().zip(part).for_each(|(sum, part)| *sum += *part);
        }
    }
    Ok(())
}

/// Puts matrices (rows, width), one for each sequence and head in order, to their places in a tensor; 0 elsewhere.
pub(super) fn place<'a>(
    heads: impl Fn(usize, usize) -> Option<&'a CpuStorage> + Sync,
    side: &Side,
) -> CandleResult<Vec<f32>> {
    let mut all = vec![0f32; side.batch * side.heads * side.tokens * side.width];
    all.par_chunks_mut(side.heads * side.tokens * side.width).enumerate().try_for_each(|(sequence, part)| {
        for head in 0..side.heads {
            let Some(matrix) = heads(sequence, head) else { continue };
            let CpuStorage::F32(matrix) = matrix else {
                candle_core::bail!("attention: expected f32, got another type")
            };
            for (token, row) in matrix.chunks_exact(side.width).enumerate() {
                let at = head * side.strides[1] + token * side.strides[2];
                part[at..at + side.width].copy_from_slice(row);
            }
        }
        Ok(())
    })?;
    Ok(all)
}
