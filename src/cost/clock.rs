//! Every reading of a clock or a memory gauge in the program.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The present moment in UTC as RFC 3339 with whole seconds, such as `2026-11-20T16:02:07Z`.
///
/// For records only: durations come from the ledger's monotonic clock.
pub fn now_utc() -> String {
    // A clock set before 1970 is written as the epoch: a record with a plainly wrong date beats no record.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    rfc3339(since.as_secs())
}

/// Wall and CPU time of this process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    wall: Instant,
    cpu: Duration,
}

impl Moment {
    /// The present moment. CPU time is user plus system time of all threads of this process.
    pub(super) fn now() -> Self {
        Self { wall: Instant::now(), cpu: usage().map(|usage| usage.cpu).unwrap_or(Duration::ZERO) }
    }

    /// Wall and CPU time from `self` to `later`.
    pub(super) fn until(&self, later: &Moment) -> (Duration, Duration) {
        (later.wall.saturating_duration_since(self.wall), later.cpu.saturating_sub(self.cpu))
    }
}

/// User plus system time of the calling thread so far; zero where the system does not tell.
pub(super) fn thread_cpu() -> Duration {
    let mut raw = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `raw` is a valid, writable timespec; clock_gettime fills it and keeps no pointer to it.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut raw) } != 0 {
        return Duration::ZERO;
    }
    Duration::new(raw.tv_sec.max(0) as u64, raw.tv_nsec.clamp(0, 999_999_999) as u32)
}

/// The largest resident memory of this process so far, in bytes; 0 where the system does not tell.
///
/// Source: `VmHWM` in `/proc/self/status`; where that is missing `ru_maxrss` of `getrusage`, which on Linux can also hold
/// the peak of the program that started this one.
pub(super) fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").ok();
    status.as_deref().and_then(high_water_mark).or_else(|| usage().map(|usage| usage.peak_memory_bytes)).unwrap_or(0)
}

struct Usage {
    cpu: Duration,
    peak_memory_bytes: u64,
}

fn usage() -> Option<Usage> {
    let mut raw = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `raw` is a valid, writable rusage; getrusage fills it and keeps no pointer to it.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, raw.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: all bytes were zeroed, which is a valid rusage, and the call that fills it succeeded.
    let raw = unsafe { raw.assume_init() };
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.max(0) as u64) + Duration::from_micros(value.tv_usec.max(0) as u64)
    };
    // Apple's kernel counts bytes, Linux and the BSDs count KiB.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    Some(Usage {
        cpu: time(raw.ru_utime) + time(raw.ru_stime),
        peak_memory_bytes: (raw.ru_maxrss.max(0) as u64).saturating_mul(unit),
    })
}

fn high_water_mark(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Writes seconds since 1970-01-01T00:00:00Z in the Gregorian calendar.
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a number of days since 1970-01-01.
///
/// Counts in years that begin on 1 March, so that the leap day is the last of its year and of its 4, 100 and 400 years.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year_of_era = (in_era - in_era / 1460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * in_year + 2) / 153; // 0 is March
    let day = in_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_agree_with_the_system_calendar() {
        // From `date -u -d @N +%FT%TZ`.
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_798_761_599, "2026-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), expected);
        }
    }

    #[test]
    fn the_present_is_after_this_was_written() {
        assert!(now_utc().as_str() > "2025-01-01T00:00:00Z");
        assert_eq!(now_utc().len(), 20);
    }

    #[test]
    fn the_high_water_mark_is_read_in_bytes() {
        assert_eq!(high_water_mark("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2_097_152));
        assert_eq!(high_water_mark("Name:\tx\n"), None);
        assert_eq!(high_water_mark("VmHWM:\tmany kB\n"), None);
    }

    #[test]
    fn memory_and_processor_time_are_measured() {
        let before = Moment::now();
        let block = vec![1u8; 64 << 20];
        let sum: u64 = block.iter().map(|&byte| u64::from(std::hint::black_box(byte))).sum();
        let (wall, cpu) = before.until(&Moment::now());
        assert_eq!(sum, 64 << 20);
        assert!(wall > Duration::ZERO && cpu > Duration::ZERO);
        assert!(peak_memory_bytes() >= 64 << 20);
    }
}
