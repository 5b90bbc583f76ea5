//! Normalised distributions over the last dimension, and their logarithms.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{
    check, check_ids, each_piece, exp_of_negative, floats, gradient, ids, largest, read_floats, read_ids, rows_of,
    simd, sum_by, sum_by_two, unwritten, wrong_shape,
};
use super::portable;
use crate::error::{Error, Result};

/// exp(x) / Σ exp(x) over the last dimension; entries −∞ get 0, a row of nothing but −∞ gets NaN, as in PyTorch.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    of_rows(x, Rows::Softmax)
}

/// x − ln Σ exp(x) over the last dimension, in nats.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    of_rows(x, Rows::LogSoftmax)
}

/// ln Σ exp(x) over the last dimension, which disappears: (..., V) to (...), in nats; a row of −∞ gives −∞.
pub fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    of_rows(x, Rows::LogSumExp)
}

/// The log-probability of one entry per row: `log_softmax(logits)` gathered at `targets`, in nats, without the (N, V)
/// result in between.
///
/// `logits` (N, V), `targets` u32 (N); result (N). Gradient to the logits: dy · (one at the target − softmax). A target of V or
/// more is an error.
pub fn log_prob_of(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check("log_prob_of", &[logits])?;
    check_ids("log_prob_of", targets)?;
    let (rows, width) = match logits.dims() {
        &[rows, width] if rows > 0 && width > 0 => (rows, width),
        got => return Err(wrong_shape("log_prob_of", "logits", got, "(rows, vocabulary)")),
    };
    if targets.dims() != [rows] {
        return Err(wrong_shape("log_prob_of", "targets", targets.dims(), &format!("({rows})")));
    }
    let targets = targets.contiguous()?;
    let beyond = read_ids(&targets, |ids| ids.iter().position(|&id| id as usize >= width).map(|at| (at, ids[at])))?;
    if let Some((row, id)) = beyond {
        return Err(Error::new(format!("target `{id}` of row {row} is outside the vocabulary of {width}")));
    }
    if portable::is_portable(logits) {
        return Ok(portable::log_prob_of(logits, &targets)?);
    }
    Ok(logits.contiguous()?.apply_op2(&targets, LogProbOf)?)
}

fn of_rows(x: &Tensor, op: Rows) -> Result<Tensor> {
    check(op.name(), &[x])?;
    rows_of(op.name(), x)?;
    if portable::is_portable(x) {
        return Ok(match op {
            Rows::Softmax => portable::softmax(x)?,
            Rows::LogSoftmax => portable::log_softmax(x)?,
            Rows::LogSumExp => portable::log_sum_exp(x)?,
        });
    }
    Ok(x.contiguous()?.apply_op1(op)?)
}

/// Largest entry and Σ exp(x − largest); with −∞ for all entries the sum is 0.
#[inline(always)]
fn top_and_sum(x: &[f32]) -> (f32, f32) {
    let top = largest(x);
    // −∞ − −∞ is NaN: with an offset of 0 a row of −∞ sums to 0.
    let offset = if top == f32::NEG_INFINITY { 0.0 } else { top };
    (offset, sum_by(x, |x| exp_of_negative(x - offset)))
}

simd! {
    fn softmax_forward(x: &[f32], width: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let top = largest(x);
            for (y, &x) in y.iter_mut().zip(x) {
                *y = exp_of_negative(x - top);
            }
            let scale = 1.0 / sum_by(y, |e| e);
            for y in y {
                *y *= scale;
            }
        }
    }
}

simd! {
    fn softmax_backward(y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
        for ((y, dy), dx) in y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let mean = sum_by_two(y, dy, |y, dy| y * dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - mean);
            }
        }
    }
}

simd! {
    fn log_softmax_forward(x: &[f32], width: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let (top, sum) = top_and_sum(x);
            let log = sum.ln();
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - top) - log;
            }
        }
    }
}

simd! {
    fn log_softmax_backward(y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
        for ((y, dy), dx) in y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let total = sum_by(dy, |dy| dy);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = dy - exp_of_negative(y) * total;
            }
        }
    }
}

simd! {
    fn log_sum_exp_forward(x: &[f32], width: usize, y: &mut [f32]) {
        for (x, y) in x.chunks_exact(width).zip(y) {
            let (top, sum) = top_and_sum(x);
            *y = top + sum.ln();
        }
    }
}

simd! {
    /// softmax(x) · dy of the row: the gradient of ln Σ exp.
    fn log_sum_exp_backward(x: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
        for ((x, &dy), dx) in x.chunks_exact(width).zip(dy).zip(dx.chunks_exact_mut(width)) {
            let (top, sum) = top_and_sum(x);
            let scale = dy / sum;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = exp_of_negative(x - top) * scale;
            }
        }
    }
}

/// Rows in, their width, rows or one number per row out.
type Forward = fn(&[f32], usize, &mut [f32]);

enum Rows {
    Softmax,
    LogSoftmax,
    LogSumExp,
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        match self {
            Rows::Softmax => "softmax",
            Rows::LogSoftmax => "log_softmax",
            Rows::LogSumExp => "log_sum_exp",
        }
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let x = floats(self.name(), x, layout)?;
        let dims = layout.shape().dims();
        let width = dims.last().copied().unwrap_or(1);
        let forward: Forward = match self {
            Rows::Softmax => softmax_forward,
            Rows::LogSoftmax => log_softmax_forward,
            Rows::LogSumExp => log_sum_exp_forward,
        };
        let shape: Shape = match self {
            Rows::Softmax | Rows::LogSoftmax => dims.into(),
            Rows::LogSumExp => dims[..dims.len() - 1].into(),
        };
        let mut y = unwritten(shape.elem_count());
        let per_row = y.len() * width / x.len();
        // Pieces are cut by what is read, so that a row of (V) to one number does not make one huge piece.
        each_piece_by(&mut y, per_row, width, |first, rows, y| {
            forward(&x[first * width..(first + rows) * width], width, y);
        });
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1);
        let mut dx = unwritten(x.elem_count());
        let known = if matches!(self, Rows::LogSumExp) { x } else { y };
        read_floats(known, |known| {
            read_floats(&dy.contiguous()?, |dy| {
                each_piece(&mut dx, width, |first, dx| {
                    let range = first * width..first * width + dx.len();
                    let rows = first..first + dx.len() / width;
                    match self {
                        Rows::Softmax => softmax_backward(&known[range.clone()], &dy[range], width, dx),
                        Rows::LogSoftmax => log_softmax_backward(&known[range.clone()], &dy[range], width, dx),
                        Rows::LogSumExp => log_sum_exp_backward(&known[range], &dy[rows], width, dx),
                    }
                });
            })
        })??;
        gradient(dx, x.shape())
    }
}

/// [`each_piece`] for rows whose input is wider than their output.
fn each_piece_by(out: &mut [f32], width_out: usize, width_in: usize, work: impl Fn(usize, usize, &mut [f32]) + Sync) {
    use rayon::prelude::*;
    let rows = super::kernel::rows_per_piece(width_in.max(width_out));
    out.par_chunks_mut(rows * width_out)
        .enumerate()
        .for_each(|(piece, part)| work(piece * rows, part.len() / width_out, part));
}

simd! {
    pub(super) fn log_prob_forward(logits: &[f32], targets: &[u32], width: usize, y: &mut [f32]) {
        for ((x, &target), y) in logits.chunks_exact(width).zip(targets).zip(y) {
            let (top, sum) = top_and_sum(x);
            *y = (x[target as usize] - top) - sum.ln();
        }
    }
}

simd! {
    pub(super) fn log_prob_backward(logits: &[f32], targets: &[u32], dy: &[f32], width: usize, dx: &mut [f32]) {
        for (((x, &target), &dy), dx) in
            logits.chunks_exact(width).zip(targets).zip(dy).zip(dx.chunks_exact_mut(width))
        {
            // Masked positions arrive with a gradient of 0: they need no exponentials.
            if dy == 0.0 {
                continue;
            }
            let (top, sum) = top_and_sum(x);
            let scale = -dy / sum;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = exp_of_negative(x - top) * scale;
            }
            dx[target as usize] += dy;
        }
    }
}

struct LogProbOf;

impl CustomOp2 for LogProbOf {
    fn name(&self) -> &'static str {
        "log_prob_of"
    }

    fn cpu_fwd(
        &self,
        logits: &CpuStorage,
        ll: &Layout,
        targets: &CpuStorage,
        tl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let logits = floats(self.name(), logits, ll)?;
        let targets = ids(self.name(), targets, tl)?;
        let (rows, width) = ll.shape().dims2()?;
        let mut y = vec![0f32; rows];
        each_piece_by(&mut y, 1, width, |first, rows, y| {
            let range = first..first + rows;
            log_prob_forward(&logits[first * width..(first + rows) * width], &targets[range], width, y);
        });
        Ok((CpuStorage::F32(y), rows.into()))
    }

    fn bwd(
        &self,
        logits: &Tensor,
        targets: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (_, width) = logits.dims2()?;
        let mut dx = vec![0f32; logits.elem_count()];
        read_floats(logits, |logits| {
            read_ids(targets, |targets| {
                read_floats(&dy.contiguous()?, |dy| {
                    each_piece(&mut dx, width, |first, dx| {
                        let range = first * width..first * width + dx.len();
                        let rows = first..first + dx.len() / width;
                        log_prob_backward(&logits[range], &targets[rows.clone()], &dy[rows], width, dx);
                    });
                })
            })
        })???;
        Ok((gradient(dx, logits.shape())?, None))
    }
}
