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
const ROWS: usize = 8;

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
fn bare_index() -> &'static Path {
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
fn embedded_index() -> &'static Path {
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
        new
    };
    Operation {
        name: "build",
        share: 30,
        base: None,
        command: &|index| build_command(&corpus(), &encoder(), index),
        between: Some(&bare),
    }
    .kill();
}

#[test]
fn killed_builds_over_an_older_generation() {
    Operation {
        name: "build by another encoder",
        share: 40,
        base: Some(embedded_index()),
        command: &|index| build_command(&corpus(), &trained_encoder(), index),
        between: None,
    }
    .kill();
    let found = contents(embedded_index()).unwrap();
    assert_eq!((found.ids.len(), found.generation.unwrap().number), (60, 1), "the base was not touched");
}
