//! The words of all passages, for BM25: an inverted index beside the dataset, derived, checksummed and disposable like a graph.
//!
//! Lance has an inverted index of its own, which is not used: (a) it is of one column, a passage is its title and its text, and
//! scores of two columns added up are not BM25 of the passage; (b) it is part of the dataset, so that making it, and again
//! after every append and delete, would be commits that belong to no generation, with files that Lance does not sync. This one
//! is a function of the passages alone, its scores are the formula's (see `ragtune-lexical`), and it may be removed at any
//! moment.
//!
//! It belongs to the passages, not to a generation: a refresh leaves it as it is.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use ragtune_lexical::{Bm25, Builder, Fits, OTHER, RULES};
use ragtune_nearest::{Allowed, Hit};

use crate::corpus::Corpus;
use crate::durable::write_atomic;
use crate::error::{Error, Result};
use crate::lock::WriterLock;

/// Name of the file in the index directory.
pub(crate) const LEXICAL: &str = "lexical.bin";
/// Passages read at a time while it is made.
const WINDOW: u32 = 1024;

/// What is to happen to an index of words that had to be made.
#[derive(Debug, Clone, Copy)]
pub enum Keep<'a> {
    /// It stays in memory: nothing is written.
    No,
    /// It is written where nobody else writes to the index; where that cannot be, [`Lexical::not_kept`] says why.
    IfFree,
    /// It is written under this lock, or that is an error.
    Under(&'a WriterLock),
}

/// The words of all passages of a corpus, ready to be searched by BM25. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lexical {
    index: Arc<Bm25>,
    made: Option<String>,
    not_kept: Option<String>,
}

/// What BM25 found for one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// The passages asked for, higher score first, ties by ordinal. Those that share no word with the question have the score 0
    /// and so fill up what is missing in the order of the corpus.
    pub hits: Vec<Hit>,
    /// How many of them share a word with the question; they stand first.
    pub matched: usize,
    /// Scores of the passages that were asked about besides.
    pub also: Vec<f32>,
}

impl Lexical {
    /// The `k` best passages for each question. For question i also the scores of the passages `also[i]`; missing rows are empty.
    ///
    /// Runs on all threads of rayon's pool; the result does not depend on their number.
    pub fn search(&self, questions: &[&str], k: usize, also: &[Vec<u32>]) -> Result<Vec<Ranked>> {
        if k > self.len() {
            return Err(Error::TooMany { k, len: self.len() });
        }
        Ok(self.ranked(questions, k, also, None))
    }

    /// The same among the passages of a set. Hits are fewer than `k` where fewer are allowed; scores are what they are without it.
    pub fn search_among(
        &self,
        questions: &[&str],
        k: usize,
        also: &[Vec<u32>],
        allowed: &Allowed,
    ) -> Result<Vec<Ranked>> {
        if allowed.len() != self.index.len() {
            return Err(Error::OtherSet { given: allowed.len(), expected: self.index.len() });
        }
        Ok(self.ranked(questions, k, also, Some(&|ordinal| allowed.contains(ordinal))))
    }

    fn ranked(&self, questions: &[&str], k: usize, also: &[Vec<u32>], fits: Option<Fits<'_>>) -> Vec<Ranked> {
        let hit = |(ordinal, score): (u32, f32)| Hit { ordinal, score };
        let found = self.index.search(questions, k, also, fits).into_iter().map(|ranked| Ranked {
            hits: ranked.hits.into_iter().map(hit).collect(),
            matched: ranked.matched,
            also: ranked.also,
        });
        found.collect()
    }

    /// Number of passages it can find: deleted ones are none.
    pub fn len(&self) -> usize {
        self.index.passages()
    }

    /// Whether it can find none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of distinct words.
    pub fn distinct_words(&self) -> usize {
        self.index.distinct_words()
    }

    /// Why it was made just now instead of being read; `None` when it was read.
    pub fn made(&self) -> Option<&str> {
        self.made.as_deref()
    }

    /// Why it was not written although it was to be, where that is so.
    pub fn not_kept(&self) -> Option<&str> {
        self.not_kept.as_deref()
    }
}

impl Corpus {
    /// The words of all passages that this corpus has, for BM25: read where they are kept and fit for use, else made from the
    /// passages (about 20 MB of text a second) and kept as `keep` says. Those of an earlier state of the index are never kept.
    pub fn lexical(&self, keep: Keep<'_>) -> Result<Lexical> {
        if let Keep::Under(lock) = keep {
            lock.must_be_for(self.dir())?;
        }
        let belongs = belongs(self)?;
        let why = match read(self, &belongs) {
            Ok(index) => return Ok(Lexical { index: Arc::new(index), made: None, not_kept: None }),
            Err(why) => why,
        };
        let index = make(self)?;
        let not_kept = match keep {
            Keep::No => None,
            Keep::Under(_) => self.keep_words(&index, &belongs)?,
            Keep::IfFree => {
                let locked = self.lock("collecting the words of the passages");
                let kept = locked.and_then(|_lock| self.keep_words(&index, &belongs));
                kept.unwrap_or_else(|error| Some(error.in_full()))
            }
        };
        Ok(Lexical { index: Arc::new(index), made: Some(why), not_kept })
    }

    /// Writes them where they are those of the newest passages, else says that they are not. The caller holds the lock.
    fn keep_words(&self, index: &Bm25, belongs: &[u8; 32]) -> Result<Option<String>> {
        if self::belongs(&self.reopen()?)? != *belongs {
            return Ok(Some("the index has other passages by now".into()));
        }
        write(self, index, belongs).map(|()| None)
    }
}

/// What is wrong with the file, if there is one. One that is whole and belongs to other passages is as good as none: they were
/// appended, deleted or compacted since, and the next search by words makes it anew.
pub(crate) fn defect(corpus: &Corpus) -> Result<Option<String>> {
    if !path(corpus).exists() {
        return Ok(None);
    }
    Ok(read(corpus, &belongs(corpus)?).err().filter(|what| !what.ends_with(OTHER)))
}

/// Makes the file anew, from the newest passages. The caller holds the lock.
pub(crate) fn remake(corpus: &Corpus) -> Result<()> {
    let corpus = corpus.reopen()?;
    write(&corpus, &make(&corpus)?, &belongs(&corpus)?)
}

fn path(corpus: &Corpus) -> PathBuf {
    corpus.dir().join(LEXICAL)
}

fn read(corpus: &Corpus, belongs: &[u8; 32]) -> Result<Bm25, String> {
    let bytes = match fs::read(path(corpus)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err("there was none".into()),
        Err(error) => return Err(format!("`{LEXICAL}` cannot be read: {error}")),
    };
    Bm25::decode(&bytes, belongs).map_err(|what| format!("`{LEXICAL}`: {what}"))
}

fn write(corpus: &Corpus, index: &Bm25, belongs: &[u8; 32]) -> Result<()> {
    write_atomic(&path(corpus), &index.encode(belongs))
}

/// The identity of the passages as they are here: names of text files are random and never used again, so that equal names mean
/// equal texts. The rules of what a word is are part of it, and which passages are deleted.
fn belongs(corpus: &Corpus) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("words {RULES}\n{}\n", corpus.uuid()).as_bytes());
    for (file, fragment) in corpus.table().text_files()?.iter().zip(corpus.fragments()) {
        hasher.update(format!("{file} {} {}\n", fragment.first, fragment.rows).as_bytes());
    }
    for ordinal in corpus.deleted() {
        hasher.update(&ordinal.to_le_bytes());
    }
    Ok(hasher.finalize().into())
}

fn make(corpus: &Corpus) -> Result<Bm25> {
    let mut builder = Builder::new();
    for fragment in corpus.fragments() {
        let mut start = 0;
        while start < fragment.rows {
            let end = fragment.rows.min(start + WINDOW);
            for (ordinal, passage) in (fragment.first + start..).zip(corpus.read(&fragment, start..end)?) {
                match corpus.is_deleted(ordinal) {
                    true => builder.skip(),
                    false => builder.add(&format!("{} {}", passage.title, passage.text)),
                }
            }
            start = end;
        }
    }
    Ok(builder.finish())
}
