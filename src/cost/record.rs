//! The ledger as plain data: what is written into run records and checkpoints.

use super::{Activity, Phase};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Work done, apart from the time it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Tokens put through a model, padding not counted.
    pub tokens: u64,
    /// Floating-point operations by the model's own formula (a model, not a measurement); a multiply-add is two.
    pub flops: f64,
    /// Passages embedded or scored.
    pub passages: u64,
    /// Bytes written to disk.
    pub bytes: u64,
    /// Questions that passages were looked for, by steps, minings and evaluations.
    #[serde(default)]
    pub searches: u64,
}

impl Counts {
    /// Adds another count to this one.
    pub fn add(&mut self, other: &Counts) {
        self.tokens = self.tokens.saturating_add(other.tokens);
        self.flops += other.flops;
        self.passages = self.passages.saturating_add(other.passages);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.searches = self.searches.saturating_add(other.searches);
    }
}

/// What was spent: exclusive time (nested spans are not in it) and counted work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Amounts {
    /// Wall seconds.
    pub seconds: f64,
    /// User plus system CPU seconds of all threads of the process during those wall seconds.
    pub cpu_seconds: f64,
    /// Tokens, FLOPs, passages, bytes.
    #[serde(flatten)]
    pub counts: Counts,
    /// The process's largest resident memory as known when such a span last ended, in bytes: a high-water mark of the
    /// process so far, not of the span alone.
    pub peak_memory_bytes: u64,
    /// Number of spans.
    pub calls: u64,
}

impl Amounts {
    /// Adds time, work and calls; of two peaks the larger stays.
    pub fn add(&mut self, other: &Amounts) {
        self.seconds += other.seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.counts.add(&other.counts);
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
        self.calls = self.calls.saturating_add(other.calls);
    }
}

impl Amounts {
    /// What was added since an earlier reading.
    fn since(&self, earlier: &Amounts) -> Amounts {
        let (now, before) = (&self.counts, &earlier.counts);
        Amounts {
            seconds: (self.seconds - earlier.seconds).max(0.0),
            cpu_seconds: (self.cpu_seconds - earlier.cpu_seconds).max(0.0),
            counts: Counts {
                tokens: now.tokens.saturating_sub(before.tokens),
                flops: (now.flops - before.flops).max(0.0),
                passages: now.passages.saturating_sub(before.passages),
                bytes: now.bytes.saturating_sub(before.bytes),
                searches: now.searches.saturating_sub(before.searches),
            },
            peak_memory_bytes: self.peak_memory_bytes,
            calls: self.calls.saturating_sub(earlier.calls),
        }
    }
}

/// What was spent for one purpose on one kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LedgerEntry {
    /// Why.
    pub activity: Activity,
    /// What.
    pub phase: Phase,
    /// How much.
    #[serde(flatten)]
    pub amounts: Amounts,
}

/// Everything a ledger knows at one moment.
///
/// Invariant: `wall_seconds` = sum of the entries' seconds + `unattributed.seconds`, up to rounding of the last bit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// Seconds that the program ran with this ledger, over all its sessions. Time between two sessions, and time lost
    /// to a kill after the last record, is not in it.
    pub wall_seconds: f64,
    /// CPU seconds in the same time.
    pub cpu_seconds: f64,
    /// The largest resident memory of any session, in bytes.
    pub peak_memory_bytes: u64,
    /// How many times the run was started or resumed.
    pub sessions: u32,
    /// Ordered by activity, then phase; each pair at most once.
    pub entries: Vec<LedgerEntry>,
    /// Time outside every span, and work counted while no span was open.
    pub unattributed: Amounts,
    /// The seconds of `unattributed`, by the activity during which they passed.
    pub unattributed_by_activity: BTreeMap<Activity, f64>,
}

impl LedgerRecord {
    /// All wall seconds, attributed or not.
    pub fn total_seconds(&self) -> f64 {
        self.wall_seconds
    }

    /// Wall seconds outside every span.
    pub fn unattributed_seconds(&self) -> f64 {
        self.unattributed.seconds
    }

    /// The unattributed share of the wall time, 0 to 1; 0 for an empty ledger.
    pub fn unattributed_share(&self) -> f64 {
        share(self.unattributed.seconds, self.wall_seconds)
    }

    /// What was spent for one purpose on one kind of work, if any.
    pub fn entry(&self, activity: Activity, phase: Phase) -> Option<&Amounts> {
        let at = self.entries.iter().find(|entry| entry.activity == activity && entry.phase == phase);
        at.map(|entry| &entry.amounts)
    }

    /// The sum over the phases of one activity.
    pub fn activity(&self, activity: Activity) -> Amounts {
        self.sum(|entry| entry.activity == activity)
    }

    /// The sum over the activities of one phase.
    pub fn phase(&self, phase: Phase) -> Amounts {
        self.sum(|entry| entry.phase == phase)
    }

    /// Everything: the sum of all entries and of what is unattributed.
    pub fn total(&self) -> Amounts {
        let mut total = self.sum(|_| true);
        total.add(&self.unattributed);
        total.peak_memory_bytes = total.peak_memory_bytes.max(self.peak_memory_bytes);
        total
    }

    /// Refresh seconds as a share of the wall time, 0 to 1.
    pub fn refresh_share(&self) -> f64 {
        share(self.activity(Activity::Refresh).seconds, self.wall_seconds)
    }

    /// What was spent since an earlier record of the same ledger. Peak memory is the later one's: it never falls.
    pub fn since(&self, earlier: &LedgerRecord) -> LedgerRecord {
        let entries = self.entries.iter().map(|entry| {
            let before = earlier.entry(entry.activity, entry.phase).copied().unwrap_or_default();
            LedgerEntry { amounts: entry.amounts.since(&before), ..*entry }
        });
        let unattributed = self.unattributed_by_activity.iter().map(|(&activity, seconds)| {
            let before = earlier.unattributed_by_activity.get(&activity).copied().unwrap_or_default();
            (activity, (seconds - before).max(0.0))
        });
        LedgerRecord {
            wall_seconds: (self.wall_seconds - earlier.wall_seconds).max(0.0),
            cpu_seconds: (self.cpu_seconds - earlier.cpu_seconds).max(0.0),
            peak_memory_bytes: self.peak_memory_bytes,
            sessions: 1 + self.sessions.saturating_sub(earlier.sessions),
            entries: entries.filter(|entry| entry.amounts.calls > 0 || entry.amounts.seconds > 0.0).collect(),
            unattributed: self.unattributed.since(&earlier.unattributed),
            unattributed_by_activity: unattributed.collect(),
        }
    }

    /// Adds another ledger to this one, as when a strategy is charged for a stage that another run paid.
    pub fn add(&mut self, other: &LedgerRecord) {
        self.wall_seconds += other.wall_seconds;
        self.cpu_seconds += other.cpu_seconds;
        self.peak_memory_bytes = self.peak_memory_bytes.max(other.peak_memory_bytes);
        self.sessions = self.sessions.saturating_add(other.sessions);
        let mut sums: BTreeMap<(Activity, Phase), Amounts> = BTreeMap::new();
        for entry in self.entries.iter().chain(&other.entries) {
            sums.entry((entry.activity, entry.phase)).or_default().add(&entry.amounts);
        }
        self.entries =
            sums.into_iter().map(|((activity, phase), amounts)| LedgerEntry { activity, phase, amounts }).collect();
        self.unattributed.add(&other.unattributed);
        for (&activity, seconds) in &other.unattributed_by_activity {
            *self.unattributed_by_activity.entry(activity).or_default() += seconds;
        }
    }

    fn sum(&self, wanted: impl Fn(&LedgerEntry) -> bool) -> Amounts {
        let mut sum = Amounts::default();
        for entry in self.entries.iter().filter(|entry| wanted(entry)) {
            sum.add(&entry.amounts);
        }
        sum
    }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(activity: Activity, phase: Phase, seconds: f64, tokens: u64) -> LedgerEntry {
        let counts = Counts { tokens, flops: 2.0 * tokens as f64, passages: 1, ..Counts::default() };
        let amounts = Amounts { seconds, cpu_seconds: seconds, counts, peak_memory_bytes: tokens, calls: 1 };
        LedgerEntry { activity, phase, amounts }
    }

    fn record() -> LedgerRecord {
        LedgerRecord {
            wall_seconds: 10.0,
            cpu_seconds: 12.0,
            peak_memory_bytes: 9,
            sessions: 1,
            entries: vec![
                entry(Activity::Train, Phase::Embed, 2.0, 5),
                entry(Activity::Train, Phase::Backward, 4.0, 0),
                entry(Activity::Refresh, Phase::Embed, 3.0, 7),
            ],
            unattributed: Amounts { seconds: 1.0, ..Amounts::default() },
            unattributed_by_activity: BTreeMap::from([(Activity::Setup, 1.0)]),
        }
    }

    #[test]
    fn sums_by_activity_and_by_phase_cover_everything_once() {
        let record = record();
        let by_activity: f64 = Activity::ALL.iter().map(|&a| record.activity(a).seconds).sum();
        let by_phase: f64 = Phase::ALL.iter().map(|&p| record.phase(p).seconds).sum();
        assert_eq!(by_activity, 9.0);
        assert_eq!(by_phase, 9.0);
        assert_eq!(record.total().seconds, record.wall_seconds);
        assert_eq!(record.total().counts.tokens, 12);
        assert_eq!(record.total().peak_memory_bytes, 9);
        assert!((record.unattributed_share() - 0.1).abs() < 1e-12);
        assert!((record.refresh_share() - 0.3).abs() < 1e-12);
        assert_eq!(LedgerRecord::default().refresh_share(), 0.0);
    }

    #[test]
    fn a_record_survives_json_and_names_are_lower_case() {
        let text = serde_json::to_string(&record()).unwrap();
        assert!(text.contains(r#""activity":"refresh","phase":"embed","seconds":3.0"#), "{text}");
        assert!(text.contains(r#""unattributed_by_activity":{"setup":1.0}"#), "{text}");
        assert_eq!(serde_json::from_str::<LedgerRecord>(&text).unwrap(), record());
    }

    #[test]
    fn adding_a_ledger_adds_every_entry() {
        let mut sum = record();
        sum.add(&record());
        assert_eq!(sum.entries.len(), 3);
        assert_eq!(sum.total().seconds, 20.0);
        assert_eq!(sum.entry(Activity::Refresh, Phase::Embed).unwrap().counts.tokens, 14);
        assert_eq!(sum.peak_memory_bytes, 9);
        assert_eq!(sum.unattributed_by_activity[&Activity::Setup], 2.0);
    }
}
