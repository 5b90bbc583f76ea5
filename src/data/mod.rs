//! Question sets and corpora in the formats people have: JSON Lines, BEIR folders, SQuAD JSON.
//!
//! The format is recognised by content, never by file name. Reading refuses instead of repairing: every error names the
//! file, the line and the offending value. Corpora stream with the memory of their longest line.

mod beir;
mod check;
pub mod corpus;
mod facts;
mod fields;
mod lines;
pub mod questions;
mod recognise;
pub mod splits;
mod squad;

pub use check::{Understanding, check};
pub use corpus::CorpusReader;
pub use facts::{CorpusFacts, QuestionFacts, Words};
pub use questions::{Question, QuestionSet, validate_gold};

use serde::{Deserialize, Serialize};
use std::fmt;

/// The formats that are understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// A folder with `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`.
    Beir,
    /// SQuAD JSON, version 1 or 2: articles, their paragraphs, and questions on each paragraph.
    Squad,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Format::Jsonl => "JSON Lines",
            Format::Beir => "BEIR folder",
            Format::Squad => "SQuAD JSON",
        })
    }
}

/// Adds what is read to an error about a file that has no better hint.
pub fn expected(error: crate::error::Error) -> crate::error::Error {
    error.or_hint(
        "one JSON object a line: passages {\"id\", \"title\", \"text\"}, questions {\"id\", \"question\", \"answers\", \
         \"gold_passages\"}; BEIR folders and SQuAD JSON are read too",
    )
}

/// `a`, `b` and `c`: names for an error message.
fn list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let quoted: Vec<String> = names.into_iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match quoted.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

/// At most 60 characters of a value, for an error message.
fn excerpt(value: &str) -> String {
    const CHARACTERS: usize = 60;
    let mut text: String = value.chars().take(CHARACTERS).collect();
    if value.chars().nth(CHARACTERS).is_some() {
        text.push('…');
    }
    text
}
