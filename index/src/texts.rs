//! Checksums of the files that no sidecar describes: those with texts, and those that say which rows are deleted.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::digest;
use crate::error::Result;
use crate::sealed;
use crate::table::Table;

/// Name of the file with the checksums.
pub(crate) const TEXTS: &str = "texts.json";

/// A file as it was written: what `check` compares with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

/// Content of [`TEXTS`]. May tell of files that are not there: entries are written before the commit that needs them, and
/// stay until the next one after their file is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Texts {
    pub(crate) uuid: String,
    /// Files in `data`.
    pub(crate) files: Vec<Written>,
    /// Files in `_deletions`.
    #[serde(default)]
    pub(crate) deletions: Vec<Written>,
}

impl Texts {
    /// The checksums of an index, or an error that says why there are none.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        sealed::read(&dir.join(TEXTS))
    }

    /// Replaces them, durably.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        sealed::write(&dir.join(TEXTS), self)
    }

    /// The checksums of nothing.
    pub(crate) fn none(uuid: &str) -> Self {
        Self { uuid: uuid.into(), files: Vec::new(), deletions: Vec::new() }
    }

    /// The checksums of those of the `wanted` files that one of these versions has, as they are now. Files that are
    /// gone have none, and do not keep the others from theirs.
    pub(crate) fn of(uuid: &str, tables: &[Table], wanted: &BTreeSet<String>) -> Result<Self> {
        let (mut texts, mut deletions) = (BTreeSet::new(), BTreeSet::new());
        for table in tables {
            texts.extend(table.text_files()?);
            deletions.extend(table.deletion_files().into_iter().flatten());
        }
        let Some(any) = tables.first() else { return Ok(Self::none(uuid)) };
        let here = |dir: &Path, files: BTreeSet<String>| {
            digests(dir, files.into_iter().filter(|file| wanted.contains(file) && dir.join(file).exists()))
        };
        Ok(Self {
            uuid: uuid.into(),
            files: here(&any.data_dir(), texts)?,
            deletions: here(&any.deletions_dir(), deletions)?,
        })
    }

    /// Adds new files to the checksums and forgets those of files that are gone. Where there were no checksums, or damaged
    /// ones, there are only the new ones, and `check` says so. Checksums of a newer format are refused, and stay.
    pub(crate) fn add(
        dir: &Path,
        uuid: &str,
        table: &Table,
        texts: impl IntoIterator<Item = String>,
        deletions: impl IntoIterator<Item = String>,
    ) -> Result<()> {
        let (data, gone) = (table.data_dir(), table.deletions_dir());
        let present = sealed::known(Self::read(dir))?.filter(|texts| texts.uuid == uuid);
        let (mut files, mut deleted) =
            present.map_or((Vec::new(), Vec::new()), |present| (present.files, present.deletions));
        files.retain(|file| data.join(&file.file).exists());
        deleted.retain(|file| gone.join(&file.file).exists());
        // A file that is told of already, as one of an older version that is gone back to, keeps the checksum it was written with.
        let told: BTreeSet<String> = files.iter().chain(&deleted).map(|written| written.file.clone()).collect();
        files.extend(digests(&data, texts.into_iter().filter(|file| !told.contains(file)))?);
        deleted.extend(digests(&gone, deletions.into_iter().filter(|file| !told.contains(file)))?);
        Self { uuid: uuid.into(), files, deletions: deleted }.write(dir)
    }

    /// The same, with the checksums of files that only `others` tells of. A checksum that is there stays, whatever became of its file.
    pub(crate) fn with(mut self, others: Texts) -> Self {
        let add = |known: &mut Vec<Written>, others: Vec<Written>| {
            let told: BTreeSet<String> = known.iter().map(|known| known.file.clone()).collect();
            known.extend(others.into_iter().filter(|other| !told.contains(&other.file)));
        };
        add(&mut self.files, others.files);
        add(&mut self.deletions, others.deletions);
        self
    }

    /// Files of these versions that have no checksum.
    pub(crate) fn missing(&self, tables: &[Table]) -> Result<BTreeSet<String>> {
        let known: BTreeSet<&str> =
            self.files.iter().chain(&self.deletions).map(|written| written.file.as_str()).collect();
        let needed = needed(tables)?;
        Ok(needed.into_iter().filter(|file| !known.contains(file.as_str())).collect())
    }
}

/// Names of the files with texts and with deletions that these versions refer to.
pub(crate) fn needed(tables: &[Table]) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    for table in tables {
        files.extend(table.text_files()?);
        files.extend(table.deletion_files().into_iter().flatten());
    }
    Ok(files)
}

/// Length and checksum of files in a directory.
pub(crate) fn digests(dir: &Path, files: impl IntoIterator<Item = String>) -> Result<Vec<Written>> {
    let files = files.into_iter().map(|file| {
        let (bytes, blake3) = digest(&dir.join(&file))?;
        Ok(Written { file, bytes, blake3 })
    });
    files.collect()
}
