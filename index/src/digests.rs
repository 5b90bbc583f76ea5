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
use crate::staged::Staged;
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

    /// What `texts.json` tells of deletion files. For reading alone: one of a newer format tells nothing, and keeps
    /// nobody from searching.
    pub(crate) fn of_deletions(dir: &Path) -> Self {
        let told = Texts::read(dir).into_iter().flat_map(|texts| texts.deletions);
        Self(told.map(|Written { file, bytes, blake3 }| (file, (bytes, blake3))).collect())
    }

    /// The same, and what `texts.json` tells of texts and deletions. One of a newer format is refused.
    pub(crate) fn of_all(dir: &Path, uuid: &str) -> Result<Self> {
        let Self(mut known) = Self::of_vectors(dir, uuid)?;
        if let Some(texts) = sealed::known(Texts::read(dir))?.filter(|texts| texts.uuid == uuid) {
            for Written { file, bytes, blake3 } in texts.files.into_iter().chain(texts.deletions) {
                known.entry(file).or_insert((bytes, blake3));
            }
        }
        Ok(Self(known))
    }

    /// The same, and what staged files were when they were written, whatever became of them since.
    pub(crate) fn and(mut self, staged: &[Staged]) -> Self {
        self.0.extend(staged.iter().map(|staged| (staged.file.clone(), (staged.bytes, staged.blake3.clone()))));
        self
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

    /// Refuses texts of these fragments that are not what was written; `wanted` is told of each the fragment and its
    /// deletion file. The latter are held against their checksums whenever they are read ([`Table::deleted`]).
    pub(crate) fn verify_texts(
        &self,
        table: &Table,
        rows: &Rows,
        wanted: impl Fn(&Fragment, Option<&String>) -> bool,
    ) -> Result<()> {
        for ((fragment, texts), deletion) in rows.fragments.iter().zip(&rows.texts).zip(&rows.deletions) {
            if wanted(fragment, deletion.as_ref()) {
                self.verify(&table.data_dir(), [texts])?;
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

#[cfg(test)]
mod tests {
    use ragtune_nearest::GraphParams;

    use super::*;
    use crate::durable::entries;
    use crate::sealed::tests::make_newer;
    use crate::texts::TEXTS;
    use crate::{Corpus, CreateOptions, Fingerprint, GraphPlan, Passage, Search, Source, Trust};

    #[test]
    fn checksums_of_a_newer_program_keep_nobody_from_searching_and_everybody_from_changing() {
        let dir = tempfile::tempdir().unwrap();
        let by = Fingerprint::new([("weights".to_string(), "x".to_string())].into());
        let passage = |id: &str| Ok::<_, Error>(Passage { id: id.into(), title: String::new(), text: "t".into() });
        let source = Source { name: "c".into(), blake3: "0".into() };
        let passages = [passage("1"), passage("2"), passage("3")].into_iter();
        let corpus = Corpus::create(dir.path(), &source, passages, &CreateOptions::default()).unwrap();
        {
            let lock = corpus.lock("a test").unwrap();
            let mut writer = corpus.begin(&lock, &by, 1).unwrap();
            writer.write(&corpus.fragments()[0], &[1.0, 1.0, 1.0]).unwrap();
            writer.commit(&GraphParams::default(), GraphPlan::Build, &mut |_| {}).unwrap();
            corpus.delete(&lock, &["1".to_string()]).unwrap();
        }
        make_newer(&dir.path().join(TEXTS));
        let corpus = Corpus::open(dir.path()).unwrap();
        let generation = corpus.current().unwrap().unwrap();
        let hits = generation.search(&[1.0], 2, Search::Exact, Trust::Same(&by)).unwrap();
        assert_eq!((corpus.passages(), hits[0].len()), (2, 2));
        let deletions = corpus.table().deletions_dir();
        let before = entries(&deletions).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let outcomes = [
            corpus.delete(&lock, &["2".to_string()]).map(drop),
            corpus.compact(&lock, &GraphParams::default(), &mut |_| {}).map(drop),
            corpus.mend_alike(&lock, &mut |_| {}).map(drop),
        ];
        for outcome in outcomes {
            let error = outcome.unwrap_err();
            assert!(matches!(&error, Error::Format { found, .. } if found == "99"), "{error:?}");
        }
        assert_eq!(entries(&deletions).unwrap(), before);
    }
}
