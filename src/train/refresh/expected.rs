//! How many passages a policy will embed, as far as that is known before training.

use super::{Policy, RefreshSettings};
use crate::train::reindex::{PROBE_DEPTH, probe_questions};

/// Of one stage whose passages move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Times that the whole corpus is embedded; the last makes the index match the trained encoder.
    pub refreshes: u64,
    /// Passages embedded besides, at the points of the schedule and within steps.
    pub others: u64,
    /// Whether fewer may do: what a cache knows, what a probe finds good enough.
    pub at_most: bool,
}

impl Expected {
    /// Of all stages whose passages move.
    pub fn sum(stages: Vec<Self>) -> Self {
        stages.into_iter().fold(Self::default(), |sum, one| Self {
            refreshes: sum.refreshes.saturating_add(one.refreshes),
            others: sum.others.saturating_add(one.others),
            at_most: sum.at_most || one.at_most,
        })
    }
}

impl RefreshSettings {
    /// What a stage of `steps` steps of `batch` questions each embeds of a corpus.
    pub fn expected(&self, steps: u64, batch: usize, corpus: usize) -> Expected {
        let last = u64::from(steps > 0);
        let all = self.points.count_before(steps);
        let ranked = || steps.saturating_sub(1).saturating_mul(batch.saturating_mul(self.depth).min(corpus) as u64);
        let sample = self.sample.min(corpus) as u64;
        match self.policy {
            Policy::Full | Policy::FullReuse => Expected { refreshes: all + last, ..Expected::default() },
            Policy::Background => {
                let swaps = self.swaps_before(steps);
                // Measured by a sample, since the encoder has gone on.
                Expected { refreshes: swaps + last, others: swaps.saturating_mul(sample), at_most: swaps > 0 }
            }
            Policy::Lazy => Expected { refreshes: all + last, others: ranked(), at_most: true },
            Policy::Rows => {
                // Measured by a sample, and by the candidates of its questions, before and after, that are not in it.
                let questions = probe_questions(self.sample) as u64;
                let measuring = questions.saturating_mul(2).saturating_mul(self.depth.max(PROBE_DEPTH) as u64);
                let measuring = sample.saturating_add(measuring).min(corpus as u64);
                let rows = self.rows_of(corpus) as u64 + measuring;
                Expected { refreshes: last, others: all.saturating_mul(rows).saturating_add(ranked()), at_most: true }
            }
            Policy::Adapter => Expected { refreshes: last, others: all.saturating_mul(sample), at_most: true },
            Policy::Drift => Expected { refreshes: all + last, others: all.saturating_mul(sample), at_most: true },
            Policy::Question | Policy::Never => Expected { refreshes: last, ..Expected::default() },
        }
    }

    /// Passages that `rows` embeds at a point.
    pub fn rows_of(&self, corpus: usize) -> usize {
        self.rows.unwrap_or_else(|| corpus.div_ceil(10)).min(corpus)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Points;
    use super::*;

    #[test]
    fn passages_by_policy() {
        let of = |policy: Policy, every: u64| {
            let settings = RefreshSettings { points: Points::every(every), ..RefreshSettings::new(policy) };
            settings.expected(100, 4, 1000)
        };
        let exactly = |refreshes, others| Expected { refreshes, others, at_most: false };
        let up_to = |refreshes, others| Expected { refreshes, others, at_most: true };
        for (policy, every, expected) in [
            (Policy::Full, 0, exactly(1, 0)),
            (Policy::Full, 40, exactly(3, 0)),
            (Policy::FullReuse, 50, exactly(2, 0)),
            // Swaps at 60, measured by a sample, and, too late, at 100.
            (Policy::Background, 40, up_to(2, 512)),
            (Policy::Lazy, 0, up_to(1, 99 * 80)),
            // A tenth of the corpus, 512 to measure, and 20 candidates of each of its 25 questions, no more than there are.
            (Policy::Rows, 50, up_to(1, 100 + 1000 + 99 * 80)),
            (Policy::Adapter, 50, up_to(1, 1000)),
            (Policy::Drift, 40, up_to(3, 2 * 512)),
            (Policy::Never, 0, exactly(1, 0)),
        ] {
            assert_eq!(of(policy, every), expected, "{policy:?} {every}");
        }
        // Never more than there are, whatever is asked for.
        for (policy, others) in [(Policy::Lazy, 99 * 1000), (Policy::Rows, 100 + 1000 + 99 * 1000)] {
            let settings =
                RefreshSettings { points: Points::every(50), depth: 1 << 62, ..RefreshSettings::new(policy) };
            assert_eq!(settings.expected(100, 4, 1000).others, others, "{policy:?}");
        }
        assert_eq!(RefreshSettings::new(Policy::Full).expected(0, 4, 1000), Expected::default());
    }
}
