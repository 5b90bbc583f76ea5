//! What is kept: a passage, where it came from, and the fragment it lies in.

use serde::{Deserialize, Serialize};

/// One passage of the corpus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// The name the questions use for it; unique in the corpus, never empty.
    pub id: String,
    /// Its title; may be empty.
    pub title: String,
    /// Its text; may be empty.
    pub text: String,
}

/// The file the passages were read from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The file's name, for people.
    pub name: String,
    /// Hex blake3 of the file, so that another file of the same name is noticed.
    pub blake3: String,
}

/// A run of consecutive passages whose vectors share one file: the unit of staging, of resuming and of replacement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fragment {
    /// The fragment's id in the Lance dataset.
    pub id: u64,
    /// Ordinal of its first passage.
    pub first: u32,
    /// Number of its passages.
    pub rows: u32,
}
