//! Policies that embed less than everything: some rows, a map of all vectors, a look before deciding.

use std::collections::BTreeMap;

use ragtune_index::Generation;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::super::adapter::Map;
use super::super::refresh::{Decision, Row, choose, keeps_map};
use super::super::{Event, Trainer};
use super::graph_of;
use super::probe::Wanted;
use crate::cost::{Activity, Phase};
use crate::error::{Error, Result};
use crate::pipeline::embed::embed_some;
use crate::report::record::{RefreshAction, RefreshRecord};

/// The share of an adapter's sample that measures it; the rest fits it.
const MEASURING: usize = 4;

impl Trainer<'_> {
    /// `rows`: embeds the passages that matter most into the overlay.
    pub(super) fn renew_rows(&mut self) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Refresh);
        let began = self.ledger.snapshot();
        let generation = &self.pipeline.generation;
        let fresh = self.context.fresh.as_ref();
        let fresh = fresh.ok_or_else(|| Error::new("rows were to be renewed without an overlay for them"))?;
        let chosen = {
            let _span = self.ledger.span(Phase::Retrieve);
            let most = self.following.rows_of(generation.len());
            choose(self.rows(&fresh.borrow().candidates()), self.following.by, most)
        };
        let old = fresh.borrow().overlay().clone();
        let Self { pipeline, embed_settings, ledger, .. } = &*self;
        let vectors = embed_some(&pipeline.encoder, &pipeline.corpus, &chosen, embed_settings, ledger)?;
        let new = {
            let _span = self.ledger.span(Phase::Swap);
            let mut fresh = fresh.borrow_mut();
            fresh.replace(generation, &chosen, &vectors)?;
            fresh.overlay().clone()
        };
        // What is stored stays; what steps read is candidates, ranked by live vectors, and measured like that too.
        let (sample, overlays) = (self.following.sample, &[&old, &new]);
        let known = Wanted { sample, overlays, known: &chosen, vectors: &vectors, ..Wanted::default() };
        let pool = self.pool(&[generation], known)?;
        let seen = self.compare_by(&pool, generation, None)?;
        {
            let _span = self.ledger.span(Phase::Swap);
            let (mut fresh, step, dim) = (fresh.borrow_mut(), self.state.step, generation.dim());
            fresh.offer(step, &chosen, &vectors, dim);
            fresh.offer(step, &pool.chosen, &pool.live, dim);
        }
        let passages = (chosen.len() + pool.embedded) as u64;
        self.note_partial(RefreshAction::Rows, seen, passages, &began);
        Ok(())
    }

    /// What is known of the passages that were near a question or read since the last time.
    fn rows(&self, candidates: &[(u32, u32, f32)]) -> Vec<Row> {
        let mut rows: BTreeMap<u32, Row> = BTreeMap::new();
        let row = |ordinal: u32| Row { ordinal, retrieved: 0, near: 0, drift: 0.0 };
        for &(ordinal, near, drift) in candidates {
            rows.insert(ordinal, Row { near, drift, ..row(ordinal) });
        }
        for (&ordinal, &retrieved) in &self.state.retrieved {
            rows.entry(ordinal).or_insert_with(|| row(ordinal)).retrieved = retrieved;
        }
        rows.into_values().collect()
    }

    /// `adapter`: fits a map of the stored vectors to a sample embedded anew, and keeps it where it finds more than what is
    /// searched now. Says whether it was kept.
    pub(super) fn fit_map(&mut self) -> Result<bool> {
        let _activity = self.ledger.activity(Activity::Refresh);
        let began = self.ledger.snapshot();
        let corpus = &self.pipeline.corpus;
        let there: Vec<u32> = (0..corpus.len() as u32).filter(|ordinal| !corpus.is_deleted(*ordinal)).collect();
        let sample = self.following.sample.min(there.len());
        let measuring = (sample / MEASURING).max(1);
        let stored = self.stored.clone().unwrap_or_else(|| self.pipeline.generation.clone());
        let Self { pipeline, embed_settings, ledger, .. } = &*self;
        let fitted = drawn(there, sample - measuring, self.config.seed, self.state.step);
        let live = embed_some(&pipeline.encoder, &pipeline.corpus, &fitted, embed_settings, ledger)?;
        let (map, view) = {
            let _span = self.ledger.span(Phase::Swap);
            let mut stale = Vec::with_capacity(live.len());
            for ordinal in &fitted {
                stale.extend_from_slice(stored.vector(*ordinal)?);
            }
            let map = Map::fit(&stale, &live, stored.dim())?;
            let view = stored.with_vectors(map.apply(stored.vectors())?)?;
            (map, view)
        };
        let old = self.pipeline.generation.clone();
        let pool = self.pool(&[&old, &view], Wanted { sample: measuring, without: &fitted, ..Wanted::default() })?;
        let seen = self.compare_by(&pool, &old, Some(&view))?;
        let kept = keeps_map(seen.before, seen.after);
        if kept {
            let _span = self.ledger.span(Phase::Swap);
            self.map_to(stored, map, view);
        }
        let action = if kept { RefreshAction::Adapter } else { RefreshAction::Kept };
        let passages = (fitted.len() + pool.embedded) as u64;
        self.note_partial(action, seen, passages, &began);
        Ok(kept)
    }

    fn map_to(&mut self, stored: Generation, map: Map, view: Generation) {
        self.pipeline.generation = view;
        (self.stored, self.map) = (Some(stored), Some(map));
    }

    /// Goes on with a map that a checkpoint kept.
    pub(in super::super) fn restore_map(&mut self, map: Map) -> Result<()> {
        let stored = self.pipeline.generation.clone();
        let view = stored.with_vectors(map.apply(stored.vectors())?)?;
        self.map_to(stored, map, view);
        Ok(())
    }

    /// `drift`: measures the stale index and embeds everything anew where it finds too little. Says whether it did.
    pub(super) fn measure_drift(&mut self, observer: &mut dyn FnMut(Event<'_>)) -> Result<bool> {
        let activity = self.ledger.activity(Activity::Refresh);
        let began = self.ledger.snapshot();
        let old = self.pipeline.generation.clone();
        let pool = self.pool(&[&old], Wanted { sample: self.following.sample, ..Wanted::default() })?;
        let seen = self.compare_by(&pool, &old, None)?;
        let passages = pool.embedded as u64;
        if let Decision::EmbedAll { reuse } = self.following.after_measuring(seen.before) {
            drop(activity);
            self.refresh(reuse, Some((seen.before, passages, began)), observer)?;
            return Ok(true);
        }
        self.note_partial(RefreshAction::Kept, seen, passages, &began);
        Ok(false)
    }

    /// Records what left the generation where it is.
    fn note_partial(
        &mut self,
        action: RefreshAction,
        seen: super::probe::Seen,
        passages: u64,
        began: &crate::cost::LedgerRecord,
    ) {
        let kept = action == RefreshAction::Kept;
        let (graph, graph_recall) = graph_of(&self.pipeline.generation);
        let record = RefreshRecord {
            action,
            generation: self.pipeline.generation.number(),
            passages,
            recall_before: Some(seen.before),
            recall_after: Some(if kept { seen.before } else { seen.after }),
            overlap: Some(if kept { 1.0 } else { seen.overlap }),
            recall_reranked: seen.reranked,
            recall_reranked_after: seen.reranked_after,
            measured: seen.measured,
            graph,
            graph_recall,
            ..RefreshRecord::default()
        };
        self.note_refresh(record, began);
    }
}

/// `count` of these passages, two at least, drawn without replacement from (seed, step). Ordinals ascend.
fn drawn(mut ordinals: Vec<u32>, count: usize, seed: u64, step: u64) -> Vec<u32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"adapter");
    hasher.update(&seed.to_le_bytes());
    hasher.update(&step.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    ordinals.shuffle(&mut random);
    ordinals.truncate(count.max(2));
    ordinals.sort_unstable();
    ordinals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_depends_on_seed_and_step_alone() {
        let all: Vec<u32> = (0..100).collect();
        let of = |seed, step| drawn(all.clone(), 10, seed, step);
        let sample = of(1, 5);
        assert_eq!(sample, of(1, 5));
        assert!(sample.windows(2).all(|pair| pair[0] < pair[1]) && sample.len() == 10);
        assert_ne!(sample, of(2, 5));
        assert_ne!(sample, of(1, 6));
        assert_eq!(drawn(vec![7, 3, 9, 1], 10, 1, 5), [1, 3, 7, 9]);
        assert_eq!(drawn(vec![7, 3, 9, 1], 0, 1, 5).len(), 2);
    }
}
