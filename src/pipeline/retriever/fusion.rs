//! Two lists of passages into one. Pure.

use std::collections::BTreeMap;

use ragtune_index::Hit;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What a rank is added to: the 60 of Cormack, Clarke and Büttcher 2009 (SIGIR), who call the method reciprocal rank fusion.
const K: f64 = 60.0;

/// How two lists become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fusion {
    /// By ranks: reciprocal rank fusion.
    #[default]
    Rrf,
    /// By scores: their weighted sum, each normalised.
    Weighted,
}

impl Fusion {
    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Fusion::Rrf => "rrf",
            Fusion::Weighted => "weighted",
        }
    }

    /// The fusion of that name.
    pub fn parse(name: &str) -> Result<Self> {
        [Fusion::Rrf, Fusion::Weighted].into_iter().find(|fusion| fusion.name() == name).ok_or_else(|| {
            Error::new(format!("unknown fusion `{name}`, expected rrf or weighted"))
                .hint("leave `--hybrid` out for rrf")
        })
    }
}

/// Sum of 1 / (60 + rank) over the lists that hold a passage, ranks from 1; the best `k`, ties by ordinal.
pub(super) fn by_rank(dense: &[Hit], words: &[Hit], k: usize) -> Vec<Hit> {
    let mut sums: BTreeMap<u32, f64> = BTreeMap::new();
    for list in [dense, words] {
        for (rank, hit) in (1u32..).zip(list) {
            *sums.entry(hit.ordinal).or_default() += 1.0 / (K + f64::from(rank));
        }
    }
    best(sums, k)
}

/// `weight` * dense + (1 - `weight`) * BM25 for every passage of either list; the best `k`, ties by ordinal.
///
/// Each score is normalised between the least it can be, whatever the passages (-|q| for an inner product with unit vectors, 0
/// for BM25), and the greatest of its list: the convex combination with theoretical minimum and maximum of Bruch, Gai and Ingber
/// 2023 (ACM TOIS 42(1), arXiv 2210.11934). A passage that stands in one list only is given with its score by the other side
/// too, so that the sums do not depend on how deep the lists go.
///
/// `dense` and `words` are each a list with, passage by passage, the score of the other side.
pub(super) fn weighted(
    weight: f64,
    (dense, by_words): (&[Hit], &[f32]),
    (words, by_vectors): (&[Hit], &[f32]),
    norm: f32,
    k: usize,
) -> Vec<Hit> {
    let top = |list: &[Hit]| list.first().map_or(0.0, |hit| f64::from(hit.score));
    let least = -f64::from(norm);
    let share = |score: f32, least: f64, most: f64| match most > least {
        true => (f64::from(score) - least) / (most - least),
        false => 0.0,
    };
    let sum =
        |near: f32, held: f32| weight * share(near, least, top(dense)) + (1.0 - weight) * share(held, 0.0, top(words));
    let mut sums: BTreeMap<u32, f64> = BTreeMap::new();
    for (hit, near) in words.iter().zip(by_vectors) {
        sums.insert(hit.ordinal, sum(*near, hit.score));
    }
    // Of a passage in both lists the dense list's own score counts.
    for (hit, held) in dense.iter().zip(by_words) {
        sums.insert(hit.ordinal, sum(hit.score, *held));
    }
    best(sums, k)
}

/// The best `k`: as f32, higher first, ties by ordinal.
fn best(sums: BTreeMap<u32, f64>, k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = sums.into_iter().map(|(ordinal, score)| Hit { ordinal, score: score as f32 }).collect();
    hits.sort_by(Hit::rank);
    hits.truncate(k);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(list: &[(u32, f32)]) -> Vec<Hit> {
        list.iter().map(|&(ordinal, score)| Hit { ordinal, score }).collect()
    }

    fn ordinals(hits: &[Hit]) -> Vec<u32> {
        hits.iter().map(|hit| hit.ordinal).collect()
    }

    #[test]
    fn ranks_are_fused_by_the_sum_of_their_reciprocals() {
        let list = |ordinals: &[u32]| hits(&ordinals.iter().map(|&ordinal| (ordinal, 0.5)).collect::<Vec<_>>());
        for (dense, words, k, expected) in [
            (&[1, 2, 3][..], &[][..], 3, &[1, 2, 3][..]),
            (&[1, 2, 3], &[3], 3, &[3, 1, 2]),
            // First here and second there, both ways: a tie, by ordinal.
            (&[9, 4], &[4, 9], 2, &[4, 9]),
            // Second in both lists beats first in one: 2/62 > 1/61.
            (&[7, 5], &[8, 5], 3, &[5, 7, 8]),
            // A first place alone is less than two late ones: 1/61 < 2/70.
            (&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10], &[20, 21, 22, 23, 24, 25, 26, 27, 28, 10], 2, &[10, 1]),
            (&[1, 2], &[3], 0, &[]),
            (&[1], &[2], 9, &[1, 2]),
        ] {
            assert_eq!(ordinals(&by_rank(&list(dense), &list(words), k)), expected, "{dense:?} {words:?}");
        }
        let one = by_rank(&list(&[6]), &list(&[2, 6]), 1);
        assert_eq!(one[0].score, (1.0 / 61.0 + 1.0 / 62.0) as f32);
    }

    #[test]
    fn scores_are_normalised_weighed_and_added() {
        let dense = hits(&[(1, 0.8), (2, 0.4)]);
        let words = hits(&[(3, 10.0), (2, 5.0)]);
        let (by_words, by_vectors) = ([2.0, 5.0], [-0.1, 0.4]);
        let fuse = |weight, k| weighted(weight, (&dense, &by_words), (&words, &by_vectors), 1.0, k);
        let near = |score: f64| (score + 1.0) / 1.8;
        let sum = |weight: f64, a: f64, b: f64| (weight * near(a) + (1.0 - weight) * b / 10.0) as f32;
        for weight in [0.0, 0.25, 0.5, 1.0] {
            let found = fuse(weight, 3);
            let score = |ordinal: u32| found.iter().find(|hit| hit.ordinal == ordinal).unwrap().score;
            let expected = [(1, sum(weight, 0.8, 2.0)), (2, sum(weight, 0.4, 5.0)), (3, sum(weight, -0.1, 10.0))];
            for (ordinal, expected) in expected {
                assert!((score(ordinal) - expected).abs() < 1e-6, "{weight} {ordinal}");
            }
        }
        assert_eq!(ordinals(&fuse(0.0, 3)), [3, 2, 1]);
        assert_eq!(ordinals(&fuse(1.0, 3)), [1, 2, 3]);
        assert_eq!(ordinals(&fuse(0.0, 1)), [3]);
    }

    #[test]
    fn without_a_shared_word_the_dense_order_stays_and_equal_scores_go_by_ordinal() {
        let dense = hits(&[(5, 0.3), (2, 0.2), (9, 0.2)]);
        for weight in [0.5, 1.0] {
            assert_eq!(ordinals(&weighted(weight, (&dense, &[0.0; 3]), (&[], &[]), 1.0, 3)), [5, 2, 9]);
        }
        // By words alone, and there are none: all are equal.
        assert_eq!(ordinals(&weighted(0.0, (&dense, &[0.0; 3]), (&[], &[]), 1.0, 3)), [2, 5, 9]);
        // A question of length zero has no inner product to compare.
        assert!(weighted(0.5, (&hits(&[(1, 0.0)]), &[0.0]), (&[], &[]), 0.0, 1)[0].score.is_finite());
    }
}
