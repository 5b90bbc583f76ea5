//! The corpus: passages in their order, and the generations that embed them.
//!
//! What is added, deleted, compacted and rolled back lies in files of those names.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ragtune_nearest::GraphParams;

use crate::create::{self, CreateOptions, FORMAT_KEY, SOURCE_KEY, UUID_KEY};
use crate::error::{Cause, Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::check_name;
use crate::ids::Ids;
use crate::lock::WriterLock;
use crate::mend;
use crate::passage::{Fragment, Passage, Source};
use crate::publish::CommitStage;
use crate::sealed::FORMAT;
use crate::stats::{self, Stats};
use crate::survey::{self, Known};
use crate::table::{DATASET, Rows, Table};
use crate::torn::set_torn_manifest_aside;
use crate::vectors::Vectors;
use crate::vouch;
use crate::writer::{GenerationWriter, Staging};

/// An index directory, open for reading; writing needs its [`WriterLock`] besides.
///
/// The passages are those of the moment it was opened, whatever anybody appends, deletes or compacts meanwhile: ordinals that
/// a [`Generation`](crate::Generation) of it returns always name the same passages here. Opening again shows what is new.
/// Where so much was compacted and collected since that files are gone, reading says [`Error::Changed`].
#[derive(Debug)]
pub struct Corpus {
    dir: PathBuf,
    table: Table,
    source: Source,
    uuid: String,
    rows: Rows,
    /// Ordinals of deleted passages, ascending.
    deleted: Vec<u32>,
    ids: OnceLock<Ids>,
    /// How generations are opened.
    vectors: Vectors,
    /// What is stated of generations that are begun.
    stated: BTreeMap<String, String>,
    notices: Vec<String>,
}

impl Corpus {
    /// Creates an index of these passages in `dir`, which is made if need be and must not hold one. Streams: memory does not
    /// grow with the texts, only by 16 bytes per passage for the ids seen. Ids must be unique and not empty, and there must
    /// be at least one passage.
    ///
    /// Durable on return. An error or a crash before leaves no index, at most a directory that the next creation removes.
    pub fn create<E: Into<Cause>>(
        dir: &Path,
        source: &Source,
        passages: impl Iterator<Item = Result<Passage, E>>,
        options: &CreateOptions,
    ) -> Result<Corpus> {
        create::create(dir, source, &mut passages.map(|passage| passage.map_err(Into::into)), options)
    }

    /// Opens an index with the passages it has now. Needs no lock. Generations that are committed later over these very
    /// passages are seen at each call of [`current`](Self::current) and the like.
    ///
    /// The one thing that is written: where a power cut left the newest manifest of the dataset half-written, it is set aside
    /// in `damaged/`, which loses that commit and nothing else; [`notices`](Self::notices) says so.
    pub fn open(dir: &Path) -> Result<Corpus> {
        if !dir.is_dir() {
            return Err(Error::NoIndex { dir: dir.into(), why: "there is no such directory".into() });
        }
        let dir = dir.canonicalize().map_err(Error::io("finding", dir))?;
        if !dir.join(DATASET).is_dir() {
            return Err(Error::NoIndex { dir, why: format!("it holds no `{DATASET}`") });
        }
        let notices = set_torn_manifest_aside(&dir)?;
        vouch::verify_newest(&dir)?;
        let mut table = Table::open(&dir)?;
        loop {
            match Self::of_table(dir.clone(), table.clone(), notices.clone()) {
                // A writer went on, and removed what this version needs.
                Err(_) if table.latest()?.version() != table.version() => table = table.latest()?,
                opened => return opened,
            }
        }
    }

    /// The same index with the passages it has now.
    pub fn reopen(&self) -> Result<Corpus> {
        let opened = Self::open(&self.dir)?;
        Ok(Self { vectors: self.vectors, stated: self.stated.clone(), ..opened })
    }

    /// The same, but generations are opened from now on with their vectors held in this way. Files that are missing or do not fit
    /// are made and kept where nobody else writes to the index; [`Generation::held`](crate::Generation::held) says what was done.
    pub fn holding(self, vectors: Vectors) -> Corpus {
        Corpus { vectors, ..self }
    }

    /// The same, but of every generation that is begun from now on this is stated: it is durable from before the first of its
    /// vectors is staged, and so with its commit. Names are as of notes. See [`stated`](Self::stated).
    pub fn stating(mut self, name: &str, what: &str) -> Result<Corpus> {
        check_name(name)?;
        self.stated.insert(name.into(), what.into());
        Ok(self)
    }

    /// What is stated of generations that are begun.
    pub(crate) fn statements(&self) -> &BTreeMap<String, String> {
        &self.stated
    }

    /// How generations are opened.
    pub(crate) fn vectors_held(&self) -> Vectors {
        self.vectors
    }

    /// The same index with the passages it had at a version.
    pub(crate) fn at(&self, table: Table) -> Result<Corpus> {
        Ok(Self::of_table(self.dir.clone(), table, Vec::new())?.holding(self.vectors))
    }

    fn of_table(dir: PathBuf, table: Table, notices: Vec<String>) -> Result<Corpus> {
        let setting = |key: &str| table.config().get(key).cloned();
        let foreign = |why: &str| Error::NoIndex { dir: dir.clone(), why: why.into() };
        let format = setting(FORMAT_KEY).ok_or_else(|| foreign("its dataset was not written by ragtune"))?;
        if format.parse().ok().is_none_or(|format: u32| format > FORMAT) {
            return Err(Error::Format { file: DATASET.into(), found: format, known: FORMAT });
        }
        let uuid = setting(UUID_KEY).ok_or_else(|| foreign("its dataset has no identity"))?;
        let source = setting(SOURCE_KEY).and_then(|source| serde_json::from_str(&source).ok());
        let source = source.ok_or_else(|| foreign("its dataset does not say where it came from"))?;
        let (rows, deleted) = (table.rows()?, table.deleted()?);
        let (ids, vectors, stated) = (OnceLock::new(), Vectors::Memory, BTreeMap::new());
        Ok(Corpus { dir, table, source, uuid, rows, deleted, ids, vectors, stated, notices })
    }

    /// The file the passages came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Number of ordinals: passages, deleted ones included until a compaction. Every vector of a generation has one.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Number of passages that are there: not deleted.
    pub fn passages(&self) -> usize {
        self.len() - self.deleted.len()
    }

    /// Whether the passage at this ordinal was deleted.
    pub fn is_deleted(&self, ordinal: u32) -> bool {
        self.deleted.binary_search(&ordinal).is_ok()
    }

    /// Ordinals of the deleted passages, ascending.
    pub fn deleted(&self) -> &[u32] {
        &self.deleted
    }

    /// Never true: an index of nothing cannot be created, and the last passage cannot be deleted.
    pub fn is_empty(&self) -> bool {
        self.passages() == 0
    }

    /// The identity of this index: 32 hex digits, another for every creation.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The index directory, canonical.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was done on opening that the user should know of; usually nothing.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The ids of all passages by ordinal; that of a deleted passage is empty. Read on first use, then kept.
    pub fn ids(&self) -> Result<&[String]> {
        Ok(&self.load_ids()?.of)
    }

    /// The ordinal of the passage with this id, if there is one that is not deleted.
    pub fn ordinal(&self, id: &str) -> Result<Option<u32>> {
        Ok(self.load_ids()?.ordinal(id))
    }

    /// The passages at these ordinals, in the order asked; they may repeat. Deleted ones are read, more slowly, as long as their
    /// rows are there, which is as long as they have ordinals.
    pub fn get(&self, ordinals: &[u32]) -> Result<Vec<Passage>> {
        if let Some(ordinal) = ordinals.iter().find(|ordinal| **ordinal as usize >= self.len()) {
            let what = format!("there is no passage `{ordinal}`, the corpus holds {}", self.len());
            return Err(Error::NotThere { what });
        }
        let is_live = |ordinal: &u32| !self.is_deleted(*ordinal);
        let live: Vec<u32> = ordinals.iter().copied().filter(is_live).collect();
        let mut read = self.table.passages(&live).map_err(|error| self.or_changed(error))?.into_iter();
        let passages = ordinals.iter().map(|ordinal| match is_live(ordinal) {
            true => read.next().ok_or_else(|| Error::NotThere { what: format!("passage `{ordinal}` was not read") }),
            false => self.table.row(*ordinal).map_err(|error| self.or_changed(error)),
        });
        passages.collect()
    }

    /// All fragments in the order of their passages; their rows include deleted ones.
    pub fn fragments(&self) -> Vec<Fragment> {
        self.rows.fragments.clone()
    }

    /// Consecutive passages of one fragment, deleted ones included; `range` counts within it.
    pub fn read(&self, fragment: &Fragment, range: Range<u32>) -> Result<Vec<Passage>> {
        if !self.rows.fragments.contains(fragment) || range.start > range.end || range.end > fragment.rows {
            let what = format!(
                "there are no passages {}..{} in fragment {} of {} passages",
                range.start, range.end, fragment.id, fragment.rows
            );
            return Err(Error::NotThere { what });
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.table.read(fragment, range).map_err(|error| self.or_changed(error))
    }

    /// Takes the right to write. `owner` is for the message that the next one gets who tries.
    pub fn lock(&self, owner: &str) -> Result<WriterLock> {
        WriterLock::take(&self.dir, owner)
    }

    /// Begins a new generation embedded by `by`, with vectors of `dim` values.
    ///
    /// Where an earlier one by the same encoder was interrupted, it is taken up again: what it had staged is not
    /// [`pending`](GenerationWriter::pending). One by another encoder is discarded. All generations of an index have the same
    /// dimension.
    pub fn begin<'a>(&'a self, lock: &'a WriterLock, by: &Fingerprint, dim: usize) -> Result<GenerationWriter<'a>> {
        GenerationWriter::begin(self, lock, by, dim)
    }

    /// Goes on with a writer that was laid aside. What it had staged is taken as it was left; only where something else
    /// was committed meanwhile, or the journal is gone or says something else, is it begun again, as by
    /// [`begin`](Self::begin).
    pub fn go_on<'a>(&'a self, lock: &'a WriterLock, staging: Staging) -> Result<GenerationWriter<'a>> {
        GenerationWriter::go_on(self, lock, staging)
    }

    /// Repairs everything that can be: rebuilds missing or damaged graphs from the vectors, removes what killed processes
    /// left. An interrupted generation that can be taken up again stays. Says what was done, one line for each.
    ///
    /// A graph is built as it was built before; `graph` is for one of which nothing is known any more. Where a newer program
    /// wrote a file that would be replaced, nothing is done: [`Error::Format`].
    pub fn mend(
        &self,
        lock: &WriterLock,
        graph: &GraphParams,
        observe: &mut dyn FnMut(CommitStage),
    ) -> Result<Vec<String>> {
        lock.must_be_for(&self.dir)?;
        mend::mend(self, Some(graph), observe)
    }

    /// The same, where a graph of which nothing is known is built like the graphs of the generations nearest to it.
    pub fn mend_alike(&self, lock: &WriterLock, observe: &mut dyn FnMut(CommitStage)) -> Result<Vec<String>> {
        lock.must_be_for(&self.dir)?;
        mend::mend(self, None, observe)
    }

    /// Bytes on disk by kind, and what there is.
    pub fn stats(&self) -> Result<Stats> {
        stats::stats(self)
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// All generations as the dataset has them now.
    pub(crate) fn survey(&self) -> Result<Vec<Known>> {
        survey::all(&self.dir, &self.uuid, &self.table.latest()?)
    }

    /// Whether a version has the passages of this corpus, in the same fragments.
    pub(crate) fn sees(&self, table: &Table) -> Result<bool> {
        Ok(table.rows()? == self.rows)
    }

    /// That the index has other passages than this corpus, where one of them was needed.
    pub(crate) fn changed(&self) -> Error {
        Error::Changed { dir: self.dir.clone() }
    }

    /// What to say of a failed read: that files are gone, if that is why.
    pub(crate) fn or_changed(&self, error: Error) -> Error {
        if self.table.complete() { error } else { self.changed() }
    }

    fn load_ids(&self) -> Result<&Ids> {
        if let Some(ids) = self.ids.get() {
            return Ok(ids);
        }
        let ids = Ids::load(&self.table, self.len(), &self.deleted).map_err(|error| self.or_changed(error))?;
        Ok(self.ids.get_or_init(|| ids))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(dir: &Path) -> Corpus {
        let source = Source { name: "c".into(), blake3: "0".into() };
        let passage = Passage { id: "1".into(), title: String::new(), text: "t".into() };
        let passages = std::iter::once(Ok::<_, Error>(passage));
        Corpus::create(dir, &source, passages, &CreateOptions::default()).unwrap()
    }

    #[test]
    fn a_dataset_of_a_newer_program_or_of_another_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = create(dir.path());
        corpus.table().configure(vec![(FORMAT_KEY.into(), Some("7".into()))]).unwrap();
        let error = Corpus::open(dir.path()).unwrap_err();
        assert!(matches!(&error, Error::Format { found, .. } if found == "7"), "{error}");
        assert!(error.hint().unwrap().contains("newer"));
        corpus.table().latest().unwrap().configure(vec![(FORMAT_KEY.into(), None)]).unwrap();
        let error = Corpus::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::NoIndex { .. }), "{error}");
    }

    #[test]
    fn a_generation_without_its_fingerprint_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let corpus = create(dir.path());
        let by = Fingerprint::new([("weights".to_string(), "x".to_string())].into());
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &by, 1).unwrap();
        writer.write(&corpus.fragments()[0], &[1.0]).unwrap();
        writer.commit(&GraphParams::default(), crate::GraphPlan::Build, &mut |_| {}).unwrap();
        let newest = corpus.table().latest().unwrap();
        newest.configure(vec![(survey::fingerprint_key(1), None)]).unwrap();
        let error = corpus.current().unwrap_err();
        assert!(error.to_string().contains("what embedded generation 1"), "{error}");
    }
}
