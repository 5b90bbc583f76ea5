//! BM25 over an inverted index in flat arrays.
//!
//! Only texts and numbers: no file, no clock, no async. Like `ragtune-nearest` it is a crate of its own for the sake of
//! compilation: this code needs the optimiser, and nothing of it needs Lance.
//!
//! `words` says what a word is, `builder` counts words passage by passage, `bm25` scores, `top` chooses the best, `file` is
//! the bytes on disk. N passages by ordinal, T distinct words.

mod bm25;
mod builder;
mod file;
mod postings;
mod top;
mod words;

pub use bm25::{B, Bm25, Fits, K1, Ranked};
pub use builder::Builder;
pub use file::OTHER;
pub use words::{RULES, STOP_WORDS, words};
