//! The matrix product of a layer, with bias, and with what follows it where that is cheap while the result is near.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::activation::{Activation, activate};
use super::kernel::{
    check, column_sums, each_piece, floats, gradient, read_floats, simd, unwritten, with_values, wrong_shape,
};
use super::matmul::{Target, View, multiply_on_all_cores};
use super::packed::{self, Packed};
#[cfg(target_arch = "x86_64")]
use super::skinny;
use super::tiles::each_job;
use crate::error::Result;

/// y = x · Wᵀ + b over the last dimension.
///
/// `x` (..., In), `weight` (Out, In), `bias` (Out); result (..., Out). Backward: dx = dy · W, dW = dyᵀ · x, db = Σ dy over
/// rows, each only for an argument that needs it (candle's own matmul always computes both products).
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x, weight, bias) = fitting(x, weight, bias)?;
    match bias {
        Some(bias) => Ok(x.apply_op3(&weight, &bias, Linear)?),
        None => Ok(x.apply_op2(&weight, Linear)?),
    }
}

/// What follows the product of a layer.
#[derive(Clone, Copy, Debug)]
pub enum Then<'a> {
    /// A function of each number.
    Activate(Activation),
    /// A sum with a tensor of the result's shape.
    Add(&'a Tensor),
}

impl Then<'_> {
    /// Applied to a result, as a layer of its own.
    pub fn apply(self, y: &Tensor) -> Result<Tensor> {
        match self {
            Then::Activate(activation) => activate(y, activation),
            Then::Add(other) => Ok((y + other)?),
        }
    }
}

/// [`linear`] and what follows it. One pass over the result where no gradient is wanted; else the two layers.
pub fn linear_then(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, then: Then<'_>) -> Result<Tensor> {
    let added = match then {
        Then::Add(other) => Some(other),
        Then::Activate(_) => None,
    };
    if [Some(x), Some(weight), bias, added].into_iter().flatten().any(Tensor::track_op) {
        return then.apply(&linear(x, weight, bias)?);
    }
    let (x, weight, bias) = fitting(x, weight, bias)?;
    let dims = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = dims.0;
    }
    let product = |after: After<'_>| with_values(&x, |x| with_values(&weight, |w| multiply(x, w, dims, after)));
    let with_bias = |after: After<'_>| match &bias {
        Some(bias) => with_values(bias, |bias| product(After { bias: Some(bias), ..after }))?,
        None => product(after),
    };
    let y = match then {
        Then::Activate(activation) => with_bias(After { activation: Some(activation), ..After::default() }),
        Then::Add(other) if other.dims() != shape => {
            return Err(wrong_shape("linear", "a tensor to add", other.dims(), &format!("{shape:?}")));
        }
        Then::Add(other) => with_values(other, |other| with_bias(After { add: Some(other), ..After::default() }))?,
    };
    Ok(Tensor::from_vec(y??, shape, x.device())?)
}

/// The arguments of a product, checked and dense.
fn fitting(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<(Tensor, Tensor, Option<Tensor>)> {
    check("linear", &[x, weight])?;
    let (out, input) = match weight.dims() {
        &[out, input] if out > 0 && input > 0 => (out, input),
        got => return Err(wrong_shape("linear", "a weight", got, "(out, in)")),
    };
    if x.dims().last() != Some(&input) || x.elem_count() == 0 {
        return Err(wrong_shape("linear", "input", x.dims(), &format!("(..., {input})")));
    }
    let bias = match bias {
        None => None,
        Some(bias) => {
            check("linear", &[bias])?;
            if bias.dims() != [out] {
                return Err(wrong_shape("linear", "a bias", bias.dims(), &format!("({out})")));
            }
            Some(bias.contiguous()?)
        }
    };
    Ok((x.contiguous()?, weight.contiguous()?, bias))
}

simd! {
    fn add(to: &mut [f32], other: &[f32]) {
        for (to, &other) in to.iter_mut().zip(other) {
            *to += other;
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

/// What is done to the result of a product, row by row, while it is in the cache: in this order.
#[derive(Clone, Copy, Default)]
pub(super) struct After<'a> {
    /// (Out), added.
    pub bias: Option<&'a [f32]>,
    /// Of each number.
    pub activation: Option<Activation>,
    /// (rows, Out), added.
    pub add: Option<&'a [f32]>,
}

impl After<'_> {
    /// What is left when the bias has been added.
    fn without_bias(self) -> Self {
        Self { bias: None, ..self }
    }

    /// Does it to outputs `outputs` of row `row` of a result with `out` outputs.
    fn finish(&self, row: usize, outputs: Range<usize>, out: usize, values: &mut [f32]) {
        if let Some(bias) = self.bias {
            add(values, &bias[outputs.clone()]);
        }
        if let Some(activation) = self.activation {
            activation.in_place(values);
        }
        if let Some(other) = self.add {
            add(values, &other[row * out + outputs.start..row * out + outputs.end]);
        }
    }

    /// Does it to a whole result with `out` outputs, on all cores.
    pub fn finish_all(&self, y: &mut [f32], out: usize) {
        if self.is_nothing() {
            return;
        }
        each_piece(y, out, |first, part| {
            for (i, row) in part.chunks_exact_mut(out).enumerate() {
                self.finish(first + i, 0..out, out, row);
            }
        });
    }

    fn is_nothing(&self) -> bool {
        self.bias.is_none() && self.activation.is_none() && self.add.is_none()
    }
}

/// x (rows, In) times the transposed `weight` (Out, In): (rows, Out), on all cores.
pub(super) fn multiply(x: &[f32], weight: &[f32], (out, input): (usize, usize), after: After<'_>) -> Vec<f32> {
    let rows = x.len() / input;
    let mut y = unwritten(rows * out);
    #[cfg(target_arch = "x86_64")]
    if rows <= skinny::FEW && packed::available() {
        each_job(&mut y, out, |rows, outputs, mut y| {
            skinny::multiply(x, weight, input, outputs.clone(), &mut y);
            rows.for_each(|row| after.finish(row, outputs.clone(), out, y.row(row, outputs.clone())));
        });
        return y;
    }
    let weight = View::new(weight, 0, out, input, input).transposed();
    if packed::available() {
        let weight = Packed::on_all_cores(weight);
        each_job(&mut y, out, |rows, outputs, mut y| {
            let x = View::new(x, rows.start * input, rows.len(), input, input);
            weight.multiply(x, 0..input, outputs.clone(), &y.target(), after.bias);
            let after = after.without_bias();
            if !after.is_nothing() {
                rows.for_each(|row| after.finish(row, outputs.clone(), out, y.row(row, outputs.clone())));
            }
        });
        return y;
    }
    multiply_on_all_cores(Target::dense(&mut y, out), View::new(x, 0, rows, input, input), weight, 1.0, false);
    after.finish_all(&mut y, out);
    y
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
        let y = multiply(values, weight, (out, input), after);
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
