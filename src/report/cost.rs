//! The cost of a row of the comparison: one run, or the mean over runs that differ by seed only.

use crate::cost::{Activity, Amounts, Counts, LedgerRecord, Phase};
use crate::eval::statistics::{deviation, mean};
use serde::{Deserialize, Serialize};

/// A mean over runs, and how far they lie apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean over the runs.
    pub mean: f64,
    /// Standard deviation over the runs (over n - 1); none of a single run.
    pub deviation: Option<f64>,
}

/// What was spent for one purpose, or for one purpose on one kind of work; mean over the runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CostLine {
    /// Why.
    pub activity: Activity,
    /// What; none for the sum over an activity.
    pub phase: Option<Phase>,
    /// How much.
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// The whole cost of a row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Wall seconds of everything: setup, training, refreshes, evaluation, and what is unattributed.
    pub seconds: Spread,
    /// `seconds` divided by the reference row's; none when that is 0.
    pub ratio: Option<Spread>,
    /// Every activity that took time (phase: none), each followed by its phases.
    pub lines: Vec<CostLine>,
    /// Wall seconds charged to nothing.
    pub unattributed_seconds: f64,
    /// Their share of `seconds`, 0 to 1.
    pub unattributed_share: f64,
    /// Wall seconds of refreshing the index.
    pub refresh_seconds: f64,
    /// Their share of `seconds`, 0 to 1.
    pub refresh_share: f64,
    /// Number of refreshes.
    pub refreshes: f64,
    /// All of it: CPU seconds, tokens, FLOPs, passages, bytes; the peak memory is the largest of any run.
    pub total: Amounts,
}

impl Cost {
    /// The cost of a row: `runs` holds the ledger of each run and its number of refreshes.
    pub(super) fn of(runs: &[(&LedgerRecord, usize)]) -> Self {
        let mut sum = LedgerRecord::default();
        runs.iter().for_each(|(ledger, _)| sum.add(ledger));
        let count = runs.len().max(1) as f64;
        let mut lines = Vec::new();
        for activity in Activity::ALL {
            let phases = sum.entries.iter().filter(|entry| entry.activity == activity);
            let mut phases: Vec<CostLine> = phases
                .map(|entry| CostLine { activity, phase: Some(entry.phase), amounts: divided(&entry.amounts, count) })
                .collect();
            if !phases.is_empty() {
                lines.push(CostLine { activity, phase: None, amounts: divided(&sum.activity(activity), count) });
                lines.append(&mut phases);
            }
        }
        let seconds: Vec<f64> = runs.iter().map(|(ledger, _)| ledger.total_seconds()).collect();
        Self {
            seconds: Spread { mean: mean(&seconds).unwrap_or_default(), deviation: deviation(&seconds) },
            ratio: None,
            lines,
            unattributed_seconds: sum.unattributed_seconds() / count,
            unattributed_share: sum.unattributed_share(),
            refresh_seconds: sum.activity(Activity::Refresh).seconds / count,
            refresh_share: sum.refresh_share(),
            refreshes: runs.iter().map(|&(_, refreshes)| refreshes as f64).sum::<f64>() / count,
            total: divided(&sum.total(), count),
        }
    }

    /// Puts in the ratio to the reference row. Its deviation follows from those of both by the first-order formula for
    /// independent quantities: r * sqrt((sa / a)^2 + (sb / b)^2).
    pub(super) fn compare_with(&mut self, reference: &Spread) {
        let ours = self.seconds;
        let usable = reference.mean > 0.0 && ours.mean > 0.0;
        self.ratio = usable.then(|| {
            let mean = ours.mean / reference.mean;
            let relative = |spread: Spread| spread.deviation.map(|deviation| deviation / spread.mean);
            let deviation = match (relative(ours), relative(*reference)) {
                (Some(a), Some(b)) => Some(mean * a.hypot(b)),
                _ => None,
            };
            Spread { mean, deviation }
        });
    }

    /// The line of an activity (phase: none) or of a phase within it.
    pub fn line(&self, activity: Activity, phase: Option<Phase>) -> Option<&CostLine> {
        self.lines.iter().find(|line| line.activity == activity && line.phase == phase)
    }
}

fn divided(amounts: &Amounts, by: f64) -> Amounts {
    let whole = |value: u64| (value as f64 / by).round() as u64;
    let counts = &amounts.counts;
    Amounts {
        seconds: amounts.seconds / by,
        cpu_seconds: amounts.cpu_seconds / by,
        counts: Counts {
            tokens: whole(counts.tokens),
            flops: counts.flops / by,
            passages: whole(counts.passages),
            bytes: whole(counts.bytes),
        },
        peak_memory_bytes: amounts.peak_memory_bytes,
        calls: whole(amounts.calls),
    }
}
