//! How and when the index follows an encoder whose passage side moves. Policies decide and do nothing else; `reindex` acts.
//!
//! Whatever the policy, vectors that moved are embedded anew before the final evaluation.

mod expected;
mod points;
mod rows;
mod settings;

use crate::objectives::choice::choice;

pub use expected::Expected;
pub use points::Points;
pub use rows::{Row, choose};
pub use settings::RefreshSettings;

choice! {
    /// How the index follows.
    Policy ("refresh policy") {
        /// Everything is embedded anew, and the graph is built anew.
        Full = "full",
        /// Everything is embedded anew; the graph keeps its edges unless a probe says that they lost too much.
        FullReuse = "full-reuse",
        /// A snapshot of the weights is embedded beside training and put to use some steps later (REALM, ANCE).
        Background = "background",
        /// Some passages are embedded anew into an overlay; candidates are ranked by live vectors.
        Rows = "rows",
        /// The stale index names candidates, which are ranked by live vectors, kept for some steps.
        Lazy = "lazy",
        /// Passages do not move.
        Question = "question",
        /// A linear map, fitted on some passages embedded anew, is applied to all stored vectors.
        Adapter = "adapter",
        /// As `full-reuse`, where the measured recall of the stale index fell under a target.
        Drift = "drift",
        /// Nothing during training.
        Never = "never",
    }
}

choice! {
    /// Which passages `rows` embeds first.
    By ("order of rows") {
        /// Those that were read most often since the last time.
        Retrieved = "retrieved",
        /// Those that were most often among the candidates of a question.
        Near = "near",
        /// Those whose stored vector is farthest from the live one, where that is known.
        Drifted = "drifted",
    }
}

/// The most recall@10 that kept edges may lose before a graph is built anew.
pub const MAX_LOSS: f32 = 0.003;

/// What is known about the index when a step is about to begin.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps the stage has.
    pub steps: u64,
    /// Optimiser steps done by the encoder that embedded the searched generation.
    pub embedded_at: u64,
    /// Whether the stage moves passage vectors.
    pub passages_move: bool,
    /// The step at which a snapshot that is being embedded takes the place of the searched generation.
    pub pending: Option<u64>,
}

impl Now {
    /// Whether stored vectors are older than the encoder.
    pub fn stale(&self) -> bool {
        self.passages_move && self.step > self.embedded_at
    }
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on with what there is.
    Keep,
    /// Embed the whole corpus with the live encoder, commit, swap.
    EmbedAll {
        /// Whether the edges of the graph are kept as long as they serve.
        reuse: bool,
    },
    /// Begin to embed the encoder as it is now beside training.
    Snapshot {
        /// The step at which the result is put to use.
        swap: u64,
    },
    /// Put the snapshot's generation to use, embedding at once what is not ready.
    Swap,
    /// Embed some passages into the overlay.
    EmbedSome,
    /// Fit a map of the stored vectors; keep it where it finds more than what there is.
    Fit,
    /// Measure the stale index, then decide by [`RefreshSettings::after_measuring`].
    Measure,
}

impl RefreshSettings {
    /// Decides before a step. An index that no step has made stale is left alone.
    pub fn decide(&self, now: &Now) -> Decision {
        if let Some(swap) = now.pending {
            return if now.step >= swap { Decision::Swap } else { Decision::Keep };
        }
        if !now.stale() || !self.points.due(now.step) {
            return Decision::Keep;
        }
        match self.policy {
            Policy::Full => Decision::EmbedAll { reuse: false },
            Policy::FullReuse | Policy::Lazy => Decision::EmbedAll { reuse: true },
            Policy::Background => {
                let swap = now.step.saturating_add(self.lag_at(now.step));
                // What would come after the last step is never searched.
                if swap < now.steps { Decision::Snapshot { swap } } else { Decision::Keep }
            }
            Policy::Rows => Decision::EmbedSome,
            Policy::Adapter => Decision::Fit,
            Policy::Drift => Decision::Measure,
            Policy::Question | Policy::Never => Decision::Keep,
        }
    }

    /// What `drift` does about a recall that it measured.
    pub fn after_measuring(&self, recall: f64) -> Decision {
        if recall < self.target { Decision::EmbedAll { reuse: true } } else { Decision::Keep }
    }

    /// Decides before the final evaluation: vectors that moved must be embedded anew, whatever the policy.
    pub fn decide_at_end(&self, now: &Now) -> Decision {
        if now.stale() { Decision::EmbedAll { reuse: self.policy != Policy::Full } } else { Decision::Keep }
    }

    /// Steps from a snapshot to its swap: as asked for, else half the interval; never past the next point, whose snapshot would
    /// be missed.
    pub fn lag_at(&self, step: u64) -> u64 {
        let lag = self.lag.unwrap_or_else(|| self.points.interval(step).unwrap_or_default() / 2);
        self.points.after(step).map_or(lag, |next| lag.min(next - step))
    }

    /// How many snapshots are swapped in before `steps`: all but perhaps the last, since each is before the next is taken.
    pub fn swaps_before(&self, steps: u64) -> u64 {
        let Some(last) = self.points.last_before(steps) else { return 0 };
        let in_time = last.saturating_add(self.lag_at(last)) < steps;
        self.points.count_before(steps) - u64::from(!in_time)
    }
}

/// Whether a map that finds `after` of the truth is kept in place of what finds `before` of it.
pub fn keeps_map(before: f64, after: f64) -> bool {
    after > before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(policy: Policy, every: u64) -> RefreshSettings {
        RefreshSettings { points: Points::every(every), ..RefreshSettings::new(policy) }
    }

    #[test]
    fn decisions() {
        use Decision::{EmbedAll, EmbedSome, Fit, Keep, Measure, Snapshot, Swap};
        let (build, reuse) = (EmbedAll { reuse: false }, EmbedAll { reuse: true });
        let table = [
            // policy, every, step, embedded at, passages move, pending, expected
            (Policy::Full, 0, 50, 0, true, None, Keep),
            (Policy::Full, 50, 0, 0, true, None, Keep),
            (Policy::Full, 50, 49, 0, true, None, Keep),
            (Policy::Full, 50, 50, 0, true, None, build),
            (Policy::Full, 50, 50, 50, true, None, Keep),
            (Policy::Full, 50, 51, 50, true, None, Keep),
            (Policy::Full, 50, 100, 50, true, None, build),
            (Policy::Full, 50, 100, 50, false, None, Keep),
            (Policy::FullReuse, 50, 50, 0, true, None, reuse),
            (Policy::Lazy, 50, 50, 0, true, None, reuse),
            (Policy::Lazy, 0, 50, 0, true, None, Keep),
            (Policy::Background, 50, 50, 0, true, None, Snapshot { swap: 75 }),
            (Policy::Background, 50, 60, 0, true, Some(75), Keep),
            (Policy::Background, 50, 75, 0, true, Some(75), Swap),
            (Policy::Background, 50, 76, 0, true, Some(75), Swap),
            (Policy::Background, 50, 100, 50, true, None, Snapshot { swap: 125 }),
            // Its swap would come after the last step.
            (Policy::Background, 50, 180, 150, true, None, Keep),
            (Policy::Background, 50, 200, 150, true, None, Keep),
            (Policy::Rows, 50, 50, 0, true, None, EmbedSome),
            (Policy::Rows, 50, 50, 0, false, None, Keep),
            (Policy::Adapter, 50, 50, 0, true, None, Fit),
            (Policy::Drift, 50, 50, 0, true, None, Measure),
            (Policy::Drift, 50, 51, 0, true, None, Keep),
            (Policy::Question, 50, 50, 0, true, None, Keep),
            (Policy::Never, 50, 50, 0, true, None, Keep),
        ];
        for (policy, every, step, embedded_at, passages_move, pending, expected) in table {
            let now = Now { step, steps: 200, embedded_at, passages_move, pending };
            assert_eq!(of(policy, every).decide(&now), expected, "{policy:?} every {every} {now:?}");
        }
        for policy in Policy::ALL {
            for (step, embedded_at, passages_move, stale) in
                [(10, 0, true, true), (10, 10, true, false), (10, 0, false, false)]
            {
                let now = Now { step, steps: 10, embedded_at, passages_move, pending: None };
                let expected = if stale { EmbedAll { reuse: *policy != Policy::Full } } else { Keep };
                assert_eq!(of(*policy, 0).decide_at_end(&now), expected, "{policy:?} {now:?}");
            }
        }
    }

    #[test]
    fn drift_refreshes_under_its_target_and_a_map_must_find_more() {
        let drift = RefreshSettings { target: 0.95, ..RefreshSettings::new(Policy::Drift) };
        assert_eq!(drift.after_measuring(0.9499), Decision::EmbedAll { reuse: true });
        assert_eq!(drift.after_measuring(0.95), Decision::Keep);
        assert!(keeps_map(0.8, 0.81) && !keeps_map(0.8, 0.8) && !keeps_map(0.8, 0.7));
    }

    #[test]
    fn a_lag_is_half_the_interval_unless_it_is_given() {
        let mut background = of(Policy::Background, 7);
        assert_eq!(background.lag_at(7), 3);
        background.lag = Some(0);
        assert_eq!(background.lag_at(7), 0);
        let now = Now { step: 7, steps: 8, passages_move: true, ..Now::default() };
        assert_eq!(background.decide(&now), Decision::Snapshot { swap: 7 });
        assert_eq!(background.decide(&Now { pending: Some(7), ..now }), Decision::Swap);
        // The last steps that a number holds.
        let all = RefreshSettings { lag: Some(u64::MAX), ..of(Policy::Background, u64::MAX - 1) };
        let now = Now { step: u64::MAX - 1, steps: u64::MAX, passages_move: true, ..Now::default() };
        assert_eq!(all.decide(&now), Decision::Keep);
        // The next part's point comes before half of the interval has passed.
        let points = Points::parse("0-100:30,100-200:20").unwrap();
        let across = RefreshSettings { points, ..RefreshSettings::new(Policy::Background) };
        assert_eq!((across.lag_at(60), across.lag_at(90), across.lag_at(120)), (15, 10, 10));
        let now = Now { step: 100, steps: 200, embedded_at: 60, passages_move: true, pending: Some(100) };
        assert_eq!(across.decide(&now), Decision::Swap);
        assert_eq!(across.decide(&Now { embedded_at: 90, pending: None, ..now }), Decision::Snapshot { swap: 110 });
    }
}
