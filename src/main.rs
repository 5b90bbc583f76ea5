//! The program: parse, run, print the error chain with its hint, leave with an exit code.
//!
//! Exit codes: 0 done; 1 the thing asked about is not so (`index check` found a defect, `data check` a problem); 2 an error;
//! 130 interrupted by a signal after a checkpoint was written.

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ragtune::cli::Cli;

fn main() -> ExitCode {
    fix_thread_count();
    keep_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match ragtune::commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                eprintln!("  because: {inner}");
                cause = inner.source();
            }
            let full = || {
                error.out_of_space().then(|| "the disk is full: free some space and run the same command again".into())
            };
            if let Some(hint) = error.find_hint().or_else(full) {
                eprintln!("\nhint: {hint}");
            }
            ExitCode::from(2)
        }
    }
}

/// What the command line itself is refused for, with the help page that lists what is allowed there.
fn refuse(error: &clap::Error) -> ExitCode {
    // A closed pipe behind `--help` is nobody's mistake.
    let _ = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let mut known = Cli::command();
    let mut page = String::from("ragtune");
    for typed in std::env::args().skip(1) {
        let Some(inner) = known.find_subcommand(&typed).cloned() else { break };
        page.push(' ');
        page.push_str(&typed);
        known = inner;
    }
    eprintln!("\nhint: `{page} --help` lists what it takes");
    ExitCode::from(2)
}

/// candle asks for the number of cores at every matrix product unless this variable is set, which costs more than a small
/// product; and equal bits need an equal number of threads throughout.
fn fix_thread_count() {
    const THREADS: &str = "RAYON_NUM_THREADS";
    if std::env::var_os(THREADS).is_none() {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // SAFETY: the first statement of `main`: no other thread exists that could read the environment.
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
