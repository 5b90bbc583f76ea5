//! Creating an index: everything in a directory that does not count, then one rename.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::corpus::Corpus;
use crate::durable::{create_dir_synced, entries, name, remove, sync_dir, sync_tree};
use crate::error::{Cause, Error, Result};
use crate::lock::WriterLock;
use crate::manifest::GENERATIONS;
use crate::passage::{Passage, Source};
use crate::sealed::FORMAT;
use crate::table::{self, DATASET, Table};
use crate::texts::{Texts, digests};
use crate::vouch;

/// Names of the dataset's settings.
pub(crate) const FORMAT_KEY: &str = "ragtune.format";
pub(crate) const UUID_KEY: &str = "ragtune.uuid";
pub(crate) const SOURCE_KEY: &str = "ragtune.source";
const ROWS_KEY: &str = "ragtune.rows_per_fragment";
/// How the directory of an index in the making begins.
pub(crate) const CREATING: &str = ".creating-";

/// How many passages a fragment may be made for.
const PER_FRAGMENT: RangeInclusive<usize> = 1..=1_000_000;

/// How to lay out a new index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateOptions {
    /// Passages per fragment: what is embedded between two entries of the journal, so what an interruption can cost.
    /// 1 to 1 000 000.
    pub rows_per_fragment: usize,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self { rows_per_fragment: 4096 }
    }
}

/// Passages per fragment that an index was created with. However few it was created with: what is added later is laid out like that.
pub(crate) fn rows_per_fragment(table: &Table) -> usize {
    let told = table.config().get(ROWS_KEY).and_then(|rows| rows.parse().ok());
    told.filter(|rows| PER_FRAGMENT.contains(rows)).unwrap_or(CreateOptions::default().rows_per_fragment)
}

/// See [`Corpus::create`]. The passages come as a trait object, so that callers with their own iterators do not each compile
/// the storage library's writer again.
pub(crate) fn create(
    dir: &Path,
    source: &Source,
    passages: &mut dyn Iterator<Item = Result<Passage, Cause>>,
    options: &CreateOptions,
) -> Result<Corpus> {
    if !PER_FRAGMENT.contains(&options.rows_per_fragment) {
        let value = options.rows_per_fragment.to_string();
        return Err(Error::Setting { name: "passages per fragment", value, expected: "a number from 1 to 1000000" });
    }
    create_dir_synced(dir)?;
    let dir = dir.canonicalize().map_err(Error::io("finding", dir))?;
    // One creator at a time, so that leftovers of killed ones can be told from the work of a living one.
    let lock = WriterLock::take(&dir, "the creation of the index")?;
    for left in leftovers(&dir)? {
        remove(&left)?;
    }
    if dir.join(DATASET).exists() {
        return Err(Error::Exists { dir });
    }
    let mut passages = checked(passages, HashSet::new()).peekable();
    if passages.peek().is_none() {
        return Err(Error::Empty { name: source.name.clone() });
    }
    let making = dir.join(format!("{CREATING}{}", std::process::id()));
    let written = write(&dir, &making, source, &mut passages, options);
    // A failure takes its directory with it where it can; the next creator does so where it cannot.
    let removed = remove(&making);
    written?;
    removed?;
    drop(lock);
    Corpus::open(&dir)
}

/// Directories of creations that never finished.
pub(crate) fn leftovers(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(entries(dir)?.into_iter().filter(|path| name(path).starts_with(CREATING)).collect())
}

fn write(
    dir: &Path,
    making: &Path,
    source: &Source,
    passages: &mut dyn Iterator<Item = Result<Passage>>,
    options: &CreateOptions,
) -> Result<()> {
    std::fs::create_dir_all(making).map_err(Error::io("creating", making))?;
    let table = table::create(making, passages, options.rows_per_fragment)?;
    let files = table.text_files()?;
    // Lance names its files at random, so their names tell this dataset from every other.
    let uuid = blake3::hash(files.join("\n").as_bytes()).to_hex()[..32].to_string();
    let source = serde_json::to_string(source).map_err(Error::storage("writing the corpus's source"))?;
    table.configure(vec![
        (FORMAT_KEY.into(), Some(FORMAT.to_string())),
        (UUID_KEY.into(), Some(uuid.clone())),
        (SOURCE_KEY.into(), Some(source)),
        (ROWS_KEY.into(), Some(options.rows_per_fragment.to_string())),
    ])?;
    sync_tree(making)?;
    vouch::forget(dir)?;
    // The checksums may be there before the dataset: without it they mean nothing.
    Texts { uuid, files: digests(&table.data_dir(), files)?, deletions: Vec::new() }.write(dir)?;
    let generations = dir.join(GENERATIONS);
    std::fs::create_dir_all(&generations).map_err(Error::io("creating", &generations))?;
    let target = dir.join(DATASET);
    std::fs::rename(making.join(DATASET), &target).map_err(Error::io("renaming to", &target))?;
    sync_dir(dir)
}

/// What is remembered of an id that was seen.
pub(crate) fn key_of(id: &str) -> [u8; 16] {
    let mut key = [0; 16];
    key.copy_from_slice(&blake3::hash(id.as_bytes()).as_bytes()[..16]);
    key
}

/// The passages with their ids checked against those `seen` and against each other: 16 bytes are remembered for each.
pub(crate) fn checked(
    passages: &mut dyn Iterator<Item = Result<Passage, Cause>>,
    mut seen: HashSet<[u8; 16]>,
) -> impl Iterator<Item = Result<Passage>> {
    passages.zip(1u64..).map(move |(passage, at)| {
        let passage = passage.map_err(Error::Passages)?;
        if passage.id.trim().is_empty() {
            return Err(Error::BadId { at, what: "has an empty id".into() });
        }
        if seen.len() as u64 >= u64::from(u32::MAX) {
            return Err(Error::BadId { at, what: "is one more than an index can hold".into() });
        }
        if !seen.insert(key_of(&passage.id)) {
            let what = format!("has the id `{}`, which an earlier passage has too", passage.id);
            return Err(Error::BadId { at, what });
        }
        Ok(passage)
    })
}
