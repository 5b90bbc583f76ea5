//! The generations that are retained: which there are, loading them, keeping them.

use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::{Generation, read_note};
use crate::held;
use crate::lexical::Keep;
use crate::lock::WriterLock;
use crate::protection::BASE;
use crate::survey::{self, GenerationInfo, Known};
use crate::table::Table;
use crate::vectors::{DerivedVectors, Held, Vectors};
use crate::writer::stated;

impl Corpus {
    /// The newest generation of these passages, loaded; `None` before the first.
    pub fn current(&self) -> Result<Option<Generation>> {
        let latest = self.table().latest()?;
        if self.sees(&latest)? {
            let known =
                survey::newest(self.dir(), self.uuid(), &latest).map_err(|error| self.or_gone(&latest, error))?;
            return known.map(|known| self.load(&known)).transpose();
        }
        let known = self.survey()?.into_iter().rev().find(|known| known.rows == *self.rows());
        known.map(|known| self.load(&known)).ok_or_else(|| self.changed())?.map(Some)
    }

    /// Makes the files that hold the vectors of the newest generation of these passages in this way, under the lock, where they
    /// are missing or do not fit. Says how they are held then; `None` before the first generation.
    pub fn derive(&self, lock: &WriterLock, vectors: Vectors) -> Result<Option<Held>> {
        lock.must_be_for(self.dir())?;
        let latest = self.table().latest()?;
        if !self.sees(&latest)? {
            return Err(self.changed());
        }
        let Some(known) = survey::newest(self.dir(), self.uuid(), &latest)? else { return Ok(None) };
        let made = Generation::open((self.dir(), self.uuid()), &known, vectors, Keep::Under(lock))?;
        Ok(Some(made.held().clone()))
    }

    /// The files of vectors that lie beside the newest generation of these passages and belong to it, by their headers.
    pub fn derived(&self) -> Result<Vec<DerivedVectors>> {
        let known = self.survey()?;
        let newest = self.here(&known, |_| true);
        Ok(newest.map_or(Vec::new(), |known| held::derived(self.uuid(), known)))
    }

    /// All retained generations, ascending by number; the last is the newest. Of one that is retained in several states, as
    /// appending and deleting leave them, the newest is described.
    pub fn generations(&self) -> Result<Vec<GenerationInfo>> {
        let tags: Vec<_> = self.table().tags()?.iter().filter_map(|(tag, _)| survey::owner_of(tag)).collect();
        let mut known = self.survey()?;
        let newest = known.last().map(|known| known.number);
        known.reverse();
        known.dedup_by_key(|known| known.number);
        let infos = known.into_iter().rev().map(|known| GenerationInfo {
            dataset_version: known.table.version(),
            dim: known.dim,
            len: known.rows.len(),
            current: Some(known.number) == newest,
            protected_by: tags.iter().filter(|tag| tag.1 == known.number).map(|tag| tag.0.clone()).collect(),
            graph: known.manifest.ok().map(|manifest| manifest.graph),
            number: known.number,
            fingerprint: known.fingerprint,
        });
        Ok(infos.collect())
    }

    /// One retained generation of these passages, loaded. One that is retained over other passages only is an error:
    /// [`OtherPassages`](Error::OtherPassages).
    pub fn generation(&self, number: u32) -> Result<Generation> {
        let known = self.survey()?;
        if let Some(here) = self.here(&known, |known| known.number == number) {
            return self.load(here);
        }
        match known.iter().any(|known| known.number == number) {
            true => Err(Error::OtherPassages { number }),
            false => Err(Error::NoGeneration { number, retained: numbers(&known) }),
        }
    }

    /// The newest retained generation of these passages that this encoder embedded, loaded.
    pub fn generation_for(&self, by: &Fingerprint) -> Result<Option<Generation>> {
        let known = self.survey()?;
        self.here(&known, |known| known.fingerprint == *by).map(|known| self.load(known)).transpose()
    }

    /// The newest retained generation that this encoder embedded, over whatever passages the index had then, with the corpus
    /// of those: its ordinals are theirs.
    pub fn with_generation_for(&self, by: &Fingerprint) -> Result<Option<(Corpus, Generation)>> {
        let known = self.survey()?;
        let Some(found) = known.iter().rev().find(|known| known.fingerprint == *by) else { return Ok(None) };
        let corpus = self.at(found.table.clone()).map_err(|error| self.or_gone(&found.table, error))?;
        Ok(Some((corpus, self.load(found)?)))
    }

    /// A note that was kept with a retained generation, if there is one; see [`Generation::record`].
    pub fn recorded(&self, number: u32, note: &str) -> Result<Option<serde_json::Value>> {
        let known = self.survey()?;
        let found = known.iter().rev().find(|known| known.number == number);
        let found = found.ok_or_else(|| Error::NoGeneration { number, retained: numbers(&known) })?;
        found.sidecar.as_deref().map_or(Ok(None), |sidecar| read_note(sidecar, note))
    }

    /// What was stated of a retained generation when it was begun, if anything was under this name; see
    /// [`stating`](Self::stating).
    pub fn stated(&self, number: u32, name: &str) -> Result<Option<String>> {
        let known = self.survey()?;
        let found = known.iter().rev().find(|known| known.number == number);
        let found = found.ok_or_else(|| Error::NoGeneration { number, retained: numbers(&known) })?;
        Ok(stated(&found.table, number).remove(name))
    }

    /// Keeps a generation from being removed until [`unprotect`](Self::unprotect): the state it has now, or, for the owner
    /// [`BASE`], the newest state it has at any time. Repeating it changes nothing.
    pub fn protect(&self, lock: &WriterLock, number: u32, owner: &str) -> Result<()> {
        lock.must_be_for(self.dir())?;
        let known = self.survey()?;
        let Some(found) = known.iter().rev().find(|known| known.number == number) else {
            return Err(Error::NoGeneration { number, retained: numbers(&known) });
        };
        let tag = survey::tag_of(owner, number);
        match self.table().tags()?.iter().find(|(present, _)| *present == tag) {
            None => self.table().tag(&tag, found.table.version()),
            Some((_, version)) if owner == BASE && *version != found.table.version() => {
                self.table().move_tag(&tag, found.table.version())
            }
            Some(_) => Ok(()),
        }
    }

    /// Gives up a protection; the generation goes with the next commit unless something else keeps it. One that is not there
    /// is no error.
    pub fn unprotect(&self, lock: &WriterLock, number: u32, owner: &str) -> Result<()> {
        lock.must_be_for(self.dir())?;
        let tag = survey::tag_of(owner, number);
        match self.table().tags()?.iter().any(|(present, _)| *present == tag) {
            true => self.table().untag(&tag),
            false => Ok(()),
        }
    }

    /// A generation as it is held here; where that fails since its files were removed meanwhile, that is said.
    fn load(&self, known: &Known) -> Result<Generation> {
        Generation::open((self.dir(), self.uuid()), known, self.vectors_held(), Keep::IfFree)
            .map_err(|error| self.or_gone(&known.table, error))
    }

    /// What to say of something that failed over a version: that the index was changed, where it was retired meanwhile.
    fn or_gone(&self, table: &Table, error: Error) -> Error {
        let there = table.complete() && table.lists(table.version()).unwrap_or(true);
        if there { error } else { self.changed() }
    }

    /// The newest state that is wanted, of these passages.
    fn here<'a>(&self, known: &'a [Known], wanted: impl Fn(&Known) -> bool) -> Option<&'a Known> {
        known.iter().rev().find(|known| wanted(known) && known.rows == *self.rows())
    }
}

/// Numbers of generations, each once.
pub(crate) fn numbers(known: &[Known]) -> Vec<u32> {
    let mut numbers: Vec<u32> = known.iter().map(|known| known.number).collect();
    numbers.dedup();
    numbers
}
