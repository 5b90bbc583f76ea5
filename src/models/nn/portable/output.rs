//! The output layer and the log-probability of the target, for a part of the rows at a time.

use candle_core::{DType, Result as CandleResult, Tensor};

use super::graft;
use super::softmax::{picked, picked_backward};

/// Logits that exist at a time: 256 MiB. More than on the CPU, because a device is kept busy by large products only.
const LOGITS: usize = 1 << 26;

pub fn linear_log_prob(x: &Tensor, weight: &Tensor, targets: &Tensor, soft_cap: Option<f64>) -> CandleResult<Tensor> {
    by_chunks(x, weight, targets, soft_cap, LOGITS)
}

/// [`linear_log_prob`] with at most `most` logits at a time, one row at least.
pub(super) fn by_chunks(
    x: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    soft_cap: Option<f64>,
    most: usize,
) -> CandleResult<Tensor> {
    let needed = [x, weight].map(Tensor::track_op);
    let (rows, vocabulary) = (x.dim(0)?, weight.dim(0)?);
    let step = (most / vocabulary).max(1);
    let of = Chunks { x: x.detach(), weight: weight.detach(), targets: targets.unsqueeze(1)?, soft_cap };
    let starts = move || (0..rows).step_by(step).map(move |first| (first, step.min(rows - first)));
    let mut parts = Vec::new();
    for (first, count) in starts() {
        parts.push(picked(&of.logits(first, count)?, &of.targets.narrow(0, first, count)?)?.0);
    }
    graft(&[x, weight], Tensor::cat(&parts, 0)?, move |dy| {
        let mut dx = Vec::new();
        let mut dweight = match needed[1] {
            true => Some(Tensor::zeros(of.weight.shape(), DType::F32, of.weight.device())?),
            false => None,
        };
        for (first, count) in starts() {
            let (logits, targets) = (of.logits(first, count)?, of.targets.narrow(0, first, count)?);
            let (_, log) = picked(&logits, &targets)?;
            let mut dlogits = picked_backward(&logits, &targets, &log, &dy.narrow(0, first, count)?)?;
            if let Some(cap) = soft_cap {
                // 1 − (z/cap)²: z are the capped logits.
                dlogits = dlogits.mul(&(logits / cap)?.sqr()?.affine(-1.0, 1.0)?)?;
            }
            if needed[0] {
                dx.push(dlogits.matmul(&of.weight)?);
            }
            if let Some(sum) = dweight.take() {
                dweight = Some(sum.add(&dlogits.t()?.matmul(&of.x.narrow(0, first, count)?)?)?);
            }
        }
        let dx = if needed[0] { Some(Tensor::cat(&dx, 0)?) } else { None };
        Ok(vec![dx, dweight])
    })
}

struct Chunks {
    x: Tensor,
    weight: Tensor,
    /// (M, 1).
    targets: Tensor,
    soft_cap: Option<f64>,
}

impl Chunks {
    fn logits(&self, first: usize, count: usize) -> CandleResult<Tensor> {
        let logits = self.x.narrow(0, first, count)?.matmul(&self.weight.t()?)?;
        match self.soft_cap {
            Some(cap) => (logits / cap)?.tanh()? * cap,
            None => Ok(logits),
        }
    }
}
