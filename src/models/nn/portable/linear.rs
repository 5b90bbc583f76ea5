//! Matrix products of layers: weights that train, frozen ones, and low-rank adapters on frozen ones.

use candle_core::{Result as CandleResult, Tensor};

use super::Frozen;
use super::graft;
use super::norm::{sum_of_rows, when};

/// `t` as a matrix over its last dimension of `width` numbers.
fn matrix(t: &Tensor, width: usize) -> CandleResult<Tensor> {
    t.detach().reshape(((), width))
}

/// The shape of `x` with another last dimension.
fn shape_with(x: &Tensor, width: usize) -> Vec<usize> {
    let mut shape = x.dims().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = width;
    }
    shape
}

pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> CandleResult<Tensor> {
    let (out, input) = weight.dims2()?;
    let (rows, frozen) = (matrix(x, input)?, weight.detach());
    let product = rows.matmul(&frozen.t()?)?;
    let y = match bias {
        Some(bias) => product.broadcast_add(&bias.detach())?,
        None => product,
    };
    let arguments: Vec<&Tensor> = [x, weight].into_iter().chain(bias).collect();
    let needed: Vec<bool> = arguments.iter().map(|argument| argument.track_op()).collect();
    let shape = x.shape().clone();
    graft(&arguments, y.reshape(shape_with(x, out))?, move |dy| {
        let dy = dy.reshape(((), out))?;
        let dx = when(needed[0], || dy.matmul(&frozen)?.reshape(&shape))?;
        let dweight = when(needed[1], || dy.t()?.matmul(&rows))?;
        let dbias = when(needed.get(2) == Some(&true), || sum_of_rows(&dy))?;
        Ok(vec![dx, dweight, dbias])
    })
}

/// A frozen matrix (Out, In), as a product needs it.
#[derive(Clone)]
pub enum Weights {
    /// f32.
    Dense(Tensor),
    /// In fewer bits.
    Frozen(Frozen),
}

impl Weights {
    /// x (rows, In) to (rows, Out), without a graph.
    fn multiply(&self, x: &Tensor) -> CandleResult<Tensor> {
        match self {
            Weights::Dense(weight) => x.matmul(&weight.t()?),
            Weights::Frozen(weight) => weight.multiply(x),
        }
    }

    /// dy (rows, Out) to (rows, In), without a graph.
    fn multiply_transposed(&self, dy: &Tensor) -> CandleResult<Tensor> {
        match self {
            Weights::Dense(weight) => dy.matmul(weight),
            Weights::Frozen(weight) => weight.multiply_transposed(dy),
        }
    }
}

/// x · Wᵀ with W (Out, In) frozen in fewer bits; gradient to x.
pub fn frozen_linear(x: &Tensor, weight: &Frozen, (out, input): (usize, usize)) -> CandleResult<Tensor> {
    let y = weight.multiply(&matrix(x, input)?)?.reshape(shape_with(x, out))?;
    let (weight, shape) = (weight.clone(), x.shape().clone());
    graft(&[x], y, move |dy| Ok(vec![Some(weight.multiply_transposed(&dy.reshape(((), out))?)?.reshape(&shape)?)]))
}

/// `dims` of the base are (Out, In); see `adapted_linear` of the layers.
pub fn adapted_linear(
    x: &Tensor,
    base: Weights,
    (out, input): (usize, usize),
    bias: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
) -> CandleResult<Tensor> {
    let needed = [x, a, b].map(Tensor::track_op);
    let (rows, down, up) = (matrix(x, input)?, a.detach(), b.detach());
    let narrow = (rows.matmul(&down.t()?)? * scale)?;
    let product = base.multiply(&rows)?.add(&narrow.matmul(&up.t()?)?)?;
    let y = match bias {
        Some(bias) => product.broadcast_add(&bias.detach())?,
        None => product,
    };
    let shape = x.shape().clone();
    graft(&[x, a, b], y.reshape(shape_with(x, out))?, move |dy| {
        let dy = dy.reshape(((), out))?;
        // scale · dy · B: the gradient of the narrow side.
        let dnarrow = (dy.matmul(&up)? * scale)?;
        let dx = when(needed[0], || base.multiply_transposed(&dy)?.add(&dnarrow.matmul(&down)?)?.reshape(&shape))?;
        let da = when(needed[1], || dnarrow.t()?.matmul(&rows))?;
        let db = when(needed[2], || dy.t()?.matmul(&(rows.matmul(&down.t()?)? * scale)?))?;
        Ok(vec![dx, da, db])
    })
}
