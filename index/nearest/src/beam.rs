//! Search in the graph: greedy descent through the upper layers, then a beam of width `ef` on the lowest (Malkov and Yashunin,
//! arXiv 1603.09320, algorithms 2 and 5). N passages, D dimension.
//!
//! The beam is one sorted array instead of two heaps: what falls out of the best `ef` would never be looked at again, so the
//! candidates to visit are those of the best that were not visited yet, and the next is the first of them. The neighbours of a
//! visited passage are scored four at a time while the first lines of the next four are on their way from memory. What gives the
//! scores is a `Space`: the vectors, or codes of them.

use std::cell::RefCell;

use crate::adjacency::FlatGraph;
use crate::codes::{Asked, Codes};
use crate::exact::Hit;
use crate::lanes::{Lanes, Level, on_level};
use crate::space::{Exact, Space, prefetch};

/// Hits of a walk over codes that are scored again, for each that is asked for: so many that what belongs among the best by the
/// vectors is hardly ever behind them by the codes.
const SCORED_AGAIN: usize = 4;

impl FlatGraph {
    /// The `k` best passages found with a beam of `ef` (raised to `k`), best first: `vectors` (N or more, D), `question` (D).
    pub fn search(&self, vectors: &[f32], dim: usize, question: &[f32], k: usize, ef: usize) -> Vec<Hit> {
        self.search_where(vectors, dim, question, k, ef, |_| true).0
    }

    /// The same among the passages that `allowed` says: the best `k` of those among the best `ef` of all, and how many of those
    /// there were.
    pub fn search_where(
        &self,
        vectors: &[f32],
        dim: usize,
        question: &[f32],
        k: usize,
        ef: usize,
        allowed: impl Fn(u32) -> bool,
    ) -> (Vec<Hit>, usize) {
        assert!(question.len() == dim && vectors.len() >= self.nodes() * dim, "whole rows, and one for every passage");
        let space = Exact { vectors, dim, question };
        self.best(&space, k, k.max(ef), allowed)
    }

    /// The same with a beam that goes by codes. The best `4 k` of what it holds are scored again by their vectors: scores are
    /// those of `search_where` to the bit, only which passages are found may differ.
    pub fn search_codes_where(
        &self,
        codes: &Codes<'_>,
        vectors: &[f32],
        question: &[f32],
        k: usize,
        ef: usize,
        allowed: impl Fn(u32) -> bool,
    ) -> (Vec<Hit>, usize) {
        let dim = codes.dim();
        assert!(codes.len() >= self.nodes() && vectors.len() >= self.nodes() * dim, "a row for every passage");
        assert!(question.len() == dim, "whole rows");
        let again = k.saturating_mul(SCORED_AGAIN);
        let (near, fit) = match codes.asked(question) {
            Asked::F16(space) => self.best(&space, again, k.max(ef), allowed),
            Asked::Int8(space) => self.best(&space, again, k.max(ef), allowed),
        };
        let space = Exact { vectors, dim, question };
        let mut hits = Vec::with_capacity(near.len());
        let ordinals: Vec<u32> = near.iter().map(|hit| hit.ordinal).collect();
        score_again(Level::best(), &space, &ordinals, &mut hits);
        hits.sort_unstable_by(Hit::rank);
        hits.truncate(k);
        (hits, fit)
    }

    /// The best `k` that are allowed among the best `ef`, and how many of those there were.
    fn best<S: Space>(&self, space: &S, k: usize, ef: usize, allowed: impl Fn(u32) -> bool) -> (Vec<Hit>, usize) {
        thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default()));
        SCRATCH.with_borrow_mut(|scratch| {
            walk(Level::best(), self, space, ef.clamp(1, self.nodes()), scratch);
            let mut hits = Vec::with_capacity(k.min(scratch.pool.len()));
            let mut fit = 0;
            for hit in scratch.pool.iter().map(|key| key.hit()).filter(|hit| allowed(hit.ordinal)) {
                if fit < k {
                    hits.push(hit);
                }
                fit += 1;
            }
            (hits, fit)
        })
    }
}

on_level! { fn score_again(space: &Exact<'_>, ordinals: &[u32], hits: &mut Vec<Hit>) = score_again_on }

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn score_again_on<L: Lanes>(space: &Exact<'_>, ordinals: &[u32], hits: &mut Vec<Hit>) {
    // SAFETY: what the caller promised.
    unsafe { score_all::<L, _>(space, ordinals, |hit| hits.push(hit)) }
}

on_level! { fn walk<S: Space>(graph: &FlatGraph, space: &S, ef: usize, scratch: &mut Scratch) = walk_on }

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn walk_on<L: Lanes, S: Space>(graph: &FlatGraph, space: &S, ef: usize, scratch: &mut Scratch) {
    scratch.begin(graph.nodes());
    let Scratch { visited, pool, fresh } = scratch;
    // SAFETY: the caller promised the processor; so in all of this function.
    let mut here = unsafe { score_one::<L, S>(space, graph.entry) };
    visited.forget();
    for layer in graph.upper.iter().rev() {
        loop {
            let before = here;
            // What was seen before was not nearer than `here`, on whatever layer.
            visited.first_seen(layer.of(before.ordinal), fresh);
            // SAFETY: see above.
            unsafe {
                score_all::<L, S>(space, fresh, |hit| {
                    if hit.rank(&here).is_lt() {
                        here = hit
                    }
                })
            };
            if here.ordinal == before.ordinal {
                break;
            }
        }
    }
    visited.forget();
    visited.first_seen(&[here.ordinal], fresh);
    pool.push(Key::new(here));
    // Everything in the pool before the cursor has been visited.
    let mut cursor = 0;
    while cursor < pool.len() {
        if pool[cursor].is_visited() {
            cursor += 1;
            continue;
        }
        let node = pool[cursor].visit();
        visited.first_seen(graph.base.row(node), fresh);
        // What will probably be visited next.
        if let Some(next) = pool.get(cursor + 1) {
            // SAFETY: see above; the addresses are inside the row.
            unsafe { prefetch::<L, u32>(graph.base.row(next.ordinal())) };
        }
        let offer = |hit: Hit| {
            let key = Key::new(hit);
            if pool.len() < ef || pool[ef - 1] > key {
                cursor = cursor.min(insert(pool, ef, key));
            }
        };
        // SAFETY: see above.
        unsafe { score_all::<L, S>(space, fresh, offer) };
    }
}

/// Scores passages, four at a time, while the vectors of the next four are on their way.
///
/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn score_all<L: Lanes, S: Space>(space: &S, ordinals: &[u32], mut each: impl FnMut(Hit)) {
    for ordinal in &ordinals[..ordinals.len().min(4)] {
        // SAFETY: the caller promised the processor; so in all of this function.
        unsafe { space.prefetch::<L>(*ordinal) };
    }
    let mut rest = ordinals;
    while let Some(last) = rest.last() {
        for ordinal in rest.iter().skip(4).take(4) {
            // SAFETY: see above.
            unsafe { space.prefetch::<L>(*ordinal) };
        }
        // The last group is filled up with its own last.
        let mut four = [*last; 4];
        let taken = rest.len().min(4);
        four[..taken].copy_from_slice(&rest[..taken]);
        // SAFETY: see above.
        let scores = unsafe { space.four::<L>(four) };
        for at in 0..taken {
            each(Hit { ordinal: four[at], score: scores[at] });
        }
        rest = &rest[taken..];
    }
}

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn score_one<L: Lanes, S: Space>(space: &S, ordinal: u32) -> Hit {
    // SAFETY: the caller promised the processor.
    let [score, ..] = unsafe { space.four::<L>([ordinal; 4]) };
    Hit { ordinal, score }
}

/// Puts a key in its place among the best `ef`, which are fewer or end with a worse one. Says where.
#[inline(always)]
fn insert(pool: &mut Vec<Key>, ef: usize, key: Key) -> usize {
    let place = pool.partition_point(|other| *other < key);
    if pool.len() < ef {
        pool.push(key);
    }
    let last = pool.len() - 1;
    pool.copy_within(place..last, place + 1);
    pool[place] = key;
    place
}

/// A hit as one number that is less for a better one: the score's bits turned so that they descend, the ordinal (31 bits, see
/// `build`), and whether it was visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Key(u64);

impl Key {
    #[inline(always)]
    fn new(hit: Hit) -> Self {
        let bits = hit.score.to_bits();
        // Of negative numbers the greater bits are the lesser number.
        let ascending = bits ^ (((bits as i32 >> 31) as u32) | 1 << 31);
        Key(u64::from(!ascending) << 32 | u64::from(hit.ordinal) << 1)
    }

    #[inline(always)]
    fn hit(self) -> Hit {
        let ascending = !((self.0 >> 32) as u32);
        let sign = if ascending >> 31 == 1 { 1 << 31 } else { u32::MAX };
        Hit { ordinal: self.ordinal(), score: f32::from_bits(ascending ^ sign) }
    }

    #[inline(always)]
    fn is_visited(self) -> bool {
        self.0 & 1 == 1
    }

    #[inline(always)]
    fn ordinal(self) -> u32 {
        (self.0 as u32) >> 1
    }

    /// Marks it, and says which passage it is.
    #[inline(always)]
    fn visit(&mut self) -> u32 {
        self.0 |= 1;
        self.ordinal()
    }
}

/// What a search needs besides the graph; kept by each thread, so that a search allocates only its result.
#[derive(Default)]
struct Scratch {
    visited: Visited,
    pool: Vec<Key>,
    fresh: Vec<u32>,
}

/// `marks[i] == epoch`: passage `i` was seen. The marks are cleared once in 65 535 times that they are forgotten.
#[derive(Default)]
struct Visited {
    marks: Vec<u16>,
    epoch: u16,
}

impl Scratch {
    fn begin(&mut self, nodes: usize) {
        self.pool.clear();
        if self.visited.marks.len() < nodes {
            self.visited.marks.resize(nodes, 0);
        }
    }
}

impl Visited {
    /// Nothing was seen.
    fn forget(&mut self) {
        if self.epoch == u16::MAX {
            self.marks.fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
    }

    /// Those of `ordinals` that were not seen before, which they are from now on.
    #[inline(always)]
    fn first_seen(&mut self, ordinals: &[u32], fresh: &mut Vec<u32>) {
        fresh.resize(ordinals.len(), 0);
        let mut count = 0;
        // Without a branch on what cannot be foretold: each is written, and kept by moving on.
        for ordinal in ordinals {
            fresh[count] = *ordinal;
            let mark = &mut self.marks[*ordinal as usize];
            count += usize::from(*mark != self.epoch);
            *mark = self.epoch;
        }
        fresh.truncate(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjacency::Lists;
    use crate::codes::Coding;
    use crate::exact;
    use crate::lanes::levels;

    fn ring(n: u32) -> (FlatGraph, Vec<f32>) {
        let lists: Vec<Vec<u32>> = (0..n).map(|at| vec![(at + 1) % n, (at + n - 1) % n]).collect();
        let lists = Lists::flatten(lists.iter().map(Vec::as_slice)).unwrap();
        let vectors = (0..n)
            .flat_map(|at| {
                let angle = at as f32 * std::f32::consts::TAU / n as f32;
                [angle.cos(), angle.sin()]
            })
            .collect();
        (FlatGraph::new(0, &lists, Vec::new()).unwrap(), vectors)
    }

    #[test]
    fn the_beam_walks_round_a_ring() {
        let (graph, vectors) = ring(8);
        let hits = graph.search(&vectors, 2, &[-1.0, -0.1], 3, 3);
        assert_eq!(hits.iter().map(|hit| hit.ordinal).collect::<Vec<_>>(), [4, 5, 3]);
        assert_eq!(graph.search(&vectors, 2, &[-1.0, -0.1], 8, 1000), exact::search(&vectors, 2, &[-1.0, -0.1], 8)[0]);
    }

    #[test]
    fn only_what_is_allowed_is_found() {
        let (graph, vectors) = ring(32);
        let (hits, fit) = graph.search_where(&vectors, 2, &[-1.0, -0.1], 2, 8, |ordinal| ordinal % 2 == 0);
        assert_eq!(hits.iter().map(|hit| hit.ordinal).collect::<Vec<_>>(), [16, 18]);
        assert_eq!(fit, 4);
    }

    #[test]
    fn every_kind_of_register_finds_the_same() {
        let (graph, vectors) = ring(300);
        let space = Exact { vectors: &vectors, dim: 2, question: &[-0.3, 0.9] };
        let found = levels().into_iter().map(|level| {
            let mut scratch = Scratch::default();
            walk(level, &graph, &space, 9, &mut scratch);
            scratch.pool
        });
        let found: Vec<Vec<Key>> = found.collect();
        assert!(found.iter().all(|pool| pool.len() == 9 && *pool == found[0]));
    }

    #[test]
    fn every_kind_of_register_walks_alike_by_codes_of_any_length() {
        for dim in [2, 31, 33, 100, 384] {
            let vectors = crate::graph::tests::unit_vectors(300, dim, 20, 3);
            let (graph, _) = ring(300);
            for coding in [Coding::F16, Coding::Int8] {
                let bytes = coding.encode(&vectors, dim);
                let codes = Codes::view(coding, &bytes, 300, dim).unwrap();
                let found = levels().into_iter().map(|level| {
                    let mut scratch = Scratch::default();
                    match codes.asked(&vectors[7 * dim..8 * dim]) {
                        Asked::F16(space) => walk(level, &graph, &space, 40, &mut scratch),
                        Asked::Int8(space) => walk(level, &graph, &space, 40, &mut scratch),
                    }
                    scratch.pool
                });
                let found: Vec<Vec<Key>> = found.collect();
                assert!(found.iter().all(|pool| pool.len() == 40 && *pool == found[0]), "{coding:?} {dim}");
            }
        }
    }

    #[test]
    fn keys_are_in_the_order_of_hits_and_give_them_back() {
        let scores = [f32::NEG_INFINITY, -1.0, -1e-30, 0.0, 1e-30, 0.5, 0.5, 1.0, f32::INFINITY];
        let hits: Vec<Hit> = scores
            .iter()
            .zip([7, 1, 0, 2, 9, 4, 3, 1 << 30, 5])
            .map(|(score, ordinal)| Hit { ordinal, score: *score })
            .collect();
        for a in &hits {
            assert_eq!(Key::new(*a).hit(), *a);
            for b in &hits {
                assert_eq!(Key::new(*a).cmp(&Key::new(*b)), a.rank(b), "{a:?} {b:?}");
            }
        }
        let mut key = Key::new(hits[6]);
        assert_eq!((key.is_visited(), key.visit(), key.is_visited(), key.hit()), (false, 3, true, hits[6]));
    }

    #[test]
    fn marks_last_beyond_the_last_epoch() {
        let mut scratch = Scratch::default();
        scratch.begin(2);
        let mut fresh = Vec::new();
        for search in 0..2 * u32::from(u16::MAX) + 3 {
            scratch.visited.forget();
            scratch.visited.first_seen(&[search % 2, 0, 1, 1], &mut fresh);
            assert_eq!(fresh, [search % 2, 1 - search % 2]);
        }
    }
}
