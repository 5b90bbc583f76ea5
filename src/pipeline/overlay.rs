//! Some passages with newer vectors than the index stores: which candidates the two name together.
//!
//! Scores of vectors from different encoder states are not comparable: a passage embedded anew moves with the questions and wins
//! rank for that alone, until the mixture names worse candidates than the stale index would by itself. So the two rank apart, and
//! candidates are taken from both: one of the newer, whose order among themselves is right, for every three of the stale, whose
//! order is not and of which more must be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ragtune_index::{Generation, Search, Trust};

use crate::error::{Error, Result};

/// Candidates that the stale index names for each of the overlay's.
const STALE: usize = 3;

/// Newer vectors of some passages, by ordinal. Copies share them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overlay(Arc<BTreeMap<u32, Vec<f32>>>);

impl Overlay {
    /// These vectors, each of D numbers, for passages of `generation`.
    pub fn of(vectors: BTreeMap<u32, Vec<f32>>, generation: &Generation) -> Result<Self> {
        for (ordinal, vector) in &vectors {
            if *ordinal as usize >= generation.len() || vector.len() != generation.dim() {
                return Err(Error::new(format!(
                    "passage number `{ordinal}` of the overlay is not in the index, of {} passages and {} numbers each",
                    generation.len(),
                    generation.dim()
                )));
            }
        }
        Ok(Self(Arc::new(vectors)))
    }

    /// All, by ordinal.
    pub fn vectors(&self) -> &BTreeMap<u32, Vec<f32>> {
        &self.0
    }

    /// The vector by which a passage becomes a candidate first: its newer one, or the one that is stored.
    pub fn vector<'v>(&'v self, ordinal: u32, generation: &'v Generation) -> Result<&'v [f32]> {
        match self.0.get(&ordinal) {
            Some(vector) => Ok(vector),
            None => Ok(generation.vector(ordinal)?),
        }
    }

    /// `depth` candidates of each question, `questions` (B, D) row-major: of those that the newer vectors put first one for every
    /// three that `generation` does.
    pub fn candidates(
        &self,
        generation: &Generation,
        questions: &[f32],
        depth: usize,
        search: Search,
    ) -> Result<Vec<Vec<u32>>> {
        let stored = generation.search(questions, depth, search, Trust::StaleAllowed)?;
        let stored = stored.into_iter().map(|row| row.into_iter().map(|hit| hit.ordinal).collect::<Vec<u32>>());
        if self.0.is_empty() {
            return Ok(stored.collect());
        }
        let rows = stored.zip(questions.chunks_exact(generation.dim()));
        Ok(rows.map(|(stored, question)| in_turn(&stored, &self.nearest(question, depth), depth)).collect())
    }

    /// The `depth` passages with the highest inner products; ties by ordinal.
    fn nearest(&self, question: &[f32], depth: usize) -> Vec<u32> {
        let mut scored: Vec<(f32, u32)> =
            self.0.iter().map(|(ordinal, vector)| (dot(question, vector), *ordinal)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        scored.into_iter().take(depth).map(|(_, ordinal)| ordinal).collect()
    }
}

/// The first three of the stale, the first of the newer, the next three, and so on, each passage once, until there are `most`.
fn in_turn(stale: &[u32], newer: &[u32], most: usize) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let turns = (0..stale.len().div_ceil(STALE).max(newer.len())).flat_map(|turn| {
        let from = (turn * STALE).min(stale.len());
        stale[from..(from + STALE).min(stale.len())].iter().chain(newer.get(turn))
    });
    turns.copied().filter(|ordinal| seen.insert(*ordinal)).take(most).collect()
}

/// The inner product, summed in order.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lists_are_taken_in_turn_and_a_passage_once() {
        assert_eq!(in_turn(&[5, 1, 9, 4, 2], &[1, 7, 8], 9), [5, 1, 9, 4, 2, 7, 8]);
        assert_eq!(in_turn(&[5, 1, 9, 4, 2], &[7, 8], 5), [5, 1, 9, 7, 4]);
        assert_eq!(in_turn(&[], &[1, 7, 8], 2), [1, 7]);
        assert_eq!(in_turn(&[4], &[4, 3, 2], 9), [4, 3, 2]);
        // As many as the stale list has are always found: nothing is lost where it holds everything.
        assert_eq!(in_turn(&[0, 1, 2, 3], &[2, 0], 4).len(), 4);
    }

    #[test]
    fn newer_vectors_rank_among_themselves() {
        let overlay = [(3, vec![0.6, 0.8]), (7, vec![1.0, 0.0]), (9, vec![0.0, 1.0]), (4, vec![0.6, 0.8])];
        let overlay = Overlay(Arc::new(overlay.into()));
        assert_eq!(overlay.nearest(&[0.0, 1.0], 3), [9, 3, 4]);
    }
}
