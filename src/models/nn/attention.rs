//! Scaled dot-product attention over packed sequences, with mask, window, soft cap and bias fused into the softmax.
//!
//! Every sequence and head is a job of its own that reads queries, keys and values where the projections left them and
//! writes its result there too: nothing is padded, transposed or copied. Queries are taken in blocks, so that no more than
//! `BLOCK` rows of scores exist at a time, and a block meets only the keys that one of its queries can see: a causal mask
//! halves the work instead of hiding it. Probabilities, and which of them are dropped in training, are computed again in the
//! backward pass instead of being kept.

use std::ops::Range;

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::dropout::{self, Dropout, multiply as multiply_by};
use super::kernel::{check, exp_of_negative, gradient, largest, simd, sum_by, sum_by_two, wrong_shape};
use super::matmul::{Shared, Target, View, multiply};
use super::portable;
use crate::error::{Error, Result};
use crate::models::batch::Spans;

/// Queries whose scores exist at a time.
const BLOCK: usize = 128;

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

/// Rows of numbers that need not follow each other densely.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    fn of(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<Self> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("attention: expected f32, got another type") };
        match layout.stride() {
            &[stride, 1] => Ok(Self { values: &values[layout.start_offset()..], stride }),
            _ => candle_core::bail!("attention: expected rows of dense numbers"),
        }
    }

    fn from(self, row: usize) -> Self {
        Self { values: &self.values[row * self.stride..], ..self }
    }

    /// `rows` rows of head `head`.
    fn head(self, first: usize, rows: usize, head: usize, width: usize) -> View<'a> {
        View::new(self.values, first * self.stride + head * width, rows, width, self.stride)
    }
}

/// The arguments where they lie.
struct Arguments<'a> {
    q: Rows<'a>,
    k: Rows<'a>,
    v: Rows<'a>,
    bias: Option<&'a [f32]>,
}

/// Where gradients go; dense rows.
struct Gradients<'a> {
    dq: Option<Shared<'a>>,
    dk: Option<Shared<'a>>,
    dv: Option<Shared<'a>>,
    dbias: Option<Shared<'a>>,
}

/// What one thread uses again for each of its jobs.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    capped: Vec<f32>,
    ds: Vec<f32>,
    /// Factors of dropped and kept probabilities.
    factors: Vec<f32>,
    /// Probabilities times their factors, where the probabilities themselves are needed too.
    dropped: Vec<f32>,
    seen: Vec<Range<usize>>,
}

simd! {
    /// Scores to probabilities, row by row: over the keys seen, 0 elsewhere.
    fn soften(scores: &mut [f32], width: usize, seen: &[Range<usize>]) {
        for (row, seen) in scores.chunks_exact_mut(width).zip(seen) {
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen.start..seen.end];
            let top = largest(row);
            row.iter_mut().for_each(|score| *score = exp_of_negative(*score - top));
            let inverse = 1.0 / sum_by(row, |e| e);
            row.iter_mut().for_each(|score| *score *= inverse);
        }
    }
}

simd! {
    /// ds = p · (dp − Σ p · dp), written over dp; 0 where p is 0.
    fn soften_backward(p: &[f32], dp: &mut [f32], width: usize) {
        for (p, dp) in p.chunks_exact(width).zip(dp.chunks_exact_mut(width)) {
            let mean = sum_by_two(p, dp, |p, dp| p * dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - mean);
            }
        }
    }
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

    /// Jobs: the pieces and the key head of each. A bias is shared by all pieces, which then make one job for each head, so
    /// that its gradient has one writer.
    fn jobs(&self) -> Vec<(Range<usize>, usize)> {
        let pieces = self.how.pieces.len();
        let heads = 0..self.how.key_heads;
        match self.bias {
            Some(_) => heads.map(|head| (0..pieces, head)).collect(),
            None => (0..pieces).flat_map(|piece| heads.clone().map(move |head| (piece..piece + 1, head))).collect(),
        }
    }

    /// Fills `scratch.scores` with the probabilities of the queries `block` of a piece; returns the keys they are over, an
    /// empty range where no query of the block sees any.
    fn probabilities(
        &self,
        a: &Arguments<'_>,
        piece: &Piece,
        head: usize,
        block: Range<usize>,
        scratch: &mut Scratch,
    ) -> Range<usize> {
        let Scratch { scores, capped, seen, .. } = scratch;
        seen.clear();
        seen.extend(block.clone().map(|i| self.how.seen(i, piece)));
        let visible = seen.iter().filter(|seen| !seen.is_empty());
        let (start, end) =
            visible.fold((usize::MAX, 0), |(start, end), seen| (start.min(seen.start), end.max(seen.end)));
        if end == 0 {
            return 0..0;
        }
        let keys = start..end;
        for seen in seen.iter_mut() {
            *seen = if seen.start >= seen.end { 0..0 } else { seen.start - start..seen.end - start };
        }
        let rows = block.len();
        let q = a.q.head(piece.queries.start + block.start, rows, head, self.width);
        let k = a.k.head(piece.keys.start + start, keys.len(), self.key_head(head), self.width);
        scores.resize(rows * keys.len(), 0.0);
        multiply(Target::dense(scores, keys.len()), q, k.transposed(), self.how.scale as f32, false);
        if let (Some(bias), Some(side)) = (a.bias, self.bias) {
            for (i, row) in block.clone().zip(scores.chunks_exact_mut(keys.len())) {
                let at = (head * side + i) * side;
                row.iter_mut().zip(&bias[at + start..at + end]).for_each(|(score, bias)| *score += bias);
            }
        }
        if let Some(cap) = self.how.soft_cap {
            let cap = cap as f32;
            scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
            capped.clear();
            capped.extend_from_slice(scores);
        }
        soften(scores, keys.len(), seen);
        keys
    }

    /// Fills `factors` with those of the probabilities of the queries `block` of a piece over `keys`; whether any are dropped.
    fn factors(
        &self,
        piece: &Piece,
        head: usize,
        block: Range<usize>,
        keys: Range<usize>,
        factors: &mut Vec<f32>,
    ) -> bool {
        let Some(dropout) = &self.how.dropout else { return false };
        let first = piece.queries.start;
        dropout.of_scores(head, first + block.start..first + block.end, keys, factors);
        true
    }

    fn key_head(&self, head: usize) -> usize {
        head / (self.how.heads / self.how.key_heads)
    }

    fn heads_of(&self, key_head: usize) -> Range<usize> {
        let group = self.how.heads / self.how.key_heads;
        key_head * group..(key_head + 1) * group
    }

    fn forward_job(
        &self,
        a: &Arguments<'_>,
        pieces: Range<usize>,
        key_head: usize,
        y: Shared<'_>,
        scratch: &mut Scratch,
    ) {
        let (width, stride) = (self.width, self.how.heads * self.width);
        for piece in &self.how.pieces[pieces] {
            for head in self.heads_of(key_head) {
                for block in blocks(piece.queries.len()) {
                    let keys = self.probabilities(a, piece, head, block.clone(), scratch);
                    if keys.is_empty() {
                        continue;
                    }
                    if self.factors(piece, head, block.clone(), keys.clone(), &mut scratch.factors) {
                        multiply_by(&mut scratch.scores, &scratch.factors);
                    }
                    let p = View::new(&scratch.scores, 0, block.len(), keys.len(), keys.len());
                    let v = a.v.head(piece.keys.start + keys.start, keys.len(), key_head, width);
                    let at = (piece.queries.start + block.start) * stride + head * width;
                    // SAFETY: queries of pieces are disjoint (`new`), and a head of a piece has one job.
                    multiply(unsafe { y.at(at, stride) }, p, v, 1.0, false);
                }
            }
        }
    }

    fn backward_job(
        &self,
        a: &Arguments<'_>,
        dy: Rows<'_>,
        to: &Gradients<'_>,
        (pieces, key_head): (Range<usize>, usize),
        scratch: &mut Scratch,
    ) {
        let (width, scale) = (self.width, self.how.scale as f32);
        let (q_stride, k_stride) = (self.how.heads * width, self.how.key_heads * width);
        for piece in &self.how.pieces[pieces] {
            for head in self.heads_of(key_head) {
                for block in blocks(piece.queries.len()) {
                    let keys = self.probabilities(a, piece, head, block.clone(), scratch);
                    if keys.is_empty() {
                        continue;
                    }
                    let (rows, columns) = (block.len(), keys.len());
                    let (query, key) = (piece.queries.start + block.start, piece.keys.start + keys.start);
                    let dy = dy.head(query, rows, head, width);
                    let drops = self.factors(piece, head, block.clone(), keys.clone(), &mut scratch.factors);
                    let Scratch { scores, dropped, factors, .. } = scratch;
                    if drops {
                        dropped.clear();
                        dropped.extend_from_slice(scores);
                        multiply_by(dropped, factors);
                    }
                    let p = View::new(if drops { dropped } else { scores }, 0, rows, columns, columns);
                    let at_key = key * k_stride + key_head * width;
                    if let Some(dv) = to.dv {
                        // SAFETY: keys of pieces are disjoint (checked before), and a key head of a piece has one job.
                        multiply(unsafe { dv.at(at_key, k_stride) }, p.transposed(), dy, 1.0, true);
                    }
                    if to.dq.is_none() && to.dk.is_none() && to.dbias.is_none() {
                        continue;
                    }
                    scratch.ds.resize(rows * columns, 0.0);
                    let v = a.v.head(key, columns, key_head, width);
                    multiply(Target::dense(&mut scratch.ds, columns), dy, v.transposed(), 1.0, false);
                    if drops {
                        multiply_by(&mut scratch.ds, &scratch.factors);
                    }
                    soften_backward(&scratch.scores, &mut scratch.ds, columns);
                    if let Some(cap) = self.how.soft_cap {
                        let cap = cap as f32;
                        for (ds, capped) in scratch.ds.iter_mut().zip(&scratch.capped) {
                            *ds *= 1.0 - (capped / cap) * (capped / cap);
                        }
                    }
                    let ds = View::new(&scratch.ds, 0, rows, columns, columns);
                    if let Some(dq) = to.dq {
                        let at = query * q_stride + head * width;
                        let k = a.k.head(key, columns, key_head, width);
                        // SAFETY: queries of pieces are disjoint (`new`), and a head of a piece has one job.
                        multiply(unsafe { dq.at(at, q_stride) }, ds, k, scale, false);
                    }
                    if let Some(dk) = to.dk {
                        let q = a.q.head(query, rows, head, width);
                        // SAFETY: as for the values.
                        multiply(unsafe { dk.at(at_key, k_stride) }, ds.transposed(), q, scale, true);
                    }
                    if let (Some(dbias), Some(side)) = (to.dbias, self.bias) {
                        let at = (head * side + block.start) * side + keys.start;
                        // SAFETY: with a bias a head has one job for all pieces (`jobs`).
                        unsafe { dbias.add_rows(at, side, &scratch.ds, columns) };
                    }
                }
            }
        }
    }
}

fn share(values: &mut Option<Vec<f32>>) -> Option<Shared<'_>> {
    values.as_mut().map(|values| Shared::new(values))
}

fn blocks(queries: usize) -> impl Iterator<Item = Range<usize>> {
    (0..queries).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(queries))
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
        let mut y = vec![0f32; ql.shape().elem_count()];
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
