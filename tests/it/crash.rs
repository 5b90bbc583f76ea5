//! SIGKILL at random microseconds of every command that writes to an index, through the real program: afterwards the index
//! is clean or is repaired by opening and mending it, holds wholly the old or wholly the new, and the same command ends well.
//!
//! 200 rounds in all; RAGTUNE_CRASH_ROUNDS=1000 for more, RAGTUNE_SEED=7 for other moments. A failure names the seed and the
//! moment, but the same moment on another machine is another place in the program: kills are random by nature. Every place
//! between two writes is met in the tests of the index itself, which cut the power there.

mod contents;
mod rounds;
mod training;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ragtune_index::{Corpus, CreateOptions, Error, Passage, Source};

use crate::support::*;
use contents::contents;
use rounds::Operation;

/// Passages per fragment: the tiny corpus has eight fragments, so that there is a journal with something in it.
pub const ROWS: usize = 8;

/// The fixture encoder with a changed weight: what training would leave.
fn trained_encoder() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = shared().join("trained-encoder");
        copy(&encoder(), &dir);
        edit_tensors(&dir.join("model.safetensors"), |name, tensor| {
            if name.ends_with("attention.output.dense.weight") {
                tensor.values.iter_mut().for_each(|value| *value *= 1.25);
            }
        });
        dir
    })
    .clone()
}

fn corpus() -> PathBuf {
    fixture("tiny/corpus.jsonl")
}

/// The tiny corpus in small fragments, without vectors. Not to be changed.
pub fn bare_index() -> &'static Path {
    static INDEX: OnceLock<PathBuf> = OnceLock::new();
    INDEX.get_or_init(|| {
        let dir = shared().join("bare-index");
        let passages = lines(&corpus()).into_iter().map(|line| {
            let text = |field: &str| line[field].as_str().unwrap().to_owned();
            Ok::<_, Error>(Passage { id: text("id"), title: text("title"), text: text("text") })
        });
        let source = Source { name: "corpus.jsonl".into(), blake3: digest(&corpus()) };
        Corpus::create(&dir, &source, passages, &CreateOptions { rows_per_fragment: ROWS }).unwrap();
        dir
    })
}

/// The same with a generation of the fixture encoder. Not to be changed.
pub fn embedded_index() -> &'static Path {
    static INDEX: OnceLock<PathBuf> = OnceLock::new();
    INDEX.get_or_init(|| {
        let dir = shared().join("embedded-index");
        copy(bare_index(), &dir);
        build(&corpus(), &encoder(), &dir).done();
        dir
    })
}

#[test]
fn killed_builds_from_nothing() {
    let bare = |mut new: contents::Contents| {
        new.generation = None;
        new.kept.clear();
        new
    };
    Operation {
        name: "build",
        share: 20,
        base: None,
        command: &|index| build_command(&corpus(), &encoder(), index),
        between: Some(&bare),
        changes: true,
        protects: true,
        settles: true,
    }
    .kill();
}

#[test]
fn killed_builds_over_an_older_generation() {
    Operation {
        name: "build by another encoder",
        share: 20,
        base: Some(embedded_index()),
        command: &|index| build_command(&corpus(), &trained_encoder(), index),
        between: None,
        changes: true,
        protects: true,
        settles: true,
    }
    .kill();
    let found = contents(embedded_index()).unwrap();
    assert_eq!((found.ids.len(), found.generation.unwrap().number), (60, 1), "the base was not touched");
}

/// New passages to append.
fn additions() -> PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let file = shared().join("additions.jsonl");
        let added = lines(&corpus()).into_iter().take(12).map(|mut line| {
            line["id"] = format!("new-{}", line["id"].as_str().unwrap()).into();
            line["text"] = format!("Besides, {}", line["text"].as_str().unwrap()).into();
            format!("{line}\n")
        });
        std::fs::write(&file, added.collect::<String>()).unwrap();
        file
    })
    .clone()
}

/// An index command on an index.
fn on(index: &Path, words: &[&str]) -> Ragtune {
    ragtune(&["index", words[0]]).with("--index", index).and(&words[1..])
}

fn append(index: &Path) -> Ragtune {
    on(index, &["append"]).with("--corpus", additions())
}

fn delete(index: &Path) -> Ragtune {
    let ids: Vec<String> =
        lines(&corpus()).iter().step_by(11).map(|line| line["id"].as_str().unwrap().into()).collect();
    ids.iter().fold(on(index, &["delete"]), |command, id| command.with("--id", id))
}

/// The embedded index with passages appended and others deleted. Not to be changed.
fn changed_index() -> &'static Path {
    static INDEX: OnceLock<PathBuf> = OnceLock::new();
    INDEX.get_or_init(|| {
        let dir = shared().join("changed-index");
        copy(embedded_index(), &dir);
        append(&dir).run().done();
        delete(&dir).run().done();
        dir
    })
}

/// The same with a generation of the trained encoder on top. Not to be changed.
fn refreshed_index() -> &'static Path {
    static INDEX: OnceLock<PathBuf> = OnceLock::new();
    INDEX.get_or_init(|| {
        let dir = shared().join("refreshed-index");
        copy(changed_index(), &dir);
        on(&dir, &["refresh"]).with("--encoder", trained_encoder()).run().done();
        dir
    })
}

/// An operation in one commit.
fn kill(name: &'static str, share: u64, base: &Path, command: &dyn Fn(&Path) -> Ragtune) {
    let changes = name != "gc";
    let protects = name.starts_with("refresh");
    Operation { name, share, base: Some(base), command, between: None, changes, protects, settles: false }.kill();
}

#[test]
fn killed_appends() {
    kill("append", 30, embedded_index(), &append);
}

#[test]
fn killed_deletions() {
    kill("delete", 20, embedded_index(), &delete);
}

#[test]
fn killed_compactions() {
    kill("compact", 30, changed_index(), &|index| on(index, &["compact"]));
}

#[test]
fn killed_refreshes() {
    kill("refresh", 30, changed_index(), &|index| on(index, &["refresh"]).with("--encoder", trained_encoder()));
    kill("refresh that keeps the edges", 10, changed_index(), &|index| {
        on(index, &["refresh", "--reuse-graph", "0.2"]).with("--encoder", trained_encoder())
    });
}

#[test]
fn killed_collections() {
    kill("gc", 15, refreshed_index(), &|index| on(index, &["gc"]));
}

#[test]
fn killed_rollbacks() {
    kill("rollback", 15, refreshed_index(), &|index| on(index, &["rollback", "--generation", "1"]));
}
