//! What a program on these models does before anything else: threads and memory as the computations want them.

/// Sets both up; for the beginning of `main`.
///
/// # Safety
/// No other thread may exist yet: the environment is changed.
pub unsafe fn prepare() {
    // SAFETY: promised by the caller.
    unsafe { fix_thread_count() };
    keep_memory();
    leave_storage_panics_to_errors();
}

/// A panic inside the storage library, which damaged files can cause, is caught and told as an error with a hint; a second
/// report of it by the runtime would only confuse.
fn leave_storage_panics_to_errors() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let storage = |name: &str| name.starts_with("ragtune-index") || name.starts_with("lance");
        if !thread.name().is_some_and(storage) {
            report(panic);
        }
    }));
}

/// candle asks for the number of cores at every matrix product unless this variable is set, which costs more than a small
/// product; and equal bits need an equal number of threads throughout.
///
/// # Safety
/// As for [`prepare`].
unsafe fn fix_thread_count() {
    const THREADS: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // SAFETY: no other thread exists that could read the environment.
        unsafe { std::env::set_var(THREADS, threads.to_string()) };
    }
}

/// A training step frees and asks again for the same large blocks; handing them back to the system in between costs 10 to
/// 15 per cent of the CPU time in page faults (measured on encoder steps).
fn keep_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, 1 << 30), (libc::M_TRIM_THRESHOLD, i32::MAX), (libc::M_TOP_PAD, 64 << 20)]
    {
        // SAFETY: changes settings of the allocator, which takes its own lock; a refused setting leaves the default.
        let _accepted = unsafe { libc::mallopt(parameter, value) };
    }
}
