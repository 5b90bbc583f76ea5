//! Dropping deleted passages and merging small fragments. Texts and vectors stay in files of their own: what Lance calls
//! compaction would fold them together, and every refresh would have to write the texts again.

use std::collections::BTreeSet;

use ragtune_nearest::GraphParams;

use crate::adopt::complete;
use crate::append::ROWS;
use crate::check::resumable;
use crate::corpus::Corpus;
use crate::create::rows_per_fragment;
use crate::digests::Digests;
use crate::error::{Error, Result};
use crate::graph_plan::GraphPlan;
use crate::journal;
use crate::lock::WriterLock;
use crate::passage::{Fragment, Passage};
use crate::publish::{CommitStage, publish};
use crate::retire::{before_change, retire};
use crate::survey::{self, Known};
use crate::table::{Piece, Table};
use crate::texts::Texts;

/// What a compaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Compacted {
    /// Passages there are, before and after.
    pub passages: usize,
    /// Deleted passages that were dropped.
    pub dropped: usize,
    /// Fragments before.
    pub fragments_before: usize,
    /// Fragments after.
    pub fragments_after: usize,
    /// The generation, which keeps its number.
    pub generation: u32,
    /// The version of the dataset that is compact.
    pub dataset_version: u64,
}

impl Corpus {
    /// Drops deleted passages, merges small fragments and builds the graph over all passages, if there is anything of that to
    /// do. Ids, order, vectors and the generation's number stay; ordinals change. One commit; files of fragments that are
    /// neither small nor have deleted passages are used as they are.
    ///
    /// Durable on return. An error or a crash before the commit leaves the index as it was; after it, the index is compact, with
    /// exact search until its graph is built ([`mend`](Corpus::mend)). What was staged of an interrupted generation is
    /// discarded. Files of the state before stay for readers that opened it, until the next commits or [`gc`](Corpus::gc).
    pub fn compact(
        &self,
        lock: &WriterLock,
        graph: &GraphParams,
        observe: &mut dyn FnMut(CommitStage),
    ) -> Result<Compacted> {
        lock.must_be_for(self.dir())?;
        graph.check()?;
        compact(self, graph, observe)
    }
}

fn compact(corpus: &Corpus, graph: &GraphParams, observe: &mut dyn FnMut(CommitStage)) -> Result<Compacted> {
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    let table = corpus.table().latest()?;
    let before = before_change(dir, uuid, &table)?.ok_or_else(|| Error::NoVectors { dir: dir.into() })?;
    let deleted = table.deleted()?;
    let fragments_before = before.rows.fragments.len();
    let steps = steps(&before.rows.fragments, &deleted, room(&table));
    let mut done = Compacted {
        passages: before.rows.len() - deleted.len(),
        dropped: deleted.len(),
        fragments_before,
        fragments_after: fragments_before,
        generation: before.number,
        dataset_version: table.version(),
    };
    if steps.iter().all(|step| matches!(step, Step::Keep(_))) {
        fold(corpus, &before, graph, observe)?;
        return Ok(done);
    }
    observe(CommitStage::Commit);
    let merged: BTreeSet<u64> = steps.iter().flat_map(Step::merged).map(|fragment| fragment.id).collect();
    let digests = Digests::of_all(dir, uuid)?;
    digests.verify_texts(&table, &before.rows, |fragment, _| merged.contains(&fragment.id))?;
    let of = before.rows.fragments.iter().zip(&before.files);
    digests
        .verify(&table.data_dir(), of.filter(|(fragment, _)| merged.contains(&fragment.id)).map(|(_, file)| file))?;
    let vectors = table.vectors(before.rows.len(), before.dim)?;
    let source = Source { table: &table, known: &before, deleted: &deleted, vectors: &vectors };
    let mut pieces = Vec::new();
    for step in &steps {
        match step {
            Step::Keep(fragment) => pieces.push(table.keep(fragment)?),
            Step::Merge(fragments) => source.merge(fragments, &table, before.number, &mut pieces)?,
        }
    }
    drop(vectors);
    let table = replace_all(corpus, &table, pieces, "compact", None)?;
    let now = survey::newest(dir, uuid, &table)?.ok_or_else(|| Error::corrupt(dir, "the newest generation is gone"))?;
    let now = Known { sidecar: before.sidecar, ..now };
    publish(dir, uuid, &now, &[], (graph, GraphPlan::Build), observe)?;
    retire(dir, uuid, &table, &Default::default())?;
    done.fragments_after = now.rows.fragments.len();
    done.dataset_version = table.version();
    Ok(done)
}

/// Builds the graph where it does not know all passages.
fn fold(corpus: &Corpus, known: &Known, graph: &GraphParams, observe: &mut dyn FnMut(CommitStage)) -> Result<()> {
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    if known.manifest.as_ref().is_ok_and(|manifest| manifest.len as usize == known.rows.len()) {
        return match known.described() {
            true => Ok(()),
            false => complete(dir, uuid, known, (known, &[]), graph, observe).map(drop),
        };
    }
    publish(dir, uuid, known, &[], (graph, GraphPlan::Build), observe)?;
    // Nothing was committed: what an interrupted generation has staged can still be taken up.
    retire(dir, uuid, &corpus.table().latest()?, &resumable(corpus)?)
}

/// Commits fragments in the place of all others, with the checksums of their texts noted before.
pub(crate) fn replace_all(
    corpus: &Corpus,
    table: &Table,
    pieces: Vec<Piece>,
    doing: &str,
    number: Option<u32>,
) -> Result<Table> {
    let known = table.files();
    let new: Vec<String> =
        pieces.iter().map(|piece| piece.text_file.clone()).filter(|file| !known.contains(file)).collect();
    Texts::add(corpus.dir(), corpus.uuid(), table, new, [])?;
    let table = table.overwrite(pieces, doing, number)?;
    journal::discard(corpus.dir())?;
    Ok(table)
}

/// Passages that are written again without those that were deleted.
pub(crate) struct Source<'a> {
    /// The version they are read from.
    pub(crate) table: &'a Table,
    pub(crate) known: &'a Known,
    /// Ascending ordinals.
    pub(crate) deleted: &'a [u32],
    /// All vectors, those of deleted passages included.
    pub(crate) vectors: &'a [f32],
}

impl Source<'_> {
    /// Stages what is left of these fragments in full new ones of `target`, and the rest in one more.
    pub(crate) fn merge(
        &self,
        fragments: &[Fragment],
        target: &Table,
        number: u32,
        pieces: &mut Vec<Piece>,
    ) -> Result<()> {
        let dim = self.known.dim;
        let room = room(target);
        let (mut passages, mut vectors) = (Vec::<Passage>::new(), Vec::new());
        for fragment in fragments {
            let read = self.table.read(fragment, 0..fragment.rows)?;
            for (ordinal, passage) in (fragment.first..).zip(read) {
                if self.deleted.binary_search(&ordinal).is_ok() {
                    continue;
                }
                passages.push(passage);
                vectors.extend_from_slice(&self.vectors[ordinal as usize * dim..(ordinal as usize + 1) * dim]);
                if passages.len() == room {
                    pieces.push(target.stage_new(&passages, number, dim, &vectors)?);
                    passages.clear();
                    vectors.clear();
                }
            }
        }
        if !passages.is_empty() {
            pieces.push(target.stage_new(&passages, number, dim, &vectors)?);
        }
        Ok(())
    }
}

/// Rows of a full new fragment: as many as the index was created with, within what is kept in memory.
pub(crate) fn room(table: &Table) -> usize {
    rows_per_fragment(table).clamp(1, ROWS)
}

/// What becomes of fragments, in their order.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It stays as it is.
    Keep(Fragment),
    /// What is left of them is put together anew.
    Merge(Vec<Fragment>),
}

impl Step {
    fn merged(&self) -> &[Fragment] {
        match self {
            Step::Keep(_) => &[],
            Step::Merge(fragments) => fragments,
        }
    }
}

/// Full fragments without deleted rows stay, and so does one that has no neighbour to be merged with.
fn steps(fragments: &[Fragment], deleted: &[u32], room: usize) -> Vec<Step> {
    let whole = |fragment: &Fragment| {
        let from = deleted.partition_point(|ordinal| *ordinal < fragment.first);
        deleted.get(from).is_none_or(|ordinal| ordinal - fragment.first >= fragment.rows)
    };
    let mut steps = Vec::new();
    let mut open: Vec<Fragment> = Vec::new();
    let close = |open: &mut Vec<Fragment>, steps: &mut Vec<Step>| match open.as_slice() {
        [] => {}
        [one] if whole(one) => steps.push(Step::Keep(open.remove(0))),
        _ => steps.push(Step::Merge(std::mem::take(open))),
    };
    for fragment in fragments {
        if fragment.rows as usize >= room && whole(fragment) {
            close(&mut open, &mut steps);
            steps.push(Step::Keep(*fragment));
        } else {
            open.push(*fragment);
        }
    }
    close(&mut open, &mut steps);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragments(rows: &[u32]) -> Vec<Fragment> {
        let mut first = 0;
        let fragments = rows.iter().zip(0..).map(|(rows, id)| {
            let fragment = Fragment { id, first, rows: *rows };
            first += rows;
            fragment
        });
        fragments.collect()
    }

    /// Ids that stay as `k`, ids that are merged as `m`, runs divided by blanks.
    fn said(rows: &[u32], deleted: &[u32]) -> String {
        let said = steps(&fragments(rows), deleted, 4).into_iter().map(|step| match step {
            Step::Keep(fragment) => format!("k{}", fragment.id),
            Step::Merge(run) => run.iter().map(|fragment| format!("m{}", fragment.id)).collect(),
        });
        said.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn only_small_fragments_with_a_neighbour_and_those_with_deleted_rows_are_written_again() {
        assert_eq!(said(&[4, 4, 4], &[]), "k0 k1 k2");
        assert_eq!(said(&[4, 4, 2], &[]), "k0 k1 k2");
        assert_eq!(said(&[4, 4, 2, 1], &[]), "k0 k1 m2m3");
        assert_eq!(said(&[4, 4, 4], &[5]), "k0 m1 k2");
        assert_eq!(said(&[4, 4, 4, 1], &[0, 3, 4, 5, 6, 7]), "m0m1 k2 k3");
        assert_eq!(said(&[4, 1, 4, 1, 1], &[9]), "k0 k1 k2 m3m4");
        assert_eq!(said(&[1], &[]), "k0");
        assert_eq!(said(&[1, 1, 9], &[]), "m0m1 k2");
    }
}
