//! What files were when they were written, from whatever says so. A file whose content goes into a new one gets a new checksum
//! there, which would be right for wrong content too: so it is held against its own before, and keeps its own where it stays.

use std::collections::BTreeMap;
use std::path::Path;

use crate::check::changed;
use crate::durable::digest;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, VectorFile, sidecars};
use crate::passage::Fragment;
use crate::sealed;
use crate::survey::Known;
use crate::table::{Rows, Table};
use crate::texts::{Texts, Written};

/// Length and checksum of files in `data` and `_deletions`, by their names, which are random and never used again.
pub(crate) struct Digests(BTreeMap<String, (u64, String)>);

impl Digests {
    /// What the sidecars tell of files of vectors. What cannot be read tells nothing.
    pub(crate) fn of_vectors(dir: &Path, uuid: &str) -> Result<Self> {
        let mut known = BTreeMap::new();
        for sidecar in sidecars(dir)? {
            let Ok(manifest) = Manifest::read(&sidecar) else { continue };
            for file in manifest.vectors.into_iter().filter(|_| manifest.uuid == uuid) {
                known.entry(file.file).or_insert((file.bytes, file.blake3));
            }
        }
        Ok(Self(known))
    }

    /// What `texts.json` tells of deletion files.
    pub(crate) fn of_deletions(dir: &Path) -> Result<Self> {
        let texts = sealed::known(Texts::read(dir))?;
        let told = texts.into_iter().flat_map(|texts| texts.deletions);
        Ok(Self(told.map(|Written { file, bytes, blake3 }| (file, (bytes, blake3))).collect()))
    }

    /// The same, and what `texts.json` tells of the others. One of a newer format is refused.
    pub(crate) fn of_all(dir: &Path, uuid: &str) -> Result<Self> {
        let Self(mut known) = Self::of_vectors(dir, uuid)?;
        if let Some(texts) = sealed::known(Texts::read(dir))?.filter(|texts| texts.uuid == uuid) {
            for Written { file, bytes, blake3 } in texts.files.into_iter().chain(texts.deletions) {
                known.entry(file).or_insert((bytes, blake3));
            }
        }
        Ok(Self(known))
    }

    /// Refuses files in a directory that are not what was written. Those that nothing tells of are taken as they are.
    pub(crate) fn verify<'a>(&self, dir: &Path, files: impl IntoIterator<Item = &'a String>) -> Result<()> {
        for file in files {
            let Some((bytes, blake3)) = self.0.get(file) else { continue };
            let path = dir.join(file);
            if let Some(what) = changed(&path, *bytes, blake3) {
                return Err(Error::corrupt(path, what));
            }
        }
        Ok(())
    }

    /// Refuses texts and deletions of these fragments that are not what was written; `wanted` is told of each the fragment and its
    /// deletion file.
    pub(crate) fn verify_rows(
        &self,
        table: &Table,
        rows: &Rows,
        wanted: impl Fn(&Fragment, Option<&String>) -> bool,
    ) -> Result<()> {
        for ((fragment, texts), deletion) in rows.fragments.iter().zip(&rows.texts).zip(&rows.deletions) {
            if wanted(fragment, deletion.as_ref()) {
                self.verify(&table.data_dir(), [texts])?;
                self.verify(&table.deletions_dir(), deletion)?;
            }
        }
        Ok(())
    }

    /// The files of vectors of a state; those that are told of are not read again.
    pub(crate) fn vector_files(&self, known: &Known) -> Result<Vec<VectorFile>> {
        let data = known.table.data_dir();
        let files = known.rows.fragments.iter().zip(&known.files).map(|(fragment, file)| {
            let (bytes, blake3) = match self.0.get(file) {
                Some(told) => told.clone(),
                None => digest(&data.join(file))?,
            };
            Ok(VectorFile { fragment: fragment.id, rows: fragment.rows, file: file.clone(), bytes, blake3 })
        });
        files.collect()
    }
}
