//! A refresh: the index catches up with the encoder, and how far it had fallen behind is measured.

use std::collections::BTreeMap;

use ragtune_index::{Generation, Search, Trust};

use super::{Event, Trainer};
use crate::cost::{Activity, LedgerRecord, Phase};
use crate::error::{Error, Result};
use crate::models::{Grad, Role};
use crate::pipeline::Pipeline;
use crate::pipeline::embed::{Embedded, embed_corpus};
use crate::report::record::RefreshRecord;

/// Training questions on which a refresh measures how stale the index was.
const PROBES: usize = 64;
/// Passages compared for each of them.
const PROBE_DEPTH: usize = 10;

impl Trainer<'_> {
    /// Embeds the corpus anew with the live encoder and goes on with the new generation; the old one answers until then.
    pub(super) fn refresh(&mut self, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Refresh);
        let lock = self
            .lock
            .as_ref()
            .ok_or_else(|| Error::new("the index is not locked for writing, so it cannot be refreshed"))?;
        let before = self.ledger.snapshot();
        let total = self.pipeline.corpus.len() as u64;
        let Pipeline { encoder, corpus, .. } = &self.pipeline;
        let embedded = embed_corpus(encoder, corpus, lock, &self.embed_settings, self.ledger, &mut |done| {
            observer(Event::Refresh(done, total));
        })?;
        let (recall_before, recall_after) = self.probe(&embedded.generation)?;
        let after = self.ledger.snapshot();
        let mut record = refresh_record(self.steps_done(), &embedded, &before, &after);
        (record.recall_before, record.recall_after) = (recall_before, recall_after);
        self.state.refreshes.push(record);
        self.state.generation = embedded.generation.number();
        self.state.embedded_at = self.state.step;
        self.pipeline.generation = embedded.generation;
        Ok(())
    }

    /// How true the index was and is: recall@10 of the searched generation, before and after, against exact search among the
    /// new vectors, over the first training questions as the live encoder sees them.
    fn probe(&self, new: &Generation) -> Result<(Option<f64>, Option<f64>)> {
        let depth = PROBE_DEPTH.min(new.len());
        let questions: Vec<&str> =
            self.questions.questions.iter().take(PROBES).map(|question| question.question.as_str()).collect();
        let vectors = {
            let _span = self.ledger.span(Phase::Embed);
            let tokenized = self.pipeline.encoder.tokenize(&questions, Role::Question)?;
            self.pipeline
                .encoder
                .forward_as(&tokenized.ids, Role::Question, Grad::Off)?
                .flatten_all()?
                .to_vec1::<f32>()?
        };
        let _span = self.ledger.span(Phase::Retrieve);
        let truth = new.search(&vectors, depth, Search::Exact, Trust::StaleAllowed)?;
        let recall = |generation: &Generation| -> Result<Option<f64>> {
            let found = generation.search(&vectors, depth, self.pipeline.search, Trust::StaleAllowed)?;
            let hits = truth.iter().zip(&found).map(|(truth, found)| {
                truth.iter().filter(|hit| found.iter().any(|other| other.ordinal == hit.ordinal)).count()
            });
            Ok(Some(hits.sum::<usize>() as f64 / (depth * questions.len()) as f64))
        };
        Ok((recall(&self.pipeline.generation)?, recall(new)?))
    }
}

/// What a refresh did and took, from the ledger before and after it.
fn refresh_record(step: u64, embedded: &Embedded, before: &LedgerRecord, after: &LedgerRecord) -> RefreshRecord {
    let bytes = |record: &LedgerRecord| record.activity(Activity::Refresh).counts.bytes;
    RefreshRecord {
        step,
        generation: embedded.generation.number(),
        passages: embedded.passages,
        seconds: seconds_between(before, after, Activity::Refresh),
        bytes: bytes(after).saturating_sub(bytes(before)),
        ..RefreshRecord::default()
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
