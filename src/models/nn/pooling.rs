//! One vector per sequence out of one per token.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use super::kernel::{check, floats, gradient, read_floats, wrong_shape};
use super::portable;
use crate::error::Result;
use crate::models::batch::Spans;

/// How the vectors of tokens become the vector of a sequence; the modes of sentence-transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// Their mean.
    Mean,
    /// Their sum over the square root of their number.
    MeanSqrtLength,
    /// Their mean weighted by place: the first token counts 1, the second 2, and so on (SGPT, arXiv 2202.08904).
    WeightedMean,
    /// The largest value of each component; of equal ones the first gets the gradient.
    Max,
    /// The first token's.
    First,
    /// The last token's.
    Last,
}

/// `x` (N, D) to (B, D).
pub fn pool(x: &Tensor, spans: &Spans, how: Pool) -> Result<Tensor> {
    check("pooling", &[x])?;
    let tokens = spans.tokens();
    if !matches!(x.dims(), &[rows, width] if rows == tokens && width > 0) || spans.lengths().any(|length| length == 0) {
        return Err(wrong_shape("pooling", "a tensor", x.dims(), &format!("({tokens}, width), no sequence empty")));
    }
    if portable::is_portable(x) {
        return Ok(portable::pool(x, spans, how)?);
    }
    Ok(x.contiguous()?.apply_op1(Pooling { how, spans: spans.clone() })?)
}

struct Pooling {
    how: Pool,
    spans: Spans,
}

impl Pooling {
    /// What token `i` of `length` is multiplied by; the modes that add up.
    fn weight(&self, i: usize, length: usize) -> f32 {
        let n = length as f32;
        match self.how {
            Pool::Mean => 1.0 / n,
            Pool::MeanSqrtLength => 1.0 / n.sqrt(),
            Pool::WeightedMean => (i + 1) as f32 / (n * (n + 1.0) / 2.0),
            Pool::First => f32::from(i == 0),
            Pool::Last => f32::from(i + 1 == length),
            Pool::Max => 0.0,
        }
    }

    fn forward(&self, x: &[f32], y: &mut [f32]) {
        let width = y.len();
        let length = x.len() / width;
        match self.how {
            Pool::Max => {
                y.copy_from_slice(&x[..width]);
                for row in x.chunks_exact(width) {
                    y.iter_mut().zip(row).for_each(|(y, &x)| *y = if x > *y || x.is_nan() { x } else { *y });
                }
            }
            Pool::First => y.copy_from_slice(&x[..width]),
            Pool::Last => y.copy_from_slice(&x[x.len() - width..]),
            // Added up first and divided once, as PyTorch's mean does.
            Pool::Mean => {
                for row in x.chunks_exact(width) {
                    y.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
                }
                y.iter_mut().for_each(|y| *y /= length as f32);
            }
            Pool::MeanSqrtLength | Pool::WeightedMean => {
                for (i, row) in x.chunks_exact(width).enumerate() {
                    let weight = self.weight(i, length);
                    y.iter_mut().zip(row).for_each(|(y, &x)| *y += weight * x);
                }
            }
        }
    }

    fn backward(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let width = y.len();
        let length = x.len() / width;
        if self.how == Pool::Max {
            for component in 0..width {
                let first = (0..length).find(|token| x[token * width + component] == y[component]);
                // A NaN equals nothing: its gradient stays 0, the NaN itself is reported by whoever reads the result.
                if let Some(token) = first {
                    dx[token * width + component] = dy[component];
                }
            }
            return;
        }
        for (i, row) in dx.chunks_exact_mut(width).enumerate() {
            let weight = self.weight(i, length);
            if weight != 0.0 {
                row.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = weight * dy);
            }
        }
    }
}

impl CustomOp1 for Pooling {
    fn name(&self) -> &'static str {
        "pooling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, layout)?;
        let (_, width) = layout.shape().dims2()?;
        let mut y = vec![0f32; self.spans.len() * width];
        y.par_chunks_mut(width).enumerate().for_each(|(sequence, y)| {
            let range = self.spans.range(sequence);
            self.forward(&x[range.start * width..range.end * width], y);
        });
        Ok((CpuStorage::F32(y), (self.spans.len(), width).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let (_, width) = x.dims2()?;
        let mut dx = vec![0f32; x.elem_count()];
        let mut parts = Vec::with_capacity(self.spans.len());
        let mut rest = dx.as_mut_slice();
        for length in self.spans.lengths() {
            let (part, after) = rest.split_at_mut(length * width);
            parts.push(part);
            rest = after;
        }
        read_floats(x, |x| {
            read_floats(y, |y| {
                read_floats(&dy.contiguous()?, |dy| {
                    parts.into_par_iter().enumerate().for_each(|(sequence, dx)| {
                        let range = self.spans.range(sequence);
                        let own = sequence * width..(sequence + 1) * width;
                        let x = &x[range.start * width..range.end * width];
                        self.backward(x, &y[own.clone()], &dy[own], dx);
                    });
                })
            })
        })???;
        gradient(dx, x.shape())
    }
}
