//! Deleting passages: they stay in their files until a compaction, and are in no result any more.

use crate::adopt::{complete, params_like};
use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::graph_plan::GraphPlan;
use crate::ids::Ids;
use crate::journal;
use crate::lock::WriterLock;
use crate::publish::{CommitStage, publish};
use crate::retire::{before_change, retire};
use crate::sealed;
use crate::survey::{self, Known};
use crate::texts::Texts;

/// What a deletion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Deleted {
    /// Passages that were deleted.
    pub passages: usize,
    /// Passages that are left.
    pub left: usize,
    /// The version of the dataset without them.
    pub dataset_version: u64,
}

impl Corpus {
    /// Deletes the passages with these ids, in one commit; an id may come twice. Ids that no passage has are an error before
    /// anything is changed, and so is deleting every passage. Ordinals of other passages stay, unless a fragment is left without
    /// any: it goes as a whole, the ordinals behind it move up, and if the graph knew it, the graph is built again.
    ///
    /// Durable on return. An error or a crash before the commit leaves the index as it was; after it, all are gone from every
    /// search. Their texts and vectors stay on disk until [`compact`](Corpus::compact) and what retention keeps of the state
    /// before. This corpus keeps its passages; [`reopen`](Corpus::reopen) it to see what is left.
    pub fn delete(&self, lock: &WriterLock, ids: &[String]) -> Result<Deleted> {
        lock.must_be_for(self.dir())?;
        let (dir, uuid) = (self.dir(), self.uuid());
        let table = self.table().latest()?;
        // What is deleted already is written again beside what is new: this holds it against its checksums.
        let deleted = table.deleted()?;
        let known = Ids::load(&table, table.rows()?.len(), &deleted)?;
        let mut ordinals = Vec::with_capacity(ids.len());
        let mut unknown = Vec::new();
        for id in ids {
            match known.ordinal(id) {
                Some(ordinal) => ordinals.push(ordinal),
                None => unknown.push(id.clone()),
            }
        }
        if !unknown.is_empty() {
            return Err(Error::UnknownIds { asked: ids.len(), unknown });
        }
        ordinals.sort_unstable();
        ordinals.dedup();
        let left = known.live().count() - ordinals.len();
        if left == 0 {
            return Err(Error::Last { passages: ordinals.len() });
        }
        if ordinals.is_empty() {
            return Ok(Deleted { passages: 0, left, dataset_version: table.version() });
        }
        let before = before_change(dir, uuid, &table)?;
        // Checksums that a newer program wrote are refused before anything is written.
        sealed::known(Texts::read(dir))?;
        let staged = table.stage_deletion(&ordinals)?;
        Texts::add(dir, uuid, &table, [], staged.files.iter().cloned())?;
        let table = table.delete(staged)?;
        journal::discard(dir)?;
        if let (Some(before), Some(now)) = (before, survey::newest(dir, uuid, &table)?) {
            follow(self, &before, &now)?;
        }
        retire(dir, uuid, &table, &Default::default())?;
        Ok(Deleted { passages: ordinals.len(), left, dataset_version: table.version() })
    }
}

/// Gives the state after a deletion its sidecar, where fragments went: otherwise the vectors are the same, and so is theirs.
fn follow(corpus: &Corpus, before: &Known, now: &Known) -> Result<()> {
    if now.files == before.files || now.described() {
        return Ok(());
    }
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    let gone = before.files.iter().zip(&before.rows.fragments).find(|(file, _)| !now.files.contains(file));
    let first = gone.map_or(0, |(_, fragment)| fragment.first);
    let (params, mut observe) = (params_like(dir, uuid, &now.table, before)?, |_: CommitStage| {});
    if before.manifest.as_ref().is_ok_and(|manifest| manifest.len <= first) {
        return complete(dir, uuid, now, (before, &[]), &params, &mut observe).map(drop);
    }
    let now = Known { sidecar: before.sidecar.clone(), ..now.clone() };
    publish(dir, uuid, &now, &[], (&params, GraphPlan::Build), &mut observe).map(drop)
}
