//! Scaled dot-product attention with the mask fused into the softmax.

use candle_core::{CpuStorage, CustomOp3, Layout, Result as CandleResult, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::heads::{Side, add, inner, place, product};
use super::kernel::{check, exp_of_negative, gradient, largest, simd, sum_by, sum_by_two, wrong_shape};
use crate::error::{Error, Result};

/// Which keys a query sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Keys before the length of their sequence; every query sees the same.
    Padding {
        /// Keys of each sequence, B of them.
        lengths: Vec<usize>,
    },
    /// Keys before the length of their sequence, and for query i those up to i + Tk − Tq: the last query stands at the
    /// last key, so that Tq = Tk is the usual triangle and Tq = 1 sees all keys.
    Causal {
        /// Keys of each sequence, B of them.
        lengths: Vec<usize>,
    },
}

impl AttentionMask {
    fn lengths(&self) -> &[usize] {
        match self {
            AttentionMask::Padding { lengths } | AttentionMask::Causal { lengths } => lengths,
        }
    }

    /// Keys seen by query `i` of a sequence that has `keys` of them.
    #[inline(always)]
    fn seen(&self, i: usize, keys: usize, queries: usize, all_keys: usize) -> usize {
        match self {
            AttentionMask::Padding { .. } => keys,
            AttentionMask::Causal { .. } => keys.min((i + 1 + all_keys).saturating_sub(queries)),
        }
    }
}

/// softmax(q · kᵀ · scale, masked) · v (Vaswani et al., arXiv 1706.03762).
///
/// `q` (B, H, Tq, Dh), `k` and `v` (B, Hk, Tk, Dh), where query head h reads key head h / (H / Hk) (grouped queries,
/// arXiv 2305.13245; H = Hk is the plain case); result (B, H, Tq, Dh). A query that sees no key gets 0. Gradients to all
/// three; probabilities are computed again in the backward pass instead of being kept. Arguments may be transposed views:
/// they are read in place as long as the last dimension is dense.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &AttentionMask, scale: f64) -> Result<Tensor> {
    let (heads, key_heads) = match (q.dims(), k.dims()) {
        (&[_, heads, _, _], &[_, key_heads, _, _]) => (heads, key_heads),
        _ => return Err(wrong_shape("attention", "queries", q.dims(), "(batch, heads, tokens, head width)")),
    };
    apply(q, k, v, Attention { mask: mask.clone(), scale: scale as f32, heads, key_heads, heads_first: true })
}

/// [`attention`] for heads packed side by side as linear layers leave them: `q` (B, Tq, H·Dh), `k` and `v`
/// (B, Tk, Hk·Dh); result (B, Tq, H·Dh). Nothing is transposed or copied on the way.
pub fn attention_packed(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    (heads, key_heads): (usize, usize),
    mask: &AttentionMask,
    scale: f64,
) -> Result<Tensor> {
    for (what, tensor, heads) in [("queries", q, heads), ("keys", k, key_heads)] {
        if tensor.rank() != 3 || heads == 0 || tensor.dims()[2] % heads != 0 {
            let expected = format!("(batch, tokens, {heads} heads times head width)");
            return Err(wrong_shape("attention", what, tensor.dims(), &expected));
        }
    }
    apply(q, k, v, Attention { mask: mask.clone(), scale: scale as f32, heads, key_heads, heads_first: false })
}

fn apply(q: &Tensor, k: &Tensor, v: &Tensor, op: Attention) -> Result<Tensor> {
    check("attention", &[q, k, v])?;
    let dense = |tensor: &Tensor| match tensor.stride().last() {
        Some(1) => Ok(tensor.clone()),
        _ => tensor.contiguous(),
    };
    let (q, k, v) = (dense(q)?, dense(k)?, dense(v)?);
    let (seen, keys) = (op.side(q.layout(), op.heads), op.side(k.layout(), op.key_heads));
    let fits = k.dims() == v.dims()
        && seen.batch == keys.batch
        && seen.width == keys.width
        && keys.heads > 0
        && seen.heads % keys.heads == 0
        && q.elem_count() > 0
        && k.elem_count() > 0;
    if !fits {
        return Err(Error::new(format!(
            "attention got queries {:?}, keys {:?} and values {:?}: they do not belong together",
            q.dims(),
            k.dims(),
            v.dims()
        )));
    }
    if op.mask.lengths().len() != seen.batch {
        return Err(Error::new(format!(
            "attention over {} sequences got {} lengths, expected one for each",
            seen.batch,
            op.mask.lengths().len()
        )));
    }
    Ok(q.apply_op3(&k, &v, op)?)
}

struct Attention {
    mask: AttentionMask,
    scale: f32,
    heads: usize,
    key_heads: usize,
    heads_first: bool,
}

simd! {
    /// Scores to probabilities, row by row: `seen(i)` of them, 0 beyond.
    fn masked_softmax(scores: &mut [f32], keys: usize, queries: usize, all_keys: usize, mask: &AttentionMask, scale: f32) {
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (row, hidden) = row.split_at_mut(mask.seen(i, keys, queries, all_keys));
            hidden.fill(0.0);
            // The largest of the scaled scores: a negative scale would turn the order around.
            row.iter_mut().for_each(|score| *score *= scale);
            let top = largest(row);
            row.iter_mut().for_each(|score| *score = exp_of_negative(*score - top));
            let inverse = 1.0 / sum_by(row, |e| e);
            row.iter_mut().for_each(|score| *score *= inverse);
        }
    }
}

simd! {
    /// ds = p · (dp − Σ p · dp) · scale, written over dp; 0 where p is 0.
    fn masked_softmax_backward(p: &[f32], dp: &mut [f32], keys: usize, scale: f32) {
        for (p, dp) in p.chunks_exact(keys).zip(dp.chunks_exact_mut(keys)) {
            let mean = sum_by_two(p, dp, |p, dp| p * dp);
            for (dp, &p) in dp.iter_mut().zip(p) {
                *dp = p * (*dp - mean) * scale;
            }
        }
    }
}

/// The three arguments on the CPU, with where their numbers are.
struct Arguments<'a> {
    q: (&'a CpuStorage, Side),
    k: (&'a CpuStorage, Side),
    v: (&'a CpuStorage, Side),
}

impl Attention {
    fn side(&self, layout: &Layout, heads: usize) -> Side {
        let (dims, strides) = (layout.dims(), layout.stride());
        match (dims, strides) {
            (&[batch, heads, tokens, width], &[s_batch, s_head, s_token, _]) if self.heads_first => {
                Side { batch, heads, tokens, width, strides: [s_batch, s_head, s_token], offset: layout.start_offset() }
            }
            (&[batch, tokens, packed], &[s_batch, s_token, _]) if heads > 0 => {
                let width = packed / heads;
                Side { batch, heads, tokens, width, strides: [s_batch, width, s_token], offset: layout.start_offset() }
            }
            // `apply` refuses it: no head fits.
            _ => Side { batch: 0, heads: 0, tokens: 0, width: 0, strides: [0; 3], offset: 0 },
        }
    }

    /// Where a contiguous tensor with the shape of `side` has its numbers.
    fn contiguous(&self, side: &Side) -> Side {
        let Side { heads, tokens, width, .. } = *side;
        let strides = match self.heads_first {
            true => [heads * tokens * width, tokens * width, width],
            false => [tokens * heads * width, width, heads * width],
        };
        Side { strides, offset: 0, ..side.clone() }
    }

    fn keys(&self, arguments: &Arguments<'_>, sequence: usize) -> usize {
        self.mask.lengths()[sequence].min(arguments.k.1.tokens)
    }

    /// Probabilities (Tq, keys) of one sequence and head.
    fn probabilities(&self, a: &Arguments<'_>, sequence: usize, head: usize) -> CandleResult<CpuStorage> {
        let (q, k) = (&a.q, &a.k);
        let keys = self.keys(a, sequence);
        let key_head = head / (self.heads / self.key_heads);
        let queries = q.1.rows(sequence, head, q.1.tokens);
        let mut scores = product(q.0, &queries, k.0, &k.1.columns(sequence, key_head, keys))?;
        masked_softmax(inner(&mut scores)?, keys, q.1.tokens, k.1.tokens, &self.mask, self.scale);
        Ok(scores)
    }

    /// (Tq, Dh) of one sequence and head; `None` where there is no key.
    fn forward_head(&self, a: &Arguments<'_>, sequence: usize, head: usize) -> CandleResult<Option<CpuStorage>> {
        let keys = self.keys(a, sequence);
        if keys == 0 {
            return Ok(None);
        }
        let p = self.probabilities(a, sequence, head)?;
        let key_head = head / (self.heads / self.key_heads);
        let rows = Layout::contiguous((a.q.1.tokens, keys));
        Ok(Some(product(&p, &rows, a.v.0, &a.v.1.rows(sequence, key_head, keys))?))
    }

    /// Gradients of one sequence and one key head with all query heads that read it, in their order.
    fn backward_group(
        &self,
        a: &Arguments<'_>,
        dy: (&CpuStorage, &Side),
        wanted: [bool; 3],
        sequence: usize,
        key_head: usize,
    ) -> CandleResult<Group> {
        let group = self.heads / self.key_heads;
        let keys = self.keys(a, sequence);
        let queries = a.q.1.tokens;
        let mut found = Group { dq: vec![], dk: None, dv: None };
        if keys == 0 {
            return Ok(found);
        }
        let rows = Layout::contiguous((queries, keys));
        let columns = Layout::new((keys, queries).into(), vec![1, keys], 0);
        for head in key_head * group..(key_head + 1) * group {
            let p = self.probabilities(a, sequence, head)?;
            let dy_rows = dy.1.rows(sequence, head, queries);
            if wanted[2] {
                add(&mut found.dv, product(&p, &columns, dy.0, &dy_rows)?)?;
            }
            if !wanted[0] && !wanted[1] {
                continue;
            }
            let mut ds = product(dy.0, &dy_rows, a.v.0, &a.v.1.columns(sequence, key_head, keys))?;
            let CpuStorage::F32(p) = p else { candle_core::bail!("attention: expected f32, got another type") };
            masked_softmax_backward(&p, inner(&mut ds)?, keys, self.scale);
            if wanted[0] {
                found.dq.push(product(&ds, &rows, a.k.0, &a.k.1.rows(sequence, key_head, keys))?);
            }
            if wanted[1] {
                add(&mut found.dk, product(&ds, &columns, a.q.0, &a.q.1.rows(sequence, head, queries))?)?;
            }
        }
        Ok(found)
    }
}

/// Gradients of one key head: one matrix (Tq, Dh) per query head, and (keys, Dh) summed over them.
struct Group {
    dq: Vec<CpuStorage>,
    dk: Option<CpuStorage>,
    dv: Option<CpuStorage>,
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
        let a = Arguments {
            q: (q, self.side(ql, self.heads)),
            k: (k, self.side(kl, self.key_heads)),
            v: (v, self.side(vl, self.key_heads)),
        };
        let heads: Vec<Option<CpuStorage>> = (0..a.q.1.batch * self.heads)
            .into_par_iter()
            .map(|job| self.forward_head(&a, job / self.heads, job % self.heads))
            .collect::<CandleResult<_>>()?;
        let y = place(|sequence, head| heads[sequence * self.heads + head].as_ref(), &self.contiguous(&a.q.1))?;
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
        let dy = dy.contiguous()?;
        let wanted = [q.track_op(), k.track_op(), v.track_op()];
        let guards = [q, k, v, &dy].map(|tensor| tensor.storage_and_layout());
        let [(q_storage, ql), (k_storage, kl), (v_storage, vl), (dy_storage, dyl)] = &guards;
        let (Storage::Cpu(qs), Storage::Cpu(ks), Storage::Cpu(vs), Storage::Cpu(dys)) =
            (&**q_storage, &**k_storage, &**v_storage, &**dy_storage)
        else {
            candle_core::bail!("attention: expected tensors on the CPU");
        };
        let a = Arguments {
            q: (qs, self.side(ql, self.heads)),
            k: (ks, self.side(kl, self.key_heads)),
            v: (vs, self.side(vl, self.key_heads)),
        };
        let dy_side = self.side(dyl, self.heads);
        let groups: Vec<Group> = (0..a.q.1.batch * self.key_heads)
            .into_par_iter()
            .map(|job| self.backward_group(&a, (dys, &dy_side), wanted, job / self.key_heads, job % self.key_heads))
            .collect::<CandleResult<_>>()?;
        let per_key = self.heads / self.key_heads;
        let group = |sequence: usize, head: usize| &groups[sequence * self.key_heads + head];
        let (q_side, k_side) = (self.contiguous(&a.q.1), self.contiguous(&a.k.1));
        let dq = match wanted[0] {
            true => gradient(place(|s, head| group(s, head / per_key).dq.get(head % per_key), &q_side)?, q.shape())?,
            false => None,
        };
        let dk = match wanted[1] {
            true => gradient(place(|s, head| group(s, head).dk.as_ref(), &k_side)?, k.shape())?,
            false => None,
        };
        let dv = match wanted[2] {
            true => gradient(place(|s, head| group(s, head).dv.as_ref(), &k_side)?, v.shape())?,
            false => None,
        };
        Ok((dq, dk, dv))
    }
}
