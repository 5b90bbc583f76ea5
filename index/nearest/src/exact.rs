//! Exact search: every passage scored. The oracle that the graph is measured against and the fallback for everything.
//!
//! B questions, N passages, D dimension, k asked for.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::allowed::Allowed;
use crate::lanes::{Lanes, Level, on_level};

/// A passage found, and how near it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// The passage's ordinal in the corpus.
    pub ordinal: u32,
    /// Inner product of the question's and the passage's vector: their cosine, since passages have length one.
    pub score: f32,
}

impl Hit {
    /// The order of results: higher score first, then lower ordinal. Total, since scores are never NaN nor -0.
    pub fn rank(&self, other: &Hit) -> Ordering {
        other.score.total_cmp(&self.score).then(self.ordinal.cmp(&other.ordinal))
    }
}

/// Ordered so that the worst hit is the greatest: the top of a max-heap is the one to give up first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Worst(pub(crate) Hit);

impl Ord for Worst {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.rank(&other.0)
    }
}
impl PartialOrd for Worst {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Worst {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Worst {}

/// Keeps a hit if it is among the best `k` so far.
pub(crate) fn keep(best: &mut BinaryHeap<Worst>, k: usize, hit: Hit) {
    if best.len() < k {
        best.push(Worst(hit));
    } else if let Some(mut worst) = best.peek_mut()
        && hit.rank(&worst.0) == Ordering::Less
    {
        *worst = Worst(hit);
    }
}

/// Questions that are scored together against a block of passages, so that the block is read from memory once.
const QUESTIONS: usize = 16;
/// Passages in a block: with 384 dimensions 12 KiB, which stay in the first cache beside the questions' 24.
const BLOCK: usize = 8;
/// Passages in one unit of parallel work.
const SEGMENT: usize = 16 * 1024;

/// The `k` best passages for each question, best first: `vectors` (N, D), `questions` (B, D), both row-major and finite.
///
/// The result does not depend on the number of threads: a score depends on its two vectors alone, and the order of hits is
/// total.
pub fn search(vectors: &[f32], dim: usize, questions: &[f32], k: usize) -> Vec<Vec<Hit>> {
    let n = vectors.len().checked_div(dim).unwrap_or(0);
    search_rows(vectors, dim, questions, k, Rows::Range(0, n as u32))
}

/// The same among the passages `from..`.
pub fn search_from(vectors: &[f32], dim: usize, questions: &[f32], k: usize, from: usize) -> Vec<Vec<Hit>> {
    let n = vectors.len().checked_div(dim).unwrap_or(0);
    search_rows(vectors, dim, questions, k, Rows::Range(from.min(n) as u32, n as u32))
}

/// The same among some passages. Hits are fewer than `k` where fewer are allowed.
pub fn search_among(vectors: &[f32], dim: usize, questions: &[f32], k: usize, allowed: &Allowed) -> Vec<Vec<Hit>> {
    let n = vectors.len().checked_div(dim).unwrap_or(0);
    let ordinals: Vec<u32> = allowed.ordinals().take_while(|ordinal| (*ordinal as usize) < n).collect();
    search_rows(vectors, dim, questions, k, Rows::Some(&ordinals))
}

/// Which passages are scored; all of them exist.
#[derive(Clone, Copy)]
enum Rows<'a> {
    Range(u32, u32),
    Some(&'a [u32]),
}

impl<'a> Rows<'a> {
    fn len(self) -> usize {
        match self {
            Rows::Range(from, to) => (to - from) as usize,
            Rows::Some(ordinals) => ordinals.len(),
        }
    }

    fn at(self, at: usize) -> u32 {
        match self {
            Rows::Range(from, _) => from + at as u32,
            Rows::Some(ordinals) => ordinals[at],
        }
    }

    fn part(self, part: usize, size: usize) -> Rows<'a> {
        let (from, to) = (part * size, ((part + 1) * size).min(self.len()));
        match self {
            Rows::Range(first, _) => Rows::Range(first + from as u32, first + to as u32),
            Rows::Some(ordinals) => Rows::Some(&ordinals[from..to]),
        }
    }
}

fn search_rows(vectors: &[f32], dim: usize, questions: &[f32], k: usize, rows: Rows<'_>) -> Vec<Vec<Hit>> {
    if dim == 0 || k == 0 || rows.len() == 0 {
        return vec![Vec::new(); questions.len().checked_div(dim).unwrap_or(0)];
    }
    let level = Level::best();
    let groups: Vec<&[f32]> = questions.chunks(QUESTIONS * dim).collect();
    let segments = rows.len().div_ceil(SEGMENT);
    let parts: Vec<Vec<BinaryHeap<Worst>>> = (0..groups.len() * segments)
        .into_par_iter()
        .map(|unit| {
            let (group, segment) = (unit / segments, unit % segments);
            search_segment(level, vectors, rows.part(segment, SEGMENT), dim, groups[group], k)
        })
        .collect();

    let mut found: Vec<Vec<Hit>> = Vec::with_capacity(questions.len() / dim);
    for of_group in parts.chunks(segments) {
        let asked = of_group.first().map_or(0, Vec::len);
        for question in 0..asked {
            let mut hits: Vec<Hit> =
                of_group.iter().flat_map(|part| part[question].iter().map(|worst| worst.0)).collect();
            hits.sort_unstable_by(Hit::rank);
            hits.truncate(k);
            found.push(hits);
        }
    }
    found
}

on_level! {
    fn search_segment(vectors: &[f32], rows: Rows<'_>, dim: usize, questions: &[f32], k: usize)
        -> Vec<BinaryHeap<Worst>> = segment_on
}

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn segment_on<L: Lanes>(
    vectors: &[f32],
    rows: Rows<'_>,
    dim: usize,
    questions: &[f32],
    k: usize,
) -> Vec<BinaryHeap<Worst>> {
    let mut best: Vec<Best> = questions.chunks_exact(dim).map(|_| Best::default()).collect();
    for start in (0..rows.len()).step_by(BLOCK) {
        let end = rows.len().min(start + BLOCK);
        for (pair, best) in questions.chunks(2 * dim).zip(best.chunks_mut(2)) {
            for four in (start..end).step_by(4) {
                // Fewer than four are filled up with the last one, whose product is then not looked at again.
                let mut ordinals = [0; 4];
                let mut pointers = [vectors.as_ptr(); 4];
                for at in 0..4 {
                    ordinals[at] = rows.at((four + at).min(end - 1));
                    let row = ordinals[at] as usize * dim;
                    pointers[at] = vectors[row..row + dim].as_ptr();
                }
                let taken = (end - four).min(4);
                let [first, second] = match pair.len() == 2 * dim {
                    // SAFETY: the caller promised the processor; each pointer leads to a row or a question of `dim` numbers.
                    true => unsafe { L::eight([pair.as_ptr(), pair[dim..].as_ptr()], pointers, dim) },
                    // SAFETY: as above.
                    false => [unsafe { L::four(pair.as_ptr(), pointers, dim) }; 2],
                };
                for (best, scores) in best.iter_mut().zip([first, second]) {
                    for (ordinal, score) in ordinals.into_iter().zip(scores).take(taken) {
                        best.offer(k, Hit { ordinal, score });
                    }
                }
            }
        }
    }
    best.into_iter().map(|best| best.heap).collect()
}

/// The best hits of one question so far.
struct Best {
    heap: BinaryHeap<Worst>,
    /// What is below this is not among them: most passages are told by this one comparison.
    below: f32,
}

impl Default for Best {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), below: f32::NEG_INFINITY }
    }
}

impl Best {
    #[inline(always)]
    fn offer(&mut self, k: usize, hit: Hit) {
        if hit.score < self.below {
            return;
        }
        keep(&mut self.heap, k, hit);
        if self.heap.len() == k
            && let Some(worst) = self.heap.peek()
        {
            self.below = worst.0.score;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::dot;

    #[test]
    fn best_first_and_ties_by_ordinal_across_blocks_and_segments() {
        let n = 2 * SEGMENT + 300;
        let vectors: Vec<f32> = (0..n).flat_map(|at| [if at % 1000 == 7 { 1.0 } else { 0.0 }, 1.0]).collect();
        let questions: Vec<f32> = (0..20).flat_map(|_| [1.0, 0.0]).collect();
        let found = search(&vectors, 2, &questions, 5);
        assert_eq!(found.len(), 20);
        for hits in found {
            let ordinals: Vec<u32> = hits.iter().map(|hit| hit.ordinal).collect();
            assert_eq!(ordinals, [7, 1007, 2007, 3007, 4007]);
        }
    }

    #[test]
    fn agrees_with_a_plain_sort() {
        let n = 700;
        let dim = 5;
        let vectors: Vec<f32> = (0..n * dim).map(|at| ((at * 7919) % 101) as f32 / 50.0 - 1.0).collect();
        let question = [0.3, -0.2, 0.9, 0.1, -0.5];
        let mut all: Vec<Hit> = vectors
            .chunks(dim)
            .enumerate()
            .map(|(ordinal, vector)| Hit { ordinal: ordinal as u32, score: dot(&question, vector) })
            .collect();
        all.sort_by(Hit::rank);
        assert_eq!(search(&vectors, dim, &question, n)[0], all);
        assert_eq!(search(&vectors, dim, &question, 10)[0], all[..10]);
        let odd = Allowed::new(n, (0..n as u32).filter(|ordinal| ordinal % 3 == 1)).unwrap();
        let wanted: Vec<Hit> = all.iter().filter(|hit| odd.contains(hit.ordinal)).copied().collect();
        assert_eq!(search_among(&vectors, dim, &question, n, &odd)[0], wanted);
        let tail: Vec<Hit> = all.iter().filter(|hit| hit.ordinal >= 598).copied().collect();
        assert_eq!(search_from(&vectors, dim, &question, n, 598)[0], tail);
        assert!(search_from(&vectors, dim, &question, 3, n)[0].is_empty());
        assert!(search_among(&vectors, dim, &question, 3, &Allowed::new(n, []).unwrap())[0].is_empty());
    }

    #[test]
    fn questions_do_not_disturb_each_other() {
        let (n, dim) = (101, 37);
        let vectors: Vec<f32> = (0..n * dim).map(|at| ((at * 7919) % 103) as f32 / 50.0 - 1.0).collect();
        let questions: Vec<f32> = (0..19 * dim).map(|at| ((at * 104729) % 97) as f32 / 48.0 - 1.0).collect();
        let together = search(&vectors, dim, &questions, 7);
        for (question, hits) in questions.chunks(dim).zip(&together) {
            assert_eq!(&search(&vectors, dim, question, 7)[0], hits);
        }
    }
}
