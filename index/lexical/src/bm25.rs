//! BM25 (Robertson and Zaragoza 2009, Foundations and Trends in Information Retrieval 3(4), section 3) as Lucene computes it,
//! with exact lengths: "Lucene (accurate)" of Kamphuis et al. 2020 (ECIR, "Which BM25 do you mean?").
//!
//! ```text
//! score(q, d) = sum over the words t of q, repeats included, of idf(t) * tf / (tf + K1 * (1 - B + B * |d| / mean |d|))
//! idf(t)      = ln(1 + (N - df + 0.5) / (df + 0.5))
//! ```
//!
//! tf: how often t stands in d; |d|: words of d, stop words not counted; df: passages that hold t; N: passages. The factor
//! K1 + 1 of the original numerator is left out as in Lucene since 8.0: it changes no order. Sums are in f64 over the words in
//! sorted order, then rounded to f32: equal on every machine, whatever the number of threads.

use rayon::prelude::*;

use crate::postings::Pairs;
use crate::top::{Scores, best};
use crate::words::words;

/// How soon more of the same word counts little: Lucene's default.
pub const K1: f64 = 1.2;
/// How much long passages are held back: Lucene's default.
pub const B: f64 = 0.75;

/// Length of an ordinal without a passage.
pub(crate) const ABSENT: u32 = u32::MAX;

/// An inverted index: for every word the passages that hold it, packed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bm25 {
    /// All words, ascending, one after the other; and where each ends.
    pub(crate) terms: String,
    pub(crate) term_ends: Vec<u64>,
    /// Passages that hold each word.
    pub(crate) counts: Vec<u32>,
    /// The packed lists of all words; and where each ends.
    pub(crate) postings: Vec<u8>,
    pub(crate) list_ends: Vec<u64>,
    /// Words of each passage, [`ABSENT`] where there is none.
    pub(crate) lengths: Vec<u32>,
    /// K1 * (1 - B + B * |d| / mean |d|) of each passage.
    pub(crate) norms: Vec<f64>,
    pub(crate) passages: u32,
}

/// Which passages may be found.
pub type Fits<'a> = &'a (dyn Fn(u32) -> bool + Sync);

/// What was found for one question.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Ordinal and score, best first, ties by ordinal: as many as were asked for, or all there are. Passages that share no word
    /// with the question have the score 0, so that what is missing is filled up in the order of ordinals.
    pub hits: Vec<(u32, f32)>,
    /// How many of them share a word with the question; they stand first.
    pub matched: usize,
    /// Scores of the passages that were asked about besides.
    pub also: Vec<f32>,
}

impl Bm25 {
    /// Number of ordinals, passages that are left out included.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Number of passages that can be found.
    pub fn passages(&self) -> usize {
        self.passages as usize
    }

    /// Number of distinct words.
    pub fn distinct_words(&self) -> usize {
        self.term_ends.len()
    }

    /// The `k` best passages for each question, of those that fit where not all do, fewer only where there are fewer; and for
    /// question i the scores of the passages `also[i]` (missing rows are empty, unknown ordinals score 0). What fits changes no
    /// score. Runs on all threads of rayon's pool.
    pub fn search(&self, questions: &[&str], k: usize, also: &[Vec<u32>], fits: Option<Fits<'_>>) -> Vec<Ranked> {
        let rows = questions.par_iter().enumerate();
        let found = rows.map_init(
            || Scores::new(self.len()),
            |scores, (row, question)| {
                self.score(question, scores);
                let (hits, matched) = best(scores, k, &self.lengths, fits);
                let asked = also.get(row).map(Vec::as_slice).unwrap_or_default();
                let also = asked.iter().map(|ordinal| scores.of(*ordinal) as f32).collect();
                scores.clear();
                Ranked { hits, matched, also }
            },
        );
        found.collect()
    }

    /// Adds the score of every passage that shares a word with the question.
    fn score(&self, question: &str, scores: &mut Scores) {
        let mut asked: Vec<usize> = words(question).iter().filter_map(|word| self.term(word)).collect();
        asked.sort_unstable();
        for run in asked.chunk_by(|a, b| a == b) {
            let Some(&term) = run.first() else { continue };
            let held = f64::from(self.counts.get(term).copied().unwrap_or_default());
            let idf = (1.0 + (f64::from(self.passages) - held + 0.5) / (held + 0.5)).ln() * run.len() as f64;
            for (ordinal, count) in Pairs::of(self.list(term)) {
                let Some(norm) = self.norms.get(ordinal as usize) else { continue };
                let count = f64::from(count);
                scores.add(ordinal, idf * count / (count + norm));
            }
        }
    }

    /// The number of a word, if any passage holds it.
    fn term(&self, word: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.term_ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.name(middle).cmp(word) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// The word of that number.
    pub(crate) fn name(&self, term: usize) -> &str {
        let from = term.checked_sub(1).and_then(|before| self.term_ends.get(before)).copied().unwrap_or_default();
        let to = self.term_ends.get(term).copied().unwrap_or_default();
        self.terms.get(from as usize..to as usize).unwrap_or_default()
    }

    /// The packed list of that word.
    pub(crate) fn list(&self, term: usize) -> &[u8] {
        let from = term.checked_sub(1).and_then(|before| self.list_ends.get(before)).copied().unwrap_or_default();
        let to = self.list_ends.get(term).copied().unwrap_or_default();
        self.postings.get(from as usize..to as usize).unwrap_or_default()
    }

    /// Adds a word, which must be above all before, with its list.
    pub(crate) fn push(&mut self, term: &str, count: u32, list: &[u8]) {
        self.terms.push_str(term);
        self.term_ends.push(self.terms.len() as u64);
        self.counts.push(count);
        self.postings.extend_from_slice(list);
        self.list_ends.push(self.postings.len() as u64);
    }

    /// With what follows from the lengths.
    pub(crate) fn weighed(mut self) -> Self {
        let present = || self.lengths.iter().filter(|length| **length != ABSENT);
        let passages = present().count();
        let total: u64 = present().map(|length| u64::from(*length)).sum();
        // Where no passage has a word, nothing is ever scored.
        let mean = if total == 0 { 1.0 } else { total as f64 / passages as f64 };
        self.norms = self.lengths.iter().map(|length| K1 * (1.0 - B + B * f64::from(*length) / mean)).collect();
        self.passages = passages as u32;
        self
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
