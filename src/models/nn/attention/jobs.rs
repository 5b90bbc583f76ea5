//! What one thread does: one head of keys of one sequence, block of queries by block of queries.

use std::ops::Range;

use candle_core::{CpuStorage, Layout, Result as CandleResult};

use super::soften::{multiply_columns, scale_rows, soften, soften_backward};
use super::{Attention, Piece};
use crate::models::nn::kernel::Aligned;
use crate::models::nn::matmul::{Shared, Target, View, multiply};
use crate::models::nn::packed::{self, Packed};
use crate::models::nn::tiles::{LANES, TILE_ROWS};

/// Queries whose scores exist at a time in a backward pass, and where nothing is packed.
const BLOCK: usize = 128;
/// The same where keys and values are packed: scores, keys and values then stay in the first two levels of the cache.
const PACKED_BLOCK: usize = 2 * TILE_ROWS;

/// Rows of numbers that need not follow each other densely.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    pub fn of(storage: &'a CpuStorage, layout: &Layout) -> CandleResult<Self> {
        let CpuStorage::F32(values) = storage else { candle_core::bail!("attention: expected f32, got another type") };
        match layout.stride() {
            &[stride, 1] => Ok(Self { values: &values[layout.start_offset()..], stride }),
            _ => candle_core::bail!("attention: expected rows of dense numbers"),
        }
    }

    pub fn from(self, row: usize) -> Self {
        Self { values: &self.values[row * self.stride..], ..self }
    }

    /// `rows` rows of head `head`.
    fn head(self, first: usize, rows: usize, head: usize, width: usize) -> View<'a> {
        View::new(self.values, first * self.stride + head * width, rows, width, self.stride)
    }
}

/// The arguments where they lie.
pub(super) struct Arguments<'a> {
    pub q: Rows<'a>,
    pub k: Rows<'a>,
    pub v: Rows<'a>,
    pub bias: Option<&'a [f32]>,
}

/// Where gradients go; dense rows.
pub(super) struct Gradients<'a> {
    pub dq: Option<Shared<'a>>,
    pub dk: Option<Shared<'a>>,
    pub dv: Option<Shared<'a>>,
    pub dbias: Option<Shared<'a>>,
}

/// What one thread uses again for each of its jobs.
#[derive(Default)]
pub(super) struct Scratch {
    /// Keys and values of the present piece and key head.
    keys: Packed,
    values: Packed,
    /// Rows of scores, then of exponentials, then (in a backward pass) of probabilities.
    scores: Aligned,
    /// 1 / Σ of each row of exponentials; 0 for a query that sees nothing.
    inverse: Vec<f32>,
    capped: Vec<f32>,
    ds: Vec<f32>,
    /// Factors of dropped and kept probabilities, dense rows over the keys that one of the queries sees.
    factors: Vec<f32>,
    /// Probabilities times their factors, where the probabilities themselves are needed too.
    dropped: Vec<f32>,
    seen: Vec<Range<usize>>,
}

/// Which keys the rows of `Scratch::scores` are over.
struct Over {
    /// Keys that one of the queries sees.
    keys: Range<usize>,
    /// Where they begin in a row.
    start: usize,
    /// Numbers of a row, a multiple of 16.
    width: usize,
}

impl Over {
    /// Columns of the keys in a row.
    fn columns(&self) -> Range<usize> {
        self.start..self.start + self.keys.len()
    }
}

impl Attention {
    /// Jobs: the pieces and the key head of each. A bias is shared by all pieces, which then make one job for each head, so
    /// that its gradient has one writer.
    pub(super) fn jobs(&self) -> Vec<(Range<usize>, usize)> {
        let pieces = self.how.pieces.len();
        let heads = 0..self.how.key_heads;
        match self.bias {
            Some(_) => heads.map(|head| (0..pieces, head)).collect(),
            None => (0..pieces).flat_map(|piece| heads.clone().map(move |head| (piece..piece + 1, head))).collect(),
        }
    }

    /// Whether keys and values of a piece are packed: where enough queries meet them.
    fn is_packed(&self, piece: &Piece) -> bool {
        packed::available() && piece.queries.len() >= TILE_ROWS
    }

    fn pack_keys(&self, a: &Arguments<'_>, piece: &Piece, key_head: usize, scratch: &mut Scratch) {
        if self.is_packed(piece) {
            let k = a.k.head(piece.keys.start, piece.keys.len(), key_head, self.width);
            scratch.keys.take(k.transposed());
        }
    }

    /// Fills `scratch.scores` with the exponentials of the scores of the queries `block` of a piece, and `scratch.inverse`;
    /// `None` where no query of the block sees a key. Needs [`Attention::pack_keys`].
    fn exponentials(
        &self,
        a: &Arguments<'_>,
        piece: &Piece,
        head: usize,
        block: Range<usize>,
        scratch: &mut Scratch,
    ) -> Option<Over> {
        let Scratch { keys: packed, scores, inverse, capped, seen, .. } = scratch;
        seen.clear();
        seen.extend(block.clone().map(|i| self.how.seen(i, piece)));
        let visible = seen.iter().filter(|seen| !seen.is_empty());
        let (start, end) =
            visible.fold((usize::MAX, 0), |(start, end), seen| (start.min(seen.start), end.max(seen.end)));
        if end == 0 {
            return None;
        }
        let (rows, is_packed) = (block.len(), self.is_packed(piece));
        // Packed keys are met by the strip.
        let (first, width) = match is_packed {
            true => {
                let strip = packed.strip_columns();
                let first = start / strip * strip;
                (first, end.next_multiple_of(strip).min(packed.padded_columns()) - first)
            }
            false => (start, (end - start).next_multiple_of(LANES)),
        };
        for seen in seen.iter_mut() {
            *seen = if seen.start >= seen.end { 0..0 } else { seen.start - first..seen.end - first };
        }
        let over = Over { keys: start..end, start: start - first, width };
        let scores = scores.take(rows * width);
        let q = a.q.head(piece.queries.start + block.start, rows, head, self.width);
        if is_packed {
            packed.multiply(q, 0..self.width, first..first + width, &Target::dense(scores, width), None);
        } else {
            let k = a.k.head(piece.keys.start + start, end - start, self.key_head(head), self.width);
            // The product leaves the ends of the rows as they are.
            scores.chunks_exact_mut(width).for_each(|row| row[end - start..].fill(0.0));
            multiply(Target::dense(scores, width), q, k.transposed(), 1.0, false);
        }
        // What is not linear needs the scaled scores; else they are scaled on the way.
        let mut scale = self.how.scale as f32;
        if self.bias.is_some() || self.how.soft_cap.is_some() || scale <= 0.0 {
            scores.iter_mut().for_each(|score| *score *= scale);
            scale = 1.0;
        }
        if let (Some(bias), Some(side)) = (a.bias, self.bias) {
            for (i, row) in block.zip(scores.chunks_exact_mut(width)) {
                let at = (head * side + i) * side;
                let bias = &bias[at + start..at + end];
                row[over.columns()].iter_mut().zip(bias).for_each(|(score, bias)| *score += bias);
            }
        }
        if let Some(cap) = self.how.soft_cap {
            let cap = cap as f32;
            for row in scores.chunks_exact_mut(width) {
                row[over.columns()].iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
            }
            capped.clear();
            capped.extend_from_slice(scores);
        }
        inverse.resize(rows, 0.0);
        soften(scores, width, scale, seen, inverse);
        Some(over)
    }

    /// Fills `factors` with those of the probabilities of the queries `block` of a piece; whether any are dropped.
    fn factors(&self, piece: &Piece, head: usize, block: Range<usize>, over: &Over, factors: &mut Vec<f32>) -> bool {
        let Some(dropout) = &self.how.dropout else { return false };
        let first = piece.queries.start;
        dropout.of_scores(head, first + block.start..first + block.end, over.keys.clone(), factors);
        true
    }

    fn key_head(&self, head: usize) -> usize {
        head / (self.how.heads / self.how.key_heads)
    }

    fn heads_of(&self, key_head: usize) -> Range<usize> {
        let group = self.how.heads / self.how.key_heads;
        key_head * group..(key_head + 1) * group
    }

    /// Writes every query of the pieces, those that see nothing too.
    pub(super) fn forward_job(
        &self,
        a: &Arguments<'_>,
        pieces: Range<usize>,
        key_head: usize,
        y: Shared<'_>,
        scratch: &mut Scratch,
    ) {
        let (width, stride) = (self.width, self.how.heads * self.width);
        for piece in &self.how.pieces[pieces] {
            let is_packed = self.is_packed(piece);
            self.pack_keys(a, piece, key_head, scratch);
            if is_packed {
                scratch.values.take(a.v.head(piece.keys.start, piece.keys.len(), key_head, width));
            }
            for head in self.heads_of(key_head) {
                for block in blocks(piece.queries.len(), if is_packed { PACKED_BLOCK } else { BLOCK }) {
                    let at = (piece.queries.start + block.start) * stride + head * width;
                    // SAFETY: queries of pieces are disjoint (`new`), and a head of a piece has one job.
                    let row = |i: usize| unsafe { y.slice(at + i * stride, width) };
                    let Some(over) = self.exponentials(a, piece, head, block.clone(), scratch) else {
                        (0..block.len()).for_each(|i| row(i).fill(0.0));
                        continue;
                    };
                    // The sums in `inverse` are of everything: what is dropped is a share of the whole.
                    if self.factors(piece, head, block.clone(), &over, &mut scratch.factors) {
                        multiply_columns(scratch.scores.get_mut(), over.width, over.columns(), &scratch.factors);
                    }
                    let p = View::new(scratch.scores.get(), over.start, block.len(), over.keys.len(), over.width);
                    // SAFETY: as above.
                    let to = unsafe { y.at(at, stride) };
                    if is_packed {
                        scratch.values.multiply(p, over.keys.clone(), 0..width, &to, None);
                    } else {
                        let v = a.v.head(piece.keys.start + over.keys.start, over.keys.len(), key_head, width);
                        multiply(to, p, v, 1.0, false);
                    }
                    for (i, &inverse) in scratch.inverse.iter().enumerate() {
                        row(i).iter_mut().for_each(|value| *value *= inverse);
                    }
                }
            }
        }
    }

    pub(super) fn backward_job(
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
            self.pack_keys(a, piece, key_head, scratch);
            for head in self.heads_of(key_head) {
                for block in blocks(piece.queries.len(), BLOCK) {
                    let Some(over) = self.exponentials(a, piece, head, block.clone(), scratch) else { continue };
                    let (rows, columns) = (block.len(), over.keys.len());
                    let numbers = rows * over.width;
                    scale_rows(scratch.scores.get_mut(), over.width, &scratch.inverse);
                    let (query, key) = (piece.queries.start + block.start, piece.keys.start + over.keys.start);
                    let dy = dy.head(query, rows, head, width);
                    let drops = self.factors(piece, head, block.clone(), &over, &mut scratch.factors);
                    let Scratch { scores, dropped, factors, .. } = scratch;
                    if drops {
                        dropped.clear();
                        dropped.extend_from_slice(scores.get());
                        multiply_columns(dropped, over.width, over.columns(), factors);
                    }
                    let p = if drops { dropped } else { scores.get() };
                    let p = View::new(p, over.start, rows, columns, over.width);
                    let at_key = key * k_stride + key_head * width;
                    if let Some(dv) = to.dv {
                        // SAFETY: keys of pieces are disjoint (checked before), and a key head of a piece has one job.
                        multiply(unsafe { dv.at(at_key, k_stride) }, p.transposed(), dy, 1.0, true);
                    }
                    if to.dq.is_none() && to.dk.is_none() && to.dbias.is_none() {
                        continue;
                    }
                    if scratch.ds.len() < numbers {
                        scratch.ds.resize(numbers, 0.0);
                    }
                    let v = a.v.head(key, columns, key_head, width);
                    let ds = &mut scratch.ds[..numbers];
                    multiply(Target::dense(&mut ds[over.start..], over.width), dy, v.transposed(), 1.0, false);
                    if drops {
                        multiply_columns(ds, over.width, over.columns(), &scratch.factors);
                    }
                    soften_backward(scratch.scores.get(), ds, over.width, over.columns());
                    if let Some(cap) = self.how.soft_cap {
                        let cap = cap as f32;
                        for (ds, capped) in ds.iter_mut().zip(&scratch.capped) {
                            *ds *= 1.0 - (capped / cap) * (capped / cap);
                        }
                    }
                    if let (Some(dbias), Some(side)) = (to.dbias, self.bias) {
                        for (i, row) in block.zip(ds.chunks_exact(over.width)) {
                            let at = (head * side + i) * side + over.keys.start;
                            // SAFETY: with a bias a head has one job for all pieces (`jobs`).
                            unsafe { dbias.add_rows(at, side, &row[over.columns()], columns) };
                        }
                    }
                    let ds = View::new(&scratch.ds, over.start, rows, columns, over.width);
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
                }
            }
        }
    }
}

fn blocks(queries: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..queries).step_by(size).map(move |start| start..(start + size).min(queries))
}
