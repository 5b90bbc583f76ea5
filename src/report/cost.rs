//! The cost of a row of the comparison: one run, or the mean over runs that differ by seed only.

use super::record::{RunRecord, StageCharge};
use super::search::{points, search_cost};
use crate::cost::{Activity, Amounts, Counts, LedgerRecord, Phase};
use crate::eval::statistics::{deviation, mean};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// What one stage of a row cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageCost {
    /// Its name.
    pub name: String,
    /// Optimiser steps done.
    pub steps: f64,
    /// Optimiser steps that early stopping saved.
    pub steps_saved: f64,
    /// The equation it minimised.
    #[serde(default)]
    pub equation: String,
    /// What the equation was told.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Wall seconds, whoever paid.
    pub seconds: f64,
    /// Whether every run took it from another run instead of training it.
    pub reused: bool,
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
    /// Its stages in order, mean over the runs.
    pub stages: Vec<StageCost>,
    /// Prompts whose likelihood under the frozen generator was remembered instead of being computed, mean over the runs.
    #[serde(default)]
    pub remembered_prompts: f64,
    /// Modelled operations that this saved.
    #[serde(default)]
    pub remembered_flops: f64,
    /// Bytes of the vectors and the graph that are searched in the end: the largest of any run.
    #[serde(default)]
    pub index_bytes: u64,
    /// Wall seconds that the search for its learning rates adds to the bills of its runs, once for all of its seeds: what all points
    /// spent, less the stages that those bills have already; 0 where none was searched.
    pub search_seconds: f64,
    /// Learning rates (or pairs of them) that were tried for it.
    pub search_points: u64,
    /// All of it: CPU seconds, tokens, FLOPs, passages, bytes; the peak memory is the largest of any run.
    pub total: Amounts,
}

impl Cost {
    /// The cost of a row: what each of its strategies costs by itself, mean over the runs.
    pub(super) fn of(records: &[&RunRecord]) -> Self {
        let wholes: Vec<LedgerRecord> = records.iter().map(|record| record.whole()).collect();
        let runs: Vec<(&LedgerRecord, usize)> =
            wholes.iter().zip(records).map(|(whole, record)| (whole, record.refreshed())).collect();
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
        let average = |of: &dyn Fn(&RunRecord) -> f64| records.iter().map(|record| of(record)).sum::<f64>() / count;
        Self {
            seconds: Spread { mean: mean(&seconds).unwrap_or_default(), deviation: deviation(&seconds) },
            ratio: None,
            lines,
            unattributed_seconds: sum.unattributed_seconds() / count,
            unattributed_share: sum.unattributed_share(),
            refresh_seconds: sum.activity(Activity::Refresh).seconds / count,
            refresh_share: sum.refresh_share(),
            refreshes: runs.iter().map(|&(_, refreshes)| refreshes as f64).sum::<f64>() / count,
            stages: stages(records),
            remembered_prompts: average(&|record| record.remembered.prompts as f64),
            remembered_flops: average(&|record| record.remembered.flops),
            index_bytes: records
                .iter()
                .map(|record| record.index.vector_bytes + record.index.graph_bytes)
                .max()
                .unwrap_or_default(),
            search_seconds: search_cost(records).total_seconds(),
            search_points: points(records.iter().copied()).len() as u64,
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

/// The stages of runs that differ by seed only: the same ones in the same order, one shorter list where a run was stopped.
fn stages(records: &[&RunRecord]) -> Vec<StageCost> {
    let longest = records.iter().map(|record| record.stages.len()).max().unwrap_or(0);
    let of = |number: usize| -> Vec<&StageCharge> {
        records.iter().filter_map(|record| record.stages.get(number)).collect()
    };
    (0..longest)
        .map(|number| {
            let all = of(number);
            let average = |value: &dyn Fn(&StageCharge) -> f64| {
                mean(&all.iter().map(|stage| value(stage)).collect::<Vec<_>>()).unwrap_or_default()
            };
            StageCost {
                name: all.first().map(|stage| stage.name.clone()).unwrap_or_default(),
                steps: average(&|stage| stage.steps as f64),
                equation: all.first().map(|stage| stage.equation.clone()).unwrap_or_default(),
                settings: all.first().map(|stage| stage.settings.clone()).unwrap_or_default(),
                steps_saved: average(&|stage| stage.steps_asked.saturating_sub(stage.steps) as f64),
                seconds: average(&|stage| stage.ledger.total_seconds()),
                reused: all.iter().all(|stage| stage.reused),
            }
        })
        .collect()
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
            searches: whole(counts.searches),
        },
        peak_memory_bytes: amounts.peak_memory_bytes,
        calls: whole(amounts.calls),
    }
}
