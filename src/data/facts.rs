//! What a look at a whole file tells about its passages and questions.

use super::questions::Question;
use ragtune_index::Passage;
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};

/// How many words texts have. A word is a run of characters between white space.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Words {
    /// Words in all texts.
    pub total: u64,
    /// The lower median of words a text.
    pub median: u64,
    /// Words of the longest text.
    pub longest: u64,
}

/// Ids that are named where there may be many.
pub(super) const NAMED: usize = 20;

/// The passages of a corpus.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct CorpusFacts {
    /// Number of passages.
    pub passages: u64,
    /// Passages with a title that is not empty.
    pub with_title: u64,
    /// Words of the texts, titles not counted.
    pub words: Words,
    /// Id of the longest passage.
    pub longest_passage: String,
    /// Ids that occur a second time.
    pub duplicate_ids: u64,
    /// The first such id.
    pub first_duplicate: Option<String>,
    /// The first of them, at most 20.
    pub duplicates: Vec<String>,
    /// The first passage: id, title and the beginning of the text.
    pub example: String,
}

/// The questions of a set.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct QuestionFacts {
    /// Number of questions.
    pub questions: u64,
    /// Questions without an accepted answer.
    pub without_answers: u64,
    /// Questions without a gold passage.
    pub without_gold: u64,
    /// Accepted answers, all questions together.
    pub answers: u64,
    /// Gold passages, all questions together.
    pub gold_passages: u64,
    /// Words of the questions.
    pub words: Words,
    /// Words of the first accepted answer of each question that has one.
    pub answer_words: Words,
    /// The first question with its first answer.
    pub example: String,
}

/// Collects [`CorpusFacts`] from a stream: 16 bytes a passage, for the duplicates.
#[derive(Default)]
pub(super) struct CorpusTally {
    facts: CorpusFacts,
    lengths: Lengths,
    seen: HashSet<u128>,
}

impl CorpusTally {
    pub(super) fn take(&mut self, passage: &Passage) {
        let facts = &mut self.facts;
        let words = count(&passage.text);
        if facts.passages == 0 {
            let text = super::excerpt(&passage.text);
            facts.example = format!("{}: {}: {text}", passage.id, passage.title).replace(": : ", ": ");
        }
        if facts.passages == 0 || words > self.lengths.longest() {
            facts.longest_passage.clone_from(&passage.id);
        }
        facts.passages += 1;
        facts.with_title += u64::from(!passage.title.trim().is_empty());
        self.lengths.take(words);
        if !self.seen.insert(key(&passage.id)) {
            facts.duplicate_ids += 1;
            facts.first_duplicate.get_or_insert_with(|| passage.id.clone());
            if facts.duplicates.len() < NAMED && !facts.duplicates.contains(&passage.id) {
                facts.duplicates.push(passage.id.clone());
            }
        }
    }

    pub(super) fn finish(self) -> CorpusFacts {
        CorpusFacts { words: self.lengths.words(), ..self.facts }
    }
}

impl QuestionFacts {
    /// Counts a set.
    pub(super) fn of(questions: &[Question]) -> Self {
        let (mut facts, mut lengths, mut answers) = (QuestionFacts::default(), Lengths::default(), Lengths::default());
        for question in questions {
            facts.questions += 1;
            facts.without_answers += u64::from(question.answers.is_empty());
            facts.without_gold += u64::from(question.gold_passages.is_empty());
            facts.answers += question.answers.len() as u64;
            facts.gold_passages += question.gold_passages.len() as u64;
            lengths.take(count(&question.question));
            if let Some(answer) = question.answers.first() {
                answers.take(count(answer));
            }
        }
        if let Some(first) = questions.first() {
            let answer = first.answers.first().map_or("no answer", String::as_str);
            facts.example = format!("{} ({})", super::excerpt(&first.question), super::excerpt(answer));
        }
        QuestionFacts { words: lengths.words(), answer_words: answers.words(), ..facts }
    }
}

/// A histogram of lengths: exact median with memory bounded by the number of distinct lengths.
#[derive(Default)]
struct Lengths(BTreeMap<u64, u64>);

impl Lengths {
    fn take(&mut self, words: u64) {
        *self.0.entry(words).or_default() += 1;
    }

    fn longest(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(&words, _)| words)
    }

    fn words(&self) -> Words {
        let texts: u64 = self.0.values().sum();
        let middle = texts.div_ceil(2);
        let mut before = 0;
        let reached = self.0.iter().find(|&(_, &count)| {
            before += count;
            before >= middle
        });
        Words {
            total: self.0.iter().map(|(words, count)| words * count).sum(),
            median: reached.map_or(0, |(&words, _)| words),
            longest: self.longest(),
        }
    }
}

fn count(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

/// 128 bits of the hash of an id: two different ids agree with a chance below 10^-20 for a billion passages.
fn key(id: &str) -> u128 {
    let hash = blake3::hash(id.as_bytes());
    hash.as_bytes().iter().take(16).fold(0, |key, &byte| key << 8 | u128::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_lower_middle_one() {
        let words = |lengths: &[u64]| {
            let mut all = Lengths::default();
            lengths.iter().for_each(|&length| all.take(length));
            all.words()
        };
        assert_eq!(words(&[]), Words::default());
        assert_eq!(words(&[5]), Words { total: 5, median: 5, longest: 5 });
        assert_eq!(words(&[9, 1, 3, 2]), Words { total: 15, median: 2, longest: 9 });
        assert_eq!(words(&[9, 3, 1, 3, 2]), Words { total: 18, median: 3, longest: 9 });
    }
}
