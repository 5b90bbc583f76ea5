//! Repairing what can be derived again, and removing what killed processes left.

use ragtune_nearest::GraphParams;

use crate::check::{leftover_files, resumable};
use crate::corpus::{Corpus, DAMAGED};
use crate::create::{TEXTS, Texts, text_files};
use crate::durable::remove;
use crate::error::Result;
use crate::generation::Generation;
use crate::graph_plan::GraphPlan;
use crate::journal;
use crate::lexical;
use crate::publish::{CommitStage, publish, retire};
use crate::sealed;

/// See [`Corpus::mend`]; the caller holds the lock.
pub(crate) fn mend(corpus: &Corpus, graph: &GraphParams, observe: &mut dyn FnMut(CommitStage)) -> Result<Vec<String>> {
    let mut done = Vec::new();
    let plan = (graph, GraphPlan::Build);
    let spared = resumable(corpus)?;
    for known in corpus.survey()? {
        let generation = Generation::load(&known, corpus.len())?;
        if let Some(defect) = generation.graph_defect() {
            let made = publish(corpus.dir(), corpus.uuid(), &known, &corpus.fragments(), plan, observe)?;
            done.push(format!("rebuilt the graph of generation {}: {defect}", made.number()));
        }
    }
    if journal::read(corpus.dir())?.is_some() && spared.is_empty() {
        journal::discard(corpus.dir())?;
        done.push("removed the journal of a generation that cannot be taken up again".into());
    }
    for left in leftover_files(corpus, &corpus.survey()?, &spared)? {
        // A half-removed version is no file; retiring below removes it.
        remove(&corpus.dir().join(&left.file))?;
        done.push(format!("removed `{}`: {}", left.file, left.what));
    }
    if corpus.dir().join(DAMAGED).exists() {
        remove(&corpus.dir().join(DAMAGED))?;
        done.push(format!("removed `{DAMAGED}`"));
    }
    let texts = corpus.dir().join(TEXTS);
    if sealed::read::<Texts>(&texts).map_or(true, |texts| texts.uuid != corpus.uuid()) {
        // The texts as they are now: what happened to them before cannot be told any more.
        let files = text_files(corpus.table(), corpus.table().text_files()?)?;
        sealed::write(&texts, &Texts { uuid: corpus.uuid().into(), files })?;
        done.push(format!("wrote `{TEXTS}` anew from the texts as they are"));
    }
    if let Some(defect) = lexical::defect(corpus)? {
        lexical::remake(corpus)?;
        done.push(format!("made the index of words anew: {defect}"));
    }
    retire(corpus.dir(), corpus.uuid(), &corpus.table().latest()?, &spared)?;
    Ok(done)
}
