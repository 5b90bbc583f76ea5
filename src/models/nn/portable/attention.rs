//! Attention over packed sequences: pieces of similar lengths at a time, scores and probabilities computed again in the
//! backward pass instead of being kept.
//!
//! P pieces of a group, Tq and Tk the longest of their queries and keys, G = H / Hk queries heads of a key head.

use candle_core::{D, Result as CandleResult, Tensor};

use super::graft;
use super::groups::{Group, Groups};
use super::norm::when;
use super::softmax::{probabilities, probabilities_backward};
use crate::models::nn::Attend;

/// `shared_keys` says whether two pieces read the same key, which then has no gradient. `bias` (H, T, T).
pub fn attention(
    (q, k, v): (&Tensor, &Tensor, &Tensor),
    bias: Option<&Tensor>,
    how: &Attend,
    shared_keys: bool,
) -> CandleResult<Tensor> {
    let groups = Groups::new(how, (q.dim(0)?, k.dim(0)?), q.device())?;
    let call = Call { q: q.detach(), k: k.detach(), v: v.detach(), bias: bias.map(Tensor::detach), how: how.clone() };
    let mut parts = Vec::with_capacity(groups.all.len());
    for group in &groups.all {
        parts.push(call.forward(group)?);
    }
    let y = match parts.is_empty() {
        true => call.q.zeros_like()?,
        false => groups.query_home.of(&Tensor::cat(&parts, 0)?)?,
    };
    let arguments: Vec<&Tensor> = [q, k, v].into_iter().chain(bias).collect();
    let needed: Vec<bool> = arguments.iter().map(|argument| argument.track_op()).collect();
    graft(&arguments, y, move |dy| {
        if shared_keys && (needed[1] || needed[2]) {
            candle_core::bail!("attention: two pieces share keys, which then have no gradient");
        }
        let mut found = Gradients::default();
        for group in &groups.all {
            call.backward(group, dy, &needed, &mut found)?;
        }
        let back = |parts: Vec<Tensor>, home: &super::groups::Rows, like: &Tensor| match parts.is_empty() {
            true => like.zeros_like(),
            false => home.of(&Tensor::cat(&parts, 0)?),
        };
        let dq = when(needed[0], || back(found.dq, &groups.query_home, &call.q))?;
        let dk = when(needed[1], || back(found.dk, &groups.key_home, &call.k))?;
        let dv = when(needed[2], || back(found.dv, &groups.key_home, &call.v))?;
        let mut all = vec![dq, dk, dv];
        if let Some(bias) = &call.bias {
            all.push(when(needed[3], || found.dbias.map_or_else(|| bias.zeros_like(), Ok))?);
        }
        Ok(all)
    })
}

/// The arguments, without their graphs.
struct Call {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Option<Tensor>,
    how: Attend,
}

/// Gradients group by group, rows (P·Tq or P·Tk, ..); that of the bias added up.
#[derive(Default)]
struct Gradients {
    dq: Vec<Tensor>,
    dk: Vec<Tensor>,
    dv: Vec<Tensor>,
    dbias: Option<Tensor>,
}

/// What the scores of a group are made of.
struct Scored {
    /// Scaled, (P, Hk, G·Tq, Dh).
    q: Tensor,
    /// (P, Hk, Tk, Dh).
    k: Tensor,
    /// Capped scores, (P, H, Tq, Tk), where there is a cap.
    capped: Option<Tensor>,
    /// Probabilities, (P, H, Tq, Tk).
    p: Tensor,
}

impl Call {
    /// Dh.
    fn width(&self) -> CandleResult<usize> {
        Ok(self.q.dim(1)? / self.how.heads)
    }

    /// (P·T, heads·Dh) to (P, heads, T, Dh).
    fn by_head(&self, rows: &Tensor, pieces: usize, heads: usize) -> CandleResult<Tensor> {
        rows.reshape((pieces, (), heads, self.width()?))?.transpose(1, 2)?.contiguous()
    }

    /// (P, heads, T, Dh), or heads in groups, to (P·T, heads·Dh).
    fn by_row(&self, t: &Tensor, group: &Group, heads: usize) -> CandleResult<Tensor> {
        let width = self.width()?;
        t.reshape((group.pieces, heads, (), width))?.transpose(1, 2)?.contiguous()?.reshape(((), heads * width))
    }

    /// (P, H, T, last) to (P, Hk, G·T, last): query heads of one key head below each other.
    fn by_key_head(&self, t: &Tensor) -> CandleResult<Tensor> {
        let (pieces, last) = (t.dim(0)?, t.dim(D::Minus1)?);
        t.reshape((pieces, self.how.key_heads, (), last))
    }

    fn values(&self, group: &Group) -> CandleResult<Tensor> {
        self.by_head(&group.key_rows.of(&self.v)?, group.pieces, self.how.key_heads)
    }

    fn score(&self, group: &Group) -> CandleResult<Scored> {
        let Attend { heads, key_heads, scale, soft_cap, .. } = self.how;
        let q = (self.by_head(&group.query_rows.of(&self.q)?, group.pieces, heads)? * scale)?;
        let q = self.by_key_head(&q)?;
        let k = self.by_head(&group.key_rows.of(&self.k)?, group.pieces, key_heads)?;
        let mut scores = q.matmul(&k.t()?)?.reshape((group.pieces, heads, group.queries, group.keys))?;
        if let Some(bias) = &self.bias {
            let part = bias.narrow(1, 0, group.queries)?.narrow(2, 0, group.keys)?;
            scores = scores.broadcast_add(&part.unsqueeze(0)?)?;
        }
        let mut capped = None;
        if let Some(cap) = soft_cap {
            scores = ((scores / cap)?.tanh()? * cap)?;
            capped = Some(scores.clone());
        }
        if let Some(mask) = &group.mask {
            scores = scores.broadcast_add(mask)?;
        }
        Ok(Scored { q, k, capped, p: probabilities(&scores)? })
    }

    /// (P·Tq, H·Dh).
    fn forward(&self, group: &Group) -> CandleResult<Tensor> {
        let p = self.score(group)?.p;
        let y = self.by_key_head(&p)?.matmul(&self.values(group)?)?;
        let heads = self.how.heads;
        let y = y.reshape((group.pieces, heads, group.queries, self.width()?))?;
        self.by_row(&only_real(y, group)?, group, heads)
    }

    fn backward(&self, group: &Group, dy: &Tensor, needed: &[bool], to: &mut Gradients) -> CandleResult<()> {
        let Attend { heads, key_heads, scale, soft_cap, .. } = self.how;
        let Scored { q, k, capped, p } = self.score(group)?;
        let dy = self.by_head(&group.query_rows.of(dy)?, group.pieces, heads)?;
        // A place without a query stands for a row that has one elsewhere.
        let dy = self.by_key_head(&only_real(dy, group)?)?;
        if needed[2] {
            let dv = self.by_key_head(&p)?.t()?.matmul(&dy)?;
            to.dv.push(self.by_row(&dv, group, key_heads)?);
        }
        if !needed[0] && !needed[1] && needed.get(3) != Some(&true) {
            return Ok(());
        }
        let dp = dy.matmul(&self.values(group)?.t()?)?.reshape(p.shape())?;
        let mut ds = probabilities_backward(&p, &dp)?;
        if let (Some(capped), Some(cap)) = (capped, soft_cap) {
            ds = ds.mul(&(capped / cap)?.sqr()?.affine(-1.0, 1.0)?)?;
        }
        if let (Some(bias), Some(true)) = (&self.bias, needed.get(3)) {
            let side = bias.dim(1)?;
            let sum = ds.sum(0)?;
            let sum = sum.pad_with_zeros(1, 0, side - group.queries)?.pad_with_zeros(2, 0, side - group.keys)?;
            to.dbias = Some(match to.dbias.take() {
                Some(before) => before.add(&sum)?,
                None => sum,
            });
        }
        let ds = self.by_key_head(&ds)?;
        if needed[0] {
            to.dq.push(self.by_row(&(ds.matmul(&k)? * scale)?, group, heads)?);
        }
        if needed[1] {
            to.dk.push(self.by_row(&ds.t()?.matmul(&q)?, group, key_heads)?);
        }
        Ok(())
    }
}

/// (P, H, Tq, Dh) with zeros where there is no query, or one that sees no key.
fn only_real(t: Tensor, group: &Group) -> CandleResult<Tensor> {
    match &group.real {
        Some(real) => t.broadcast_mul(real),
        None => Ok(t),
    }
}
