//! Work that goes on beside the thread that drives a run: its processor time is charged to what it was done for.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::thread_cpu;

/// Processor time of threads beside, on its way to the ledger. Clones share one account.
#[derive(Clone, Debug, Default)]
pub struct Beside(Arc<AtomicU64>);

thread_local! {
    /// What this thread has reported of its processor time.
    static REPORTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Beside {
    /// Charges what the calling thread has used since it reported last, or since it began. For threads that do nothing else.
    pub fn report(&self) {
        let now = thread_cpu();
        let used = now.saturating_sub(REPORTED.replace(now));
        self.0.fetch_add(used.as_nanos() as u64, Ordering::Relaxed);
    }

    /// What was reported and not taken yet.
    pub(super) fn take(&self) -> Duration {
        Duration::from_nanos(self.0.swap(0, Ordering::Relaxed))
    }

    /// Whether nobody is left who could report.
    pub(super) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_reports_its_own_time_once() {
        let beside = Beside::default();
        let of_thread = beside.clone();
        std::thread::spawn(move || {
            let sum: u64 = (0..20_000_000u64).map(std::hint::black_box).sum();
            assert!(sum > 0);
            of_thread.report();
        })
        .join()
        .unwrap();
        assert!(beside.is_last());
        assert!(beside.take() > Duration::ZERO);
        assert_eq!(beside.take(), Duration::ZERO);
    }
}
