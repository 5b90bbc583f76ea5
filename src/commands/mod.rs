//! One file a subcommand: resolved settings in, exit code out. The only room that prints: data to stdout, the rest to stderr.

use std::io::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ragtune_index::{Generation, Search};
use serde::Serialize;

use crate::cli::{Cli, Command, DataCommand, IndexCommand};
use crate::error::{Error, Result};

mod compare;
mod data_check;
mod dry_run;
mod eval;
mod index_build;
mod index_check;
mod index_search;
mod index_stats;
mod strategies;
mod train;

/// Runs a command; the value is the exit code.
pub fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Index(IndexCommand::Build(args)) => index_build::run(&args),
        Command::Index(IndexCommand::Search(args)) => index_search::run(&args),
        Command::Index(IndexCommand::Stats { index, json }) => index_stats::run(&index, json),
        Command::Index(IndexCommand::Check { index, mend, json }) => index_check::run(&index, mend, json),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Data(DataCommand::Check { file, corpus, json }) => data_check::run(&file, corpus.as_deref(), json),
        Command::Strategies { json } => strategies::run(json),
    }
}

/// What to do about a run folder whose files cannot be read.
fn damaged_run(error: Error) -> Error {
    error.or_hint("copy the run folder again, or train again into a new one")
}

/// Says why a graph that was to be searched cannot be: every passage is compared instead, which is slower, not worse.
fn announce_graph(generation: &Generation, search: Search) {
    if let (Search::Graph { .. }, Some(defect)) = (search, generation.graph_defect()) {
        eprintln!("warning: the graph cannot be used ({defect}); comparing with every passage instead");
    }
}

/// Prints a value as indented JSON on stdout.
fn print_json(value: &impl Serialize) -> Result<()> {
    print_text(&serde_json::to_string_pretty(value)?)
}

/// Prints a text and a line end on stdout. A reader that closed the pipe has seen enough: no error.
fn print_text(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

/// A progress bar on stderr; nothing is drawn where stderr is no terminal.
fn progress(what: &str, total: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let template =
        format!("{{prefix:>9}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{per_sec}} eta {{eta}} {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}
