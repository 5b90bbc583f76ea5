//! How true an index is: recall@10 over training questions, drawn by the run's seed, as the live encoder sees them.
//!
//! Where the whole corpus was embedded anyway, the truth is exact search among the new vectors. Where it was not, the truth is
//! estimated: the passages that the compared indexes find nearest to the questions, taken rank by rank until the sample is full,
//! are embedded with the live encoder, and the ten best of these are taken for the ten best of all. What lies outside this pool
//! is not missed, so that the estimate is an upper bound; the ten nearest of every index are in the pool whole, and so
//! is every candidate where candidates are ranked by live vectors: one that is really nearer is part of the truth.
//! Passages that fitted a map are left out of pool and lists alike: it would be measured on what it was made from.

use std::collections::BTreeSet;

use ragtune_index::{Generation, Search, Trust};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::super::Trainer;
use crate::cost::{Counts, Phase};
use crate::error::{Error, Result};
use crate::models::{Grad, Role};
use crate::pipeline::embed::embed_some;
use crate::pipeline::overlay::Overlay;

/// Training questions that an index is measured on; see [`probe_rows`].
const PROBES: usize = 64;
/// Passages compared for each of them.
pub const PROBE_DEPTH: usize = 10;
/// Passages of a pool for each question, before those that several questions share.
const POOLED: usize = 20;

/// What was measured of an index and of what comes after it.
pub(super) struct Seen {
    pub before: f64,
    pub after: f64,
    /// Share of what the two find that both find, after live vectors ranked it where they do.
    pub overlap: f64,
    /// Recall of what the next step's search would make of the candidates of the index before, where candidates are ranked by live
    /// vectors: as old as the policy lets them be.
    pub reranked: Option<f64>,
    /// The same of the candidates that are named after, where these are ranked by live vectors too.
    pub reranked_after: Option<f64>,
    /// What the truth was.
    pub measured: String,
}

/// Questions as the live encoder sees them.
struct Questions {
    count: usize,
    /// (count, D) row-major.
    vectors: Vec<f32>,
}

/// What a pool is to hold.
#[derive(Clone, Copy, Default)]
pub(super) struct Wanted<'w> {
    /// Passages, candidates not counted.
    pub sample: usize,
    /// What names candidates beside the first generation, before and after, all of which it holds too; none: nothing is ranked by
    /// live vectors.
    pub overlays: &'w [&'w Overlay],
    /// Passages that do not count. Ordinals ascend.
    pub without: &'w [u32],
    /// Passages that are embedded already. Ordinals ascend.
    pub known: &'w [u32],
    /// Their vectors, (known, D) row-major.
    pub vectors: &'w [f32],
}

/// Passages with vectors of the live encoder, and the best of them for some questions.
pub(super) struct Pool {
    questions: Questions,
    truth: Vec<Vec<u32>>,
    /// Those of the pool. Ordinals ascend.
    pub chosen: Vec<u32>,
    /// Their live vectors, (chosen, D) row-major.
    pub live: Vec<f32>,
    /// How many of them had to be embedded.
    pub embedded: usize,
    whole: bool,
    /// Of each overlay.
    candidates: Vec<Found>,
    /// See [`Wanted::without`].
    without: Vec<u32>,
}

type Found = Vec<Vec<u32>>;

impl Trainer<'_> {
    /// Compares what is searched now with a generation that will be, against exact search in that.
    pub(super) fn compare_exactly(&self, new: &Generation) -> Result<Seen> {
        let passages = self.pipeline.corpus.passages();
        let depth = PROBE_DEPTH.min(passages);
        let questions = self.probe_questions(PROBES)?;
        let _span = self.ledger.span(Phase::Retrieve);
        let truth = self.found(new, &questions, depth, Search::Exact)?;
        let fresh = self.context.fresh.as_ref().map(|fresh| fresh.borrow());
        let old = &self.pipeline.generation;
        let (before, after) = (self.nearest(old, &questions, depth)?, self.nearest(new, &questions, depth)?);
        let reranked = match &fresh {
            Some(fresh) => {
                let candidates = self.named(fresh.overlay(), old, &questions)?;
                // What it would embed now is what the new vectors are.
                let vector = |one: u32| match fresh.live(one, self.state.step) {
                    Some(live) => Ok(live),
                    None => Ok(new.vector(one)?),
                };
                Some(share(&truth, &questions.ranked(candidates, new.dim(), vector)?))
            }
            None => None,
        };
        Ok(Seen {
            before: share(&truth, &before),
            after: share(&truth, &after),
            overlap: share(&before, &after),
            reranked,
            reranked_after: None,
            measured: format!("exact search among the new vectors, {} training questions", questions.count),
        })
    }

    /// Passages that these generations find nearest to training questions, embedded as far as they are not known.
    pub(super) fn pool(&self, generations: &[&Generation], wanted: Wanted<'_>) -> Result<Pool> {
        let Wanted { sample, overlays, without, known, vectors } = wanted;
        let corpus = &self.pipeline.corpus;
        let questions = self.probe_questions(probe_questions(sample))?;
        let whole = sample >= corpus.passages();
        let found = |depth: usize| -> Result<Vec<Found>> {
            let _span = self.ledger.span(Phase::Retrieve);
            generations.iter().map(|one| self.nearest_of(one, &questions, depth, without)).collect()
        };
        let candidates: Vec<Found> = match generations.first() {
            Some(generation) if !overlays.is_empty() => {
                let _span = self.ledger.span(Phase::Retrieve);
                overlays.iter().map(|one| self.named(one, generation, &questions)).collect::<Result<_>>()?
            }
            _ => Vec::new(),
        };
        let chosen: Vec<u32> = match whole {
            true => (0..corpus.len() as u32)
                .filter(|one| !corpus.is_deleted(*one) && without.binary_search(one).is_err())
                .collect(),
            false => {
                let deep = (sample.saturating_mul(4) / questions.count.max(1)).max(PROBE_DEPTH).min(corpus.passages());
                let mut chosen = by_rank(&found(deep)?.concat(), PROBE_DEPTH, sample);
                chosen.extend(candidates.iter().flatten().flatten());
                chosen.into_iter().collect()
            }
        };
        let dim = self.pipeline.encoder.dim();
        let unknown: Vec<u32> = chosen.iter().copied().filter(|one| known.binary_search(one).is_err()).collect();
        let Self { pipeline, embed_settings, ledger, .. } = self;
        let embedded = embed_some(&pipeline.encoder, &pipeline.corpus, &unknown, embed_settings, ledger)?;
        let _span = self.ledger.span(Phase::Retrieve);
        let mut live = Vec::with_capacity(chosen.len() * dim);
        for one in &chosen {
            let (vectors, place) = match known.binary_search(one) {
                Ok(place) => (vectors, place),
                Err(_) => (&embedded[..], unknown.binary_search(one).unwrap_or_default()),
            };
            live.extend_from_slice(vectors.get(place * dim..(place + 1) * dim).unwrap_or_default());
        }
        let (embedded, without) = (unknown.len(), without.to_vec());
        let mut pool = Pool { questions, truth: Vec::new(), chosen, live, embedded, whole, candidates, without };
        let all = vec![pool.chosen.clone(); pool.questions.count];
        pool.truth = pool.questions.ranked(all, dim, |one| pool.vector(one, dim))?;
        Ok(pool)
    }

    /// Compares two generations by a pool; none: what is stored stays as it is.
    pub(super) fn compare_by(&self, pool: &Pool, old: &Generation, new: Option<&Generation>) -> Result<Seen> {
        let _span = self.ledger.span(Phase::Retrieve);
        let nearest = |one: &Generation| self.nearest_of(one, &pool.questions, PROBE_DEPTH, &pool.without);
        let before = nearest(old)?;
        let after = new.map_or_else(|| Ok(before.clone()), nearest)?;
        let dim = self.pipeline.encoder.dim();
        let fresh = self.context.fresh.as_ref().map(|fresh| fresh.borrow());
        // The next step ranks by the vectors that it has, which may be older than those of the pool.
        let vector = |one: u32| match fresh.as_ref().and_then(|fresh| fresh.live(one, self.state.step)) {
            Some(live) => Ok(live),
            None => pool.vector(one, dim),
        };
        let named = pool.candidates.iter().cloned();
        let ranked = named.map(|named| pool.questions.ranked(named, dim, vector)).collect::<Result<Vec<_>>>()?;
        let of = |ranked: Option<&Found>| ranked.map(|ranked| share(&pool.truth, ranked));
        Ok(Seen {
            before: share(&pool.truth, &before),
            after: share(&pool.truth, &after),
            overlap: match (ranked.first(), ranked.last()) {
                (Some(before), Some(after)) => share(before, after),
                _ => share(&before, &after),
            },
            reranked: of(ranked.first()),
            reranked_after: of(ranked.last()),
            measured: pool.about(),
        })
    }

    /// The nearest passages that are none of those left out.
    fn nearest_of(
        &self,
        generation: &Generation,
        questions: &Questions,
        depth: usize,
        without: &[u32],
    ) -> Result<Found> {
        let passages = self.pipeline.corpus.passages();
        let left = passages.saturating_sub(without.len()).max(1);
        // Twice what would do if those left out were spread evenly.
        let wide =
            if without.is_empty() { depth } else { depth.saturating_mul(2).saturating_mul(passages.div_ceil(left)) };
        let lists = self.nearest(generation, questions, wide.min(passages))?;
        Ok(lists.into_iter().map(|list| others(list, without, depth)).collect())
    }

    fn nearest(&self, generation: &Generation, questions: &Questions, depth: usize) -> Result<Found> {
        self.found(generation, questions, depth, self.pipeline.search)
    }

    /// The candidates that an overlay and a generation name in turn, counted to the span that is open.
    fn named(&self, overlay: &Overlay, generation: &Generation, questions: &Questions) -> Result<Found> {
        let depth = self.following.depth.max(PROBE_DEPTH).min(self.pipeline.corpus.passages());
        self.ledger.add(Counts { searches: questions.count as u64, ..Counts::default() });
        overlay.candidates(generation, &questions.vectors, depth, self.pipeline.search)
    }

    /// What a search finds, counted to the span that is open.
    fn found(&self, generation: &Generation, questions: &Questions, depth: usize, search: Search) -> Result<Found> {
        self.ledger.add(Counts { searches: questions.count as u64, ..Counts::default() });
        let hits = generation.search(&questions.vectors, depth, search, Trust::StaleAllowed)?;
        Ok(hits.into_iter().map(|row| row.into_iter().map(|hit| hit.ordinal).collect()).collect())
    }

    fn probe_questions(&self, most: usize) -> Result<Questions> {
        let all = &self.questions.questions;
        let rows = probe_rows(all.len(), most, self.config.seed);
        let texts: Vec<&str> = rows.into_iter().filter_map(|row| Some(all.get(row)?.question.as_str())).collect();
        let span = self.ledger.span(Phase::Embed);
        let encoder = &self.pipeline.encoder;
        let tokenized = encoder.tokenize(&texts, Role::Question)?;
        let lengths: Vec<usize> = tokenized.ids.iter().map(Vec::len).collect();
        span.tokens(lengths.iter().sum::<usize>() as u64).flops(encoder.forward_flops(&lengths));
        let vectors = encoder.forward_as(&tokenized.ids, Role::Question, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?;
        Ok(Questions { count: texts.len(), vectors })
    }
}

impl Questions {
    /// The best [`PROBE_DEPTH`] of the candidates of each.
    fn ranked<'v>(
        &self,
        candidates: Found,
        dim: usize,
        vector: impl Fn(u32) -> Result<&'v [f32]> + Copy,
    ) -> Result<Found> {
        let rows = candidates.into_iter().zip(self.vectors.chunks_exact(dim));
        rows.map(|(row, question)| best(question, row, PROBE_DEPTH, vector)).collect()
    }
}

impl Pool {
    /// The live vector of a passage of the pool.
    fn vector(&self, one: u32, dim: usize) -> Result<&[f32]> {
        let place = self.chosen.binary_search(&one).ok();
        let vector = place.and_then(|place| self.live.get(place * dim..(place + 1) * dim));
        vector.ok_or_else(|| Error::new(format!("passage number `{one}` was to be ranked and is not embedded")))
    }

    fn about(&self) -> String {
        let questions = self.questions.count;
        match self.whole {
            true => format!("all passages embedded anew, {questions} training questions"),
            false => format!(
                "estimated, an upper bound: the best of {} passages nearest to {questions} training questions, embedded anew{}",
                self.chosen.len(),
                if self.without.is_empty() { "" } else { "; those that fitted the map left out" }
            ),
        }
    }
}

/// Training questions that a sample of passages measures by.
pub fn probe_questions(sample: usize) -> usize {
    (sample / POOLED).clamp(1, PROBES)
}

/// The questions that an index is measured on: drawn from the seed alone, so that every policy and every step of a run,
/// resumed or not, asks the same, and fewer are part of more. Files of questions may be sorted by topic.
fn probe_rows(questions: usize, most: usize, seed: u64) -> Vec<usize> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"probes");
    hasher.update(&seed.to_le_bytes());
    let mut random = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    let mut rows: Vec<usize> = (0..questions).collect();
    rows.shuffle(&mut random);
    rows.truncate(most);
    rows
}

/// The first `depth` of a list that are none of `without`, whose ordinals ascend.
fn others(list: Vec<u32>, without: &[u32], depth: usize) -> Vec<u32> {
    list.into_iter().filter(|one| without.binary_search(one).is_err()).take(depth).collect()
}

/// The first `least` of every list, then the next of every list, and so on, until there are `most` different passages.
fn by_rank(lists: &[Vec<u32>], least: usize, most: usize) -> BTreeSet<u32> {
    let deepest = lists.iter().map(Vec::len).max().unwrap_or_default();
    let mut chosen = BTreeSet::new();
    let ranked = |rank: usize| lists.iter().filter_map(move |list| Some((rank, *list.get(rank)?)));
    for (rank, ordinal) in (0..deepest).flat_map(ranked) {
        if rank >= least && chosen.len() >= most {
            break;
        }
        chosen.insert(ordinal);
    }
    chosen
}

/// The `depth` candidates with the highest inner products with a question; ties by ordinal.
fn best<'v>(
    question: &[f32],
    candidates: Vec<u32>,
    depth: usize,
    vector: impl Fn(u32) -> Result<&'v [f32]>,
) -> Result<Vec<u32>> {
    let score = |ordinal: u32| -> Result<(f32, u32)> {
        Ok((question.iter().zip(vector(ordinal)?).map(|(a, b)| a * b).sum(), ordinal))
    };
    let mut scored: Vec<(f32, u32)> = candidates.into_iter().map(score).collect::<Result<_>>()?;
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    Ok(scored.into_iter().take(depth).map(|(_, ordinal)| ordinal).collect())
}

/// The share of what the first lists hold that the second hold too, 0 to 1.
fn share(truth: &[Vec<u32>], found: &[Vec<u32>]) -> f64 {
    let hits: usize =
        truth.iter().zip(found).map(|(truth, found)| truth.iter().filter(|one| found.contains(one)).count()).sum();
    hits as f64 / truth.iter().map(Vec::len).sum::<usize>().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_filled_rank_by_rank() {
        let lists = [vec![5, 1, 9], vec![5, 7, 8], vec![2, 1]];
        assert_eq!(by_rank(&lists, 0, 2), [2, 5].into());
        assert_eq!(by_rank(&lists, 1, 1), [2, 5].into());
        assert_eq!(by_rank(&lists, 0, 3), [1, 2, 5].into());
        assert_eq!(by_rank(&lists, 0, 99), [1, 2, 5, 7, 8, 9].into());
        assert!(by_rank(&[], 1, 3).is_empty());
    }

    #[test]
    fn probes_are_drawn_from_the_whole_file_by_the_seed_alone() {
        let of = |most, seed| probe_rows(1000, most, seed);
        let rows = of(64, 3);
        assert_eq!((rows.len(), &rows[..25]), (64, &of(25, 3)[..]));
        assert_ne!(rows, of(64, 4));
        assert!(rows.iter().any(|row| *row >= 500) && rows.iter().any(|row| *row < 500), "{rows:?}");
        let mut few = probe_rows(10, 64, 3);
        few.sort_unstable();
        assert_eq!(few, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn what_fitted_a_map_measures_nothing() {
        assert_eq!(others(vec![5, 1, 9, 7], &[1, 7], 2), [5, 9]);
        assert_eq!(others(vec![5, 1, 9, 7], &[1, 5, 7], 2), [9]);
        assert_eq!(others(vec![5, 1, 9], &[], 2), [5, 1]);
    }

    #[test]
    fn shares_and_the_best() {
        assert_eq!(share(&[vec![1, 2], vec![3, 4]], &[vec![2, 9], vec![4, 3]]), 0.75);
        assert_eq!(share(&[], &[]), 0.0);
        let vectors = [[1.0f32, 0.0], [0.0, 1.0], [0.6, 0.8], [0.6, 0.8]];
        let vector = |one: u32| -> Result<&[f32]> { Ok(&vectors[one as usize]) };
        assert_eq!(best(&[0.0, 1.0], vec![0, 3, 2, 1], 3, vector).unwrap(), [1, 2, 3]);
    }
}
