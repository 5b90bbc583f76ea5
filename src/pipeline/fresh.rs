//! Live vectors over a stale index: the index names candidates, and what the encoder says of them now ranks them.
//!
//! Scores of vectors from different encoder states are not comparable. So stored vectors, and newer ones of an [`Overlay`] beside
//! them, only name candidates, generously and each by itself; every candidate is ranked by a vector of the live encoder, or by
//! one that the encoder made at most `age` steps ago.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{Device, Tensor};
use ragtune_index::Generation;
use serde::{Deserialize, Serialize};

use super::Pipeline;
use super::embed::{EmbedSettings, embed_some};
use super::overlay::{Overlay, dot};
use crate::cost::{Activity, Ledger, Phase};
use crate::error::{Error, Result};

/// How candidates are found and how long a vector counts as live.
#[derive(Clone, Copy, Debug)]
pub struct FreshSettings {
    /// Candidates of a question.
    pub depth: usize,
    /// Steps after its own that a vector is still used; 0: only in the step it was made in.
    pub age: u64,
    /// How candidates are embedded.
    pub embed: EmbedSettings,
}

/// Live vectors that are kept, and stored ones that were replaced.
pub struct Fresh {
    settings: FreshSettings,
    /// Optimiser steps done.
    step: u64,
    /// Whether stored vectors are older than the encoder.
    stale: bool,
    live: BTreeMap<u32, Live>,
    /// Vectors that name candidates beside the stored ones.
    overlay: Overlay,
    /// How often each passage was a candidate since the last refresh.
    near: BTreeMap<u32, u32>,
    /// How far the vector that is searched lay from the live one when a passage was embedded last: 1 - cosine. Kept when the
    /// vector itself is forgotten.
    drift: BTreeMap<u32, f32>,
    /// Vectors of other hands, by the encoder as it is at step `offered_at`.
    offered: BTreeMap<u32, Vec<f32>>,
    offered_at: u64,
    used: Used,
}

struct Live {
    step: u64,
    vector: Vec<f32>,
}

/// What the searches of one step took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Candidates that were embedded.
    pub embedded: u64,
    /// Candidates whose vector was still live, or was made at this step for something else.
    pub known: u64,
}

/// What a checkpoint keeps beside the vectors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    /// Ordinals of the live vectors and the steps they are of.
    live: Vec<(u32, u64)>,
    /// Ordinals of the overlay.
    overlay: Vec<u32>,
    /// See [`Fresh::near`].
    near: BTreeMap<u32, u32>,
    /// See [`Fresh::drift`]; missing in checkpoints of versions that forgot it with the vector.
    #[serde(default)]
    drift: BTreeMap<u32, f32>,
}

const LIVE: &str = "live";
const OVERLAY: &str = "overlay";

impl Fresh {
    /// Nothing is known yet.
    pub fn new(settings: FreshSettings) -> Self {
        Self {
            settings,
            step: 0,
            stale: false,
            live: BTreeMap::new(),
            overlay: Overlay::default(),
            near: BTreeMap::new(),
            drift: BTreeMap::new(),
            offered: BTreeMap::new(),
            offered_at: 0,
            used: Used::default(),
        }
    }

    /// A step begins: vectors that are too old are forgotten.
    pub fn begin(&mut self, step: u64, stale: bool) {
        let age = self.settings.age;
        (self.step, self.stale, self.used) = (step, stale, Used::default());
        self.live.retain(|_, live| step - live.step <= age);
        if self.offered_at != step {
            self.offered.clear();
        }
    }

    /// Vectors (N, D) row-major that the encoder, as it is before `step`, made for something else. The searches of that
    /// step take them instead of embedding the same again; which passages they look at, and what they find, stays the
    /// same.
    pub fn offer(&mut self, step: u64, ordinals: &[u32], vectors: &[f32], dim: usize) {
        if self.offered_at != step {
            (self.offered_at, self.offered) = (step, BTreeMap::new());
        }
        let rows = vectors.chunks_exact(dim.max(1)).map(<[f32]>::to_vec);
        self.offered.extend(ordinals.iter().copied().zip(rows));
    }

    /// What the searches since [`begin`](Self::begin) took.
    pub fn used(&self) -> Used {
        self.used
    }

    /// The `k` nearest passages of each question, best first. `questions` (B, D) row-major, by the live encoder. While the
    /// stored vectors are the encoder's own they are searched as they are; after that, candidates are ranked by live vectors.
    /// What has to be embedded is charged to refreshes.
    pub fn nearest(
        &mut self,
        pipeline: &Pipeline,
        questions: &[f32],
        k: usize,
        ledger: &Ledger,
    ) -> Result<Vec<Vec<u32>>> {
        let generation = &pipeline.generation;
        let depth = if self.stale { self.settings.depth.max(k).min(pipeline.corpus.passages()) } else { k };
        let candidates = {
            let span = ledger.span(Phase::Retrieve);
            span.searches((questions.len() / pipeline.encoder.dim().max(1)) as u64);
            self.overlay.candidates(generation, questions, depth, pipeline.search)?
        };
        if !self.stale {
            return Ok(candidates);
        }
        for ordinal in candidates.iter().flatten() {
            *self.near.entry(*ordinal).or_default() += 1;
        }
        let all: BTreeSet<u32> = candidates.iter().flatten().copied().collect();
        let missing: Vec<u32> = all.iter().copied().filter(|ordinal| !self.live.contains_key(ordinal)).collect();
        let unknown: Vec<u32> = missing.iter().copied().filter(|ordinal| !self.offered.contains_key(ordinal)).collect();
        self.used.known += (all.len() - unknown.len()) as u64;
        self.used.embedded += unknown.len() as u64;
        if !missing.is_empty() {
            let _activity = ledger.activity(Activity::Refresh);
            let vectors = embed_some(&pipeline.encoder, &pipeline.corpus, &unknown, &self.settings.embed, ledger)?;
            let mut embedded = vectors.chunks_exact(pipeline.encoder.dim());
            let step = self.step;
            for one in missing {
                let Some(row) = self.offered.get(&one).map(Vec::as_slice).or_else(|| embedded.next()) else { continue };
                self.drift.insert(one, 1.0 - dot(row, self.overlay.vector(one, generation)?));
                self.live.insert(one, Live { step, vector: row.to_vec() });
            }
        }
        let _span = ledger.span(Phase::Retrieve);
        let questions = questions.chunks_exact(pipeline.encoder.dim());
        Ok(questions.zip(candidates).map(|(question, row)| self.ranked(question, row, k)).collect())
    }

    /// The best `k` candidates by their live vectors; ties by ordinal.
    fn ranked(&self, question: &[f32], candidates: Vec<u32>, k: usize) -> Vec<u32> {
        let score = |ordinal: u32| self.live.get(&ordinal).map_or(f32::NEG_INFINITY, |it| dot(question, &it.vector));
        let mut scored: Vec<(f32, u32)> = candidates.into_iter().map(|ordinal| (score(ordinal), ordinal)).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        scored.into_iter().take(k).map(|(_, ordinal)| ordinal).collect()
    }

    /// How often each passage was a candidate since the last refresh, and how far the vector that is searched lay from the live
    /// one when the passage was embedded last: 1 - cosine, 0 where it never was.
    pub fn candidates(&self) -> Vec<(u32, u32, f32)> {
        let all: BTreeSet<u32> = self.near.keys().chain(self.drift.keys()).copied().collect();
        let of = |one: u32| {
            let near = self.near.get(&one).copied().unwrap_or_default();
            (one, near, self.drift.get(&one).copied().unwrap_or_default())
        };
        all.into_iter().map(of).collect()
    }

    /// The vector that a search before optimiser step `step` would rank a passage by without embedding it.
    pub fn live(&self, ordinal: u32, step: u64) -> Option<&[f32]> {
        let live = self.live.get(&ordinal)?;
        (step.saturating_sub(live.step) <= self.settings.age).then_some(live.vector.as_slice())
    }

    /// What names candidates beside the generation.
    pub fn overlay(&self) -> &Overlay {
        &self.overlay
    }

    /// Puts these vectors, (N, D) row-major, of passages of `generation` into the overlay. Ordinals ascend.
    pub fn replace(&mut self, generation: &Generation, ordinals: &[u32], vectors: &[f32]) -> Result<()> {
        debug_assert!(ordinals.is_sorted());
        let rows = vectors.chunks_exact(generation.dim()).map(<[f32]>::to_vec);
        let mut vectors = self.overlay.vectors().clone();
        vectors.extend(ordinals.iter().copied().zip(rows));
        self.overlay = Overlay::of(vectors, generation)?;
        self.near.clear();
        // What is searched is what the encoder says now.
        self.drift.retain(|ordinal, _| ordinals.binary_search(ordinal).is_err());
        Ok(())
    }

    /// The weights are others than those that these vectors are of.
    pub fn forget_live(&mut self) {
        self.live.clear();
        self.offered.clear();
    }

    /// Another generation is searched: all that was known is of no more use.
    pub fn clear(&mut self) {
        *self = Self::new(self.settings);
    }

    /// What a checkpoint needs to go on to the bit: names, and tensors (n, D) f32.
    pub fn keep(&self) -> Result<(Kept, BTreeMap<String, Tensor>)> {
        let kept = Kept {
            live: self.live.iter().map(|(ordinal, live)| (*ordinal, live.step)).collect(),
            overlay: self.overlay.vectors().keys().copied().collect(),
            near: self.near.clone(),
            drift: self.drift.clone(),
        };
        let mut tensors = BTreeMap::new();
        let live: Vec<&[f32]> = self.live.values().map(|live| live.vector.as_slice()).collect();
        let overlay: Vec<&[f32]> = self.overlay.vectors().values().map(Vec::as_slice).collect();
        for (name, rows) in [(LIVE, live), (OVERLAY, overlay)] {
            if let Some(first) = rows.first() {
                let shape = (rows.len(), first.len());
                tensors.insert(name.to_owned(), Tensor::from_vec(rows.concat(), shape, &Device::Cpu)?);
            }
        }
        Ok((kept, tensors))
    }

    /// Takes over what [`keep`](Self::keep) gave.
    pub fn restore(
        &mut self,
        kept: &Kept,
        mut tensors: BTreeMap<String, Tensor>,
        generation: &Generation,
    ) -> Result<()> {
        let mut rows = |name: &str, expected: usize| -> Result<Vec<Vec<f32>>> {
            let rows = tensors.remove(name).map(|tensor| tensor.to_vec2::<f32>()).transpose()?.unwrap_or_default();
            if rows.len() == expected && rows.iter().all(|row| row.len() == generation.dim()) {
                return Ok(rows);
            }
            Err(Error::new(format!(
                "the checkpoint keeps {} `{name}` vectors, expected {expected} of {} values",
                rows.len(),
                generation.dim()
            ))
            .hint("remove the newest folder in `checkpoints` of the run to go on from the one before it"))
        };
        let live = rows(LIVE, kept.live.len())?;
        let overlay = rows(OVERLAY, kept.overlay.len())?;
        let of = |((ordinal, step), vector): (&(u32, u64), Vec<f32>)| (*ordinal, Live { step: *step, vector });
        self.live = kept.live.iter().zip(live).map(of).collect();
        self.overlay = Overlay::of(kept.overlay.iter().copied().zip(overlay).collect(), generation)?;
        self.near.clone_from(&kept.near);
        self.drift.clone_from(&kept.drift);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Precision;

    fn fresh(age: u64) -> Fresh {
        let embed =
            EmbedSettings { batch_tokens: 64, graph: ragtune_index::GraphParams::default(), precision: Precision::F32 };
        Fresh::new(FreshSettings { depth: 4, age, embed })
    }

    #[test]
    fn candidates_are_ranked_by_live_vectors_and_forgotten_with_age() {
        let mut fresh = fresh(2);
        fresh.begin(5, true);
        for (ordinal, vector) in [(3, [0.6, 0.8]), (7, [1.0, 0.0]), (9, [0.0, 1.0]), (4, [0.6, 0.8])] {
            fresh.live.insert(ordinal, Live { step: 5, vector: vector.to_vec() });
        }
        assert_eq!(fresh.ranked(&[0.0, 1.0], vec![7, 4, 3, 9], 3), [9, 3, 4]);
        assert_eq!(fresh.ranked(&[1.0, 0.0], vec![7, 4, 3, 9], 1), [7]);
        fresh.begin(7, true);
        assert_eq!(fresh.live.len(), 4);
        // A search before step 8 would embed them again.
        assert_eq!((fresh.live(7, 7), fresh.live(7, 8), fresh.live(1, 7)), (Some(&[1.0, 0.0][..]), None, None));
        fresh.begin(8, true);
        assert!(fresh.live.is_empty());
    }

    #[test]
    fn an_offer_is_for_the_step_it_was_made_for() {
        let mut fresh = fresh(0);
        fresh.offer(4, &[3, 7], &[0.6, 0.8, 1.0, 0.0], 2);
        fresh.offer(4, &[5], &[0.0, 1.0], 2);
        fresh.begin(4, true);
        let offered: Vec<u32> = fresh.offered.keys().copied().collect();
        assert_eq!((offered, &fresh.offered[&7][..]), (vec![3, 5, 7], &[1.0, 0.0][..]));
        // The weights have moved since.
        fresh.offer(5, &[9], &[0.0, 1.0], 2);
        assert_eq!(fresh.offered.keys().collect::<Vec<_>>(), [&9]);
        fresh.begin(6, true);
        assert!(fresh.offered.is_empty());
    }

    #[test]
    fn what_a_passage_had_drifted_outlives_its_vector() {
        let mut fresh = fresh(0);
        fresh.near.extend([(3, 2), (5, 1)]);
        fresh.drift.extend([(3, 0.25), (8, 0.5)]);
        fresh.begin(9, true);
        assert_eq!(fresh.candidates(), [(3, 2, 0.25), (5, 1, 0.0), (8, 0, 0.5)]);
        let (kept, tensors) = fresh.keep().unwrap();
        let kept: Kept = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
        assert!(tensors.is_empty());
        assert_eq!(kept.drift, fresh.drift);
        let earlier: Kept = serde_json::from_str(r#"{"live":[],"overlay":[],"near":{}}"#).unwrap();
        assert!(earlier.drift.is_empty());
    }
}
