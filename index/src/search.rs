//! Searching a generation: through its graph or exactly, among all its passages or some.
//!
//! B questions, N passages, D dimension.

use ragtune_nearest::{Allowed, FlatGraph, Hit, search, search_among, search_from};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::{Generation, Shared};

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

/// Exact search is taken where it scores at most this many passages for each place in the beam: a beam of `ef` scores about
/// 12 passages for each of its places, at random places of memory, one question at a time.
const EXACT_PER_EF: usize = 8;

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
            let what = "the set of allowed passages is one of another corpus".to_string();
            return Err(Error::Dimension { what, given: allowed.len(), expected: self.len() });
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

    fn find(&self, questions: &[f32], k: usize, how: Search, allowed: Option<&Allowed>) -> Vec<Vec<Hit>> {
        let (Ok(graph), Search::Graph { ef }) = (&self.graph, how) else {
            return self.exactly(questions, k, allowed);
        };
        let graph = &graph.0;
        let len = self.vectors.len() / self.dim;
        let among = allowed.map_or(len, Allowed::count);
        // The beam passes through what is not allowed, and must be wider for it to hold enough of what is.
        let ef = ef.max(k).saturating_mul(len).div_ceil(among.max(1));
        if among <= ef.saturating_mul(EXACT_PER_EF) {
            return self.exactly(questions, k, allowed);
        }
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
        let Some(allowed) = allowed else {
            let hits = graph.search(known, self.dim, question, k, ef);
            // Every passage can be reached, so a beam of at least k finds k. Should it not, exact search still does.
            let short = hits.len() < k.min(nodes);
            return if short { search(known, self.dim, question, k).swap_remove(0) } else { hits };
        };
        let (hits, fit) = graph.search_where(known, self.dim, question, k, ef, |ordinal| allowed.contains(ordinal));
        let expected = ef.saturating_mul(allowed.count()) / allowed.len().max(1);
        match fit < k.max(expected / 2) {
            true => search_among(known, self.dim, question, k, allowed).swap_remove(0),
            false => hits,
        }
    }
}
