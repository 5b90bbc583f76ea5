//! One file a subcommand: resolved settings in, exit code out. The only room that prints: data to stdout, the rest to stderr.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ragtune_index::{Corpus, Generation, Lexical, Search};
use serde::Serialize;

use crate::cli::{Cli, Command, DataCommand, IndexCommand};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::hub::{self, Located};
use crate::models::{Precision, device};
use crate::pipeline::identity::named_encoder;
use crate::pipeline::retriever::Retriever;
use crate::report::RunRecord;

mod compare;
mod data_check;
mod dry_run;
mod embed;
mod eval;
mod export;
mod index_append;
mod index_build;
mod index_change;
mod index_check;
mod index_gc;
mod index_refresh;
mod index_release;
mod index_search;
mod index_stats;
mod index_versions;
mod inspect;
mod out;
mod poor_graph;
mod strategies;
mod train;
mod training;

/// Runs a command; the value is the exit code.
pub fn run(cli: Cli) -> Result<u8> {
    match cli.command {
        Command::Index(IndexCommand::Build(args)) => index_build::run(&args),
        Command::Index(IndexCommand::Search(args)) => index_search::run(&args),
        Command::Index(IndexCommand::Append(args)) => index_append::run(&args),
        Command::Index(IndexCommand::Delete(args)) => index_change::delete(&args),
        Command::Index(IndexCommand::Compact(args)) => index_change::compact(&args),
        Command::Index(IndexCommand::Gc(args)) => index_gc::run(&args),
        Command::Index(IndexCommand::Refresh(args)) => index_refresh::run(&args),
        Command::Index(IndexCommand::Versions(args)) => index_versions::list(&args),
        Command::Index(IndexCommand::Release(args)) => index_release::run(&args),
        Command::Index(IndexCommand::Rollback(args)) => index_versions::rollback(&args),
        Command::Index(IndexCommand::Stats { index, json }) => index_stats::run(&index, json),
        Command::Index(IndexCommand::Check { index, mend, json }) => index_check::run(&index, mend, json),
        Command::Train(args) => train::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Embed(args) => embed::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Data(DataCommand::Check { file, corpus, json }) => data_check::run(&file, corpus.as_deref(), json),
        Command::Strategies { json } => strategies::run(json),
    }
}

/// What to do about a run folder whose files cannot be read.
fn damaged_run(error: Error) -> Error {
    error.or_hint("copy the run folder again, or train again into a new one")
}

/// The settings and the record of a run that ended; one that did not is refused with the command that ends it.
fn finished_run(run: &Path) -> Result<(TrainConfig, RunRecord)> {
    let config = TrainConfig::of_run(run)?;
    let record = RunRecord::load(run).map_err(damaged_run)?;
    if record.finished.is_none() {
        return Err(Error::new(format!("the run `{}` is {}", run.display(), record.status.name()))
            .hint(format!("finish it first: ragtune train --resume {}", run.display())));
    }
    Ok((config, record))
}

/// The folder that a model's name or path stands for; what has to be fetched is shown as it comes.
fn locate(typed: &Path) -> Result<Located> {
    let mut bar: Option<ProgressBar> = None;
    let located = hub::locate(typed, &mut |progress| {
        let bar = bar.get_or_insert_with(|| fetching(progress.repo));
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        bar.set_message(progress.file.to_owned());
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
        if let Ok(Located { folder, origin: Some(origin) }) = &located {
            eprintln!("fetched {} at commit {} into {}", origin.repo, origin.commit, folder.display());
        }
    }
    located
}

/// The encoder that an index names, for commands that are given none. Where the newest generation names none - a training run
/// left it, or a process that was killed - it is that of an earlier one, and that is said.
fn default_encoder(corpus: &Corpus) -> Result<PathBuf> {
    let named = named_encoder(corpus)?;
    if named.generation != named.newest {
        eprintln!(
            "note: generation {} does not say which encoder embedded it; taken is that of generation {}, `{}` (name another with \
             `--encoder DIR`)",
            named.newest,
            named.generation,
            named.encoder.display()
        );
    }
    Ok(named.encoder)
}

/// Says why a graph that was to be searched cannot be: every passage is compared instead, which is slower, not worse.
fn announce_graph(generation: &Generation, search: Search) {
    if let (Search::Graph { .. }, Some(defect)) = (search, generation.graph_defect()) {
        eprintln!("warning: the graph cannot be used ({defect}); comparing with every passage instead");
    }
}

/// Says which files of vectors were found unfit and derived anew, and where they could not be kept: the next command derives them
/// again. That there was none yet is nothing to tell.
fn announce_vectors(generation: &Generation) {
    let held = generation.held();
    for why in held.made.iter().filter(|why| *why != ragtune_index::NO_FILE) {
        eprintln!("warning: {why}; it was derived anew from the vectors");
    }
    if let Some(why) = &held.not_kept {
        eprintln!(
            "warning: the vectors were held as `{}` for this command only, the files for it could not be kept: {why}",
            held.vectors.name()
        );
    }
}

/// Says where the words of the passages had to be collected anew and could not be kept: the next command collects them again.
fn announce_words(retriever: &Retriever) {
    if let Some(why) = retriever.lexical().and_then(Lexical::not_kept) {
        eprintln!(
            "warning: the words of the passages were collected for this command only, they could not be kept: {why}"
        );
    }
}

/// The setting of an index that was built with `--precision`, as warnings name it.
const OF_THE_INDEX: &str = "the index";

/// Warns of a precision that is slower than f32 on this processor; `setting` asks for it.
fn warn_if_slow(asked: &str, precision: Precision) {
    device::slow_precision(asked, precision).iter().for_each(|note| eprintln!("warning: {note}"));
}

/// `1 stage`, `2 stages`.
fn counted(count: u64, one: &str) -> String {
    format!("{count} {one}{}", if count == 1 { "" } else { "s" })
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

/// A progress bar in bytes on stderr; nothing is drawn where stderr is no terminal.
fn fetching(repo: &str) -> ProgressBar {
    let bar = ProgressBar::new(0);
    let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(format!("fetch {repo}"));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
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
