//! Scores of one question over all passages, and the best of them.

use crate::bm25::{ABSENT, Fits};

/// A score for every ordinal, most of them 0. Kept from question to question: only what was touched is cleared.
pub(crate) struct Scores {
    scores: Vec<f64>,
    touched: Vec<u32>,
}

impl Scores {
    pub(crate) fn new(len: usize) -> Self {
        Self { scores: vec![0.0; len], touched: Vec::new() }
    }

    /// Adds something positive to a score.
    #[inline]
    pub(crate) fn add(&mut self, ordinal: u32, amount: f64) {
        let Some(score) = self.scores.get_mut(ordinal as usize) else { return };
        if *score == 0.0 {
            self.touched.push(ordinal);
        }
        *score += amount;
    }

    pub(crate) fn of(&self, ordinal: u32) -> f64 {
        self.scores.get(ordinal as usize).copied().unwrap_or_default()
    }

    pub(crate) fn clear(&mut self) {
        for ordinal in self.touched.drain(..) {
            if let Some(score) = self.scores.get_mut(ordinal as usize) {
                *score = 0.0;
            }
        }
    }
}

/// The `k` best of the passages that there are and that fit, ties by ordinal, and how many of them have a score above 0. What is missing is
/// filled up with passages of score 0 in the order of ordinals, which is where a sort of all passages would put them.
pub(crate) fn best(scores: &Scores, k: usize, lengths: &[u32], fits: Option<Fits<'_>>) -> (Vec<(u32, f32)>, usize) {
    let fits = |ordinal: &u32| fits.is_none_or(|fits| fits(*ordinal));
    let mut found: Vec<(u32, f32)> = scores
        .touched
        .iter()
        .filter(|ordinal| fits(ordinal))
        .map(|ordinal| (*ordinal, scores.of(*ordinal) as f32))
        .collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if k == 0 {
        return (Vec::new(), 0);
    }
    if found.len() > k {
        found.select_nth_unstable_by(k - 1, order);
        found.truncate(k);
    }
    found.sort_unstable_by(order);
    let matched = found.len();
    if matched < k {
        let is_left = |ordinal: &u32, length: u32| length != ABSENT && scores.of(*ordinal) == 0.0 && fits(ordinal);
        let rest = (0u32..).zip(lengths).filter(|(ordinal, length)| is_left(ordinal, **length));
        found.extend(rest.take(k - matched).map(|(ordinal, _)| (ordinal, 0.0)));
    }
    (found, matched)
}
