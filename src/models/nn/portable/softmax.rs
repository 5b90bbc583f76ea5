//! Normalised distributions over the last dimension, and their logarithms.

use candle_core::{D, Result as CandleResult, Tensor};

use super::graft;

/// The probabilities of scores, without a graph.
pub(super) fn probabilities(scores: &Tensor) -> CandleResult<Tensor> {
    let e = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    e.broadcast_div(&e.sum_keepdim(D::Minus1)?)
}

/// p · (dp − Σ p · dp): the gradient of the scores of probabilities p.
pub(super) fn probabilities_backward(p: &Tensor, dp: &Tensor) -> CandleResult<Tensor> {
    p.mul(&dp.broadcast_sub(&p.mul(dp)?.sum_keepdim(D::Minus1)?)?)
}

/// ln Σ exp(x) over the last dimension, which stays with one number, without a graph.
pub(super) fn logarithm_of_sum(x: &Tensor) -> CandleResult<Tensor> {
    // −∞ − −∞ is NaN: with a finite offset a row of −∞ sums to 0.
    let top = x.max_keepdim(D::Minus1)?.maximum(f64::from(f32::MIN))?;
    x.broadcast_sub(&top)?.exp()?.sum_keepdim(D::Minus1)?.log()?.add(&top)
}

pub fn softmax(x: &Tensor) -> CandleResult<Tensor> {
    let y = probabilities(&x.detach())?;
    let p = y.clone();
    graft(&[x], y, move |dy| Ok(vec![Some(probabilities_backward(&p, dy)?)]))
}

pub fn log_softmax(x: &Tensor) -> CandleResult<Tensor> {
    let input = x.detach();
    let y = input.broadcast_sub(&logarithm_of_sum(&input)?)?;
    let log = y.clone();
    graft(&[x], y, move |dy| {
        let total = dy.sum_keepdim(D::Minus1)?;
        Ok(vec![Some(dy.sub(&log.exp()?.broadcast_mul(&total)?)?)])
    })
}

pub fn log_sum_exp(x: &Tensor) -> CandleResult<Tensor> {
    let input = x.detach();
    let log = logarithm_of_sum(&input)?;
    let y = log.squeeze(D::Minus1)?;
    graft(&[x], y, move |dy| {
        let p = input.broadcast_sub(&log)?.exp()?;
        Ok(vec![Some(p.broadcast_mul(&dy.unsqueeze(D::Minus1)?)?)])
    })
}

pub fn log_prob_of(logits: &Tensor, targets: &Tensor) -> CandleResult<Tensor> {
    let (input, targets) = (logits.detach().contiguous()?, targets.unsqueeze(1)?);
    let (y, log) = picked(&input, &targets)?;
    graft(&[logits], y, move |dy| Ok(vec![Some(picked_backward(&input, &targets, &log, dy)?)]))
}

/// log softmax(logits) at `targets` (M, 1), and ln Σ exp (M, 1): `logits` (M, V), result (M).
pub(super) fn picked(logits: &Tensor, targets: &Tensor) -> CandleResult<(Tensor, Tensor)> {
    let log = logarithm_of_sum(logits)?;
    Ok((logits.gather(targets, 1)?.sub(&log)?.squeeze(1)?, log))
}

/// The gradient of the logits of [`picked`]: dy · (one at the target − softmax).
pub(super) fn picked_backward(logits: &Tensor, targets: &Tensor, log: &Tensor, dy: &Tensor) -> CandleResult<Tensor> {
    let dy = dy.unsqueeze(1)?.contiguous()?;
    let others = logits.broadcast_sub(log)?.exp()?.broadcast_mul(&dy.neg()?)?;
    others.scatter_add(targets, &dy, 1)
}
