//! How well passages were retrieved. Lists are ordered best first and hold an id at most once; K = length of the list.
//!
//! "Recall" has several meanings in the field, so each function says which it computes, and reports name it.

use super::answers::normalize_answer;
use std::collections::BTreeSet;

/// Names [`recall_at`] in reports.
pub const RECALL_BY_GOLD: &str =
    "share of the question's gold passages among the first k, mean over questions with gold";

/// Names [`recall_by_answer`] in reports.
pub const RECALL_BY_ANSWER: &str = "share of questions where one of the first k passages contains an accepted answer as a sequence of normalised words";

/// Recall@k by gold id: the share of the gold passages that are among the first `k`. For a question with one gold passage
/// it is 0 or 1. `None` without gold.
pub fn recall_at(retrieved: &[impl AsRef<str>], gold: &[impl AsRef<str>], k: usize) -> Option<f32> {
    let gold = distinct(gold);
    let found = ranks(retrieved, &gold, k).count();
    (!gold.is_empty()).then(|| found as f32 / gold.len() as f32)
}

/// Hit@k: 1 when any gold passage is among the first `k`, else 0. `None` without gold.
pub fn hit_at(retrieved: &[impl AsRef<str>], gold: &[impl AsRef<str>], k: usize) -> Option<f32> {
    let gold = distinct(gold);
    let hit = ranks(retrieved, &gold, k).next().is_some();
    (!gold.is_empty()).then_some(if hit { 1.0 } else { 0.0 })
}

/// Recall@k by answer string: 1 when one of the first `k` passages contains an accepted answer as a run of whole words,
/// both normalised as for EM. `None` without an accepted answer that has words after normalisation.
///
/// `passages` are the texts (with title, where the reader sees it), best first.
pub fn recall_by_answer(passages: &[impl AsRef<str>], answers: &[impl AsRef<str>], k: usize) -> Option<f32> {
    first_with_answer(passages.iter().take(k), answers).map(|rank| if rank.is_some() { 1.0 } else { 0.0 })
}

/// The place (from 0) of the first passage that contains an accepted answer, as in [`recall_by_answer`]: one pass gives
/// the recall at every k. The outer `None` means that the question has no answer to look for.
pub fn first_with_answer(
    passages: impl IntoIterator<Item = impl AsRef<str>>,
    answers: &[impl AsRef<str>],
) -> Option<Option<usize>> {
    let wanted: BTreeSet<String> = answers.iter().map(|answer| normalize_answer(answer.as_ref())).collect();
    // Spaces around both make "contains as whole words" a substring search.
    let wanted: Vec<String> =
        wanted.into_iter().filter(|answer| !answer.is_empty()).map(|answer| format!(" {answer} ")).collect();
    if wanted.is_empty() {
        return None;
    }
    Some(passages.into_iter().position(|passage| {
        let text = format!(" {} ", normalize_answer(passage.as_ref()));
        wanted.iter().any(|answer| text.contains(answer.as_str()))
    }))
}

/// Reciprocal rank of the first gold passage within the first `k`, else 0; its mean over questions is MRR@k. `None` without
/// gold.
pub fn reciprocal_rank(retrieved: &[impl AsRef<str>], gold: &[impl AsRef<str>], k: usize) -> Option<f32> {
    let gold = distinct(gold);
    let first = ranks(retrieved, &gold, k).next();
    (!gold.is_empty()).then(|| first.map_or(0.0, |rank| 1.0 / (rank + 1) as f32))
}

/// nDCG@k with binary relevance, as trec_eval's `ndcg_cut`: sum of 1 / log2(rank + 1) over gold passages within the first
/// `k` (ranks from 1), divided by that of the best possible list. `None` without gold.
pub fn ndcg(retrieved: &[impl AsRef<str>], gold: &[impl AsRef<str>], k: usize) -> Option<f32> {
    let gold = distinct(gold);
    let gain = |rank: usize| 1.0 / ((rank + 2) as f64).log2();
    let ideal: f64 = (0..gold.len().min(k)).map(gain).sum();
    let reached: f64 = ranks(retrieved, &gold, k).map(gain).sum();
    (!gold.is_empty()).then(|| if ideal > 0.0 { (reached / ideal) as f32 } else { 0.0 })
}

fn distinct(gold: &[impl AsRef<str>]) -> BTreeSet<&str> {
    gold.iter().map(AsRef::as_ref).collect()
}

/// Ranks (from 0) below `k` at which a gold passage stands; one that is listed twice counts at its first place.
fn ranks<'a>(
    retrieved: &'a [impl AsRef<str>],
    gold: &'a BTreeSet<&'a str>,
    k: usize,
) -> impl Iterator<Item = usize> + 'a {
    let mut counted: BTreeSet<&str> = BTreeSet::new();
    let places = retrieved.iter().take(k).enumerate();
    places.filter_map(move |(rank, id)| (gold.contains(id.as_ref()) && counted.insert(id.as_ref())).then_some(rank))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    const NONE: &[&str] = &[];

    #[test]
    fn recall_is_the_share_of_gold_and_hit_is_any_of_it() {
        let (list, gold) = (["a", "b", "c", "d"], ["c", "x", "a", "a"]);
        assert_eq!(recall_at(&list, &gold, 2), Some(1.0 / 3.0));
        assert_eq!(recall_at(&list, &gold, 3), Some(2.0 / 3.0));
        assert_eq!(recall_at(&list, &gold, 99), Some(2.0 / 3.0));
        assert_eq!(hit_at(&list, &gold, 1), Some(1.0));
        assert_eq!(hit_at(&list, &["c"], 2), Some(0.0));
        assert_eq!(recall_at(NONE, &gold, 5), Some(0.0));
        for score in
            [recall_at(&list, NONE, 5), hit_at(&list, NONE, 5), reciprocal_rank(&list, NONE, 5), ndcg(&list, NONE, 5)]
        {
            assert_eq!(score, None);
        }
    }

    #[test]
    fn a_passage_listed_twice_counts_once() {
        assert_eq!(recall_at(&["a", "a"], &["a", "b"], 2), Some(0.5));
        assert!(ndcg(&["a", "a"], &["a", "b"], 2).unwrap() < 1.0);
    }

    #[test]
    fn answers_are_found_as_whole_words_after_normalisation() {
        let passages = ["He lived in Newtown.", "Born in the town of York, 1900"];
        assert_eq!(recall_by_answer(&passages, &["Town!"], 1), Some(0.0));
        assert_eq!(recall_by_answer(&passages, &["Town!"], 2), Some(1.0));
        assert_eq!(recall_by_answer(&passages, &["town, of the York"], 2), Some(1.0));
        assert_eq!(recall_by_answer(&passages, &["York of"], 2), Some(0.0));
        assert_eq!(recall_by_answer(&passages, &["The", "!"], 2), None);
        assert_eq!(recall_by_answer(&passages, NONE, 2), None);
        assert_eq!(first_with_answer(passages, &["1900", "he"]), Some(Some(0)));
    }

    #[derive(Deserialize)]
    struct Case {
        retrieved: Vec<String>,
        gold: Vec<String>,
        recall: std::collections::BTreeMap<usize, f64>,
        success: std::collections::BTreeMap<usize, f64>,
        recip_rank_10: f64,
        ndcg_cut_10: f64,
    }

    /// Numbers by `fixtures/golden/retrieval.py`, which asks trec_eval itself.
    fn golden() -> Vec<Case> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/retrieval.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    #[test]
    fn scores_equal_trec_evals() {
        let cases = golden();
        assert!(cases.len() >= 100);
        for case in cases {
            let (list, gold) = (&case.retrieved, &case.gold);
            let close = |ours: Option<f32>, theirs: f64| (f64::from(ours.unwrap()) - theirs).abs() < 1e-6;
            for (&k, &expected) in &case.recall {
                assert!(close(recall_at(list, gold, k), expected), "recall {k} {list:?} {gold:?}");
            }
            for (&k, &expected) in &case.success {
                assert!(close(hit_at(list, gold, k), expected), "success {k} {list:?} {gold:?}");
            }
            assert!(close(reciprocal_rank(list, gold, 10), case.recip_rank_10), "{list:?} {gold:?}");
            assert!(close(ndcg(list, gold, 10), case.ndcg_cut_10), "{list:?} {gold:?}");
        }
    }

    #[test]
    fn scores_lie_in_bounds_and_grow_with_k() {
        for Case { retrieved, gold, .. } in golden() {
            for k in 1..25 {
                let at = |k| recall_at(&retrieved, &gold, k).unwrap();
                assert!(at(k) <= at(k + 1) && at(k) <= hit_at(&retrieved, &gold, k).unwrap());
                for score in
                    [at(k), reciprocal_rank(&retrieved, &gold, k).unwrap(), ndcg(&retrieved, &gold, k).unwrap()]
                {
                    assert!((0.0..=1.0).contains(&score));
                }
            }
            assert_eq!(recall_at(&gold, &gold, gold.len()), Some(1.0));
            assert_eq!(ndcg(&gold, &gold, 10), Some(1.0));
            assert_eq!(reciprocal_rank(&gold, &gold, 10), Some(1.0));
        }
    }
}
