//! One vector per sequence out of one per token.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;

use super::kernel::{check, floats, gradient, read_floats, wrong_shape};
use crate::error::{Error, Result};

/// The mean over the tokens of each sequence: `x` (B, T, D), `lengths` B of them in 1..=T; result (B, D). Padding takes
/// no part and gets gradient 0.
pub fn mean_pool(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    pool(x, lengths, Kind::Mean)
}

/// The largest value of each component over the tokens of each sequence; shapes as [`mean_pool`]. Of equal values the
/// first gets the gradient.
pub fn max_pool(x: &Tensor, lengths: &[usize]) -> Result<Tensor> {
    pool(x, lengths, Kind::Max)
}

fn pool(x: &Tensor, lengths: &[usize], kind: Kind) -> Result<Tensor> {
    check("pooling", &[x])?;
    let (batch, tokens) = match x.dims() {
        &[batch, tokens, width] if batch * tokens * width > 0 => (batch, tokens),
        got => return Err(wrong_shape("pooling", "a tensor", got, "(batch, tokens, width)")),
    };
    if lengths.len() != batch || lengths.iter().any(|&length| length == 0 || length > tokens) {
        return Err(Error::new(format!(
            "pooling of {batch} sequences got lengths {lengths:?}, expected one in 1..={tokens} for each"
        )));
    }
    Ok(x.contiguous()?.apply_op1(Pool { kind, lengths: lengths.to_vec() })?)
}

#[derive(Clone, Copy)]
enum Kind {
    Mean,
    Max,
}

struct Pool {
    kind: Kind,
    lengths: Vec<usize>,
}

impl CustomOp1 for Pool {
    fn name(&self) -> &'static str {
        "pooling"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, layout)?;
        let (batch, tokens, width) = layout.shape().dims3()?;
        let mut y = vec![0f32; batch * width];
        y.par_chunks_mut(width).zip(x.par_chunks(tokens * width)).zip(&self.lengths).for_each(|((y, x), &length)| {
            match self.kind {
                Kind::Mean => {
                    for row in x.chunks_exact(width).take(length) {
                        y.iter_mut().zip(row).for_each(|(y, &x)| *y += x);
                    }
                    y.iter_mut().for_each(|y| *y /= length as f32);
                }
                Kind::Max => {
                    y.copy_from_slice(&x[..width]);
                    for row in x.chunks_exact(width).take(length) {
                        y.iter_mut().zip(row).for_each(|(y, &x)| *y = if x > *y || x.is_nan() { x } else { *y });
                    }
                }
            }
        });
        Ok((CpuStorage::F32(y), (batch, width).into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let (_, tokens, width) = x.dims3()?;
        let mut dx = vec![0f32; x.elem_count()];
        read_floats(x, |x| {
            read_floats(y, |y| {
                read_floats(&dy.contiguous()?, |dy| {
                    dx.par_chunks_mut(tokens * width).enumerate().for_each(|(sequence, dx)| {
                        let own = sequence * width..(sequence + 1) * width;
                        let x = &x[sequence * tokens * width..];
                        self.spread(self.lengths[sequence], x, &y[own.clone()], &dy[own], dx);
                    });
                })
            })
        })???;
        gradient(dx, x.shape())
    }
}

impl Pool {
    /// The gradient of one sequence.
    fn spread(&self, length: usize, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        let width = y.len();
        match self.kind {
            Kind::Mean => {
                for row in dx.chunks_exact_mut(width).take(length) {
                    row.iter_mut().zip(dy).for_each(|(dx, &dy)| *dx = dy / length as f32);
                }
            }
            Kind::Max => {
                for component in 0..width {
                    let first = (0..length).find(|token| x[token * width + component] == y[component]);
                    // A NaN equals nothing: its gradient stays 0, the NaN itself is reported by whoever reads the result.
                    if let Some(token) = first {
                        dx[token * width + component] = dy[component];
                    }
                }
            }
        }
    }
}
