//! The matrix product of a layer, with bias.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::dense::{After, multiply};
use super::kernel::{check, column_sums, floats, gradient, read_floats, simd, wrong_shape};
use super::portable;
use crate::error::Result;

/// y = x · Wᵀ + b over the last dimension.
///
/// `x` (..., In), `weight` (Out, In), `bias` (Out); result (..., Out). Backward: dx = dy · W, dW = dyᵀ · x, db = Σ dy over
/// rows, each only for an argument that needs it (candle's own matmul always computes both products).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    check_fit(x, weight, bias)?;
    if portable::is_portable(x) {
        return Ok(portable::linear(x, weight, bias)?);
    }
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => Ok(x.apply_op3(&weight, &bias.contiguous()?, Linear)?),
        None => Ok(x.apply_op2(&weight, Linear)?),
    }
}

/// Refuses arguments that do not fit each other.
pub(super) fn check_fit(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<()> {
    check("linear", &[x, weight])?;
    let (out, input) = match weight.dims() {
        &[out, input] if out > 0 && input > 0 => (out, input),
        got => return Err(wrong_shape("linear", "a weight", got, "(out, in)")),
    };
    if x.dims().last() != Some(&input) || x.elem_count() == 0 {
        return Err(wrong_shape("linear", "input", x.dims(), &format!("(..., {input})")));
    }
    if let Some(bias) = bias {
        check("linear", &[bias])?;
        if bias.dims() != [out] {
            return Err(wrong_shape("linear", "a bias", bias.dims(), &format!("({out})")));
        }
    }
    Ok(())
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

struct Linear;

impl Linear {
    const NAME: &'static str = "linear";

    fn product(
        x: (&CpuStorage, &Layout),
        weight: (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (out, input) = weight.1.shape().dims2()?;
        let after = After { bias, ..After::default() };
        let (values, weight) = (floats(Self::NAME, x.0, x.1)?, floats(Self::NAME, weight.0, weight.1)?);
        let y = multiply(values, weight.into(), (out, input), after);
        let mut shape = x.1.shape().dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out;
        }
        Ok((CpuStorage::F32(y), shape.into()))
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
        Self::product((x, xl), (w, wl), None)
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
        Self::product((x, xl), (w, wl), Some(floats(Self::NAME, bias, bl)?))
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
