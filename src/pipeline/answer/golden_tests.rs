//! Searches with a generator: against `generate` of transformers (`fixtures/golden/beams.py`), and against scores of whole
//! answers.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::rows::Reading;
use super::search::{Hypothesis, Search};
use super::{mixture, sequence};
use crate::cost::{Counts, Ledger, Phase};
use crate::models::Grad;
use crate::models::generator::golden::{Golden, fixture, load};
use crate::models::generator::{Generator, Scored};

#[derive(Deserialize)]
struct Case {
    model: String,
    prompts: Vec<Vec<u32>>,
    stop: Vec<u32>,
    max_new: usize,
    runs: Vec<Run>,
}

#[derive(Deserialize)]
struct Run {
    beams: usize,
    length_penalty: f64,
    found: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    tokens: Vec<u32>,
    log_prob: f64,
    ended: bool,
}

#[test]
fn greedy_and_beams_equal_transformers_token_for_token() {
    let text = std::fs::read_to_string(fixture("beams.json")).unwrap();
    for case in serde_json::from_str::<Vec<Case>>(&text).unwrap() {
        let generator = load(&fixture(&case.model));
        let (ledger, priors) = (Ledger::new(), vec![vec![0.0]; case.prompts.len()]);
        for run in &case.runs {
            let span = ledger.span(Phase::Generate);
            let mut reading = Reading::start(&generator, &case.prompts, &span).unwrap();
            let how = Search {
                width: 1,
                beams: run.beams,
                best: 1,
                length_penalty: run.length_penalty,
                max_new: case.max_new,
                stop: &case.stop,
            };
            let found = how.run(&mut reading, &priors).unwrap();
            for (found, expected) in found.iter().zip(&run.found) {
                let what = format!("{}, {} beams, penalty {}", case.model, run.beams, run.length_penalty);
                assert_eq!((&found[0].tokens, found[0].ended), (&expected.tokens, expected.ended), "{what}");
                assert!((found[0].log_prob - expected.log_prob).abs() <= 1e-4, "{what}: {:?}", found[0]);
            }
        }
    }
}

/// log p(answer | prompt) of whole answers.
fn scores(generator: &Generator, prompts: &[Vec<u32>], answer: &[u32]) -> Vec<f64> {
    let scored: Vec<Scored> = prompts
        .iter()
        .map(|prompt| Scored { ids: [prompt.as_slice(), answer].concat(), answer_start: prompt.len() })
        .collect();
    let (log_probs, _) = generator.answer_log_probs(&scored, Grad::Off).unwrap();
    log_probs.sum(1).unwrap().to_vec1::<f32>().unwrap().into_iter().map(f64::from).collect()
}

#[test]
fn what_is_found_has_the_score_that_scoring_the_whole_answer_gives() {
    for model in ["generator/tied", "generator_families/mistral", "generator_families/gemma2"] {
        let dir = fixture(model);
        let (generator, prompts) = (load(&dir), Golden::read(&dir).ids());
        let (ledger, stop) = (Ledger::new(), [2, 10, 20, 30, 40, 50, 60, 70]);
        let priors = [mixture::log_prior(&[0.3, 0.2, 0.6], 0.5, 3)];
        let prior = &priors[0];
        let how = Search { width: 3, beams: 3, best: 1, length_penalty: 0.0, max_new: 5, stop: &stop };
        let span = ledger.span(Phase::Generate);
        let start = || Reading::start(&generator, &prompts, &span).unwrap();
        let near = |found: &Hypothesis, expected: f64, what: &str| {
            assert!((found.log_prob - expected).abs() <= 1e-4, "{model} {what}: {found:?}, scored {expected}");
        };
        let thorough = sequence::thorough(&mut start(), &priors, &how).unwrap();
        let by_passage = scores(&generator, &prompts, &thorough[0].tokens);
        let joint: Vec<f64> = by_passage.iter().zip(prior).map(|(score, prior)| score + f64::from(*prior)).collect();
        near(&thorough[0], mixture::log_sum_exp(&joint), "thorough");
        // No answer that a search found weighs more.
        let alone = Search { width: 1, best: 3, ..how };
        let found = alone.run(&mut start(), &vec![vec![0.0]; 3]).unwrap();
        for hypothesis in found.iter().flatten() {
            let by_passage = scores(&generator, &prompts, &hypothesis.tokens);
            let joint: Vec<f64> =
                by_passage.iter().zip(prior).map(|(score, prior)| score + f64::from(*prior)).collect();
            assert!(mixture::log_sum_exp(&joint) <= thorough[0].log_prob + 1e-4, "{model}: {hypothesis:?}");
        }
        // And the mixture: token by token.
        let mixed = how.run(&mut start(), &priors).unwrap();
        let answer = &mixed[0][0].tokens;
        let tokens: Vec<Vec<f32>> = {
            let scored: Vec<Scored> = prompts
                .iter()
                .map(|prompt| Scored { ids: [prompt.as_slice(), answer].concat(), answer_start: prompt.len() })
                .collect();
            generator.answer_log_probs(&scored, Grad::Off).unwrap().0.to_vec2().unwrap()
        };
        let step = |t: usize| {
            let joint: Vec<f64> = tokens.iter().zip(prior).map(|(row, p)| f64::from(row[t]) + f64::from(*p)).collect();
            mixture::log_sum_exp(&joint)
        };
        near(&mixed[0][0], (0..answer.len()).map(step).sum(), "mixture");
    }
}

/// Tokens that a search reads: all prompts once, then every open row of every step.
#[test]
fn what_is_read_is_charged() {
    let dir = fixture("generator/tied");
    let (generator, prompts) = (load(&dir), Golden::read(&dir).ids());
    let read = prompts.iter().map(Vec::len).sum::<usize>() as u64;
    let charged = |search: &dyn Fn(&mut Reading<'_>)| -> Counts {
        let ledger = Ledger::new();
        {
            let span = ledger.span(Phase::Generate);
            search(&mut Reading::start(&generator, &prompts, &span).unwrap());
        }
        ledger.snapshot().entries.iter().map(|entry| entry.amounts.counts).next().unwrap()
    };
    let prior = [vec![(1.0f32 / 3.0).ln(); 3]];
    let how = |beams| Search { width: 3, beams, best: 1, length_penalty: 0.0, max_new: 4, stop: &[] };
    // Nothing ends: 3 steps after the first, of 3 rows a beam.
    let greedy = charged(&|reading| drop(how(1).run(reading, &prior).unwrap()));
    assert_eq!(greedy.tokens, read + 3 * 3);
    let beams = charged(&|reading| drop(how(2).run(reading, &prior).unwrap()));
    assert_eq!(beams.tokens, read + 3 * 3 * 2);
    let fast = charged(&|reading| drop(sequence::fast(reading, &prior, &how(2)).unwrap()));
    assert_eq!(fast.tokens, beams.tokens);
    let thorough = charged(&|reading| drop(sequence::thorough(reading, &prior, &how(2)).unwrap()));
    // Hypotheses that only some passages' searches found are read by the others too, but for their last token, and what
    // they begin with alike once or twice: they are taken in two parts.
    let ledger = Ledger::new();
    let span = ledger.span(Phase::Generate);
    let alone = Search { width: 1, best: 2, ..how(2) };
    let searched = alone.run(&mut Reading::start(&generator, &prompts, &span).unwrap(), &vec![vec![0.0]; 3]).unwrap();
    let found: Vec<BTreeSet<Vec<u32>>> =
        searched.into_iter().map(|found| found.into_iter().map(|hypothesis| hypothesis.tokens).collect()).collect();
    let union: BTreeSet<&Vec<u32>> = found.iter().flatten().collect();
    let (mut whole, mut beginnings) = (0, 0);
    for found in &found {
        let missing: Vec<&Vec<u32>> = union.iter().copied().filter(|tokens| !found.contains(*tokens)).collect();
        let distinct: BTreeSet<&[u32]> = missing.iter().flat_map(|tokens| (1..4).map(|end| &tokens[..end])).collect();
        whole += 3 * missing.len() as u64;
        beginnings += distinct.len() as u64;
    }
    let more = thorough.tokens - fast.tokens;
    assert!(beginnings < whole && beginnings <= more && more < whole, "{beginnings} {more} {whole}");
    assert!(thorough.flops > fast.flops && fast.flops > greedy.flops, "{thorough:?} {fast:?} {greedy:?}");
}
