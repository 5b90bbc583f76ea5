//! Scores against an independent implementation (`fixtures/golden/bm25.py`) and against the formula written out.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Deserialize;

use super::*;
use crate::Builder;

fn index_of<'t>(texts: impl IntoIterator<Item = &'t str>) -> Bm25 {
    let mut builder = Builder::new();
    texts.into_iter().for_each(|text| builder.add(text));
    builder.finish()
}

#[derive(Deserialize)]
struct Golden {
    sets: Vec<Set>,
}

#[derive(Deserialize)]
struct Set {
    corpus: Option<String>,
    texts: Vec<String>,
    words: usize,
    questions: Vec<Asked>,
}

#[derive(Deserialize)]
struct Asked {
    question: String,
    words: Vec<String>,
    matched: usize,
    top: Vec<u32>,
    scores: Vec<f64>,
}

#[derive(Deserialize)]
struct Line {
    title: String,
    text: String,
}

#[test]
fn words_ranks_and_scores_equal_an_independent_implementation() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures");
    let golden: Golden =
        serde_json::from_str(&std::fs::read_to_string(format!("{fixtures}/golden/bm25.json")).unwrap()).unwrap();
    assert!(golden.sets.len() >= 2 && golden.sets.iter().all(|set| set.questions.len() >= 5));
    for Set { corpus, mut texts, words: distinct, questions } in golden.sets {
        if let Some(corpus) = &corpus {
            let lines = std::fs::read_to_string(format!("{fixtures}/{corpus}")).unwrap();
            let lines = lines.lines().map(|line| serde_json::from_str::<Line>(line).unwrap());
            texts.extend(lines.map(|line| format!("{} {}", line.title, line.text)));
        }
        let index = index_of(texts.iter().map(String::as_str));
        assert_eq!(index.distinct_words(), distinct, "{corpus:?}");
        let asked: Vec<&str> = questions.iter().map(|asked| asked.question.as_str()).collect();
        for (asked, found) in questions.iter().zip(index.search(&asked, 10, &[], None)) {
            assert_eq!(words(&asked.question), asked.words, "{}", asked.question);
            assert_eq!(found.matched, asked.matched.min(10), "{}", asked.question);
            let ordinals: Vec<u32> = found.hits.iter().map(|hit| hit.0).collect();
            assert_eq!(ordinals, asked.top, "{}", asked.question);
            for ((_, score), expected) in found.hits.iter().zip(&asked.scores) {
                assert!((f64::from(*score) - expected).abs() < 1e-5, "{}: {score} {expected}", asked.question);
            }
        }
    }
}

#[test]
fn the_formula_by_hand() {
    // Words: rain 2, fall 1, spain 1 | rain 1 | nothing. N = 3, mean length 5/3.
    let index = index_of(["Rain, rain falls in Spain", "the rain", ""]);
    assert_eq!((index.len(), index.passages(), index.distinct_words()), (3, 3, 3));
    let found = index.search(&["rain"], 3, &[vec![1, 2, 9]], None).remove(0);
    let idf = (1.0f64 + (3.0 - 2.0 + 0.5) / (2.0 + 0.5)).ln();
    let score = |tf: f64, length: f64| idf * tf / (tf + 1.2 * (0.25 + 0.75 * length / (5.0 / 3.0)));
    assert_eq!(found.hits, [(1, score(1.0, 1.0) as f32), (0, score(2.0, 4.0) as f32), (2, 0.0)]);
    assert_eq!((found.matched, found.also), (2, vec![score(1.0, 1.0) as f32, 0.0, 0.0]));
    // A word that is asked twice counts twice.
    let twice = index.search(&["rain rains"], 1, &[], None).remove(0);
    assert_eq!(twice.hits, [(1, (2.0 * score(1.0, 1.0)) as f32)]);
}

#[test]
fn what_shares_no_word_fills_up_in_the_order_of_ordinals_and_what_was_left_out_never_comes() {
    let mut builder = Builder::new();
    builder.add("sun");
    builder.skip();
    for text in ["moon", "sun and sun", ""] {
        builder.add(text);
    }
    let index = builder.finish();
    assert_eq!((index.len(), index.passages()), (5, 4));
    let ordinals = |question: &str, k: usize| {
        let found = index.search(&[question], k, &[], None).remove(0);
        (found.hits.iter().map(|hit| hit.0).collect::<Vec<_>>(), found.matched)
    };
    assert_eq!(ordinals("moon", 3), (vec![2, 0, 3], 1));
    assert_eq!(ordinals("sun moon", 1), (vec![2], 1));
    for nothing in ["", "the of", "?!", "\u{0}\u{301}", "unheard"] {
        assert_eq!(ordinals(nothing, 9), (vec![0, 2, 3, 4], 0), "{nothing:?}");
        assert_eq!(ordinals(nothing, 0), (vec![], 0));
    }
    // Nothing at all, and passages without a word.
    assert!(Builder::new().finish().search(&["sun"], 3, &[], None)[0].hits.is_empty());
    assert_eq!(index_of(["", "the"]).search(&["sun"], 3, &[], None)[0].hits, [(0, 0.0), (1, 0.0)]);
}

#[test]
fn only_what_fits_is_found_with_the_score_it_has_anyway() {
    let index = index_of(["sun", "sun moon", "moon", "sun sun", "stars"]);
    let odd = |ordinal: u32| ordinal % 2 == 1;
    let all = index.search(&["sun"], 5, &[], None).remove(0).hits;
    let found = index.search(&["sun"], 5, &[vec![0]], Some(&odd)).remove(0);
    assert_eq!(found.hits, all.iter().filter(|hit| odd(hit.0)).copied().collect::<Vec<_>>());
    assert_eq!((found.matched, found.also[0]), (2, all.iter().find(|hit| hit.0 == 0).unwrap().1));
    assert_eq!(index.search(&["stars"], 1, &[], Some(&odd)).remove(0).hits, [(1, 0.0)]);
    assert!(index.search(&["sun"], 5, &[], Some(&|_| false))[0].hits.is_empty());
}

/// Every score by the formula over all passages, sorted: what the inverted index must give.
#[test]
fn random_corpora_rank_as_a_scan_of_all_passages_does() {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    for round in 0..30 {
        let letters = ["ka", "lo", "mi", "nu", "po", "ri", "su", "te"];
        let mut text = |most: usize| {
            let count = random.random_range(0..=most);
            let all: Vec<String> =
                (0..count).map(|_| (0..2).map(|_| letters[random.random_range(0..letters.len())]).collect()).collect();
            all.join(" ")
        };
        let texts: Vec<String> = (0..100).map(|_| text(12)).collect();
        let questions: Vec<String> = (0..8).map(|_| text(5)).collect();
        let index = index_of(texts.iter().map(String::as_str));
        let bags: Vec<Vec<String>> = texts.iter().map(|text| words(text)).collect();
        let mean = bags.iter().map(Vec::len).sum::<usize>() as f64 / bags.len() as f64;
        let asked: Vec<&str> = questions.iter().map(String::as_str).collect();
        for (question, found) in asked.iter().zip(index.search(&asked, 100, &[], None)) {
            let mut all: Vec<(u32, f32)> = (0u32..)
                .zip(&bags)
                .map(|(ordinal, bag)| {
                    let mut asked = words(question);
                    asked.sort();
                    let score: f64 = asked
                        .chunk_by(|a, b| a == b)
                        .map(|run| {
                            let held = bags.iter().filter(|bag| bag.contains(&run[0])).count() as f64;
                            let tf = bag.iter().filter(|word| **word == run[0]).count() as f64;
                            let idf = (1.0 + (100.0 - held + 0.5) / (held + 0.5)).ln() * run.len() as f64;
                            idf * tf / (tf + 1.2 * (1.0 - 0.75 + 0.75 * bag.len() as f64 / mean))
                        })
                        .sum();
                    (ordinal, score as f32)
                })
                .collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let close = |(ours, theirs): (&(u32, f32), &(u32, f32))| (ours.1 - theirs.1).abs() < 1e-5;
            assert!(found.hits.iter().zip(&all).all(close), "round {round}: {question}");
            let above: Vec<u32> = all.iter().filter(|hit| hit.1 > 0.0).map(|hit| hit.0).collect();
            assert_eq!(found.matched, above.len());
        }
    }
}
