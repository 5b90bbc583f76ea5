//! Searching a generation: through its graph or exactly, among all its passages or some.
//!
//! B questions, N passages, D dimension.

use ragtune_nearest::{Allowed, FlatGraph, Hit, search, search_among, search_from};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::{Generation, Shared};
use crate::held::HeldCodes;

/// How to look for the nearest passages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Through the graph, with a beam of `ef` (at least k is used): fast, finds nearly all. Exact where there is no usable
    /// graph, see [`Generation::graph_defect`], and where so few passages are to be searched that scoring them all is faster.
    Graph {
        /// Width of the beam; more is slower and finds more.
        ef: usize,
    },
    /// Every passage is scored: the oracle.
    Exact,
}

/// What the caller knows of the encoder that made the questions' vectors.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// They were made by this encoder, which must be the one that embedded the generation.
    Same(&'a Fingerprint),
    /// They may be newer than the passages, and the caller declares that in its records: training between two refreshes.
    StaleAllowed,
}

/// Exact search is taken where there are at most so many passages for each place in the beam: there scoring all of them one
/// after the other takes no longer than scoring some at random places of memory. Measured with 384 dimensions for a question
/// alone; when many are asked at once exact search is faster up to four times as many passages, but what is found must not
/// depend on what is asked beside it.
const EXACT_PER_EF: usize = 20;

impl Generation {
    /// The `k` nearest passages for each question: `questions` (B, D) row-major. For each question its hits, higher inner
    /// product first, ties by ordinal. Questions need not have length one, but must be finite.
    ///
    /// Runs on all threads of rayon's pool; the result does not depend on their number.
    pub fn search(&self, questions: &[f32], k: usize, how: Search, trust: Trust<'_>) -> Result<Vec<Vec<Hit>>> {
        let alive = self.shared.alive.as_deref();
        let len = alive.map_or(self.len(), Allowed::count);
        if k > len {
            return Err(Error::TooMany { k, len });
        }
        self.shared.admit(questions, trust)?;
        Ok(self.shared.find(questions, k, how, alive))
    }

    /// Whether the graph is walked to find `k` passages, all or those of a set; where there are few, each is compared instead.
    pub fn is_walked(&self, k: usize, how: Search, allowed: Option<&Allowed>) -> bool {
        let alive = self.shared.alive.as_deref();
        let both = alive.zip(allowed).filter(|(alive, allowed)| alive.len() == allowed.len());
        let both = both.map(|(alive, allowed)| alive.and(allowed));
        self.shared.walks(k, how, both.as_ref().or(allowed).or(alive)).is_some()
    }

    /// The same among the passages of a set; what was deleted is never found. Hits are fewer than `k` where fewer are allowed.
    pub fn search_among(
        &self,
        questions: &[f32],
        k: usize,
        how: Search,
        trust: Trust<'_>,
        allowed: &Allowed,
    ) -> Result<Vec<Vec<Hit>>> {
        if allowed.len() != self.len() {
            return Err(Error::OtherSet { given: allowed.len(), expected: self.len() });
        }
        self.shared.admit(questions, trust)?;
        match &self.shared.alive {
            Some(alive) => Ok(self.shared.find(questions, k, how, Some(&alive.and(allowed)))),
            None => Ok(self.shared.find(questions, k, how, Some(allowed))),
        }
    }
}

impl Shared {
    /// Refuses questions that cannot be answered.
    fn admit(&self, questions: &[f32], trust: Trust<'_>) -> Result<()> {
        if let Trust::Same(asked) = trust {
            if self.is_view {
                return Err(Error::View { number: self.number });
            }
            if *asked != self.fingerprint {
                return Err(Error::WrongEncoder {
                    asked: asked.id(),
                    stored: self.fingerprint.id(),
                    number: self.number,
                    differences: asked.differences(&self.fingerprint),
                });
            }
        }
        if !questions.len().is_multiple_of(self.dim) {
            let what = format!("the questions' vectors are not whole rows of {} values", self.dim);
            let expected = questions.len().next_multiple_of(self.dim);
            return Err(Error::Dimension { what, given: questions.len(), expected });
        }
        if let Some(at) = questions.iter().position(|value| !value.is_finite()) {
            let (question, value) = (at / self.dim, questions[at]);
            let what = format!("the vector of question {question} holds `{value}`, a finite number was expected");
            return Err(Error::BadVector { what });
        }
        Ok(())
    }

    /// The graph and the beam that go through it; none where every passage is compared instead.
    fn walks(&self, k: usize, how: Search, allowed: Option<&Allowed>) -> Option<(&FlatGraph, usize)> {
        let (Ok(graph), Search::Graph { ef }) = (&self.graph, how) else { return None };
        let len = self.vectors.len() / self.dim;
        let among = allowed.map_or(len, Allowed::count);
        // The beam passes through what is not allowed, and must be wider for it to hold enough of what is.
        let ef = ef.max(k).saturating_mul(len).div_ceil(among.max(1));
        (among > ef.saturating_mul(EXACT_PER_EF)).then_some((&graph.0, ef))
    }

    fn find(&self, questions: &[f32], k: usize, how: Search, allowed: Option<&Allowed>) -> Vec<Vec<Hit>> {
        let Some((graph, ef)) = self.walks(k, how, allowed) else {
            return self.exactly(questions, k, allowed);
        };
        let len = self.vectors.len() / self.dim;
        let tail = match graph.nodes() == len {
            true => None,
            false => Some(self.tail(questions, k, graph.nodes(), allowed)),
        };
        let found = questions.par_chunks_exact(self.dim).enumerate().map(|(at, question)| {
            let mut hits = self.walk(graph, question, k, ef, allowed);
            if let Some(more) = tail.as_ref().and_then(|tail| tail.get(at)) {
                hits.extend(more);
                hits.sort_unstable_by(Hit::rank);
                hits.truncate(k);
            }
            hits
        });
        found.collect()
    }

    fn exactly(&self, questions: &[f32], k: usize, allowed: Option<&Allowed>) -> Vec<Vec<Hit>> {
        match allowed {
            None => search(&self.vectors, self.dim, questions, k),
            Some(allowed) => search_among(&self.vectors, self.dim, questions, k, allowed),
        }
    }

    /// Exact search among what was appended after the graph was made.
    fn tail(&self, questions: &[f32], k: usize, from: usize, allowed: Option<&Allowed>) -> Vec<Vec<Hit>> {
        let Some(allowed) = allowed else { return search_from(&self.vectors, self.dim, questions, k, from) };
        let tail = allowed.from(from as u32);
        search_among(&self.vectors, self.dim, questions, k, &tail)
    }

    /// The best through the graph; exact among the graph's passages where the beam held too few that are allowed to be sure.
    fn walk(&self, graph: &FlatGraph, question: &[f32], k: usize, ef: usize, allowed: Option<&Allowed>) -> Vec<Hit> {
        let nodes = graph.nodes();
        let known = &self.vectors[..nodes * self.dim];
        let codes = self.codes.as_ref().and_then(HeldCodes::view);
        let beam = |fits: &dyn Fn(u32) -> bool| match &codes {
            None => graph.search_where(known, self.dim, question, k, ef, fits),
            Some(codes) => graph.search_codes_where(codes, known, question, k, ef, fits),
        };
        let Some(allowed) = allowed else {
            let (hits, _) = beam(&|_| true);
            // Every passage can be reached, so a beam of at least k finds k. Should it not, exact search still does.
            let short = hits.len() < k.min(nodes);
            return if short { search(known, self.dim, question, k).swap_remove(0) } else { hits };
        };
        let (hits, fit) = beam(&|ordinal| allowed.contains(ordinal));
        let expected = ef.saturating_mul(allowed.count()) / allowed.len().max(1);
        match fit < k.max(expected / 2) {
            true => search_among(known, self.dim, question, k, allowed).swap_remove(0),
            false => hits,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ragtune_nearest::{Aligned, GraphParams, build};

    use super::*;
    use crate::manifest::GraphInfo;
    use crate::mapped::Floats;
    use crate::vectors::Held;

    const DIM: usize = 16;
    const N: usize = 1200;

    /// Unit vectors that are a pure function of their number.
    fn vectors(n: usize) -> Vec<f32> {
        let mut state = 88_172_645_463_325_252u64;
        let mut vectors: Vec<f32> = (0..n * DIM)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        for row in vectors.chunks_mut(DIM) {
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter_mut().for_each(|value| *value /= length);
        }
        vectors
    }

    /// A generation whose graph is over the first `known` of N passages, without the deleted ones.
    fn generation(known: usize, deleted: impl Fn(u32) -> bool) -> Generation {
        let vectors = vectors(N);
        let graph = build(&vectors[..known * DIM], DIM, &GraphParams::default()).unwrap().graph;
        let info = GraphInfo {
            recall_at_10: 1.0,
            probes: 1,
            ef: 64,
            links: 16,
            ef_construction: 200,
            origin: "build".into(),
            built_recall_at_10: None,
            unreachable_relinked: 0,
            bytes: 0,
        };
        let alive = Allowed::new(N, (0..N as u32).filter(|ordinal| !deleted(*ordinal))).unwrap();
        let shared = Shared {
            number: 1,
            dim: DIM,
            dataset_version: 1,
            fingerprint: Fingerprint::new(Default::default()),
            vectors: Floats::Memory(Aligned::from(&vectors[..])),
            codes: None,
            held: Held::default(),
            graph: Ok(Arc::new((graph, info))),
            alive: (alive.count() < N).then(|| Arc::new(alive)),
            sidecar: None,
            is_view: false,
        };
        Generation { shared: Arc::new(shared) }
    }

    fn questions() -> Vec<f32> {
        vectors(N + 30)[N * DIM..].to_vec()
    }

    fn agrees(generation: &Generation, forbidden: impl Fn(u32) -> bool, context: &str) {
        let questions = questions();
        let all = search(&vectors(N), DIM, &questions, N);
        let (mut right, mut wanted) = (0, 0);
        for how in [Search::Exact, Search::Graph { ef: 30 }] {
            let found = generation.search(&questions, 10, how, Trust::StaleAllowed).unwrap();
            for (found, all) in found.iter().zip(&all) {
                let truth: Vec<Hit> = all.iter().filter(|hit| !forbidden(hit.ordinal)).take(10).copied().collect();
                assert!(found.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "{context}");
                assert!(found.len() == 10 && found.iter().all(|hit| !forbidden(hit.ordinal)), "{context}");
                match how {
                    Search::Exact => assert_eq!(*found, truth, "{context}"),
                    Search::Graph { .. } => {
                        right += found.iter().filter(|hit| truth.contains(hit)).count();
                        wanted += 10;
                    }
                }
            }
        }
        assert!(right * 100 >= wanted * 90, "{context}: {right} of {wanted}");
    }

    #[test]
    fn what_was_appended_is_searched_exactly_beside_the_graph() {
        for known in [N, N - 1, 900] {
            let generation = generation(known, |_| false);
            agrees(&generation, |_| false, &format!("{known} in the graph"));
            // A stored vector's own nearest is itself, in the graph or in the tail.
            let last = &vectors(N)[(N - 1) * DIM..];
            let found = generation.search(last, 1, Search::Graph { ef: 30 }, Trust::StaleAllowed).unwrap();
            assert_eq!(found[0][0].ordinal as usize, N - 1);
        }
    }

    #[test]
    fn what_was_deleted_is_never_found_in_the_graph_or_the_tail() {
        for known in [N, 1000] {
            let deleted = |ordinal: u32| ordinal % 5 == 2;
            let generation = generation(known, deleted);
            agrees(&generation, deleted, &format!("{known} in the graph"));
            let left = (0..N as u32).filter(|ordinal| !deleted(*ordinal)).count();
            let error = generation.search(&questions(), left + 1, Search::Exact, Trust::StaleAllowed).unwrap_err();
            assert!(matches!(error, Error::TooMany { len, .. } if len == left), "{error}");
            let both = Allowed::new(N, (0..N as u32).filter(|ordinal| ordinal % 10 == 2 || ordinal % 10 == 3)).unwrap();
            let how = Search::Graph { ef: 10 };
            let found = generation.search_among(&questions(), 10, how, Trust::StaleAllowed, &both).unwrap();
            assert!(found.iter().all(|hits| hits.len() == 10 && hits.iter().all(|hit| hit.ordinal % 10 == 3)));
        }
    }

    #[test]
    fn what_is_allowed_far_from_the_question_is_found_all_the_same() {
        let generation = generation(N, |_| false);
        let question = &questions()[..DIM];
        let all = search(&vectors(N), DIM, question, N).remove(0);
        // The farther half: the beam sees next to none of it.
        let far = Allowed::new(N, all[N / 2..].iter().map(|hit| hit.ordinal)).unwrap();
        let how = Search::Graph { ef: 10 };
        let found = generation.search_among(question, 5, how, Trust::StaleAllowed, &far).unwrap();
        assert_eq!(found[0], all[N / 2..N / 2 + 5]);
    }
}
