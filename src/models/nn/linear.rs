//! The matrix product of a layer, with bias.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{check, column_sums, each_piece, floats, gradient, read_floats, simd, wrong_shape};
use super::matmul::{Target, View, multiply_on_all_cores};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{skinny, tiles::each_job};
use crate::error::Result;

/// y = x · Wᵀ + b over the last dimension.
///
/// `x` (..., In), `weight` (Out, In), `bias` (Out); result (..., Out). Backward: dx = dy · W, dW = dyᵀ · x, db = Σ dy over
/// rows, each only for an argument that needs it (candle's own matmul always computes both products).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check("linear", &[x, weight])?;
    let (out, input) = match weight.dims() {
        &[out, input] if out > 0 && input > 0 => (out, input),
        got => return Err(wrong_shape("linear", "a weight", got, "(out, in)")),
    };
    if x.dims().last() != Some(&input) || x.elem_count() == 0 {
        return Err(wrong_shape("linear", "input", x.dims(), &format!("(..., {input})")));
    }
    if portable::is_portable(x) && bias.is_none_or(|bias| bias.dims() == [out]) {
        return Ok(portable::linear(x, weight, bias)?);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    let Some(bias) = bias else {
        return Ok(x.apply_op2(&weight, Linear)?);
    };
    check("linear", &[bias])?;
    if bias.dims() != [out] {
        return Err(wrong_shape("linear", "a bias", bias.dims(), &format!("({out})")));
    }
    Ok(x.apply_op3(&weight, &bias.contiguous()?, Linear)?)
}

simd! {
    pub(super) fn add_to_rows(rows: &mut [f32], bias: &[f32]) {
        for row in rows.chunks_exact_mut(bias.len()) {
            for (value, &bias) in row.iter_mut().zip(bias) {
                *value += bias;
            }
        }
    }
}

simd! {
    fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

/// x (rows, In) times the transposed `weight` (Out, In): (rows, Out), on all cores.
pub(super) fn multiply(x: &[f32], weight: &[f32], (out, input): (usize, usize)) -> Vec<f32> {
    let rows = x.len() / input;
    let mut y = vec![0f32; rows * out];
    #[cfg(target_arch = "x86_64")]
    if rows <= skinny::FEW && skinny::available() {
        each_job(&mut y, out, |_rows, outputs, mut y| skinny::multiply(x, weight, input, outputs, &mut y));
        return y;
    }
    let (x, weight) = (View::new(x, 0, rows, input, input), View::new(weight, 0, out, input, input));
    multiply_on_all_cores(Target::dense(&mut y, out), x, weight.transposed(), 1.0, false);
    y
}

struct Linear;

impl Linear {
    const NAME: &'static str = "linear";

    fn product(x: &CpuStorage, xl: &Layout, weight: &CpuStorage, wl: &Layout) -> CandleResult<(Vec<f32>, Shape)> {
        let (out, input) = wl.shape().dims2()?;
        let y = multiply(floats(Self::NAME, x, xl)?, floats(Self::NAME, weight, wl)?, (out, input));
        let mut shape = xl.shape().dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out;
        }
        Ok((y, shape.into()))
    }

    /// Gradients of input and weight, each where it is needed.
    fn backward(x: &Tensor, weight: &Tensor, dy: &Tensor) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        let (out, input) = weight.dims2()?;
        // Detached: products of gradients must not be recorded.
        let dy = dy.detach().reshape(((), out))?;
        let dx = match x.track_op() {
            true => Some(dy.matmul(&weight.detach())?.reshape(x.shape())?),
            false => None,
        };
        let dweight = match weight.track_op() {
            true => Some(dy.t()?.matmul(&x.detach().reshape(((), input))?)?),
            false => None,
        };
        Ok((dx, dweight))
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (y, shape) = Self::product(x, xl, w, wl)?;
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<(Option<Tensor>, Option<Tensor>)> {
        Self::backward(x, w, &dy.contiguous()?)
    }
}

impl CustomOp3 for Linear {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        bias: &CpuStorage,
        bl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (mut y, shape) = Self::product(x, xl, w, wl)?;
        let bias = floats(Self::NAME, bias, bl)?;
        each_piece(&mut y, bias.len(), |_, rows| add_to_rows(rows, bias));
        Ok((CpuStorage::F32(y), shape))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        bias: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let (dx, dw) = Self::backward(x, w, &dy)?;
        if !bias.track_op() {
            return Ok((dx, dw, None));
        }
        let width = bias.elem_count();
        let sums = read_floats(&dy, |dy| {
            column_sums(dy.len() / width, width, |first, rows, sums| {
                add_rows(&dy[first * width..(first + rows) * width], sums);
            })
        })?;
        Ok((dx, dw, gradient(sums, bias.shape())?))
    }
}
