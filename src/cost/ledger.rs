//! The ledger: charges every second of the program exactly once.
//!
//! One mark moves along the clock. Whenever a span opens or closes, the time since the mark goes to the innermost span
//! open until then, or to "unattributed" when none was, and the mark moves on. So a nested span subtracts from the one
//! around it, nothing is counted twice, and the sum is the wall time by construction. Time is summed in whole nanoseconds.
//!
//! Threads beside the one that drives the run ([`Ledger::beside`]) take no wall time; the processor time that they report is
//! taken off what the process used meanwhile and charged to what they work for, so that it too is counted once.

use super::beside::Beside;
use super::clock::{Moment, peak_memory_bytes};
use super::record::{Amounts, Counts, LedgerEntry, LedgerRecord};
use super::{Activity, Phase};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Memory is read at most this often: the reading costs tens of microseconds and the gauge never falls, so a peak missed
/// at one span's end is seen at the next.
const MEMORY_INTERVAL: Duration = Duration::from_millis(10);

/// Where this run's time, CPU time, tokens, FLOPs, passages and bytes go. Clones share one account. Not for other threads:
/// their CPU time is counted, but spans are opened by the thread that drives the run.
#[derive(Debug, Clone)]
pub struct Ledger(Rc<RefCell<Account>>);

impl Ledger {
    /// A ledger whose clock starts now, with activity [`Activity::Setup`].
    pub fn new() -> Self {
        Self::resume(LedgerRecord::default())
    }

    /// Continues the sums of an interrupted run; the clock starts now.
    pub fn resume(record: LedgerRecord) -> Self {
        Self(Rc::new(RefCell::new(Account::new(&record))))
    }

    /// Charges what follows to `activity` until the guard is dropped, then to the activity before it.
    #[must_use = "the activity ends when the guard is dropped"]
    pub fn activity(&self, activity: Activity) -> ActivityGuard {
        let mut account = self.0.borrow_mut();
        account.advance();
        let id = account.next_id();
        account.activities.push((id, activity));
        ActivityGuard { ledger: self.clone(), id }
    }

    /// Charges the time from now until the span is dropped to (present activity, `phase`), less the time of spans opened
    /// inside it.
    #[must_use = "the span ends when it is dropped"]
    pub fn span(&self, phase: Phase) -> Span {
        let mut account = self.0.borrow_mut();
        account.advance();
        let key = (account.present_activity(), phase);
        let id = account.next_id();
        account.open.push((id, key));
        account.entries.entry(key).or_default().calls += 1;
        Span { ledger: self.clone(), id, key }
    }

    /// Runs `work` inside a span.
    pub fn charge<T>(&self, phase: Phase, work: impl FnOnce() -> T) -> T {
        let _span = self.span(phase);
        work()
    }

    /// An account for threads beside: the processor time that they report there is charged to (`activity`, `phase`) and not to
    /// the span that is open meanwhile.
    pub fn beside(&self, activity: Activity, phase: Phase) -> Beside {
        let beside = Beside::default();
        let mut account = self.0.borrow_mut();
        account.advance();
        account.beside.push(Owed { key: (activity, phase), beside: beside.clone(), cpu: Duration::ZERO });
        beside
    }

    /// Adds work to the innermost open span; when none is open, to what is unattributed.
    pub fn add(&self, counts: Counts) {
        let mut account = self.0.borrow_mut();
        let key = account.open.last().map(|&(_, key)| key);
        account.sum(key).counts.add(&counts);
    }

    /// The activity that a span opened now would be charged to.
    pub fn present_activity(&self) -> Activity {
        self.0.borrow().present_activity()
    }

    /// Wall seconds since the ledger began, over all sessions.
    pub fn total_seconds(&self) -> f64 {
        let mut account = self.0.borrow_mut();
        account.advance();
        account.wall().as_secs_f64()
    }

    /// Wall seconds outside every span.
    pub fn unattributed_seconds(&self) -> f64 {
        let mut account = self.0.borrow_mut();
        account.advance();
        account.unattributed().wall.as_secs_f64()
    }

    /// Everything up to now, spans still open included up to now. The ledger goes on.
    pub fn snapshot(&self) -> LedgerRecord {
        let mut account = self.0.borrow_mut();
        account.advance();
        account.read_memory(true);
        account.record()
    }
}

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

/// While it lives, spans are charged to its activity.
#[derive(Debug)]
pub struct ActivityGuard {
    ledger: Ledger,
    id: u64,
}

impl Drop for ActivityGuard {
    fn drop(&mut self) {
        let mut account = self.ledger.0.borrow_mut();
        account.advance();
        account.activities.retain(|&(id, _)| id != self.id);
    }
}

/// While it lives, time is charged to its activity and phase, unless a span opened later is still open.
#[derive(Debug)]
pub struct Span {
    ledger: Ledger,
    id: u64,
    key: (Activity, Phase),
}

impl Span {
    /// Adds tokens put through a model; padding is not counted.
    pub fn tokens(&self, tokens: u64) -> &Self {
        self.add(Counts { tokens, ..Counts::default() })
    }

    /// Adds floating-point operations by the model's formula.
    pub fn flops(&self, flops: f64) -> &Self {
        self.add(Counts { flops, ..Counts::default() })
    }

    /// Adds passages embedded or scored.
    pub fn passages(&self, passages: u64) -> &Self {
        self.add(Counts { passages, ..Counts::default() })
    }

    /// Adds bytes written to disk.
    pub fn bytes(&self, bytes: u64) -> &Self {
        self.add(Counts { bytes, ..Counts::default() })
    }

    /// Adds questions that passages were looked for.
    pub fn searches(&self, searches: u64) -> &Self {
        self.add(Counts { searches, ..Counts::default() })
    }

    /// Adds work of several kinds.
    pub fn add(&self, counts: Counts) -> &Self {
        self.ledger.0.borrow_mut().sum(Some(self.key)).counts.add(&counts);
        self
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let mut account = self.ledger.0.borrow_mut();
        account.advance();
        account.read_memory(false);
        let peak = account.peak_memory_bytes;
        let sum = account.sum(Some(self.key));
        sum.peak_memory_bytes = sum.peak_memory_bytes.max(peak);
        account.open.retain(|&(id, _)| id != self.id);
    }
}

type Key = (Activity, Phase);

#[derive(Debug)]
struct Account {
    mark: Moment,
    entries: BTreeMap<Key, Sum>,
    unattributed: BTreeMap<Activity, Sum>,
    /// Open spans, innermost last, each with its number: guards may be dropped in any order.
    open: Vec<(u64, Key)>,
    activities: Vec<(u64, Activity)>,
    guards: u64,
    sessions: u32,
    peak_memory_bytes: u64,
    memory_read: Option<Moment>,
    beside: Vec<Owed>,
}

/// What threads beside have reported and the process's time has not covered yet.
#[derive(Debug)]
struct Owed {
    key: Key,
    beside: Beside,
    cpu: Duration,
}

/// [`Amounts`] with time in whole nanoseconds, so that sums do not depend on their order.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    wall: Duration,
    cpu: Duration,
    counts: Counts,
    peak_memory_bytes: u64,
    calls: u64,
}

impl Account {
    fn new(record: &LedgerRecord) -> Self {
        let entries =
            record.entries.iter().map(|entry| ((entry.activity, entry.phase), Sum::from(&entry.amounts))).collect();
        Self {
            mark: Moment::now(),
            entries,
            unattributed: split_unattributed(record),
            open: Vec::new(),
            activities: Vec::new(),
            guards: 0,
            sessions: record.sessions.saturating_add(1),
            peak_memory_bytes: record.peak_memory_bytes,
            memory_read: None,
            beside: Vec::new(),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.guards += 1;
        self.guards
    }

    fn present_activity(&self) -> Activity {
        self.activities.last().map_or(Activity::Setup, |&(_, activity)| activity)
    }

    /// Charges the time since the mark to the innermost open span and moves the mark to now.
    fn advance(&mut self) {
        let now = Moment::now();
        let (wall, mut cpu) = self.mark.until(&now);
        self.mark = now;
        let entries = &mut self.entries;
        self.beside.retain_mut(|owed| {
            // Looked at first: whoever is gone now has reported everything.
            let over = owed.beside.is_last();
            owed.cpu += owed.beside.take();
            // A report may cover more than the time since the mark: the rest is charged at the next.
            let charged = owed.cpu.min(cpu);
            if charged > Duration::ZERO {
                (owed.cpu, cpu) = (owed.cpu - charged, cpu - charged);
                entries.entry(owed.key).or_default().cpu += charged;
            }
            !over || owed.cpu > Duration::ZERO
        });
        let key = self.open.last().map(|&(_, key)| key);
        let sum = self.sum(key);
        sum.wall += wall;
        sum.cpu += cpu;
    }

    fn sum(&mut self, key: Option<Key>) -> &mut Sum {
        match key {
            Some(key) => self.entries.entry(key).or_default(),
            None => {
                let activity = self.present_activity();
                self.unattributed.entry(activity).or_default()
            }
        }
    }

    fn read_memory(&mut self, always: bool) {
        let recent = self.memory_read.is_some_and(|read| read.until(&self.mark).0 < MEMORY_INTERVAL);
        if always || !recent {
            self.peak_memory_bytes = self.peak_memory_bytes.max(peak_memory_bytes());
            self.memory_read = Some(self.mark);
        }
    }

    fn unattributed(&self) -> Sum {
        self.unattributed.values().fold(Sum::default(), Sum::plus)
    }

    fn everything(&self) -> Sum {
        self.entries.values().fold(self.unattributed(), Sum::plus)
    }

    fn wall(&self) -> Duration {
        self.everything().wall
    }

    fn record(&self) -> LedgerRecord {
        let all = self.everything();
        let entry = |(&(activity, phase), sum): (&Key, &Sum)| LedgerEntry { activity, phase, amounts: sum.into() };
        LedgerRecord {
            wall_seconds: all.wall.as_secs_f64(),
            cpu_seconds: all.cpu.as_secs_f64(),
            peak_memory_bytes: self.peak_memory_bytes,
            sessions: self.sessions,
            entries: self.entries.iter().map(entry).collect(),
            unattributed: (&self.unattributed()).into(),
            unattributed_by_activity: self
                .unattributed
                .iter()
                .map(|(&activity, sum)| (activity, sum.wall.as_secs_f64()))
                .collect(),
        }
    }
}

impl Sum {
    fn plus(self, other: &Sum) -> Sum {
        let mut counts = self.counts;
        counts.add(&other.counts);
        Sum {
            wall: self.wall + other.wall,
            cpu: self.cpu + other.cpu,
            counts,
            peak_memory_bytes: self.peak_memory_bytes.max(other.peak_memory_bytes),
            calls: self.calls + other.calls,
        }
    }
}

impl From<&Sum> for Amounts {
    fn from(sum: &Sum) -> Self {
        Amounts {
            seconds: sum.wall.as_secs_f64(),
            cpu_seconds: sum.cpu.as_secs_f64(),
            counts: sum.counts,
            peak_memory_bytes: sum.peak_memory_bytes,
            calls: sum.calls,
        }
    }
}

impl From<&Amounts> for Sum {
    fn from(amounts: &Amounts) -> Self {
        Sum {
            wall: duration(amounts.seconds),
            cpu: duration(amounts.cpu_seconds),
            counts: amounts.counts,
            peak_memory_bytes: amounts.peak_memory_bytes,
            calls: amounts.calls,
        }
    }
}

/// The nearest whole nanosecond: exact for what [`Duration::as_secs_f64`] wrote, up to 100 days. A number that is no
/// duration (negative, not finite) counts as zero: a damaged record must not stop a resumed run.
fn duration(seconds: f64) -> Duration {
    if !seconds.is_finite() || seconds <= 0.0 {
        return Duration::ZERO;
    }
    Duration::from_nanos((seconds * 1e9).round() as u64)
}

/// Gives each activity its unattributed seconds back; the counts and CPU time, not kept by activity, go to Setup.
fn split_unattributed(record: &LedgerRecord) -> BTreeMap<Activity, Sum> {
    let mut split: BTreeMap<Activity, Sum> = BTreeMap::new();
    let mut rest = Sum::from(&record.unattributed);
    for (&activity, &seconds) in &record.unattributed_by_activity {
        let wall = duration(seconds).min(rest.wall);
        rest.wall -= wall;
        split.entry(activity).or_default().wall += wall;
    }
    let setup = split.entry(Activity::Setup).or_default();
    *setup = setup.plus(&rest);
    split
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
