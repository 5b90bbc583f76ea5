//! What one evaluation came to.

use super::scores::QuestionScore;
use super::selection::SelectionSummary;
use crate::eval::statistics::mean;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The means of one evaluation. EM and F1 are means over questions with answers, the rest over questions with gold passages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationSummary {
    /// `before`, `final`, ...
    pub name: String,
    /// Optimiser steps done.
    pub step: u64,
    /// Generation that was searched.
    pub generation: u32,
    /// Questions asked.
    pub n: u64,
    /// Questions with an accepted answer.
    pub answered: u64,
    /// Questions with a gold passage.
    pub with_gold: u64,
    /// Exact match, 0 to 1.
    pub em: Option<f64>,
    /// Token F1, 0 to 1.
    pub f1: Option<f64>,
    /// Recall@k by gold id (share of the gold passages found), by k.
    pub recall: BTreeMap<u32, f64>,
    /// Recall@k by answer string, by k.
    pub answer_recall: BTreeMap<u32, f64>,
    /// MRR@10.
    pub mrr10: Option<f64>,
    /// nDCG@10, binary relevance.
    pub ndcg10: Option<f64>,
    /// Distinct passages among those read for all questions.
    #[serde(default)]
    pub distinct_passages: u64,
    /// Questions that share a word with fewer passages than were retrieved by BM25 alone: the first passages of the corpus filled
    /// up what was missing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub filled_questions: u64,
    /// How answers were read off.
    pub reader_mode: String,
    /// File of the scores by question, relative to the run folder.
    pub scores_file: String,
    /// What a selector chose of what was retrieved; none without a selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<SelectionSummary>,
}

impl EvaluationSummary {
    /// The means over scored questions. Where they were made (step, generation, reader mode, file) is left to the caller.
    pub fn of(name: impl Into<String>, scores: &[QuestionScore]) -> Self {
        let average = |of: &dyn Fn(&QuestionScore) -> Option<f32>| {
            let values: Vec<f64> = scores.iter().filter_map(of).map(f64::from).collect();
            mean(&values)
        };
        let by_k = |of: fn(&QuestionScore) -> &BTreeMap<u32, f32>| {
            let ks = scores.iter().flat_map(|score| of(score).keys().copied());
            let ks: BTreeSet<u32> = ks.collect();
            ks.into_iter().filter_map(|k| Some((k, average(&|score| of(score).get(&k).copied())?))).collect()
        };
        Self {
            name: name.into(),
            n: scores.len() as u64,
            answered: scores.iter().filter(|score| score.em.is_some()).count() as u64,
            with_gold: scores.iter().filter(|score| score.mrr10.is_some()).count() as u64,
            em: average(&|score| score.em),
            f1: average(&|score| score.f1),
            recall: by_k(|score| &score.recall),
            answer_recall: by_k(|score| &score.answer_recall),
            mrr10: average(&|score| score.mrr10),
            ndcg10: average(&|score| score.ndcg10),
            selection: SelectionSummary::of(scores),
            ..Self::default()
        }
    }
}

/// Names the system that a generator trained by one reader and read by another is: what it is read by, and in brackets what
/// it was trained by where that differs. `trained` is empty where no answer was learnt.
pub fn reading(trained: &str, read: &str) -> String {
    match trained.is_empty() || read.split(' ').next() == Some(trained) {
        true => read.to_owned(),
        false => format!("{read} (trained: {trained})"),
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
