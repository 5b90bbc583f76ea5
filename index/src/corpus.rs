//! The corpus: passages in their order, and the generations that embed them.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ragtune_nearest::GraphParams;

use crate::create::{self, CreateOptions, FORMAT_KEY, SOURCE_KEY, UUID_KEY};
use crate::durable::{name, sync_dir};
use crate::error::{Cause, Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::Generation;
use crate::lock::WriterLock;
use crate::mend;
use crate::passage::{Fragment, Passage, Source};
use crate::publish::CommitStage;
use crate::sealed::FORMAT;
use crate::stats::{self, Stats};
use crate::survey::{self, GenerationInfo, Known};
use crate::table::{DATASET, Table};
use crate::writer::GenerationWriter;

/// Name of the directory for damaged files that were set aside.
pub(crate) const DAMAGED: &str = "damaged";

/// An index directory, open for reading; writing needs its [`WriterLock`] besides. The passages never change after creation.
#[derive(Debug)]
pub struct Corpus {
    dir: PathBuf,
    table: Table,
    source: Source,
    uuid: String,
    fragments: Vec<Fragment>,
    len: usize,
    ids: OnceLock<Ids>,
    notices: Vec<String>,
}

#[derive(Debug)]
struct Ids {
    of: Vec<String>,
    /// Ordinals in the order of their ids.
    sorted: Vec<u32>,
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

    /// Opens an index. Needs no lock, and sees what is newest at each call of [`current`](Self::current) and the like.
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
        let table = Table::open(&dir)?;
        let setting = |key: &str| table.config().get(key).cloned();
        let foreign = |why: &str| Error::NoIndex { dir: dir.clone(), why: why.into() };
        let format = setting(FORMAT_KEY).ok_or_else(|| foreign("its dataset was not written by ragtune"))?;
        if format.parse().ok().is_none_or(|format: u32| format > FORMAT) {
            return Err(Error::Format { file: DATASET.into(), found: format, known: FORMAT });
        }
        let uuid = setting(UUID_KEY).ok_or_else(|| foreign("its dataset has no identity"))?;
        let source = setting(SOURCE_KEY).and_then(|source| serde_json::from_str(&source).ok());
        let source = source.ok_or_else(|| foreign("its dataset does not say where it came from"))?;
        let fragments = table.fragments()?;
        let len = fragments.iter().map(|fragment| fragment.rows as usize).sum();
        Ok(Corpus { dir, table, source, uuid, fragments, len, ids: OnceLock::new(), notices })
    }

    /// The file the passages came from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: an index of nothing cannot be created.
    pub fn is_empty(&self) -> bool {
        self.len == 0
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

    /// The ids of all passages in the order of ordinals. Read on first use, then kept.
    pub fn ids(&self) -> Result<&[String]> {
        Ok(&self.load_ids()?.of)
    }

    /// The position of the passage with this id, if there is one.
    pub fn ordinal(&self, id: &str) -> Result<Option<u32>> {
        let ids = self.load_ids()?;
        let found = ids.sorted.binary_search_by(|ordinal| ids.of[*ordinal as usize].as_str().cmp(id));
        Ok(found.ok().map(|at| ids.sorted[at]))
    }

    /// The passages at these positions, in the order asked; positions may repeat.
    pub fn get(&self, ordinals: &[u32]) -> Result<Vec<Passage>> {
        if let Some(ordinal) = ordinals.iter().find(|ordinal| **ordinal as usize >= self.len) {
            let what = format!("there is no passage `{ordinal}`, the corpus holds {}", self.len);
            return Err(Error::NotThere { what });
        }
        self.table.passages(ordinals)
    }

    /// All fragments in the order of their passages.
    pub fn fragments(&self) -> Vec<Fragment> {
        self.fragments.clone()
    }

    /// Consecutive passages of one fragment; `range` counts within it.
    pub fn read(&self, fragment: &Fragment, range: Range<u32>) -> Result<Vec<Passage>> {
        if !self.fragments.contains(fragment) || range.start > range.end || range.end > fragment.rows {
            let what = format!(
                "there are no passages {}..{} in fragment {} of {} passages",
                range.start, range.end, fragment.id, fragment.rows
            );
            return Err(Error::NotThere { what });
        }
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.table.read(fragment, range)
    }

    /// The newest generation, loaded; `None` before the first.
    pub fn current(&self) -> Result<Option<Generation>> {
        let known = survey::newest(&self.dir, &self.uuid, &self.table.latest()?)?;
        known.map(|known| self.load(&known)).transpose()
    }

    /// All retained generations, ascending by number; the last is the newest.
    pub fn generations(&self) -> Result<Vec<GenerationInfo>> {
        let tags: Vec<_> = self.table.tags()?.iter().filter_map(|(tag, _)| survey::owner_of(tag)).collect();
        let known = self.survey()?;
        let newest = known.last().map(|known| known.number);
        let infos = known.into_iter().map(|known| GenerationInfo {
            dataset_version: known.table.version(),
            dim: known.dim,
            current: Some(known.number) == newest,
            protected_by: tags.iter().filter(|tag| tag.1 == known.number).map(|tag| tag.0.clone()).collect(),
            graph: known.manifest.ok().map(|manifest| manifest.graph),
            number: known.number,
            fingerprint: known.fingerprint,
        });
        Ok(infos.collect())
    }

    /// One retained generation, loaded: older ones stay readable as they were.
    pub fn generation(&self, number: u32) -> Result<Generation> {
        let known = self.survey()?;
        match known.iter().find(|known| known.number == number) {
            Some(known) => self.load(known),
            None => Err(Error::NoGeneration { number, retained: known.iter().map(|known| known.number).collect() }),
        }
    }

    /// The newest retained generation that this encoder embedded, loaded.
    pub fn generation_for(&self, by: &Fingerprint) -> Result<Option<Generation>> {
        let known = self.survey()?;
        known.iter().rev().find(|known| known.fingerprint == *by).map(|known| self.load(known)).transpose()
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

    /// Keeps a generation from being removed until [`unprotect`](Self::unprotect); repeating it changes nothing.
    pub fn protect(&self, lock: &WriterLock, number: u32, owner: &str) -> Result<()> {
        lock.must_be_for(&self.dir)?;
        let known = self.survey()?;
        let Some(found) = known.iter().find(|known| known.number == number) else {
            return Err(Error::NoGeneration { number, retained: known.iter().map(|known| known.number).collect() });
        };
        let tag = survey::tag_of(owner, number);
        match self.table.tags()?.iter().any(|(present, _)| *present == tag) {
            true => Ok(()),
            false => self.table.tag(&tag, found.table.version()),
        }
    }

    /// Gives up a protection; the generation goes with the next commit unless something else keeps it. One that is not there
    /// is no error.
    pub fn unprotect(&self, lock: &WriterLock, number: u32, owner: &str) -> Result<()> {
        lock.must_be_for(&self.dir)?;
        let tag = survey::tag_of(owner, number);
        match self.table.tags()?.iter().any(|(present, _)| *present == tag) {
            true => self.table.untag(&tag),
            false => Ok(()),
        }
    }

    /// Repairs everything that can be: rebuilds missing or damaged graphs from the vectors, removes what killed processes
    /// left. An interrupted generation that can be taken up again stays. Says what was done, one line for each.
    pub fn mend(
        &self,
        lock: &WriterLock,
        graph: &GraphParams,
        observe: &mut dyn FnMut(CommitStage),
    ) -> Result<Vec<String>> {
        lock.must_be_for(&self.dir)?;
        mend::mend(self, graph, observe)
    }

    /// Bytes on disk by kind, and what there is.
    pub fn stats(&self) -> Result<Stats> {
        stats::stats(self)
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// All generations as the dataset has them now.
    pub(crate) fn survey(&self) -> Result<Vec<Known>> {
        survey::all(&self.dir, &self.uuid, &self.table.latest()?)
    }

    fn load(&self, known: &Known) -> Result<Generation> {
        Generation::load(known, self.len)
    }

    fn load_ids(&self) -> Result<&Ids> {
        if let Some(ids) = self.ids.get() {
            return Ok(ids);
        }
        let of = self.table.ids()?;
        if of.len() != self.len {
            let what = format!("{} ids were found for {} passages", of.len(), self.len);
            return Err(Error::corrupt(self.dir.join(DATASET), what));
        }
        let mut sorted: Vec<u32> = (0..self.len as u32).collect();
        sorted.sort_by(|a, b| of[*a as usize].cmp(&of[*b as usize]));
        Ok(self.ids.get_or_init(|| Ids { of, sorted }))
    }
}

fn set_torn_manifest_aside(dir: &Path) -> Result<Vec<String>> {
    let mut notices = Vec::new();
    if Table::torn_manifest(dir)?.is_none() {
        return Ok(notices);
    }
    // Under the lock, so that two who open at once do not both do it; looked for again, since the other may have done it.
    let _lock = WriterLock::take(dir, "mending a torn manifest")?;
    while let Some(torn) = Table::torn_manifest(dir)? {
        let aside = dir.join(DAMAGED);
        std::fs::create_dir_all(&aside).map_err(Error::io("creating", &aside))?;
        let target = aside.join(name(&torn));
        std::fs::rename(&torn, &target).map_err(Error::io("renaming to", &target))?;
        sync_dir(&aside)?;
        sync_dir(torn.parent().unwrap_or(dir))?;
        notices.push(format!(
            "the newest manifest was half-written and was set aside as `{DAMAGED}/{}`: the last commit before a power cut is lost",
            name(&torn)
        ));
    }
    Ok(notices)
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
