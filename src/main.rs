//! The program: parse, run, print the error chain with its hint, leave with an exit code.
//!
//! Exit codes: 0 done; 1 the thing asked about is not so (`index check` found a defect, `data check` a problem, a run of a comparison
//! diverged); 2 an error;
//! 130 interrupted by a signal after a checkpoint was written.

use std::process::ExitCode;

use clap::CommandFactory;
use ragtune::cli::Cli;

fn main() -> ExitCode {
    // SAFETY: the first statement: no other thread exists.
    unsafe { ragtune::process::prepare() };
    let cli = match ragtune::cli::parse() {
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
    let number = ragtune::cli::number_hint(error).map_or_else(String::new, |hint| format!("{hint}; "));
    eprintln!("\nhint: {number}`{page} --help` lists what it takes");
    ExitCode::from(2)
}
