//! The record of an unfinished generation: which files are staged, so that an interrupted embedding goes on where it was.
//!
//! One line for the header, then one for each staged fragment, each `<hex blake3 of the JSON> <JSON>`. A line counts when its
//! checksum holds; reading stops at the first that does not, which is at most what a crash tore.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::durable::{digest, remove, write_atomic};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::manifest::GENERATIONS;
use crate::staged::Staged;

/// Name of the journal in the directory of generations.
pub(crate) const JOURNAL: &str = "journal.jsonl";

/// What the staged files are for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    pub(crate) format: u32,
    pub(crate) uuid: String,
    pub(crate) number: u32,
    /// The dataset's version they are staged against.
    pub(crate) read_version: u64,
    pub(crate) dim: usize,
    pub(crate) fingerprint: Fingerprint,
}

/// What a journal says, as far as it can be believed.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) header: Option<Header>,
    pub(crate) staged: Vec<Staged>,
    /// Whether something follows that cannot be believed.
    pub(crate) torn: bool,
}

/// A journal open for writing.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Starts the journal with this header and lines, replacing whatever was there; durable on return.
    pub(crate) fn start(dir: &Path, header: &Header, staged: &[Staged]) -> Result<Self> {
        let path = path(dir);
        write_atomic(&path, text(header, staged)?.as_bytes())?;
        Self::open(path)
    }

    /// The same journal opened again, if it still lies in this directory and says just this. The file that is open
    /// already may be another: one that was removed or written anew since takes lines that nobody will ever read.
    pub(crate) fn again<'s>(
        &self,
        dir: &Path,
        header: &Header,
        staged: impl Iterator<Item = &'s Staged>,
    ) -> Result<Option<Self>> {
        if self.path != path(dir) {
            return Ok(None);
        }
        let told = read(dir)?.filter(|told| !told.torn && told.header.as_ref() == Some(header));
        match told.is_some_and(|told| told.staged.iter().eq(staged)) {
            true => Self::open(path(dir)).map(Some),
            false => Ok(None),
        }
    }

    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::io("opening", &path))?;
        Ok(Self { path, file })
    }

    /// Adds a staged file; durable on return.
    pub(crate) fn add(&mut self, staged: &Staged) -> Result<()> {
        self.file.write_all(line(staged)?.as_bytes()).map_err(Error::io("writing", &self.path))?;
        self.file.sync_data().map_err(Error::io("syncing", &self.path))
    }
}

/// Where the journal of an index lies.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(GENERATIONS).join(JOURNAL)
}

/// Reads the journal, if there is one.
pub(crate) fn read(dir: &Path) -> Result<Option<Entries>> {
    let path = path(dir);
    match fs::read(&path) {
        Ok(content) => Ok(Some(entries(&content))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("reading", &path)(error)),
    }
}

/// What a journal with these bytes says.
pub(crate) fn entries(content: &[u8]) -> Entries {
    let content = String::from_utf8_lossy(content);
    let mut entries = Entries::default();
    for text in content.split_inclusive('\n') {
        if entries.header.is_none() {
            entries.header = parse(text);
            entries.torn = entries.header.is_none();
        } else if let Some(staged) = parse(text) {
            entries.staged.push(staged);
        } else {
            entries.torn = true;
        }
        if entries.torn {
            break;
        }
    }
    entries.torn |= entries.header.is_none();
    entries
}

/// Whether a staged file is still there as it was written.
pub(crate) fn intact(staged: &Staged, data_dir: &Path) -> bool {
    // A name with a path in it was never written by us.
    !staged.file.contains(['/', '\\'])
        && digest(&data_dir.join(&staged.file)).is_ok_and(|found| found == (staged.bytes, staged.blake3.clone()))
}

/// Removes the journal.
pub(crate) fn discard(dir: &Path) -> Result<()> {
    remove(&path(dir))
}

/// The text of a journal with this header and lines.
pub(crate) fn text(header: &Header, staged: &[Staged]) -> Result<String> {
    let mut text = line(header)?;
    for staged in staged {
        text.push_str(&line(staged)?);
    }
    Ok(text)
}

fn line(entry: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string(entry).map_err(Error::storage("writing the journal"))?;
    Ok(format!("{} {json}\n", blake3::hash(json.as_bytes()).to_hex()))
}

fn parse<T: DeserializeOwned>(line: &str) -> Option<T> {
    let (checksum, json) = line.strip_suffix('\n')?.split_once(' ')?;
    let right = blake3::hash(json.as_bytes()).to_hex().as_str() == checksum;
    right.then(|| serde_json::from_str(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passage::Fragment;

    fn staged(id: u64) -> Staged {
        let fragment = Fragment { id, first: 0, rows: 4 };
        Staged { fragment, file: format!("{id}.lance"), bytes: 3, blake3: "ab".into(), lance: serde_json::json!({}) }
    }

    fn header() -> Header {
        let fingerprint = Fingerprint::new([("weights".to_string(), "x".to_string())].into());
        Header { format: 1, uuid: "u".into(), number: 2, read_version: 7, dim: 4, fingerprint }
    }

    #[test]
    fn every_prefix_of_a_journal_gives_a_prefix_of_its_entries() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(GENERATIONS)).unwrap();
        assert!(read(dir.path()).unwrap().is_none());
        let mut journal = Journal::start(dir.path(), &header(), &[staged(0)]).unwrap();
        journal.add(&staged(1)).unwrap();
        let whole = fs::read(path(dir.path())).unwrap();
        let entries = read(dir.path()).unwrap().unwrap();
        assert_eq!((entries.header, entries.staged, entries.torn), (Some(header()), vec![staged(0), staged(1)], false));
        for length in 0..whole.len() {
            fs::write(path(dir.path()), &whole[..length]).unwrap();
            let entries = read(dir.path()).unwrap().unwrap();
            assert!(entries.staged.len() < 2);
            assert!(entries.staged.iter().zip([staged(0), staged(1)]).all(|(found, written)| *found == written));
        }
    }

    #[test]
    fn a_flipped_bit_ends_what_is_believed() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(GENERATIONS)).unwrap();
        Journal::start(dir.path(), &header(), &[staged(0), staged(1)]).unwrap();
        let whole = fs::read(path(dir.path())).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(path(dir.path()), &bytes).unwrap();
            let entries = read(dir.path()).unwrap().unwrap();
            assert!(entries.torn, "bit {bit}");
            assert!(entries.staged.len() < 2);
        }
    }
}
