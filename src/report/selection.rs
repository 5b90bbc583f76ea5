//! What a selector chose, beside the retriever's own order: for one question and on average.

use super::scores::{QuestionScore, RetrievedPassage};
use crate::data::Question;
use crate::eval;
use crate::eval::statistics::mean;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The depths that a selection is measured at.
pub const SELECTION_AT: [u32; 3] = [1, 3, 5];

/// What a selector chose for one question, beside the retriever's own order cut to the same length K.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectionScore {
    /// Ids of the K chosen passages, in order.
    pub selected: Vec<String>,
    /// Recall@k by gold id of the chosen passages, by k.
    pub recall: BTreeMap<u32, f32>,
    /// Recall@k by answer string, by k: DRO's hit (arXiv 2505.03075).
    pub answer_recall: BTreeMap<u32, f32>,
    /// Reciprocal rank within K.
    pub mrr: Option<f32>,
    /// Recall@k by gold id of the first K retrieved passages.
    pub retriever_recall: BTreeMap<u32, f32>,
    /// The same by answer string.
    pub retriever_answer_recall: BTreeMap<u32, f32>,
    /// Their reciprocal rank within K.
    pub retriever_mrr: Option<f32>,
}

impl SelectionScore {
    /// Scores the chosen places of `retrieved`, in their order.
    pub fn of(question: &Question, retrieved: &[RetrievedPassage], chosen: &[u32]) -> Self {
        let selected: Vec<RetrievedPassage> =
            chosen.iter().filter_map(|place| retrieved.get(*place as usize)).cloned().collect();
        let first = retrieved.get(..selected.len()).unwrap_or_default();
        let score = |passages: &[RetrievedPassage]| {
            let ids: Vec<&str> = passages.iter().map(|passage| passage.id.as_str()).collect();
            let mrr = eval::reciprocal_rank(&ids, &question.gold_passages, ids.len());
            (QuestionScore::of(question, None, passages, &SELECTION_AT), mrr)
        };
        let ((chosen, mrr), (retriever, retriever_mrr)) = (score(&selected), score(first));
        Self {
            selected: chosen.retrieved,
            recall: chosen.recall,
            answer_recall: chosen.answer_recall,
            mrr,
            retriever_recall: retriever.recall,
            retriever_answer_recall: retriever.answer_recall,
            retriever_mrr,
        }
    }
}

/// The means of a selector's choices, beside the retriever's own order cut to as many passages.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SelectionSummary {
    /// Passages it was given to choose from, at most.
    pub candidates: u32,
    /// Recall@k by gold id of what was chosen, by k.
    pub recall: BTreeMap<u32, f64>,
    /// Recall@k by answer string, by k.
    pub answer_recall: BTreeMap<u32, f64>,
    /// Reciprocal rank within the chosen passages.
    pub mrr: Option<f64>,
    /// The retriever's recall@k by gold id.
    pub retriever_recall: BTreeMap<u32, f64>,
    /// The retriever's recall@k by answer string.
    pub retriever_answer_recall: BTreeMap<u32, f64>,
    /// The retriever's reciprocal rank within as many passages.
    pub retriever_mrr: Option<f64>,
    /// Share of the selector's prompts with a shortened passage.
    pub truncated_prompts: f64,
}

impl SelectionSummary {
    /// The means over questions with a selection; none where no question has one. What the selector was given is left to
    /// the caller.
    pub fn of(scores: &[QuestionScore]) -> Option<Self> {
        let all: Vec<&SelectionScore> = scores.iter().filter_map(|score| score.selection.as_ref()).collect();
        if all.is_empty() {
            return None;
        }
        let average = |of: fn(&SelectionScore) -> Option<f32>| {
            let values: Vec<f64> = all.iter().filter_map(|score| of(score)).map(f64::from).collect();
            mean(&values)
        };
        let by_k = |of: fn(&SelectionScore) -> &BTreeMap<u32, f32>| {
            let at = |k: u32| -> Vec<f64> {
                all.iter().filter_map(|score| of(score).get(&k).copied()).map(f64::from).collect()
            };
            SELECTION_AT.into_iter().filter_map(|k| Some((k, mean(&at(k))?))).collect()
        };
        Some(Self {
            recall: by_k(|score| &score.recall),
            answer_recall: by_k(|score| &score.answer_recall),
            mrr: average(|score| score.mrr),
            retriever_recall: by_k(|score| &score.retriever_recall),
            retriever_answer_recall: by_k(|score| &score.retriever_answer_recall),
            retriever_mrr: average(|score| score.retriever_mrr),
            ..Self::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(id: &str, text: &str) -> RetrievedPassage {
        RetrievedPassage { id: id.to_owned(), score: 0.5, text: text.to_owned() }
    }

    #[test]
    fn a_selection_is_scored_beside_the_order_it_was_made_from() {
        let question = Question {
            id: "q".to_owned(),
            question: "where".to_owned(),
            answers: vec!["York".to_owned()],
            gold_passages: vec!["d".to_owned()],
            ..Question::default()
        };
        let retrieved = [passage("a", "nothing"), passage("b", "in York."), passage("c", "x"), passage("d", "york")];
        let score = SelectionScore::of(&question, &retrieved, &[0, 3, 1]);
        assert_eq!(score.selected, ["a", "d", "b"]);
        // Five passages were not chosen: recall@5 was not measured.
        assert_eq!(score.recall, BTreeMap::from([(1, 0.0), (3, 1.0)]));
        assert_eq!(score.answer_recall, BTreeMap::from([(1, 0.0), (3, 1.0)]));
        assert_eq!((score.mrr, score.retriever_mrr), (Some(0.5), Some(0.0)));
        assert_eq!(score.retriever_recall, BTreeMap::from([(1, 0.0), (3, 0.0)]));
        assert_eq!(score.retriever_answer_recall, BTreeMap::from([(1, 0.0), (3, 1.0)]));
        let whole = QuestionScore { selection: Some(score), ..QuestionScore::of(&question, None, &retrieved, &[1]) };
        let names: Vec<String> = whole.metrics().into_iter().map(|(name, _)| name).collect();
        assert!(names.contains(&"selection recall@3".to_owned()) && names.contains(&"selection mrr".to_owned()));
        assert_eq!(serde_json::from_str::<QuestionScore>(&serde_json::to_string(&whole).unwrap()).unwrap(), whole);
    }

    #[test]
    fn means_are_over_questions_with_a_selection() {
        let score = |recall: f32, mrr: Option<f32>| QuestionScore {
            selection: Some(SelectionScore { recall: BTreeMap::from([(1, recall)]), mrr, ..SelectionScore::default() }),
            ..QuestionScore::default()
        };
        assert_eq!(SelectionSummary::of(&[QuestionScore::default()]), None);
        let summary =
            SelectionSummary::of(&[score(1.0, Some(0.5)), QuestionScore::default(), score(0.0, None)]).unwrap();
        assert_eq!((summary.recall, summary.mrr), (BTreeMap::from([(1, 0.5)]), Some(0.5)));
        assert!(summary.retriever_recall.is_empty() && summary.retriever_mrr.is_none());
    }
}
