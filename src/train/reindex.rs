//! What a refresh policy decided is done here: the index catches up with the encoder, in whole or in part, and how far it had
//! fallen behind is measured.

mod background;
mod kept;
mod partial;
mod probe;

use std::collections::BTreeMap;

use ragtune_index::{Generation, GraphPlan};

pub(super) use background::{Background, Pending};
pub(super) use probe::{PROBE_DEPTH, probe_questions};

use super::refresh::{Decision, MAX_LOSS, Now, Policy};
use super::{Event, Trainer};
use crate::cost::{Activity, LedgerRecord, Phase};
use crate::error::{Error, Result};
use crate::pipeline::Pipeline;
use crate::pipeline::embed::{Embedded, embed_corpus_by};
use crate::report::record::{RefreshAction, RefreshRecord};
use crate::strategies::Stage;

impl Trainer<'_> {
    /// Lets the index follow before a step, as the policy decides. Says whether what is searched changed.
    pub(super) fn follow(&mut self, stage: &Stage, observer: &mut dyn FnMut(Event<'_>)) -> Result<bool> {
        self.gather(false)?;
        let mut changed = false;
        loop {
            match self.following.decide(&self.now(stage)) {
                Decision::Keep => return Ok(changed),
                Decision::Snapshot { swap } => self.take_snapshot(swap)?,
                Decision::Swap => {
                    self.swap(observer)?;
                    changed = true;
                }
                Decision::EmbedAll { reuse } => {
                    self.refresh(reuse, None, observer)?;
                    changed = true;
                }
                Decision::EmbedSome => {
                    self.renew_rows()?;
                    return Ok(true);
                }
                Decision::Fit => return Ok(self.fit_map()? || changed),
                Decision::Measure => return Ok(self.measure_drift(observer)? || changed),
            }
        }
    }

    /// Before the final evaluation of a stage: what moved is embedded anew, whatever the policy.
    pub(super) fn follow_at_end(&mut self, stage: &Stage, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        match self.following.decide_at_end(&self.now(stage)) {
            Decision::EmbedAll { reuse } => self.refresh(reuse, None, observer),
            _ => Ok(()),
        }
    }

    /// What policies are told.
    pub(super) fn now(&self, stage: &Stage) -> Now {
        Now {
            step: self.state.step,
            steps: self.steps(),
            embedded_at: self.state.embedded_at,
            passages_move: stage.trains.passages,
            pending: self.state.pending.as_ref().map(|pending| pending.swap),
        }
    }

    /// Embeds the corpus anew with the live encoder and goes on with the new generation; the old one answers until then.
    /// `estimate` is what a probe found of the old one before, and what that took.
    fn refresh(
        &mut self,
        reuse: bool,
        estimate: Option<(f64, u64, LedgerRecord)>,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Refresh);
        let (estimate, probed, began) = match estimate {
            Some((recall, probed, began)) => (Some(recall), probed, began),
            None => (None, 0, self.ledger.snapshot()),
        };
        let total = self.pipeline.corpus.len() as u64;
        let Pipeline { encoder, corpus, generation, .. } = &self.pipeline;
        let (settings, plan) = (&self.embed_settings, graph_plan(reuse, generation));
        let embedded = embed_corpus_by(encoder, corpus, self.must_lock()?, settings, plan, self.ledger, &mut |done| {
            observer(Event::Refresh(done, total));
        })?;
        let record = RefreshRecord {
            action: RefreshAction::Embedded,
            passages: embedded.passages + embedded.taken_over + probed,
            taken_over: embedded.taken_over,
            estimate,
            ..RefreshRecord::default()
        };
        self.adopt(embedded, self.state.step, record, &began)
    }

    /// Measures a new generation beside the old one and puts it in its place. `embedded_at` are the steps that its encoder
    /// had done.
    fn adopt(
        &mut self,
        embedded: Embedded,
        embedded_at: u64,
        mut record: RefreshRecord,
        began: &LedgerRecord,
    ) -> Result<()> {
        let seen = if embedded_at == self.state.step {
            self.compare_exactly(&embedded.generation)?
        } else {
            // The new vectors are a snapshot's, which the encoder has left behind: they are no truth either.
            let (old, new) = (&self.pipeline.generation, &embedded.generation);
            let pool = self.pool(&[old, new], probe::Wanted { sample: self.following.sample, ..Default::default() })?;
            record.passages += pool.embedded as u64;
            self.compare_by(&pool, old, Some(new))?
        };
        (record.recall_before, record.recall_after) = (Some(seen.before), Some(seen.after));
        (record.overlap, record.recall_reranked) = (Some(seen.overlap), seen.reranked);
        record.measured = seen.measured;
        record.generation = embedded.generation.number();
        (record.graph, record.graph_recall) = graph_of(&embedded.generation);
        {
            let _span = self.ledger.span(Phase::Swap);
            self.put_to_use(embedded.generation);
        }
        self.note_refresh(record, began);
        self.state.embedded_at = embedded_at;
        Ok(())
    }

    fn put_to_use(&mut self, generation: Generation) {
        self.state.generation = generation.number();
        self.pipeline.generation = generation;
        (self.stored, self.map) = (None, None);
        if let Some(fresh) = &self.context.fresh {
            fresh.borrow_mut().clear();
        }
    }

    /// Completes a record by what is known here and puts it to the others.
    fn note_refresh(&mut self, record: RefreshRecord, began: &LedgerRecord) {
        let now = self.ledger.snapshot();
        let spent = |record: &LedgerRecord| record.activity(Activity::Refresh);
        let (before, after) = (spent(began), spent(&now));
        // What steps do goes on being counted for the refresh that takes place.
        let dropped = record.action == RefreshAction::Dropped;
        self.state.refreshes.push(RefreshRecord {
            step: self.steps_done(),
            policy: self.following.policy.name().to_owned(),
            age: self.state.step - self.state.embedded_at,
            distinct: self.state.retrieved.len() as u64,
            seconds: seconds_between(began, &now, Activity::Refresh),
            cpu_seconds: (after.cpu_seconds - before.cpu_seconds).max(0.0),
            bytes: after.counts.bytes.saturating_sub(before.counts.bytes),
            between: if dropped { 0 } else { std::mem::take(&mut self.state.ranked) },
            ..record
        });
        if !dropped {
            self.state.retrieved.clear();
        }
    }

    fn must_lock(&self) -> Result<&ragtune_index::WriterLock> {
        let lock = self.lock.as_ref();
        lock.ok_or_else(|| Error::new("the index is not locked for writing, so it cannot be refreshed"))
    }

    /// Whether searches rank candidates by live vectors under this policy.
    pub(super) fn ranks_live(&self) -> bool {
        matches!(self.following.policy, Policy::Rows | Policy::Lazy)
    }
}

/// How a generation gets its graph: from the one that is searched now, whatever else lies in the index, so that a run has the
/// same graphs wherever and however often it runs.
fn graph_plan(reuse: bool, searched: &Generation) -> GraphPlan {
    match reuse {
        true => GraphPlan::ReuseOf { generation: searched.number(), max_loss: MAX_LOSS },
        false => GraphPlan::Build,
    }
}

/// Whence a generation's graph, and what it finds of its own vectors.
fn graph_of(generation: &Generation) -> (String, Option<f64>) {
    match generation.graph() {
        Some(graph) => (graph.origin.clone(), Some(f64::from(graph.recall_at_10))),
        None => ("none".to_owned(), None),
    }
}

/// Seconds by phase between two snapshots of a ledger, for one activity.
fn seconds_between(before: &LedgerRecord, after: &LedgerRecord, activity: Activity) -> BTreeMap<String, f64> {
    let mut seconds = BTreeMap::new();
    for entry in after.entries.iter().filter(|entry| entry.activity == activity) {
        let earlier = before.entry(activity, entry.phase).map_or(0.0, |amounts| amounts.seconds);
        let spent = entry.amounts.seconds - earlier;
        if spent > 0.0 {
            seconds.insert(entry.phase.name().to_owned(), spent);
        }
    }
    seconds
}
