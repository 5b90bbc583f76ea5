//! f32 matrix products of layers: where they are made, and what can follow while the result is in the cache.

use std::ops::Range;

use candle_core::Tensor;

use super::activation::{Activation, activate};
use super::kernel::{check, each_piece, read_floats, simd, unwritten, wrong_shape};
use super::linear::{check_fit, linear};
use super::matmul::{Target, View, multiply_on_all_cores};
use super::packed::{self, Packed};
use super::portable::is_portable;
#[cfg(target_arch = "x86_64")]
use super::skinny;
use super::tiles::each_job;
use crate::error::{Error, Result};

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

/// [`linear`] and what follows it: one pass over the result on the CPU where no gradient is wanted, else two layers.
pub fn linear_then(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, then: Then<'_>) -> Result<Tensor> {
    let added = match then {
        Then::Add(other) => Some(other),
        Then::Activate(_) => None,
    };
    let tracked = [Some(x), Some(weight), bias, added].into_iter().flatten().any(Tensor::track_op);
    match tracked || is_portable(x) {
        true => then.apply(&linear(x, weight, bias)?),
        false => product(x, weight, None, bias, Some(then)),
    }
}

/// A weight (Out, In) with its bias, packed once for many passes that need no gradient: a second copy of the weight, where the
/// processor has use for it.
#[derive(Debug)]
pub struct DenseMatrix {
    weight: Tensor,
    bias: Option<Tensor>,
    packed: Option<Packed>,
}

impl DenseMatrix {
    /// Packs `weight` (Out, In), f32; `bias` (Out). On another device than the CPU nothing is packed.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        let (out, input) = match weight.dims() {
            &[out, input] if out > 0 && input > 0 => (out, input),
            got => return Err(wrong_shape("packed weights", "a weight", got, "(out, in)")),
        };
        let pack = |values: &[f32]| Packed::on_all_cores(View::new(values, 0, out, input, input).transposed());
        check("packed weights", &[weight])?;
        let packed = match packed::available() && !is_portable(weight) {
            true => Some(read_floats(&weight.contiguous()?, pack)?),
            false => None,
        };
        Ok(Self { weight: weight.detach(), bias: bias.map(Tensor::detach), packed })
    }

    /// x (..., In) to (..., Out), and what follows; the bits of [`linear`] and [`linear_then`].
    pub fn forward(&self, x: &Tensor, then: Option<Then<'_>>) -> Result<Tensor> {
        if x.track_op() {
            return Err(Error::new("a packed product was asked for in a pass with gradients, which it has none of"));
        }
        if is_portable(x) {
            let y = linear(x, &self.weight, self.bias.as_ref())?;
            return then.map_or(Ok(y.clone()), |then| then.apply(&y));
        }
        product(x, &self.weight, self.packed.as_ref(), self.bias.as_ref(), then)
    }
}

/// The product on the CPU, without a graph.
fn product(
    x: &Tensor,
    weight: &Tensor,
    packed: Option<&Packed>,
    bias: Option<&Tensor>,
    then: Option<Then<'_>>,
) -> Result<Tensor> {
    check_fit(x, weight, bias)?;
    let (x, weight, bias) = (x.contiguous()?, weight.contiguous()?, bias.map(Tensor::contiguous).transpose()?);
    let dims = weight.dims2()?;
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = dims.0;
    }
    let plain = |after: After<'_>| {
        read_floats(&x, |x| read_floats(&weight, |values| multiply(x, Weight { values, packed }, dims, after)))?
    };
    let with_bias = |after: After<'_>| match &bias {
        Some(bias) => read_floats(bias, |bias| plain(After { bias: Some(bias), ..after }))?,
        None => plain(after),
    };
    let y = match then {
        None => with_bias(After::default()),
        Some(Then::Activate(activation)) => with_bias(After { activation: Some(activation), ..After::default() }),
        Some(Then::Add(other)) if other.dims() != shape => {
            return Err(wrong_shape("linear", "a tensor to add", other.dims(), &format!("{shape:?}")));
        }
        Some(Then::Add(other)) => {
            check("linear", &[other])?;
            read_floats(&other.contiguous()?, |add| with_bias(After { add: Some(add), ..After::default() }))?
        }
    };
    Ok(Tensor::from_vec(y?, shape, x.device())?)
}

simd! {
    fn add(to: &mut [f32], other: &[f32]) {
        for (to, &other) in to.iter_mut().zip(other) {
            *to += other;
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

/// A weight (Out, In) where it lies, and packed where that was done before.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    values: &'a [f32],
    packed: Option<&'a Packed>,
}

impl<'a> From<&'a [f32]> for Weight<'a> {
    fn from(values: &'a [f32]) -> Self {
        Self { values, packed: None }
    }
}

/// x (rows, In) times the transposed `weight` (Out, In): (rows, Out), on all cores.
pub(super) fn multiply(x: &[f32], weight: Weight<'_>, (out, input): (usize, usize), after: After<'_>) -> Vec<f32> {
    let rows = x.len() / input;
    let mut y = unwritten(rows * out);
    #[cfg(target_arch = "x86_64")]
    if rows <= skinny::FEW && skinny::available() {
        each_job(&mut y, out, |rows, outputs, mut y| {
            skinny::multiply(x, weight.values, input, outputs.clone(), &mut y);
            rows.for_each(|row| after.finish(row, outputs.clone(), out, y.row(row, outputs.clone())));
        });
        return y;
    }
    let dense = View::new(weight.values, 0, out, input, input).transposed();
    if packed::available() {
        let new;
        let weight = match weight.packed {
            Some(packed) => packed,
            None => {
                new = Packed::on_all_cores(dense);
                &new
            }
        };
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
    multiply_on_all_cores(Target::dense(&mut y, out), View::new(x, 0, rows, input, input), dense, 1.0, false);
    after.finish_all(&mut y, out);
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::nn::testing::{noise, norm};
    use candle_core::Var;

    /// Few and many rows, whole and ragged strips: the layers one after the other, and packed before or not the same bits.
    #[test]
    fn what_follows_is_the_layer_that_it_stands_for() {
        for (rows, input, out) in [(5, 64, 33), (70, 384, 48), (131, 37, 200), (64, 20, 64)] {
            let (x, weight, bias) = (noise(1, &[rows, input]), noise(2, &[out, input]), noise(3, &[out]));
            let other = noise(4, &[rows, out]);
            let matrix = DenseMatrix::new(&weight, Some(&bias)).unwrap();
            let plain = linear(&x, &weight, Some(&bias)).unwrap();
            let bits = |t: &Tensor| t.to_vec2::<f32>().unwrap();
            assert_eq!(bits(&matrix.forward(&x, None).unwrap()), bits(&plain));
            for then in [Then::Activate(Activation::Gelu), Then::Activate(Activation::Silu), Then::Add(&other)] {
                let want = then.apply(&plain).unwrap();
                let got = linear_then(&x, &weight, Some(&bias), then).unwrap();
                assert!(norm(&(&got - &want).unwrap()) <= 1e-6 * norm(&want), "({rows}, {input}, {out}) {then:?}");
                assert_eq!(bits(&matrix.forward(&x, Some(then)).unwrap()), bits(&got));
            }
            let error = linear_then(&x, &weight, None, Then::Add(&bias)).unwrap_err();
            assert!(error.to_string().contains(&format!("[{rows}, {out}]")), "{error}");
            let x = Var::from_tensor(&x).unwrap();
            let y = linear_then(&x, &weight, Some(&bias), Then::Add(&other)).unwrap();
            assert!(y.sum_all().unwrap().backward().unwrap().get(&x).is_some());
            assert!(matrix.forward(&x, None).unwrap_err().to_string().contains("gradients"));
        }
    }
}
