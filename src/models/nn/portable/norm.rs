//! Normalisations; the gradients are those of the fused ones in `norm`.

use candle_core::{D, Result as CandleResult, Tensor};

use super::graft;

/// Σ over all dimensions but the last, (D).
pub(super) fn sum_of_rows(t: &Tensor) -> CandleResult<Tensor> {
    let width = t.dim(D::Minus1)?;
    t.reshape(((), width))?.sum(0)
}

/// Mean of a · b over the last dimension, which stays with one number.
fn mean_product(a: &Tensor, b: &Tensor) -> CandleResult<Tensor> {
    a.mul(b)?.mean_keepdim(D::Minus1)
}

/// 1 / √(mean(t²) + eps) over the last dimension, which stays with one number.
fn inverse_root(t: &Tensor, eps: f64) -> CandleResult<Tensor> {
    (t.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?.recip()
}

/// `tensor` where it is wanted.
pub(super) fn when(wanted: bool, tensor: impl FnOnce() -> CandleResult<Tensor>) -> CandleResult<Option<Tensor>> {
    if wanted { tensor().map(Some) } else { Ok(None) }
}

pub fn layer_norm(x: &Tensor, weight: &Tensor, bias: &Tensor, eps: f64) -> CandleResult<Tensor> {
    let needed = [x, weight, bias].map(Tensor::track_op);
    let (input, factor) = (x.detach(), weight.detach());
    let mean = input.mean_keepdim(D::Minus1)?;
    let centred = input.broadcast_sub(&mean)?;
    let scale = inverse_root(&centred, eps)?;
    let y = centred.broadcast_mul(&scale)?.broadcast_mul(&factor)?.broadcast_add(&bias.detach())?;
    graft(&[x, weight, bias], y, move |dy| {
        let normed = input.broadcast_sub(&mean)?.broadcast_mul(&scale)?;
        let dx = when(needed[0], || {
            let g = dy.broadcast_mul(&factor)?;
            let along = normed.broadcast_mul(&mean_product(&g, &normed)?)?;
            g.broadcast_sub(&g.mean_keepdim(D::Minus1)?)?.sub(&along)?.broadcast_mul(&scale)
        })?;
        let dweight = when(needed[1], || sum_of_rows(&dy.mul(&normed)?))?;
        Ok(vec![dx, dweight, when(needed[2], || sum_of_rows(dy))?])
    })
}

pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> CandleResult<Tensor> {
    let needed = [x, weight].map(Tensor::track_op);
    let (input, factor) = (x.detach(), weight.detach());
    let scale = inverse_root(&input, eps)?;
    let y = input.broadcast_mul(&scale)?.broadcast_mul(&factor)?;
    graft(&[x, weight], y, move |dy| {
        let normed = input.broadcast_mul(&scale)?;
        let dx = when(needed[0], || {
            let g = dy.broadcast_mul(&factor)?;
            g.sub(&normed.broadcast_mul(&mean_product(&g, &normed)?)?)?.broadcast_mul(&scale)
        })?;
        Ok(vec![dx, when(needed[1], || sum_of_rows(&dy.mul(&normed)?))?])
    })
}

pub fn l2_normalize(x: &Tensor, eps: f64) -> CandleResult<Tensor> {
    let norm = x.detach().sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
    let length = norm.maximum(eps)?;
    let y = x.detach().broadcast_div(&length)?;
    let unit = y.clone();
    graft(&[x], y, move |dy| {
        // Where the norm is below eps the divisor is constant.
        let moves = norm.gt(eps)?.to_dtype(norm.dtype())?;
        let along = unit.mul(dy)?.sum_keepdim(D::Minus1)?.mul(&moves)?;
        Ok(vec![Some(dy.sub(&unit.broadcast_mul(&along)?)?.broadcast_div(&length)?)])
    })
}
