//! Repairing what can be derived again, and removing what killed processes left.

use ragtune_nearest::GraphParams;

use crate::adopt::complete;
use crate::check::{leftover_files, resumable};
use crate::corpus::Corpus;
use crate::durable::remove;
use crate::error::Result;
use crate::generation::Generation;
use crate::graph_plan::GraphPlan;
use crate::held;
use crate::journal;
use crate::lexical;
use crate::protection;
use crate::publish::{CommitStage, publish};
use crate::retire::retire;
use crate::survey::Known;
use crate::table::Table;
use crate::texts::{TEXTS, Texts};
use crate::torn::DAMAGED;
use crate::vouch;

/// See [`Corpus::mend`]; the caller holds the lock.
pub(crate) fn mend(corpus: &Corpus, graph: &GraphParams, observe: &mut dyn FnMut(CommitStage)) -> Result<Vec<String>> {
    let (dir, uuid) = (corpus.dir(), corpus.uuid());
    let mut done = Vec::new();
    // Before anything is retired: what somebody keeps must stay.
    for broken in protection::broken(corpus)? {
        done.push(protection::restore(corpus, &broken, &corpus.survey()?)?);
    }
    let plan = (graph, GraphPlan::Build);
    let spared = resumable(corpus)?;
    for known in unmended(corpus)? {
        let generation = Generation::load(&known, known.rows.len())?;
        if let Some(defect) = generation.graph_defect() {
            let made = publish(dir, uuid, &known, &known.rows.fragments, plan, observe)?;
            done.push(format!("rebuilt the graph of generation {}: {defect}", made.number()));
        } else if !known.described() {
            complete(dir, uuid, &known, &known, graph, observe)?;
            done.push(format!("noted in generation {} the passages appended to it", known.number));
        } else if let Ok(graph) = &generation.shared.graph {
            for (file, defect) in held::defects(uuid, &known, generation.vectors()) {
                held::remake(uuid, &known, file, generation.vectors(), graph)?;
                done.push(format!("made `{file}` of generation {} anew: {defect}", known.number));
            }
        }
    }
    if journal::read(dir)?.is_some() && spared.is_empty() {
        journal::discard(dir)?;
        done.push("removed the journal of a generation that cannot be taken up again".into());
    }
    for left in leftover_files(corpus, &corpus.survey()?, &spared)? {
        // A half-removed version is no file; retiring below removes it.
        remove(&dir.join(&left.file))?;
        done.push(format!("removed `{}`: {}", left.file, left.what));
    }
    if dir.join(DAMAGED).exists() {
        remove(&dir.join(DAMAGED))?;
        done.push(format!("removed `{DAMAGED}`"));
    }
    let tables = tables(corpus)?;
    let known = Texts::read(dir).ok().filter(|texts| texts.uuid == uuid);
    if !known.is_some_and(|texts| texts.missing(&tables).is_ok_and(|missing| missing.is_empty())) {
        // The files as they are now: what happened to them before cannot be told any more.
        Texts::of(uuid, &tables)?.write(dir)?;
        done.push(format!("wrote `{TEXTS}` anew from the texts as they are"));
    }
    if let Some(defect) = lexical::defect(corpus)? {
        lexical::remake(corpus)?;
        done.push(format!("made the index of words anew: {defect}"));
    }
    retire(dir, uuid, &corpus.table().latest()?, &spared)?;
    vouch::remember(dir)?;
    Ok(done)
}

/// The retained states, each sidecar once: those of one are over the same vectors.
fn unmended(corpus: &Corpus) -> Result<Vec<Known>> {
    let mut known = corpus.survey()?;
    known.dedup_by(|next, one| next.files == one.files);
    Ok(known)
}

/// The retained versions, and the newest.
pub(crate) fn tables(corpus: &Corpus) -> Result<Vec<Table>> {
    let mut tables = vec![corpus.table().latest()?];
    tables.extend(corpus.survey()?.into_iter().map(|known| known.table));
    Ok(tables)
}
