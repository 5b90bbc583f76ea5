//! Counting words passage by passage.

use std::collections::HashMap;

use crate::bm25::{ABSENT, Bm25};
use crate::postings::List;
use crate::words::{each_word, normalized, stem_of};

/// Words as they are written whose stems are remembered; then it begins anew, so that memory stays bounded.
const REMEMBERED: usize = 1 << 20;

/// An index in the making. Passages are added in the order of their ordinals, from 0.
#[derive(Default)]
pub struct Builder {
    numbers: HashMap<String, u32>,
    lists: Vec<List>,
    lengths: Vec<u32>,
    /// Number of the stem of a word as it is written; none of a stop word.
    remembered: HashMap<String, Option<u32>>,
    /// Stems of the passage at hand.
    stems: Vec<u32>,
}

impl Builder {
    /// An index of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the passage of the next ordinal.
    pub fn add(&mut self, text: &str) {
        let mut stems = std::mem::take(&mut self.stems);
        stems.clear();
        each_word(&normalized(text), |word| stems.extend(self.number(word)));
        stems.sort_unstable();
        let ordinal = self.lengths.len() as u32;
        for run in stems.chunk_by(|a, b| a == b) {
            if let Some(list) = run.first().and_then(|stem| self.lists.get_mut(*stem as usize)) {
                list.push(ordinal, run.len() as u32);
            }
        }
        // One less than the mark of an absent passage at most.
        self.lengths.push(u32::try_from(stems.len()).unwrap_or(ABSENT).min(ABSENT - 1));
        self.stems = stems;
    }

    /// Leaves the next ordinal out: its passage was deleted. It is never found and counts for nothing.
    pub fn skip(&mut self) {
        self.lengths.push(ABSENT);
    }

    /// The index. Depends on the texts and their order alone.
    pub fn finish(self) -> Bm25 {
        let Self { numbers, mut lists, lengths, .. } = self;
        let mut terms: Vec<(String, u32)> = numbers.into_iter().collect();
        terms.sort_unstable();
        let packed: usize = lists.iter().map(|list| list.bytes.len()).sum();
        let mut index = Bm25 { lengths, postings: Vec::with_capacity(packed), ..Bm25::default() };
        for (term, number) in terms {
            let list = lists.get_mut(number as usize).map(std::mem::take).unwrap_or_default();
            index.push(&term, list.pairs, &list.bytes);
        }
        index.weighed()
    }

    fn number(&mut self, word: &str) -> Option<u32> {
        if let Some(known) = self.remembered.get(word) {
            return *known;
        }
        let number = stem_of(word).map(|stem| {
            let next = self.lists.len() as u32;
            let number = *self.numbers.entry(stem).or_insert(next);
            if number == next {
                self.lists.push(List::default());
            }
            number
        });
        if self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        self.remembered.insert(word.to_owned(), number);
        number
    }
}
