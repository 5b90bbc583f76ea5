//! A frozen matrix with a low-rank adapter on it, as one operation (LoRA, Hu et al., arXiv 2106.09685).
//!
//! Written as separate layers, an adapted product keeps its plain output, the adapter's output and their sum for the backward
//! pass. Here there is one output, to which the adapter's part is added in place.

use std::borrow::Cow;

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Tensor};

use super::dense::{self, After};
use super::dropout::{Dropout, refuse_on_device};
use super::kernel::{check, each_piece, floats, gradient, read_floats, simd, unwritten, wrong_shape};
use super::matmul::{Target, View, multiply_on_all_cores};
use super::portable;
use super::quantised::Quantised;
use crate::error::Result;

/// The matrix under an adapter.
#[derive(Clone, Debug)]
pub enum Base {
    /// (Out, In) f32; it gets no gradient.
    Dense(Tensor),
    /// In fewer bits.
    Quantised(Quantised),
}

impl Base {
    fn dims(&self) -> (usize, usize) {
        match self {
            Base::Dense(weight) => weight.dims2().unwrap_or_default(),
            Base::Quantised(weight) => weight.dims(),
        }
    }

    /// What a layer out of candle's operations takes for this input, where one is wanted.
    fn portable(&self, x: &Tensor) -> Option<portable::Weights> {
        match self {
            Base::Dense(weight) => portable::is_portable(x).then(|| portable::Weights::Dense(weight.detach())),
            Base::Quantised(weight) => weight.portable().cloned().map(portable::Weights::Frozen),
        }
    }

    /// x (rows, In) to (rows, Out), plus `bias` (Out).
    fn multiply(&self, x: &[f32], bias: Option<&[f32]>) -> CandleResult<Vec<f32>> {
        let after = After { bias, ..After::default() };
        match self {
            Base::Dense(weight) => read_floats(weight, |weight| dense::multiply(x, weight.into(), self.dims(), after)),
            Base::Quantised(weight) => {
                let mut y = weight.multiply(x)?;
                after.finish_all(&mut y, self.dims().0);
                Ok(y)
            }
        }
    }

    /// dy (rows, Out) to (rows, In).
    fn multiply_transposed(&self, dy: &[f32]) -> CandleResult<Vec<f32>> {
        let (out, input) = self.dims();
        match self {
            Base::Dense(weight) => read_floats(weight, |weight| {
                let rows = dy.len() / out;
                let mut dx = unwritten(rows * input);
                let (dy, weight) = (View::new(dy, 0, rows, out, out), View::new(weight, 0, out, input, input));
                multiply_on_all_cores(Target::dense(&mut dx, input), dy, weight, 1.0, false);
                dx
            }),
            Base::Quantised(weight) => weight.multiply_transposed(dy),
        }
    }
}

/// x · Wᵀ + b + scale · (drop(x) · Aᵀ) · Bᵀ over the last dimension, with a row number of `dropout` for each row of x; without
/// one nothing is dropped.
///
/// `x` (..., In), `base` W (Out, In), `bias` b (Out), both frozen, `a` (r, In), `b` (Out, r); result (..., Out). Gradients to
/// `x`, `a` and `b`.
pub fn adapted_linear(
    x: &Tensor,
    base: &Base,
    bias: Option<&Tensor>,
    a: &Tensor,
    b: &Tensor,
    scale: f64,
    dropout: Option<&Dropout>,
) -> Result<Tensor> {
    check("adapted linear", &[x, a, b])?;
    let (out, input) = base.dims();
    let rank = a.dims().first().copied().unwrap_or(0);
    if x.dims().last() != Some(&input) || x.elem_count() == 0 {
        return Err(wrong_shape("adapted linear", "input", x.dims(), &format!("(..., {input})")));
    }
    if a.dims() != [rank, input] || b.dims() != [out, rank] || rank == 0 {
        let expected = format!("(r, {input}) and ({out}, r)");
        return Err(wrong_shape("adapted linear", "an adapter", &[a.dims(), b.dims()].concat(), &expected));
    }
    if let Some(dropout) = dropout.filter(|dropout| dropout.rows() * input != x.elem_count()) {
        let expected = format!("{} rows of {input}, as many as have row numbers for dropout", dropout.rows());
        return Err(wrong_shape("adapted linear", "input", x.dims(), &expected));
    }
    let bias = match bias {
        Some(bias) if bias.dims() == [out] => Some(bias.detach().contiguous()?),
        Some(bias) => return Err(wrong_shape("adapted linear", "a bias", bias.dims(), &format!("({out})"))),
        None => None,
    };
    if let Some(weights) = base.portable(x) {
        refuse_on_device("of an adapter's input", dropout.is_some())?;
        return Ok(portable::adapted_linear(x, weights, base.dims(), bias.as_ref(), (a, b), scale)?);
    }
    let base = match base {
        Base::Dense(weight) => Base::Dense(weight.detach().contiguous()?),
        Base::Quantised(weight) => Base::Quantised(weight.clone()),
    };
    let op = Adapted { base, bias, scale: scale as f32, dropout: dropout.cloned() };
    Ok(x.contiguous()?.apply_op3(&a.contiguous()?, &b.contiguous()?, op)?)
}

struct Adapted {
    base: Base,
    bias: Option<Tensor>,
    scale: f32,
    dropout: Option<Dropout>,
}

impl Adapted {
    /// scale · drop(x) · Aᵀ, (rows, r).
    fn narrow(&self, x: &[f32], a: &[f32], input: usize, rank: usize) -> Vec<f32> {
        let x = self.dropped(x, input);
        product(matrix(&x, input), matrix(a, input).transposed(), x.len() / input, rank, self.scale)
    }

    /// Rows of x, or of its gradient, as the adapter sees them.
    fn dropped<'a>(&self, x: &'a [f32], input: usize) -> Cow<'a, [f32]> {
        match &self.dropout {
            Some(dropout) => Cow::Owned(dropout.apply(x, input)),
            None => Cow::Borrowed(x),
        }
    }
}

/// A dense matrix of rows of `columns` numbers.
fn matrix(values: &[f32], columns: usize) -> View<'_> {
    View::new(values, 0, values.len() / columns, columns, columns)
}

/// factor · a · b as a dense matrix with rows of `columns` numbers.
fn product(a: View<'_>, b: View<'_>, rows: usize, columns: usize, factor: f32) -> Vec<f32> {
    let mut y = unwritten(rows * columns);
    multiply_on_all_cores(Target::dense(&mut y, columns), a, b, factor, false);
    y
}

simd! {
    fn add(to: &mut [f32], from: &[f32]) {
        for (to, &from) in to.iter_mut().zip(from) {
            *to += from;
        }
    }
}

impl CustomOp3 for Adapted {
    fn name(&self) -> &'static str {
        "adapted linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        a: &CpuStorage,
        al: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let name = self.name();
        let (x, a, b) = (floats(name, x, xl)?, floats(name, a, al)?, floats(name, b, bl)?);
        let ((out, input), (rank, _)) = (self.base.dims(), al.shape().dims2()?);
        let mut y = match &self.bias {
            Some(bias) => read_floats(bias, |bias| self.base.multiply(x, Some(bias)))??,
            None => self.base.multiply(x, None)?,
        };
        let narrow = self.narrow(x, a, input, rank);
        multiply_on_all_cores(
            Target::dense(&mut y, out),
            matrix(&narrow, rank),
            matrix(b, rank).transposed(),
            1.0,
            true,
        );
        let mut shape = xl.shape().dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = out;
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((out, input), rank) = (self.base.dims(), a.dims()[0]);
        let rows = x.elem_count() / input;
        read_floats(x, |xs| {
            read_floats(a, |aw| {
                read_floats(b, |bw| {
                    read_floats(&dy.contiguous()?, |dy| {
                        // scale · dy · B: the gradient of the narrow side.
                        let dnarrow = product(matrix(dy, out), matrix(bw, rank), rows, rank, self.scale);
                        let dx = match x.track_op() {
                            true => {
                                let mut dx = self.base.multiply_transposed(dy)?;
                                let (dnarrow, aw) = (matrix(&dnarrow, rank), matrix(aw, input));
                                match &self.dropout {
                                    None => {
                                        multiply_on_all_cores(Target::dense(&mut dx, input), dnarrow, aw, 1.0, true)
                                    }
                                    Some(dropout) => {
                                        let through = dropout.apply(&product(dnarrow, aw, rows, input, 1.0), input);
                                        each_piece(&mut dx, input, |first, dx| {
                                            add(dx, &through[first * input..first * input + dx.len()]);
                                        });
                                    }
                                }
                                gradient(dx, x.shape())?
                            }
                            false => None,
                        };
                        let da = match a.track_op() {
                            true => {
                                let xs = self.dropped(xs, input);
                                let da =
                                    product(matrix(&dnarrow, rank).transposed(), matrix(&xs, input), rank, input, 1.0);
                                gradient(da, a.shape())?
                            }
                            false => None,
                        };
                        let db = match b.track_op() {
                            true => {
                                let narrow = self.narrow(xs, aw, input, rank);
                                gradient(
                                    product(matrix(dy, out).transposed(), matrix(&narrow, rank), out, rank, 1.0),
                                    b.shape(),
                                )?
                            }
                            false => None,
                        };
                        CandleResult::Ok((dx, da, db))
                    })
                })
            })
        })????
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::nn::testing::{noise, norm};
    use crate::models::nn::{Format, linear};
    use candle_core::Var;

    #[test]
    fn is_the_sum_of_both_products_with_all_their_gradients() {
        let var = |seed, shape: &[usize]| Var::from_tensor(&noise(seed, shape)).unwrap();
        let (x, a, b) = (var(1, &[2, 9, 64]), var(2, &[3, 64]), var(3, &[10, 3]));
        let (weight, bias, r) = (noise(4, &[10, 64]), noise(5, &[10]), noise(6, &[2, 9, 10]));
        let packed = Quantised::new(&weight, Format::Q8).unwrap();
        for (base, weight) in [
            (Base::Dense(weight.clone()), weight.clone()),
            (Base::Quantised(packed.clone()), packed.dequantise().unwrap()),
        ] {
            let narrow = (linear(&x, &a, None).unwrap() * 0.5).unwrap();
            let want = (linear(&x, &weight, Some(&bias)).unwrap() + linear(&narrow, &b, None).unwrap()).unwrap();
            let got = adapted_linear(&x, &base, Some(&bias), &a, &b, 0.5, None).unwrap();
            assert!(norm(&(&got - &want).unwrap()) < 1e-6 * norm(&want));
            let grads = |y: Tensor| (y * &r).unwrap().sum_all().unwrap().backward().unwrap();
            let (got, want) = (grads(got), grads(want));
            for (name, var) in [("x", &x), ("a", &a), ("b", &b)] {
                let (got, want) = (got.get(var).unwrap(), want.get(var).unwrap());
                assert!(norm(&(got - want).unwrap()) < 1e-5 * norm(want), "{name}");
            }
        }
        let error = adapted_linear(&x, &Base::Dense(weight), None, &b, &a, 1.0, None).unwrap_err();
        assert!(error.to_string().contains("(r, 64)"), "{error}");
    }
}
