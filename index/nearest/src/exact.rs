//! Exact search: every passage scored. The oracle that the graph is measured against and the fallback for everything.
//!
//! B questions, N passages, D dimension, k asked for.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rayon::prelude::*;

use crate::distance::dot;

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
/// Passages in a block: with 384 dimensions 200 KB, which stays in a core's cache.
const BLOCK: usize = 128;
/// Passages in one unit of parallel work.
const SEGMENT: usize = 16 * 1024;

/// The `k` best passages for each question, best first: `vectors` (N, D), `questions` (B, D), both row-major and finite.
///
/// The result does not depend on the number of threads: a score depends on its two vectors alone, and the order of hits is
/// total.
pub fn search(vectors: &[f32], dim: usize, questions: &[f32], k: usize) -> Vec<Vec<Hit>> {
    if dim == 0 || k == 0 {
        return vec![Vec::new(); questions.len().checked_div(dim).unwrap_or(0)];
    }
    let groups: Vec<&[f32]> = questions.chunks(QUESTIONS * dim).collect();
    let segments: Vec<&[f32]> = vectors.chunks(SEGMENT * dim).collect();
    let parts: Vec<Vec<BinaryHeap<Worst>>> = (0..groups.len() * segments.len())
        .into_par_iter()
        .map(|unit| {
            let (group, segment) = (unit / segments.len(), unit % segments.len());
            search_segment(segments[segment], segment * SEGMENT, dim, groups[group], k)
        })
        .collect();

    let mut found: Vec<Vec<Hit>> = Vec::with_capacity(questions.len() / dim);
    for of_group in parts.chunks(segments.len().max(1)) {
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

fn search_segment(segment: &[f32], first: usize, dim: usize, questions: &[f32], k: usize) -> Vec<BinaryHeap<Worst>> {
    let mut best = vec![BinaryHeap::new(); questions.len() / dim];
    for (block, vectors) in segment.chunks(BLOCK * dim).enumerate() {
        for (question, best) in questions.chunks_exact(dim).zip(&mut best) {
            for (row, vector) in vectors.chunks_exact(dim).enumerate() {
                let ordinal = (first + block * BLOCK + row) as u32;
                keep(best, k, Hit { ordinal, score: dot(question, vector) });
            }
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
