//! Logistic losses over ordered pairs of a question's passages: what a ranking and a preference share.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::models::nn;

/// (B, C) to (B, C, C): entry (i, j) is `x_i - x_j`.
pub fn margins(x: &Tensor) -> Result<Tensor> {
    Ok(x.unsqueeze(2)?.broadcast_sub(&x.unsqueeze(1)?)?)
}

/// `sum_ij w_ij (-log sigmoid(m_ij))` of each question, (B): `margins` and constant `weights` (B, C, C).
pub fn logistic(margins: &Tensor, weights: &Tensor) -> Result<Tensor> {
    // -log sigmoid(m) = log(exp 0 + exp -m): no overflow either way.
    let softplus = nn::log_sum_exp(&Tensor::stack(&[margins.zeros_like()?, margins.neg()?], 3)?.contiguous()?)?;
    Ok((softplus * weights)?.sum((1, 2))?)
}

/// The weights of pairs as a tensor (B, C, C), and how many questions have none: `weight(b, i, j)` says how much it counts
/// that question b's passage i should stand before its passage j.
pub fn weights(
    questions: usize,
    candidates: usize,
    device: &Device,
    weight: impl Fn(usize, usize, usize) -> f32,
) -> Result<(Tensor, usize)> {
    let mut all = Vec::with_capacity(questions * candidates * candidates);
    let mut without = 0;
    for question in 0..questions {
        let start = all.len();
        for i in 0..candidates {
            all.extend((0..candidates).map(|j| weight(question, i, j)));
        }
        let own = all.get(start..).unwrap_or_default();
        without += usize::from(own.iter().all(|weight| *weight == 0.0));
    }
    let shape = (questions, candidates, candidates);
    Ok((Tensor::from_vec(all, shape, device)?, without))
}

/// Rows of a (B, C) tensor; what is not a number is refused, because it has no place in an order.
pub fn rows(of: &Tensor) -> Result<Vec<Vec<f32>>> {
    let rows = of.to_vec2::<f32>()?;
    match rows.iter().flatten().find(|value| value.is_nan()) {
        None => Ok(rows),
        Some(_) => Err(Error::new("a likelihood is not a number, so passages cannot be put in order")
            .hint("look at the generator's weights: training may have diverged")),
    }
}
