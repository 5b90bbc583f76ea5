//! The process that is measured: its threads, its allocator, its CPU time and its memory.

/// What the program does before anything else; the number of threads that compute.
pub fn prepare() -> usize {
    // SAFETY: called first in `main`: no other thread exists.
    unsafe { ragtune::process::prepare() };
    rayon::current_num_threads()
}

/// Seconds of CPU time of all threads so far, user and system.
pub fn cpu_seconds() -> f64 {
    let mut raw = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `raw` is a valid, writable rusage; getrusage fills it and keeps no pointer to it.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, raw.as_mut_ptr()) } != 0 {
        return 0.0;
    }
    // SAFETY: all bytes were zeroed, which is a valid rusage, and the call that fills it succeeded.
    let raw = unsafe { raw.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 * 1e-6;
    seconds(raw.ru_utime) + seconds(raw.ru_stime)
}

/// The largest resident memory so far in bytes; 0 where the system does not tell.
pub fn peak_bytes() -> u64 {
    status("VmHWM:")
}

/// Resident memory now in bytes; 0 where the system does not tell.
pub fn resident_bytes() -> u64 {
    status("VmRSS:")
}

fn status(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_suffix("kB"));
    value.and_then(|kib| kib.trim().parse::<u64>().ok()).unwrap_or(0) * 1024
}
