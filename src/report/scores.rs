//! The scores of one question: what every mean in a report can be computed again from.

use super::selection::SelectionScore;
use crate::data::Question;
use crate::eval;
use crate::eval::retrieval::first_with_answer;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One passage as it was retrieved for a question.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RetrievedPassage {
    /// Its id.
    pub id: String,
    /// The retriever's score: inner product of unit vectors, BM25, or what a hybrid makes of both.
    pub score: f32,
    /// What answers are looked for in: title and text.
    pub text: String,
}

/// One line of a scores file. A score is none where it does not exist: no accepted answer, no gold passage, no prediction.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct QuestionScore {
    /// Id of the question.
    pub id: String,
    /// The generated answer, as it was generated; none when only retrieval was evaluated.
    pub prediction: Option<String>,
    /// Exact match, 0 or 1.
    pub em: Option<f32>,
    /// Token F1, 0 to 1.
    pub f1: Option<f32>,
    /// Ids of the retrieved passages, best first.
    pub retrieved: Vec<String>,
    /// Their scores.
    pub scores: Vec<f32>,
    /// Recall@k by gold id (share of the gold passages), by k.
    #[serde(default)]
    pub recall: BTreeMap<u32, f32>,
    /// Hit@k: any gold passage, by k.
    #[serde(default)]
    pub hit: BTreeMap<u32, f32>,
    /// Recall@k by answer string, by k.
    #[serde(default)]
    pub answer_recall: BTreeMap<u32, f32>,
    /// Reciprocal rank within 10.
    pub mrr10: Option<f32>,
    /// nDCG within 10.
    pub ndcg10: Option<f32>,
    /// What a selector chose of what was retrieved; none without a selector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<SelectionScore>,
}

impl QuestionScore {
    /// Scores one question. `retrieved` is ordered best first; `ks` are the cut-offs of recall. A cut-off above the number
    /// of retrieved passages is left out: its recall was not measured.
    pub fn of(question: &Question, prediction: Option<&str>, retrieved: &[RetrievedPassage], ks: &[u32]) -> Self {
        let ids: Vec<&str> = retrieved.iter().map(|passage| passage.id.as_str()).collect();
        let gold = &question.gold_passages;
        let ks = || ks.iter().copied().filter(|&k| k as usize <= retrieved.len());
        let first = first_with_answer(retrieved.iter().map(|passage| passage.text.as_str()), &question.answers);
        let found = |first: Option<usize>, k: u32| if first.is_some_and(|rank| rank < k as usize) { 1.0 } else { 0.0 };
        Self {
            id: question.id.clone(),
            prediction: prediction.map(str::to_owned),
            em: prediction.and_then(|prediction| eval::exact_match(prediction, &question.answers)),
            f1: prediction.and_then(|prediction| eval::token_f1(prediction, &question.answers)),
            retrieved: ids.iter().map(|&id| id.to_owned()).collect(),
            scores: retrieved.iter().map(|passage| passage.score).collect(),
            recall: ks().filter_map(|k| Some((k, eval::recall_at(&ids, gold, k as usize)?))).collect(),
            hit: ks().filter_map(|k| Some((k, eval::hit_at(&ids, gold, k as usize)?))).collect(),
            answer_recall: ks().filter_map(|k| Some((k, found(first?, k)))).collect(),
            mrr10: eval::reciprocal_rank(&ids, gold, 10),
            ndcg10: eval::ndcg(&ids, gold, 10),
            selection: None,
        }
    }

    /// Every score with its name in tables: `em`, `f1`, `recall@k`, `answer recall@k`, `mrr@10`, `ndcg@10`, and with a
    /// selector `selection recall@k`, `selection answer recall@k`, `selection mrr`.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let by_k = |name: &str, scores: &BTreeMap<u32, f32>| -> Vec<(String, Option<f32>)> {
            scores.iter().map(|(k, &score)| (format!("{name}@{k}"), Some(score))).collect()
        };
        let mut all = vec![("em".to_owned(), self.em), ("f1".to_owned(), self.f1)];
        all.extend(by_k("recall", &self.recall));
        all.extend(by_k("answer recall", &self.answer_recall));
        all.extend([("mrr@10".to_owned(), self.mrr10), ("ndcg@10".to_owned(), self.ndcg10)]);
        if let Some(selection) = &self.selection {
            all.extend(by_k("selection recall", &selection.recall));
            all.extend(by_k("selection answer recall", &selection.answer_recall));
            all.push(("selection mrr".to_owned(), selection.mrr));
        }
        all.into_iter().filter_map(|(name, score)| Some((name, f64::from(score?)))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passage(id: &str, text: &str) -> RetrievedPassage {
        RetrievedPassage { id: id.to_owned(), score: 0.5, text: text.to_owned() }
    }

    #[test]
    fn one_question_is_scored_in_every_way() {
        let question = Question {
            id: "q".to_owned(),
            question: "where".to_owned(),
            answers: vec!["York".to_owned()],
            gold_passages: vec!["b".to_owned(), "z".to_owned()],
            ..Question::default()
        };
        let retrieved = [passage("a", "nothing"), passage("b", "in York."), passage("c", "york")];
        let score = QuestionScore::of(&question, Some("the York"), &retrieved, &[1, 2, 3, 5]);
        assert_eq!((score.em, score.f1), (Some(1.0), Some(1.0)));
        assert_eq!(score.recall, BTreeMap::from([(1, 0.0), (2, 0.5), (3, 0.5)]));
        assert_eq!(score.hit, BTreeMap::from([(1, 0.0), (2, 1.0), (3, 1.0)]));
        assert_eq!(score.answer_recall, BTreeMap::from([(1, 0.0), (2, 1.0), (3, 1.0)]));
        assert_eq!(score.mrr10, Some(0.5));
        assert_eq!(serde_json::from_str::<QuestionScore>(&serde_json::to_string(&score).unwrap()).unwrap(), score);

        let names: Vec<String> = score.metrics().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names[..3], ["em", "f1", "recall@1"]);
        assert_eq!(names.len(), 10);
    }

    #[test]
    fn what_cannot_be_scored_has_no_score() {
        let question = Question { id: "q".to_owned(), question: "where".to_owned(), ..Question::default() };
        let score = QuestionScore::of(&question, Some("x"), &[passage("a", "x")], &[1]);
        assert!(score.metrics().is_empty());
        assert_eq!(score.prediction.as_deref(), Some("x"));
    }
}
