//! Going back: what an earlier generation was becomes the newest again, under a new number.

use crate::adopt::{complete, params_like};
use crate::compact::{Source, replace_all};
use crate::corpus::Corpus;
use crate::digests::Digests;
use crate::error::{Error, Result};
use crate::graph_plan::GraphPlan;
use crate::journal;
use crate::lock::WriterLock;
use crate::publish::{CommitStage, publish};
use crate::retained::numbers;
use crate::retire::{before_change, retire};
use crate::staged::Staged;
use crate::survey::{self, Known};
use crate::table::Table;
use crate::writer::{next_number, register, stated};

/// Name of what a rollback states of the generation that it makes: the number of the one it went back to.
pub(crate) const ROLLBACK_OF: &str = "rollback";

impl Corpus {
    /// Makes a retained generation, in its newest state, the newest again, with the passages and vectors it has, under the
    /// next number, which is returned. What was newest stays retained as the one before. Going back to what is the newest
    /// already is an error.
    ///
    /// Durable on return. One commit: an error or a crash before it leaves the index as it was. The vectors are written again,
    /// so that a number still names one set of files; the graph is used again where no passage of the generation is deleted
    /// or all of its rows are those of the newest.
    pub fn rollback(&self, lock: &WriterLock, number: u32) -> Result<u32> {
        lock.must_be_for(self.dir())?;
        let known = retained(self)?;
        let wanted = known.iter().rev().find(|known| known.number == number);
        let wanted = wanted.ok_or_else(|| Error::NoGeneration { number, retained: numbers(&known) })?;
        rollback(self, &known, wanted)
    }

    /// The same for the state of the index at a version of the dataset, which undoes appending and deleting as well.
    pub fn rollback_to_version(&self, lock: &WriterLock, version: u64) -> Result<u32> {
        lock.must_be_for(self.dir())?;
        let known = retained(self)?;
        let wanted = known.iter().find(|known| known.table.version() == version).ok_or_else(|| Error::NoVersion {
            version,
            retained: known.iter().map(|known| known.table.version()).collect(),
        })?;
        rollback(self, &known, wanted)
    }
}

/// What can be gone back to, looked at when what a crash left of sidecars is in its place.
fn retained(corpus: &Corpus) -> Result<Vec<Known>> {
    before_change(corpus.dir(), corpus.uuid(), &corpus.table().latest()?)?;
    corpus.survey()
}

fn rollback(corpus: &Corpus, known: &[Known], wanted: &Known) -> Result<u32> {
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    let latest = corpus.table().latest()?;
    if known.last().is_some_and(|newest| newest.table.version() == wanted.table.version()) {
        return Err(Error::Newest { number: wanted.number, version: wanted.table.version() });
    }
    let same_rows = wanted.rows == latest.rows()?;
    let digests = Digests::of_all(dir, uuid)?;
    digests.verify(&wanted.table.data_dir(), &wanted.files)?;
    if !same_rows {
        digests.verify_texts(&wanted.table, &wanted.rows, |_, deletion| deletion.is_some())?;
    }
    let deleted = wanted.table.deleted()?;
    let number = next_number(known);
    let mut stated = stated(&latest, wanted.number);
    // Should a crash come before its sidecar: whose notes are its own.
    stated.insert(ROLLBACK_OF.into(), wanted.number.to_string());
    let table = register(&latest, number, &wanted.fingerprint, &stated, known)?;
    let vectors = wanted.table.vectors(wanted.rows.len(), wanted.dim)?;
    let (table, staged) = match same_rows {
        true => vectors_only(&table, wanted, number, &vectors)?,
        false => (everything(corpus, &table, wanted, &deleted, number, &vectors)?, Vec::new()),
    };
    drop(vectors);
    journal::discard(dir)?;
    let now = survey::newest(dir, uuid, &table)?.ok_or_else(|| Error::corrupt(dir, "the newest generation is gone"))?;
    let params = params_like(dir, uuid, &table, wanted)?;
    let mut observe = |_: CommitStage| {};
    if same_rows || deleted.is_empty() {
        complete(dir, uuid, &now, (wanted, &staged), &params, &mut observe)?;
    } else {
        let now = Known { sidecar: wanted.sidecar.clone(), ..now };
        publish(dir, uuid, &now, &staged, (&params, GraphPlan::Build), &mut observe)?;
    }
    retire(dir, uuid, &table, &Default::default())?;
    Ok(number)
}

/// The passages are those of the newest: only vectors are replaced, by the files that are returned too.
fn vectors_only(table: &Table, wanted: &Known, number: u32, vectors: &[f32]) -> Result<(Table, Vec<Staged>)> {
    let mut staged = Vec::new();
    for fragment in &wanted.rows.fragments {
        let rows = fragment.first as usize * wanted.dim..(fragment.first + fragment.rows) as usize * wanted.dim;
        staged.push(table.stage(fragment, number, wanted.dim, &vectors[rows])?);
    }
    Ok((table.replace(&staged, number, "rollback")?, staged))
}

/// The passages are others: all fragments are replaced. Text files are used again but where rows are deleted: Lance ties
/// deletions to a fragment, which these cannot be again.
fn everything(
    corpus: &Corpus,
    table: &Table,
    wanted: &Known,
    deleted: &[u32],
    number: u32,
    vectors: &[f32],
) -> Result<Table> {
    let source = Source { table: &wanted.table, known: wanted, deleted, vectors };
    let mut pieces = Vec::new();
    for (fragment, deletion) in wanted.rows.fragments.iter().zip(&wanted.rows.deletions) {
        let rows = fragment.first as usize * wanted.dim..(fragment.first + fragment.rows) as usize * wanted.dim;
        match deletion {
            None => pieces.push(wanted.table.stage_again(fragment, number, wanted.dim, &vectors[rows])?),
            Some(_) => source.merge(std::slice::from_ref(fragment), table, number, &mut pieces)?,
        }
    }
    replace_all(corpus, table, pieces, "rollback", Some(number))
}
