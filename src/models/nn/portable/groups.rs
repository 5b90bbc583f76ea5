//! Pieces of packed sequences put side by side: those of similar lengths, padded to the longest of them.
//!
//! P pieces of a group, Tq and Tk the longest of their queries and keys.

use candle_core::{DType, Device, Result as CandleResult, Tensor};

use crate::models::nn::Attend;

/// Scores of one group: 512 MiB. A piece that has more by itself is a group of its own.
const SCORES: usize = 1 << 27;
/// What is added to the score of a key that is not seen: e to it is 0 beside any score.
const HIDDEN: f64 = -1e30;

/// Pieces that are computed together.
pub struct Group {
    /// P.
    pub pieces: usize,
    /// Tq.
    pub queries: usize,
    /// Tk.
    pub keys: usize,
    /// Which row each of the P·Tq and P·Tk places takes; where the piece has ended, its first.
    pub query_rows: Rows,
    /// Likewise of keys and values.
    pub key_rows: Rows,
    /// (P or 1, 1, Tq, Tk) f32, added to scores; `None` where every query sees all keys.
    pub mask: Option<Tensor>,
    /// (P, 1, Tq, 1) f32: 0 where there is no query, or one that sees no key; `None` where there is none such.
    pub real: Option<Tensor>,
}

/// All groups of a call, and where their rows go back to.
pub struct Groups {
    pub all: Vec<Group>,
    /// For each row of the queries its place among the P·Tq places of all groups, one after the other; one more than there
    /// are for a row of no piece.
    pub query_home: Rows,
    /// Likewise of keys and values.
    pub key_home: Rows,
}

/// Rows to be taken from a matrix.
pub enum Rows {
    /// All of them, as they stand.
    All,
    /// These, u32; whether one beyond the last is among them, which stands for zeros.
    Chosen(Tensor, bool),
}

impl Rows {
    fn new(rows: Vec<u32>, of: usize, device: &Device) -> CandleResult<Self> {
        if rows.len() == of && rows.iter().enumerate().all(|(at, row)| at == *row as usize) {
            return Ok(Self::All);
        }
        let (count, beyond) = (rows.len(), rows.iter().any(|row| *row as usize >= of));
        Ok(Self::Chosen(Tensor::from_vec(rows, count, device)?, beyond))
    }

    /// The rows of `x` (any, D).
    pub fn of(&self, x: &Tensor) -> CandleResult<Tensor> {
        match self {
            Self::All => Ok(x.clone()),
            Self::Chosen(rows, false) => x.contiguous()?.index_select(rows, 0),
            Self::Chosen(rows, true) => {
                let zeros = Tensor::zeros((1, x.dim(1)?), x.dtype(), x.device())?;
                Tensor::cat(&[x, &zeros], 0)?.index_select(rows, 0)
            }
        }
    }
}

impl Groups {
    /// For queries (Nq, ..) and keys (Nk, ..).
    pub fn new(how: &Attend, (queries, keys): (usize, usize), device: &Device) -> CandleResult<Self> {
        let mut order: Vec<usize> = (0..how.pieces.len()).collect();
        let lengths = |at: usize| (how.pieces[at].keys.len(), how.pieces[at].queries.len());
        order.sort_by_key(|&at| (std::cmp::Reverse(lengths(at)), at));
        // One beyond the last place stands for zeros: its number is known at the end only.
        let (mut query_home, mut key_home) = (vec![u32::MAX; queries], vec![u32::MAX; keys]);
        let (mut query_places, mut key_places) = (0, 0);
        let mut all = Vec::new();
        for mut members in cut(&order, lengths, how.heads) {
            // In the order in which they stand, which may be one that needs no gathering.
            members.sort_unstable();
            all.push(Group::new(how, &members, (queries, keys), device)?);
            let Some(group) = all.last() else { continue };
            for (place, &member) in members.iter().enumerate() {
                let piece = &how.pieces[member];
                for (i, home) in query_home[piece.queries.clone()].iter_mut().enumerate() {
                    *home = (query_places + place * group.queries + i) as u32;
                }
                for (i, home) in key_home[piece.keys.clone()].iter_mut().enumerate() {
                    *home = (key_places + place * group.keys + i) as u32;
                }
            }
            query_places += group.pieces * group.queries;
            key_places += group.pieces * group.keys;
        }
        let homes = |mut home: Vec<u32>, places: usize| {
            home.iter_mut().for_each(|row| *row = (*row).min(places as u32));
            Rows::new(home, places, device)
        };
        Ok(Self { all, query_home: homes(query_home, query_places)?, key_home: homes(key_home, key_places)? })
    }
}

/// Cuts pieces, longest first, where they become a quarter shorter than the longest of their group, or where it is full.
fn cut(order: &[usize], lengths: impl Fn(usize) -> (usize, usize), heads: usize) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let (mut keys, mut queries) = (0, 0);
    for &at in order {
        let (own_keys, own_queries) = lengths(at);
        let near = |own: usize, longest: usize| longest - own.min(longest) <= (longest / 4).max(16);
        match groups.last_mut() {
            Some(group)
                if near(own_keys, keys)
                    && near(own_queries, queries)
                    && (group.len() + 1) * heads * keys * queries.max(own_queries) <= SCORES =>
            {
                queries = queries.max(own_queries);
                group.push(at);
            }
            _ => {
                (keys, queries) = (own_keys, own_queries);
                groups.push(vec![at]);
            }
        }
    }
    groups
}

impl Group {
    fn new(how: &Attend, members: &[usize], of: (usize, usize), device: &Device) -> CandleResult<Self> {
        let pieces = || members.iter().map(|&at| &how.pieces[at]);
        let queries = pieces().map(|piece| piece.queries.len()).max().unwrap_or(0);
        let keys = pieces().map(|piece| piece.keys.len()).max().unwrap_or(0);
        let place = |range: &std::ops::Range<usize>, i: usize| {
            (if i < range.len() { range.start + i } else { range.start }) as u32
        };
        let query_rows = pieces().flat_map(|piece| (0..queries).map(|i| place(&piece.queries, i))).collect();
        let key_rows = pieces().flat_map(|piece| (0..keys).map(|i| place(&piece.keys, i))).collect();
        // Keys seen by each query, where there is one.
        let seen: Vec<Vec<std::ops::Range<usize>>> = pieces()
            .map(|piece| {
                let of = |i| if i < piece.queries.len() { how.seen(i, piece) } else { 0..0 };
                (0..queries).map(of).map(|seen| if seen.start < seen.end { seen } else { 0..0 }).collect()
            })
            .collect();
        let count = members.len();
        let real: Vec<f32> = seen.iter().flatten().map(|seen| f32::from(!seen.is_empty())).collect();
        let real = match real.contains(&0.0) {
            true => Some(Tensor::from_vec(real, (count, 1, queries, 1), device)?),
            false => None,
        };
        Ok(Self {
            pieces: count,
            queries,
            keys,
            query_rows: Rows::new(query_rows, of.0, device)?,
            key_rows: Rows::new(key_rows, of.1, device)?,
            mask: mask(&seen, keys, device)?,
            real,
        })
    }
}

/// (P or 1, 1, Tq, Tk): 0 for a key that is seen, [`HIDDEN`] for others.
fn mask(seen: &[Vec<std::ops::Range<usize>>], keys: usize, device: &Device) -> CandleResult<Option<Tensor>> {
    if seen.iter().flatten().all(|seen| seen.is_empty() || *seen == (0..keys)) {
        return Ok(None);
    }
    let distinct = if seen.iter().all(|rows| *rows == seen[0]) { &seen[..1] } else { seen };
    let queries = seen[0].len();
    let bound = |end: fn(&std::ops::Range<usize>) -> usize| {
        let values: Vec<f32> = distinct.iter().flatten().map(|seen| end(seen) as f32).collect();
        Tensor::from_vec(values, (distinct.len(), 1, queries, 1), device)
    };
    let key = Tensor::arange(0f32, keys as f32, device)?.reshape((1, 1, 1, keys))?;
    let before = key.broadcast_lt(&bound(|seen| seen.start)?)?.to_dtype(DType::F32)?;
    let after = key.broadcast_ge(&bound(|seen| seen.end)?)?.to_dtype(DType::F32)?;
    Ok(Some((before.add(&after)? * HIDDEN)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_piece_once_and_similar_ones_only() {
        let lengths = [3usize, 512, 400, 12, 380, 100, 90, 1];
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(lengths[at]));
        let groups = cut(&order, |at| (lengths[at], lengths[at]), 8);
        assert_eq!(groups, [vec![1, 2], vec![4], vec![5, 6], vec![3, 0, 7]]);
        // 16 heads · 1024² are an eighth of the limit.
        let groups = cut(&(0..20).collect::<Vec<_>>(), |_| (1024, 1024), 16);
        assert_eq!(groups.iter().map(Vec::len).collect::<Vec<_>>(), [8, 8, 4]);
    }
}
