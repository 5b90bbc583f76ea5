//! What a run should say of itself besides its numbers: a retriever without a signal, one that collapsed.

use super::Trainer;
use crate::pipeline::selector::GOLD_WARNING;
use crate::report::record::RunRecord;
use crate::strategies::{Lists, Stage};

/// From this share of questions without a direction on, a run says so.
const FLAT: f64 = 0.5;
/// Below this share of the passages that could have been read, retrieval has collapsed.
const COLLAPSED: f64 = 0.05;

/// Adds the notes of a finished run.
pub(super) fn add(record: &mut RunRecord, trainer: &Trainer<'_>, stages: &[Stage]) {
    let mut note = |text: String| {
        if !record.notes.contains(&text) {
            record.notes.push(text);
        }
    };
    if let Some(text) = single_passage(trainer.config.top_k, stages) {
        note(text);
    }
    if let Some(text) = gold_injection(stages) {
        note(text);
    }
    let (flat, looked) = trainer.state.flat;
    if looked > 0 && flat as f64 >= FLAT * looked as f64 {
        note(format!(
            "{flat} of {looked} targets gave all passages of a question the same score: the retriever had nothing to learn from them"
        ));
    }
    if let Some(last) = record.evaluations.last() {
        let passages = trainer.pipeline.generation.len() as u64;
        if let Some(text) = collapse(last.distinct_passages, last.n, trainer.config.top_k as u64, passages) {
            note(text);
        }
    }
}

/// What K = 1 means for objectives that compare retrieved passages.
pub fn single_passage(top_k: usize, stages: &[Stage]) -> Option<String> {
    let stage = stages.iter().find(|stage| stage.trains.encoder() && stage.objective.needs().compares_retrieved())?;
    (top_k == 1).then(|| {
        format!(
            "with `--top-k 1` stage `{}` compares a passage with nothing: the encoder's gradient is zero",
            stage.name
        )
    })
}

/// What gold passages among the candidates mean.
pub fn gold_injection(stages: &[Stage]) -> Option<String> {
    let injects = |stage: &Stage| match stage.lists {
        Some(Lists::Drawn(expectation)) => expectation.gold_injection,
        Some(Lists::Taught(teaching)) => teaching.gold_injection,
        None => false,
    };
    stages.iter().any(injects).then(|| GOLD_WARNING.to_owned())
}

/// Whether few passages answer all questions.
fn collapse(distinct: u64, questions: u64, top_k: u64, passages: u64) -> Option<String> {
    let possible = (questions * top_k).min(passages);
    (possible > 0 && (distinct as f64) < COLLAPSED * possible as f64).then(|| {
        format!(
            "retrieval collapsed: {:.0} distinct passages per 1000 questions, of {:.0} that could have been read",
            1000.0 * distinct as f64 / questions as f64,
            1000.0 * possible as f64 / questions as f64
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapse_is_relative_to_what_could_be_read() {
        assert!(collapse(10, 1000, 5, 50_000).unwrap().contains("10 distinct passages per 1000 questions"));
        assert!(collapse(1500, 1000, 5, 50_000).is_none());
        // A corpus of 100 passages cannot give more.
        assert!(collapse(60, 1000, 5, 100).is_none());
        assert!(collapse(3, 1000, 5, 100).is_some());
        assert!(collapse(0, 0, 5, 100).is_none());
    }
}
