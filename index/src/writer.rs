//! Writing a generation: stage the vectors fragment by fragment, then commit all of them at once, or vanish.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use ragtune_nearest::{GraphParams, normalize};

use crate::corpus::Corpus;
use crate::durable::remove;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::Generation;
use crate::graph_plan::GraphPlan;
use crate::journal::{self, Header, Journal};
use crate::lock::WriterLock;
use crate::passage::Fragment;
use crate::publish::{CommitStage, publish};
use crate::retire::{before_change, retire};
use crate::sealed::FORMAT;
use crate::staged::Staged;
use crate::survey::{self, FINGERPRINT_PREFIX, Known, fingerprint_key};
use crate::table::Table;

/// How far from 1 the length of an offered vector may be. Less is rounding, and mended; more is a mistake, and refused.
pub(crate) const LENGTH_TOLERANCE: f64 = 1e-3;

/// A generation in the making. Dropped without [`commit`](Self::commit) it leaves nothing that counts; what is staged is
/// remembered in a journal, and the next [`Corpus::begin`] for the same encoder goes on from there.
#[derive(Debug)]
pub struct GenerationWriter<'a> {
    corpus: &'a Corpus,
    _lock: &'a WriterLock,
    staging: Staging,
}

/// A writer at rest: what it has staged, so that [`Corpus::go_on`] need not read it again.
#[derive(Debug)]
pub struct Staging {
    /// The version that is staged against.
    table: Table,
    /// As the journal has it.
    header: Header,
    /// By their fragments.
    staged: BTreeMap<u64, Staged>,
    /// Those fragments in the order of the journal's lines.
    order: Vec<u64>,
    journal: Journal,
}

impl<'a> GenerationWriter<'a> {
    /// Lays it aside without a commit.
    pub fn rest(self) -> Staging {
        self.staging
    }

    /// See [`Corpus::go_on`].
    pub(crate) fn go_on(corpus: &'a Corpus, lock: &'a WriterLock, staging: Staging) -> Result<GenerationWriter<'a>> {
        lock.must_be_for(corpus.dir())?;
        let latest = corpus.table().latest()?;
        let staged = staging.order.iter().filter_map(|fragment| staging.staged.get(fragment));
        // A collection or a mending removes the journal of a writer that has staged nothing, and files that no journal
        // names are removed too.
        let journal = match latest.version() == staging.table.version() && corpus.sees(&latest)? {
            true => staging.journal.again(corpus.dir(), &staging.header, staged)?,
            false => None,
        };
        match journal {
            Some(journal) => Ok(Self { corpus, _lock: lock, staging: Staging { journal, ..staging } }),
            None => Self::begin(corpus, lock, &staging.header.fingerprint, staging.header.dim),
        }
    }

    /// See [`Corpus::begin`].
    pub(crate) fn begin(
        corpus: &'a Corpus,
        lock: &'a WriterLock,
        by: &Fingerprint,
        dim: usize,
    ) -> Result<GenerationWriter<'a>> {
        lock.must_be_for(corpus.dir())?;
        let table = corpus.table().latest()?;
        if !corpus.sees(&table)? {
            return Err(corpus.changed());
        }
        before_change(corpus.dir(), corpus.uuid(), &table)?;
        let known = survey::all(corpus.dir(), corpus.uuid(), &table)?;
        if let (Some(newest), Some(present)) = (known.last(), table.dim()?)
            && present != dim
        {
            let what = format!("the length of the new vectors, the index holds generation {}", newest.number);
            return Err(Error::Dimension { what, given: dim, expected: present });
        }
        let number = next_number(&known);
        let mut header = Header {
            format: FORMAT,
            uuid: corpus.uuid().into(),
            number,
            read_version: table.version(),
            dim,
            fingerprint: by.clone(),
        };
        let (table, staged) = match resume(corpus, &table, &header)? {
            // What is stated may be new; what is staged is for whatever is stated.
            ControlFlow::Break(staged) => match stated(&table, number) == *corpus.statements() {
                true => (table, staged),
                false => (register(&table, number, by, corpus.statements(), &known)?, staged),
            },
            ControlFlow::Continue(()) => {
                (register(&table.announce(dim)?, number, by, corpus.statements(), &known)?, Vec::new())
            }
        };
        header.read_version = table.version();
        let journal = Journal::start(corpus.dir(), &header, &staged)?;
        let order = staged.iter().map(|staged| staged.fragment.id).collect();
        let staged = staged.into_iter().map(|staged| (staged.fragment.id, staged)).collect();
        Ok(Self { corpus, _lock: lock, staging: Staging { table, header, staged, order, journal } })
    }

    /// The number the generation will have.
    pub fn number(&self) -> u32 {
        self.staging.header.number
    }

    /// The fragments whose vectors are still to be written, in order. Deleted passages need vectors too, until a compaction:
    /// the graph walks over them.
    pub fn pending(&self) -> Vec<Fragment> {
        let fragments = self.corpus.fragments();
        fragments.into_iter().filter(|fragment| !self.staging.staged.contains_key(&fragment.id)).collect()
    }

    /// Stages the vectors of one fragment: (rows, D) row-major in the order of its passages, each finite and of length one
    /// within 0.001; what is left of that is taken away. On return they survive a crash, but count only after the commit.
    pub fn write(&mut self, fragment: &Fragment, vectors: &[f32]) -> Result<()> {
        if !self.corpus.fragments().contains(fragment) {
            let what = format!("the corpus has no fragment {} of {} passages", fragment.id, fragment.rows);
            return Err(Error::NotThere { what });
        }
        if self.staging.staged.contains_key(&fragment.id) {
            return Err(Error::NotThere { what: format!("fragment {} is already written", fragment.id) });
        }
        let Header { number, dim, .. } = self.staging.header;
        let expected = fragment.rows as usize * dim;
        if vectors.len() != expected {
            let what = format!("values for {} passages of fragment {}", fragment.rows, fragment.id);
            return Err(Error::Dimension { what, given: vectors.len(), expected });
        }
        let mut vectors = vectors.to_vec();
        for (row, vector) in vectors.chunks_exact_mut(dim).enumerate() {
            normalize(vector, LENGTH_TOLERANCE).map_err(|what| Error::BadVector {
                what: format!("the vector of passage {} cannot be stored: {what}", fragment.first as usize + row),
            })?;
        }
        let staged = self.staging.table.stage(fragment, number, dim, &vectors)?;
        self.staging.journal.add(&staged)?;
        self.staging.staged.insert(fragment.id, staged);
        self.staging.order.push(fragment.id);
        Ok(())
    }

    /// Makes the staged vectors the newest generation, makes its graph by `plan`, measures it and retires older generations,
    /// telling `observe` what begins. All fragments must have been written.
    ///
    /// An error or a crash in [`CommitStage::Commit`] leaves the previous generation the newest; later ones leave this one
    /// the newest, with exact search until its graph is rebuilt ([`Corpus::mend`]).
    pub fn commit(
        self,
        graph: &GraphParams,
        plan: GraphPlan,
        observe: &mut dyn FnMut(CommitStage),
    ) -> Result<Generation> {
        graph.check()?;
        plan.check()?;
        let fragments = self.corpus.fragments();
        let pending = fragments.len() - self.staging.staged.len();
        if pending > 0 {
            return Err(Error::Incomplete { number: self.staging.header.number, pending, fragments: fragments.len() });
        }
        observe(CommitStage::Commit);
        let staged: Vec<Staged> = self.staging.staged.into_values().collect();
        let table = self.staging.table.replace(&staged, self.staging.header.number, "refresh")?;
        let dir = self.corpus.dir();
        journal::discard(dir)?;
        let known = Known {
            number: self.staging.header.number,
            fingerprint: self.staging.header.fingerprint,
            files: staged.iter().map(|staged| staged.file.clone()).collect(),
            rows: table.rows()?,
            dim: self.staging.header.dim,
            table,
            sidecar: None,
            manifest: Err("its graph is being built".into()),
        };
        let generation = publish(dir, self.corpus.uuid(), &known, &staged, (graph, plan), observe)?;
        retire(dir, self.corpus.uuid(), &known.table, &BTreeSet::new())?;
        Ok(generation)
    }
}

/// The number of the generation after these.
pub(crate) fn next_number(known: &[Known]) -> u32 {
    known.last().map_or(1, |newest| newest.number + 1)
}

/// The staged files of an interrupted generation, when they are for exactly this one. Otherwise the journal and its files
/// are removed: nothing refers to them.
fn resume(corpus: &Corpus, table: &Table, wanted: &Header) -> Result<ControlFlow<Vec<Staged>>> {
    let Some(entries) = journal::read(corpus.dir())? else { return Ok(ControlFlow::Continue(())) };
    let fragments = corpus.fragments();
    if entries.header.as_ref() == Some(wanted) && table.config().contains_key(&fingerprint_key(wanted.number)) {
        let good = |staged: &Staged| fragments.contains(&staged.fragment) && journal::intact(staged, &table.data_dir());
        return Ok(ControlFlow::Break(entries.staged.into_iter().filter(good).collect()));
    }
    let unreferenced = table.unreferenced()?;
    for staged in entries.staged {
        // After a crash just behind the commit point the journal names files that are the newest generation.
        let path = table.data_dir().join(&staged.file);
        if unreferenced.contains(&path) {
            remove(&path)?;
        }
    }
    journal::discard(corpus.dir())?;
    Ok(ControlFlow::Continue(()))
}

/// Writes down what embeds the generation, and what else is stated of it, before any of it is staged, and forgets generations that
/// are gone.
pub(crate) fn register(
    table: &Table,
    number: u32,
    by: &Fingerprint,
    stated: &BTreeMap<String, String>,
    known: &[Known],
) -> Result<Table> {
    let fingerprint = serde_json::to_string(by).map_err(Error::storage("writing a fingerprint"))?;
    let mut new = BTreeMap::from([(fingerprint_key(number), fingerprint)]);
    new.extend(stated.iter().map(|(name, what)| (format!("{}{name}", stated_prefix(number)), what.clone())));
    let kept: BTreeSet<String> = known.iter().map(|known| known.number.to_string()).collect();
    let gone = table.config().keys().filter(|key| {
        let rest = [FINGERPRINT_PREFIX, STATED_PREFIX].into_iter().find_map(|prefix| key.strip_prefix(prefix));
        let of = rest.and_then(|rest| rest.split('.').next());
        of.is_some_and(|of| !kept.contains(of)) && !new.contains_key(*key)
    });
    let mut values: Vec<(String, Option<String>)> = gone.map(|gone| (gone.clone(), None)).collect();
    values.extend(new.into_iter().map(|(key, value)| (key, Some(value))));
    table.configure(values)
}

/// What is stated of a generation at this version of the dataset, by name.
pub(crate) fn stated(table: &Table, number: u32) -> BTreeMap<String, String> {
    let prefix = stated_prefix(number);
    let found = table.config().iter().filter_map(|(key, what)| Some((key.strip_prefix(&prefix)?.into(), what.clone())));
    found.collect()
}

/// How the settings begin that keep what is stated of a generation.
fn stated_prefix(number: u32) -> String {
    format!("{STATED_PREFIX}{number}.")
}

/// How those of all generations begin.
const STATED_PREFIX: &str = "ragtune.stated.";
