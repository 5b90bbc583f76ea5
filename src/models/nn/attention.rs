//! Scaled dot-product attention over packed sequences, with mask, window, soft cap and bias fused into the softmax.
//!
//! Every sequence and head is a job of its own that reads queries, keys and values where the projections left them and
//! writes its result there too: nothing is padded. Where many queries meet the same keys and values, these are packed first.
//! Queries are taken in blocks, so that few rows of scores exist at a time, and a block meets only the keys that one of its
//! queries can see: a causal mask halves the work instead of hiding it. Probabilities, and which of them are dropped in
//! training, are computed again in the backward pass instead of being kept.

mod jobs;
mod soften;

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Storage, Tensor};
use rayon::prelude::*;

use self::jobs::{Arguments, Gradients, Rows, Scratch};
use super::dropout::{self, Dropout};
use super::kernel::{check, gradient, unwritten, wrong_shape};
use super::matmul::Shared;
use super::portable;
use crate::error::{Error, Result};
use crate::models::batch::Spans;

/// The tokens of one sequence: rows of the queries and rows of keys and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Rows of `q`.
    pub queries: Range<usize>,
    /// Rows of `k` and `v`. The last query stands at the last key.
    pub keys: Range<usize>,
}

/// Who attends to whom, and how scores become weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Attend {
    /// The sequences: queries in ascending order and disjoint. Keys may be shared by pieces only where no gradient of keys
    /// and values is wanted.
    pub pieces: Vec<Piece>,
    /// H: query heads.
    pub heads: usize,
    /// Hk: heads of keys and values; query head h reads key head h / (H / Hk) (grouped queries, arXiv 2305.13245).
    pub key_heads: usize,
    /// What q · k is multiplied by.
    pub scale: f64,
    /// Whether a query sees the keys up to its own place only.
    pub causal: bool,
    /// A query sees the keys at most this far from its own place, on either side.
    pub window: Option<usize>,
    /// Scores s become cap · tanh(s / cap) (Gemma 2, arXiv 2408.00118).
    pub soft_cap: Option<f64>,
    /// Which probabilities are dropped: one row number for each row of `q`, and a mask of its own for each head.
    pub dropout: Option<Dropout>,
}

impl Attend {
    /// Every token sees all tokens of its own sequence; set the other fields as the model wants them.
    pub fn within(spans: &Spans, heads: usize, key_heads: usize, scale: f64) -> Self {
        let pieces = (0..spans.len()).map(|i| Piece { queries: spans.range(i), keys: spans.range(i) }).collect();
        Self { pieces, heads, key_heads, scale, causal: false, window: None, soft_cap: None, dropout: None }
    }

    /// Keys seen by query `i` of a piece.
    #[inline(always)]
    pub(super) fn seen(&self, i: usize, piece: &Piece) -> Range<usize> {
        let (queries, keys) = (piece.queries.len(), piece.keys.len());
        // One more than the query's own place; 0 for queries before the first key.
        let place = (i + 1 + keys).saturating_sub(queries);
        let mut end = if self.causal { place.min(keys) } else { keys };
        let mut start = 0;
        if let Some(window) = self.window {
            start = place.saturating_sub(window.saturating_add(1));
            end = end.min(place.saturating_add(window));
        }
        start.min(end)..end
    }
}

/// softmax(q · kᵀ · scale, masked) · v (Vaswani et al., arXiv 1706.03762).
///
/// `q` (Nq, H·Dh), `k` and `v` (Nk, Hk·Dh), heads side by side as linear layers leave them; result (Nq, H·Dh). A query
/// that sees no key, and one in no piece, gets 0. Gradients to all three.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, how: &Attend) -> Result<Tensor> {
    let (op, q, k, v) = Attention::new(q, k, v, how, None)?;
    if portable::is_portable(&q) {
        dropout::refuse_on_device("of attention probabilities", how.dropout.is_some())?;
        return Ok(portable::attention((&q, &k, &v), None, how, op.shared_keys)?);
    }
    Ok(q.apply_op3(&k, &v, op)?)
}

/// [`attention`] with `bias` (H, T, T) added to the scaled scores: `bias[h][i][j]` for query i and key j of a sequence, T at
/// least the longest sequence (relative positions: Raffel et al., arXiv 1910.10683; MPNet). Gradient to it too.
pub fn attention_biased(q: &Tensor, k: &Tensor, v: &Tensor, bias: &Tensor, how: &Attend) -> Result<Tensor> {
    check("attention", &[bias])?;
    let longest = how.pieces.iter().map(|piece| piece.queries.len().max(piece.keys.len())).max().unwrap_or(0);
    let side = match bias.dims() {
        &[heads, rows, columns] if heads == how.heads && rows == columns && rows >= longest => rows,
        got => {
            let expected = format!("({}, T, T) with T at least {longest}", how.heads);
            return Err(wrong_shape("attention", "a bias", got, &expected));
        }
    };
    if how.pieces.iter().any(|piece| piece.queries.len() != piece.keys.len()) {
        return Err(Error::new("attention with a bias got other keys than queries, expected whole sequences"));
    }
    let (op, q, k, v) = Attention::new(q, k, v, how, Some(side))?;
    if portable::is_portable(&q) {
        dropout::refuse_on_device("of attention probabilities", how.dropout.is_some())?;
        return Ok(portable::attention((&q, &k, &v), Some(bias), how, op.shared_keys)?);
    }
    // An operation takes three tensors: keys and values go as one, the values after the keys.
    Ok(q.apply_op3(&Tensor::cat(&[&k, &v], 0)?, &bias.contiguous()?, op)?)
}

struct Attention {
    how: Attend,
    /// Dh.
    width: usize,
    /// T of the bias, where there is one.
    bias: Option<usize>,
    /// Whether two pieces read the same key.
    shared_keys: bool,
}

impl Attention {
    fn new(
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        how: &Attend,
        bias: Option<usize>,
    ) -> Result<(Self, Tensor, Tensor, Tensor)> {
        check("attention", &[q, k, v])?;
        let dense = |tensor: &Tensor| match tensor.stride() {
            [_, 1] => Ok(tensor.clone()),
            _ => tensor.contiguous(),
        };
        let (q, k, v) = (dense(q)?, dense(k)?, dense(v)?);
        let Attend { heads, key_heads, .. } = *how;
        let fits = match (q.dims(), k.dims(), v.dims()) {
            (&[_, queries], &[rows, keys], &[value_rows, values]) => {
                heads > 0
                    && key_heads > 0
                    && heads % key_heads == 0
                    && queries % heads == 0
                    && keys == values
                    && rows == value_rows
                    && keys % key_heads == 0
                    && queries / heads == keys / key_heads
                    && queries > 0
            }
            _ => false,
        };
        if !fits {
            return Err(Error::new(format!(
                "attention got queries {:?}, keys {:?} and values {:?} for {heads} and {key_heads} heads: they do not belong together",
                q.dims(),
                k.dims(),
                v.dims()
            )));
        }
        let (mut next, rows, keys) = (0, q.dims()[0], k.dims()[0]);
        if let Some(dropout) = how.dropout.as_ref().filter(|dropout| dropout.rows() != rows) {
            return Err(Error::new(format!(
                "attention got row numbers for the dropout of {} rows, expected {rows}",
                dropout.rows()
            )));
        }
        for piece in &how.pieces {
            let Piece { queries, keys: seen } = piece;
            if queries.start < next || queries.end > rows || queries.is_empty() || seen.end > keys || seen.is_empty() {
                return Err(Error::new(format!(
                    "attention got the piece {queries:?} over the keys {seen:?}, expected ascending ones within {rows} queries and {keys} keys"
                )));
            }
            next = queries.end;
        }
        let mut key_ranges: Vec<&Range<usize>> = how.pieces.iter().map(|piece| &piece.keys).collect();
        key_ranges.sort_by_key(|range| range.start);
        let shared_keys = key_ranges.windows(2).any(|pair| pair[1].start < pair[0].end);
        let width = q.dims()[1] / heads;
        Ok((Self { how: how.clone(), width, bias, shared_keys }, q, k, v))
    }

    fn arguments<'a>(
        &self,
        q: (&'a CpuStorage, &Layout),
        k: (&'a CpuStorage, &Layout),
        third: (&'a CpuStorage, &Layout),
    ) -> CandleResult<Arguments<'a>> {
        let (q, keys) = (Rows::of(q.0, q.1)?, Rows::of(k.0, k.1)?);
        if self.bias.is_none() {
            return Ok(Arguments { q, k: keys, v: Rows::of(third.0, third.1)?, bias: None });
        }
        let bias = super::kernel::floats("attention", third.0, third.1)?;
        Ok(Arguments { q, k: keys, v: keys.from(k.1.dims()[0] / 2), bias: Some(bias) })
    }
}

fn share(values: &mut Option<Vec<f32>>) -> Option<Shared<'_>> {
    values.as_mut().map(|values| Shared::new(values))
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let a = self.arguments((q, ql), (k, kl), (v, vl))?;
        // Every query of a piece is written.
        let covered = self.how.pieces.iter().map(|piece| piece.queries.len()).sum::<usize>() == ql.dims()[0];
        let mut y = if covered { unwritten(ql.shape().elem_count()) } else { vec![0f32; ql.shape().elem_count()] };
        let shared = Shared::new(&mut y);
        self.jobs().into_par_iter().for_each_init(Scratch::default, |scratch, (pieces, key_head)| {
            self.forward_job(&a, pieces, key_head, shared, scratch);
        });
        Ok((CpuStorage::F32(y), ql.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        if self.shared_keys && (k.track_op() || v.track_op()) {
            candle_core::bail!("attention: two pieces share keys, which then have no gradient");
        }
        let dy = dy.contiguous()?;
        let guards = [q, k, v, &dy].map(|tensor| tensor.storage_and_layout());
        let [(qs, ql), (ks, kl), (vs, vl), (dys, dyl)] = &guards;
        let (Storage::Cpu(qs), Storage::Cpu(ks), Storage::Cpu(vs), Storage::Cpu(dys)) = (&**qs, &**ks, &**vs, &**dys)
        else {
            candle_core::bail!("attention: expected tensors on the CPU");
        };
        let a = self.arguments((qs, ql), (ks, kl), (vs, vl))?;
        let dy = Rows::of(dys, dyl)?;
        let zeros = |tensor: &Tensor| tensor.track_op().then(|| vec![0f32; tensor.elem_count()]);
        let (mut dq, mut dk, mut third) = (zeros(q), zeros(k), zeros(v));
        let keys = share(&mut dk);
        let last = share(&mut third);
        let half = k.elem_count() / 2;
        let to = match self.bias {
            None => Gradients { dq: share(&mut dq), dk: keys, dv: last, dbias: None },
            Some(_) => {
                let values = keys.map(|keys| keys.from(half));
                Gradients { dq: share(&mut dq), dk: keys, dv: values, dbias: last }
            }
        };
        self.jobs().into_par_iter().for_each_init(Scratch::default, |scratch, job| {
            self.backward_job(&a, dy, &to, job, scratch);
        });
        let found = |values: Option<Vec<f32>>, tensor: &Tensor| match values {
            Some(values) => gradient(values, tensor.shape()),
            None => Ok(None),
        };
        Ok((found(dq, q)?, found(dk, k)?, found(third, v)?))
    }
}
