//! Corpora: passages out of JSON Lines, BEIR folders and SQuAD files, streamed.

use super::fields::Fields;
use super::lines::{Lines, hash_file};
use super::recognise::recognise;
use super::squad::SquadFile;
use super::{Format, beir};
use crate::error::{Error, Result};
use ragtune_index::Passage;
use std::path::{Path, PathBuf};

const ID: &[&str] = &["id", "_id"];
const TEXT: &[&str] = &["text"];
const TITLE: &[&str] = &["title"];

/// Opens a corpus, recognised by content: JSON Lines `{id | _id, title?, text}`, a BEIR folder (its `corpus.jsonl`), or
/// SQuAD JSON (its paragraphs; ids are hashes of their text).
///
/// The file is read once here for its hash, and again while the passages are taken: an index names its corpus before it
/// is built.
///
/// # Errors
/// When the file is missing, empty or in no known format.
pub fn open(path: &Path) -> Result<CorpusReader> {
    let format = recognise(path)?.format;
    let file = match format {
        Format::Beir => beir::folder(path).join("corpus.jsonl"),
        Format::Jsonl | Format::Squad => path.to_owned(),
    };
    let (passages, hash): (Source, String) = match format {
        Format::Jsonl | Format::Beir => {
            let hash = hash_file(&file)?;
            (Source::Lines(Box::new(Lines::open(&file)?)), hash)
        }
        Format::Squad => {
            let squad = SquadFile::read(&file)?;
            let hash = squad.hash.clone();
            (Source::Paragraphs(Box::new(squad.passages())), hash)
        }
    };
    Ok(CorpusReader { file, format, hash, passages, count: 0 })
}

/// Streams the passages of a corpus in file order, with the memory of the longest line (SQuAD: of the file).
///
/// After an error the stream ends. Ids are not compared here: the index refuses duplicates, and `data check` finds them.
pub struct CorpusReader {
    file: PathBuf,
    format: Format,
    hash: String,
    passages: Source,
    count: u64,
}

enum Source {
    Lines(Box<Lines>),
    Paragraphs(Box<dyn Iterator<Item = Result<Passage>> + Send>),
    Ended,
}

impl CorpusReader {
    /// Hex blake3 of the bytes of the corpus file.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The corpus file; of a BEIR folder, its `corpus.jsonl`.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// What the file was recognised as.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Passages returned so far.
    pub fn passages_read(&self) -> u64 {
        self.count
    }

    fn advance(&mut self) -> Result<Option<Passage>> {
        match &mut self.passages {
            Source::Lines(lines) => match lines.next()?.map(str::to_owned) {
                Some(line) => parse(&Fields::parse(&line, &lines.place())?).map(Some),
                None if lines.hash() == self.hash => Ok(None),
                None => {
                    let message = format!("`{}` was changed while it was read", self.file.display());
                    Err(Error::new(message).hint("start again when nothing writes to it"))
                }
            },
            Source::Paragraphs(paragraphs) => {
                let next = paragraphs.next().transpose();
                next.map_err(|error| Error::new(format!("`{}`: {error}", self.file.display())))
            }
            Source::Ended => Ok(None),
        }
    }
}

impl Iterator for CorpusReader {
    type Item = Result<Passage>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.advance().transpose();
        match &next {
            Some(Ok(_)) => self.count += 1,
            Some(Err(_)) | None => self.passages = Source::Ended,
        }
        next
    }
}

impl std::fmt::Debug for CorpusReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("CorpusReader");
        shown
            .field("file", &self.file)
            .field("format", &self.format)
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

/// One passage out of one JSON object.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Passage> {
    let passage =
        |id| -> Result<Passage> { Ok(Passage { id, title: fields.optional_text(TITLE)?, text: fields.text(TEXT)? }) };
    let read = fields.id(ID).and_then(passage);
    if read.is_err() && !fields.has(TEXT) && fields.has(&["question", "query"]) {
        return read.map_err(|error| error.hint("this looks like a question file: pass it as --questions"));
    }
    read
}

#[cfg(test)]
#[path = "corpus_tests.rs"]
mod tests;
