//! Searches against brute force, on made-up models whose every distribution is known.

use candle_core::{Device, Tensor};

use super::rows::Rows;
use super::search::{Hypothesis, Search};
use super::{beam, greedy, mixture, sequence};
use crate::error::Result;

/// Ends an answer.
const STOP: u32 = 2;

/// A model made up from a number: the distribution after any tokens is a pure function of the seed, the row's document and
/// these tokens.
#[derive(Clone, Debug)]
struct Table {
    seed: u64,
    vocabulary: usize,
    /// How different the probabilities of one distribution are; 0 for not at all.
    spread: f64,
    rows: Vec<(usize, Vec<u32>)>,
}

impl Table {
    /// `documents` rows with nothing in them yet.
    fn new(seed: u64, vocabulary: usize, documents: usize) -> Self {
        Self { seed, vocabulary, spread: 6.0, rows: (0..documents).map(|document| (document, Vec::new())).collect() }
    }

    /// log p(next token) after some tokens in a document's row, as f32 like a model's.
    fn next(&self, document: usize, tokens: &[u32]) -> Vec<f32> {
        let mut state = self.seed ^ 0x9E37_79B9_7F4A_7C15;
        let mut draw = |salt: u64| {
            state = (state ^ salt).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            state ^= state >> 29;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        draw(document as u64 + 1);
        for token in tokens {
            draw(u64::from(*token) + 77);
        }
        let logits: Vec<f64> = (0..self.vocabulary).map(|token| self.spread * draw(token as u64 + 7)).collect();
        let normaliser = mixture::log_sum_exp(&logits);
        logits.iter().map(|logit| (logit - normaliser) as f32).collect()
    }

    /// log p(answer) in a document's row.
    fn log_prob(&self, document: usize, answer: &[u32]) -> f64 {
        (0..answer.len()).map(|at| f64::from(self.next(document, &answer[..at])[answer[at] as usize])).sum()
    }

    /// Π_t Σ_k p_k p(y_t | ...) over the documents of one question, in nats.
    fn mixed(&self, documents: std::ops::Range<usize>, prior: &[f32], answer: &[u32]) -> f64 {
        let step = |at: usize| {
            let joint: Vec<f64> = documents
                .clone()
                .zip(prior)
                .map(|(k, p)| f64::from(*p) + f64::from(self.next(k, &answer[..at])[answer[at] as usize]))
                .collect();
            mixture::log_sum_exp(&joint)
        };
        (0..answer.len()).map(step).sum()
    }

    /// Σ_k p_k p(y | x, z_k), in nats.
    fn marginal(&self, documents: std::ops::Range<usize>, prior: &[f32], answer: &[u32]) -> f64 {
        let joint: Vec<f64> = documents.zip(prior).map(|(k, p)| f64::from(*p) + self.log_prob(k, answer)).collect();
        mixture::log_sum_exp(&joint)
    }
}

impl Rows for Table {
    fn log_probs(&self) -> Result<Tensor> {
        let values: Vec<f32> = self.rows.iter().flat_map(|(document, tokens)| self.next(*document, tokens)).collect();
        Ok(Tensor::from_vec(values, (self.rows.len(), self.vocabulary), &Device::Cpu)?)
    }

    fn advance(&mut self, rows: &[usize], tokens: &[u32]) -> Result<()> {
        assert_eq!(rows.len(), tokens.len());
        assert!(!tokens.contains(&STOP), "what ended goes on");
        self.rows = rows.iter().map(|row| self.rows[*row].clone()).collect();
        self.rows.iter_mut().zip(tokens).for_each(|((_, row), token)| row.push(*token));
        Ok(())
    }

    fn fork(&self, rows: &[usize]) -> Result<Self> {
        Ok(Self { rows: rows.iter().map(|row| self.rows[*row].clone()).collect(), ..self.clone() })
    }

    fn count(&self) -> usize {
        self.rows.len()
    }
}

/// Every complete answer: ended at up to `longest` tokens, or cut there.
fn answers(vocabulary: usize, longest: usize) -> Vec<Vec<u32>> {
    let (mut open, mut complete) = (vec![Vec::new()], Vec::new());
    for length in 1..=longest {
        let longer = open.iter().flat_map(|start: &Vec<u32>| {
            (0..vocabulary as u32).map(move |token| [start.as_slice(), &[token]].concat())
        });
        let (ended, going): (Vec<Vec<u32>>, Vec<Vec<u32>>) = longer.partition(|answer| answer.last() == Some(&STOP));
        complete.extend(ended);
        if length == longest {
            complete.extend(going);
            break;
        }
        open = going;
    }
    complete
}

/// The best of all by a score.
fn best(all: &[Vec<u32>], score: impl Fn(&[u32]) -> f64) -> (Vec<u32>, f64) {
    let scored = all.iter().map(|answer| (answer.clone(), score(answer)));
    scored.fold((Vec::new(), f64::NEG_INFINITY), |best, new| if new.1 > best.1 { new } else { best })
}

fn how(width: usize, beams: usize, max_new: usize) -> Search<'static> {
    Search { width, beams, best: 1, length_penalty: 0.0, max_new, stop: &[STOP] }
}

fn priors(seed: u64, questions: usize, width: usize) -> Vec<Vec<f32>> {
    let scores =
        |question: usize| (0..width).map(|k| ((seed as usize + 3 * question + 7 * k) % 11) as f32 / 11.0).collect();
    (0..questions).map(|question| mixture::log_prior(&scores(question) as &Vec<f32>, 0.4, width)).collect()
}

fn assert_found(found: &Hypothesis, (tokens, score): &(Vec<u32>, f64), what: &str) {
    assert_eq!(&found.tokens, tokens, "{what}");
    assert!((found.log_prob - score).abs() <= 1e-5, "{what}: {} instead of {score}", found.log_prob);
    assert_eq!(found.ended, tokens.last() == Some(&STOP), "{what}");
}

#[test]
fn as_many_beams_as_answers_find_the_best_of_all() {
    for seed in 0..40 {
        for (width, length) in [(1, 3), (3, 2), (2, 4)] {
            let (vocabulary, questions) = (3, 2);
            let all = answers(vocabulary, length);
            let beams = vocabulary.pow(length as u32);
            let (table, priors) = (Table::new(seed, vocabulary, questions * width), priors(seed, questions, width));
            for length_penalty in [0.0, 1.0, 0.3, -0.5] {
                let how = Search { length_penalty, ..how(width, beams, length) };
                let found = beam::search(&mut table.clone(), &priors, &how).unwrap();
                for (question, found) in found.iter().enumerate() {
                    let documents = question * width..(question + 1) * width;
                    let log_prob = |answer: &[u32]| table.mixed(documents.clone(), &priors[question], answer);
                    let score = |answer: &[u32]| log_prob(answer) / (answer.len() as f64).powf(length_penalty);
                    let (tokens, _) = best(&all, score);
                    let what = format!("seed {seed}, width {width}, length {length}, penalty {length_penalty}");
                    assert_found(&found[0], &(tokens.clone(), log_prob(&tokens)), &what);
                }
            }
        }
    }
}

#[test]
fn all_hypotheses_come_in_order_when_all_are_asked_for() {
    let (table, length) = (Table::new(5, 3, 2), 3);
    let (all, priors) = (answers(3, length), priors(5, 1, 2));
    let found = beam::search(&mut table.clone(), &priors, &Search { best: 27, ..how(2, 27, length) }).unwrap();
    assert_eq!(found[0].len(), all.len());
    let mut sorted: Vec<f64> = all.iter().map(|answer| table.mixed(0..2, &priors[0], answer)).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for (found, expected) in found[0].iter().zip(sorted) {
        assert!((found.log_prob - expected).abs() <= 1e-5, "{found:?}, expected {expected}");
    }
    assert!((found[0].iter().map(|found| found.log_prob.exp()).sum::<f64>() - 1.0).abs() <= 1e-5);
}

/// Beam search as the paper's reader would write it: all continuations of all beams sorted, no early end.
fn plain_beam(score: &dyn Fn(&[u32]) -> f64, vocabulary: usize, how: &Search<'_>) -> (Vec<u32>, f64) {
    let (mut open, mut finished): (Vec<Vec<u32>>, Vec<Vec<u32>>) = (vec![Vec::new()], Vec::new());
    for length in 1..=how.max_new {
        let mut all: Vec<Vec<u32>> = open
            .iter()
            .flat_map(|start| (0..vocabulary as u32).map(move |token| [start.as_slice(), &[token]].concat()))
            .collect();
        all.sort_by(|a, b| score(b).total_cmp(&score(a)));
        let complete = |answer: &Vec<u32>| answer.last() == Some(&STOP) || length == how.max_new;
        finished.extend(all.iter().take(how.beams).filter(|answer| complete(answer)).cloned());
        open = all.into_iter().filter(|answer| !complete(answer)).take(how.beams).collect();
    }
    best(&finished, |answer| score(answer) / (answer.len() as f64).powf(how.length_penalty))
}

#[test]
fn few_beams_find_what_plain_beam_search_finds() {
    let mut not_greedy = 0;
    for seed in 0..60 {
        let (vocabulary, width, questions) = (6, 3, 3);
        let (table, priors) = (Table::new(seed, vocabulary, questions * width), priors(seed, questions, width));
        for (beams, length_penalty) in [(1, 0.0), (2, 0.0), (3, 0.0), (3, 1.0), (2, -0.7)] {
            let how = Search { length_penalty, ..how(width, beams, 5) };
            let found = beam::search(&mut table.clone(), &priors, &how).unwrap();
            let followed = greedy::search(&mut table.clone(), &priors, &how).unwrap();
            for (question, (found, followed)) in found.iter().zip(&followed).enumerate() {
                let documents = question * width..(question + 1) * width;
                let score = |answer: &[u32]| table.mixed(documents.clone(), &priors[question], answer);
                let (tokens, _) = plain_beam(&score, vocabulary, &how);
                let what = format!("seed {seed}, {beams} beams, penalty {length_penalty}, question {question}");
                assert_found(&found[0], &(tokens.clone(), score(&tokens)), &what);
                if beams == 1 {
                    assert_eq!(&found[0], followed, "{what}");
                }
                not_greedy += usize::from(&found[0] != followed);
            }
        }
    }
    assert!(not_greedy > 100, "{not_greedy}: beams that change nothing show nothing");
}

#[test]
fn thorough_decoding_of_a_complete_set_is_the_best_of_all() {
    let mut differ = 0;
    for seed in 0..60 {
        let (vocabulary, length, width, questions) = (3, 2, 3, 2);
        let all = answers(vocabulary, length);
        let (table, priors) = (Table::new(seed, vocabulary, questions * width), priors(seed, questions, width));
        let how = how(width, vocabulary.pow(length as u32), length);
        let thorough = sequence::thorough(&mut table.clone(), &priors, &how).unwrap();
        let fast = sequence::fast(&mut table.clone(), &priors, &how).unwrap();
        for question in 0..questions {
            let documents = question * width..(question + 1) * width;
            let expected = best(&all, |answer| table.marginal(documents.clone(), &priors[question], answer));
            assert_found(&thorough[question], &expected, &format!("seed {seed}"));
            // Nothing is missing: fast decoding counts the same.
            assert_found(&fast[question], &expected, &format!("seed {seed}, fast"));
            let mixed = best(&all, |answer| table.mixed(documents.clone(), &priors[question], answer));
            differ += usize::from(mixed.0 != expected.0);
        }
    }
    assert!(differ > 10, "{differ}: RAG-Sequence and RAG-Token never differ here");
}

#[test]
fn thorough_decoding_weighs_the_union_and_fast_decoding_at_most_as_much() {
    let (mut changed, mut lower) = (0, 0);
    for seed in 0..80 {
        let (vocabulary, width, questions) = (5, 4, 2);
        let (table, priors) = (Table::new(seed, vocabulary, questions * width), priors(seed, questions, width));
        for beams in [1, 2, 3] {
            let how = how(width, beams, 3);
            let thorough = sequence::thorough(&mut table.clone(), &priors, &how).unwrap();
            let fast = sequence::fast(&mut table.clone(), &priors, &how).unwrap();
            for question in 0..questions {
                let documents = question * width..(question + 1) * width;
                // The union, found by each document's own beam search.
                let mut union: Vec<Vec<u32>> = Vec::new();
                let alone = Search { width: 1, best: beams, ..how };
                for document in documents.clone() {
                    let mut rows = table.fork(&[document]).unwrap();
                    let found = alone.run(&mut rows, &[vec![0.0]]).unwrap();
                    union.extend(found[0].iter().map(|hypothesis| hypothesis.tokens.clone()));
                }
                let marginal = |answer: &[u32]| table.marginal(documents.clone(), &priors[question], answer);
                assert_found(&thorough[question], &best(&union, marginal), &format!("seed {seed}, {beams} beams"));
                let (fast, thorough) = (&fast[question], &thorough[question]);
                assert!(fast.log_prob <= thorough.log_prob, "seed {seed}: {fast:?} {thorough:?}");
                assert!(fast.log_prob <= marginal(&fast.tokens) + 1e-6, "seed {seed}: {fast:?}");
                changed += usize::from(fast.tokens != thorough.tokens);
                lower += usize::from(fast.log_prob < marginal(&fast.tokens) - 1e-3);
            }
        }
    }
    assert!(changed > 5 && lower > 100, "{changed} other answers, {lower} lower scores: they show nothing");
}

#[test]
fn with_one_passage_every_reader_is_the_model_itself() {
    for seed in 0..20 {
        let (table, priors) = (Table::new(seed, 6, 3), vec![vec![0.0]; 3]);
        for beams in [1, 3] {
            let how = how(1, beams, 4);
            let plain = how.run(&mut table.clone(), &priors).unwrap();
            let thorough = sequence::thorough(&mut table.clone(), &priors, &how).unwrap();
            let fast = sequence::fast(&mut table.clone(), &priors, &how).unwrap();
            for ((plain, thorough), fast) in plain.iter().zip(&thorough).zip(&fast) {
                assert_eq!((&plain[0], &plain[0]), (thorough, fast), "seed {seed}, {beams} beams");
            }
        }
    }
}

#[test]
fn of_equal_ones_the_lowest_tokens_are_taken_always() {
    let table = Table { spread: 0.0, ..Table::new(1, 5, 2) };
    let found = how(2, 3, 2).run(&mut table.clone(), &priors(1, 1, 2)).unwrap();
    // Every token is as likely as any other: the one that ends at once is the likeliest answer.
    assert_eq!(found[0][0].tokens, [STOP]);
    let all = Search { best: 3, ..how(2, 3, 2) };
    let found = all.run(&mut table.clone(), &priors(1, 1, 2)).unwrap();
    let tokens: Vec<&[u32]> = found[0].iter().map(|found| found.tokens.as_slice()).collect();
    assert_eq!(tokens, [&[STOP][..], &[0, 0], &[0, 1]]);
    let greedy = Search { beams: 1, ..all }.run(&mut table.clone(), &priors(1, 1, 2)).unwrap();
    assert_eq!(greedy[0][0].tokens, [0, 0]);
    // RAG-Sequence weighs hypotheses of the same probability.
    let found = sequence::thorough(&mut table.clone(), &priors(1, 1, 2), &how(2, 1, 2)).unwrap();
    assert_eq!(found[0].tokens, [0, 0]);
}

#[test]
fn what_is_no_number_is_refused() {
    struct Broken;
    impl Rows for Broken {
        fn log_probs(&self) -> Result<Tensor> {
            Ok(Tensor::new(&[[-1f32, f32::NAN]], &Device::Cpu)?)
        }
        fn advance(&mut self, _: &[usize], _: &[u32]) -> Result<()> {
            Ok(())
        }
        fn fork(&self, _: &[usize]) -> Result<Self> {
            Ok(Self)
        }
        fn count(&self) -> usize {
            1
        }
    }
    for beams in [1, 2] {
        let error = how(1, beams, 2).run(&mut Broken, &[vec![0.0]]).unwrap_err();
        assert!(error.to_string().contains("token `1`") && error.find_hint().is_some(), "{error}");
    }
}
