//! A whole step of DRO on a small pipeline: the fixture encoder over eight passages, tiny models as selector and generator.

use std::path::{Path, PathBuf};

use candle_core::Device;
use ragtune_index::{Corpus, CreateOptions, GraphParams, Search, Source};

use super::*;
use crate::cost::{Activity, Ledger};
use crate::models::Precision;
use crate::models::encoder::Encoder;
use crate::models::generator::{Generator, Scored};
use crate::objectives::{Dro, Mode, Objective, SelectorSft, Weighting};
use crate::pipeline::Pipeline;
use crate::pipeline::embed::{EmbedSettings, embed_corpus};
use crate::pipeline::prompt::{Prompt, PromptTemplate};
use crate::pipeline::retriever::Retriever;
use crate::pipeline::selector::Sampling;
use crate::pipeline::step::StepSettings;
use crate::strategies::Trains;

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

fn pipeline(folder: &Path) -> Pipeline {
    let passages = ["river", "king", "train", "paint", "stone", "music", "horse", "cloud"].iter().enumerate();
    let passages = passages.map(|(index, word)| {
        Ok::<_, crate::error::Error>(Passage {
            id: format!("p{index}"),
            title: word.to_string(),
            text: format!("the {word} is number {index}"),
        })
    });
    let source = Source { name: "words".into(), blake3: "0".into() };
    let corpus = Corpus::create(&folder.join("index"), &source, passages, &CreateOptions::default()).unwrap();
    let encoder = Encoder::load(&fixture("models/encoder"), &Device::Cpu).unwrap();
    let lock = corpus.lock("test").unwrap();
    let settings = EmbedSettings { batch_tokens: 4096, graph: GraphParams::default(), precision: Precision::F32 };
    let ledger = Ledger::new();
    let generation = embed_corpus(&encoder, &corpus, &lock, &settings, &ledger, &mut |_| {}).unwrap().generation;
    drop(lock);
    let generator = Generator::load(&fixture("golden/dro/generator"), &Device::Cpu).unwrap();
    let special = generator.special();
    let prompt = Prompt::new(PromptTemplate::default(), special.bos, special.eos.first().copied()).unwrap();
    let selector = Selector::of_generator(&fixture("golden/dro"), 4, None, &Device::Cpu).unwrap();
    Pipeline {
        corpus,
        generation,
        encoder,
        generator,
        prompt,
        search: Search::Exact,
        retriever: Retriever::dense(),
        selector: Some(selector),
    }
}

fn questions() -> Vec<Question> {
    let of = |id: &str, question: &str, answer: &str, gold: &str| Question {
        id: id.into(),
        question: question.into(),
        answers: vec![answer.into()],
        gold_passages: vec![gold.into()],
        ..Question::default()
    };
    vec![of("a", "which number is the king", "1", "p1"), of("b", "what is number six", "the horse", "p6")]
}

const SETTINGS: StepSettings = StepSettings { top_k: 2, max_prompt_tokens: 160, max_answer_tokens: 16 };
const KEY: SampleKey = SampleKey { seed: 3, step: 7 };

fn expectation() -> Expectation {
    Expectation { candidates: 4, choose: 2, samples: 6, ..Expectation::default() }
}

/// Everything that trains in either model, with what of it a backward pass of the loss reached.
fn reached(pipeline: &Pipeline, loss: &Tensor) -> (usize, usize) {
    let store = loss.backward().unwrap();
    let moved = |generator: &Generator| {
        let norm = |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
        generator.params().trainable().filter(|(_, var)| store.get(var).is_some_and(|g| norm(g) > 0.0)).count()
    };
    (moved(&pipeline.selector.as_ref().unwrap().generator), moved(&pipeline.generator))
}

#[test]
fn an_e_step_finds_lists_and_likelihoods_and_an_m_step_trains_what_it_names() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path());
    let (questions, ledger) = (questions(), Ledger::new());
    let _activity = ledger.activity(Activity::Train);
    let batch: Vec<&Question> = questions.iter().collect();
    let trains = Trains { generator: true, ..Trains::default() };
    let mut step = Step::new(&pipeline, &batch, trains, SETTINGS, &ledger);
    assert!(Dro::default().loss(&mut step).unwrap_err().to_string().contains("before any list"));
    step.expect(&expectation(), KEY).unwrap();
    let selections = step.selections().unwrap().to_vec();

    // The same draws again, others with another key.
    let again = |key: SampleKey| {
        let mut step = Step::new(&pipeline, &batch, trains, SETTINGS, &ledger);
        step.expect(&expectation(), key).unwrap();
        step.selections().unwrap().to_vec()
    };
    assert_eq!(again(KEY), selections);
    assert_ne!(again(SampleKey { step: 8, ..KEY }), selections);

    // A frozen generator's likelihoods are remembered, and are the same.
    let memo = std::cell::RefCell::new(crate::pipeline::memo::Memo::new(1 << 20));
    for expected in [0, selections.iter().map(|selection| selection.lists.len() as u64).sum()] {
        let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger).with_memo(Some(&memo));
        step.expect(&expectation(), KEY).unwrap();
        assert_eq!((step.selections().unwrap(), step.observed.memo.hits), (selections.as_slice(), expected));
    }

    let selector = pipeline.selector.as_ref().unwrap();
    for ((selection, input), question) in selections.iter().zip(&step.selected.inputs).zip(&questions) {
        assert_eq!((&selection.question, selection.candidates.len()), (&question.id, 4));
        assert_eq!(selection.lists.iter().map(|drawn| drawn.count).sum::<u32>(), 6);
        assert!(selection.lists.len() > 1, "draws of a random model differ");
        let lists: Vec<Vec<u32>> = selection.lists.iter().map(|drawn| drawn.list.clone()).collect();
        let scored = selector.log_probs(&[(input, &lists)], Scoring::Trie, Grad::Off).unwrap();
        for (drawn, log_prob) in selection.lists.iter().zip(scored.to_vec1::<f32>().unwrap()) {
            assert!((drawn.log_prob - f64::from(log_prob)).abs() < 1e-4, "{drawn:?} {log_prob}");
            assert!((drawn.log_prob - drawn.log_proposal).abs() < 1e-9);
            // The answer's likelihood by hand: prompt over the chosen passages in their order.
            let ordinals: Vec<u32> = drawn.list.iter().map(|place| selection.candidates[*place as usize]).collect();
            let passages = pipeline.corpus.get(&ordinals).unwrap();
            let text = pipeline.generator.text();
            let context: String =
                passages.iter().map(|passage| format!("Context: {}: {}\n", passage.title, passage.text)).collect();
            let prompt = format!("{context}Question: {}\nAnswer:", question.question);
            let mut ids = pipeline.generator.prompt_ids(&prompt).unwrap();
            let answer_start = ids.len();
            assert!(answer_start <= SETTINGS.max_prompt_tokens, "the prompt of this test is not shortened");
            ids.extend(text.encode(&format!(" {}", question.answers[0]), false).unwrap());
            ids.push(2);
            assert_eq!(drawn.answer_tokens as usize, ids.len() - answer_start);
            let (by_hand, _) = pipeline.generator.answer_log_probs(&[Scored { ids, answer_start }], Grad::Off).unwrap();
            let by_hand = f64::from(by_hand.sum_all().unwrap().to_scalar::<f32>().unwrap());
            assert!((drawn.log_likelihood - by_hand).abs() < 1e-4, "{drawn:?} {by_hand}");
        }
    }

    // The loss by hand from the E-step's own numbers: nothing moved in between.
    let mut terms = [0.0; 2];
    for selection in &selections {
        let weights = Weighting::default().weights(&selection.lists, Scoring::Trie).unwrap();
        for (drawn, weight) in selection.lists.iter().zip(weights) {
            terms[0] -= weight * drawn.log_prob / 2.0;
            terms[1] -= weight * drawn.log_likelihood / 2.0;
        }
    }
    for (mode, expected) in
        [(Mode::Joint, terms[0] + terms[1]), (Mode::Selector, terms[0]), (Mode::Generator, terms[1])]
    {
        let mut given = Step::new(&pipeline, &batch, trains, SETTINGS, &ledger);
        given.give(selections.clone(), 2).unwrap();
        for step in [&mut step, &mut given] {
            let loss = Dro { mode, ..Dro::default() }.loss(step).unwrap();
            assert!((f64::from(loss.to_scalar::<f32>().unwrap()) - expected).abs() < 1e-3, "{mode:?}");
            let (selector, generator) = reached(&pipeline, &loss);
            assert_eq!(selector > 0, mode != Mode::Generator, "{mode:?}");
            assert_eq!(generator > 0, mode != Mode::Selector, "{mode:?}");
        }
    }
    let mut free = Dro { scoring: Scoring::Free, mode: Mode::Selector, ..Dro::default() };
    let whole = free.loss(&mut step).unwrap().to_scalar::<f32>().unwrap();
    assert!(f64::from(whole) > terms[0], "the whole vocabulary leaves a list less probability");
    // By hand: weights and term by the probability as free text, not the one that lists are drawn with.
    let mut expected = 0.0;
    for (selection, input) in step.selections().unwrap().iter().zip(&step.selected.inputs) {
        let lists: Vec<Vec<u32>> = selection.lists.iter().map(|drawn| drawn.list.clone()).collect();
        let prior = selector.log_probs(&[(input, &lists)], Scoring::Free, Grad::Off).unwrap().to_vec1::<f32>().unwrap();
        let weight = |(drawn, prior): (&Drawn, &f32)| {
            f64::from(drawn.count) * (drawn.log_likelihood + f64::from(*prior) - drawn.log_proposal).exp()
        };
        let weights: Vec<f64> = selection.lists.iter().zip(&prior).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        expected -=
            weights.iter().zip(&prior).map(|(weight, prior)| weight / sum * f64::from(*prior)).sum::<f64>() / 2.0;
    }
    assert!((f64::from(whole) - expected).abs() < 1e-3, "{whole} {expected}");
    free.weighting.distinct = true;
    assert_ne!(free.loss(&mut step).unwrap().to_scalar::<f32>().unwrap(), whole);

    assert!(step.observed.selector_flops > 0.0 && step.observed.generator_flops > 0.0);
    assert_eq!(step.observed.selector_prompts, 2);
    let record = ledger.snapshot();
    for phase in [Phase::Embed, Phase::Retrieve, Phase::Select, Phase::Score] {
        assert!(record.entry(Activity::Train, phase).is_some(), "{phase}");
    }
    let select = record.entry(Activity::Train, Phase::Select).unwrap();
    assert!(select.counts.tokens > 0 && select.counts.flops > 0.0);
}

/// Which m lists are drawn is how the posterior is known: as m grows, the loss's gradient settles. Here only that what was
/// drawn often is what is likely.
#[test]
fn draws_are_as_frequent_as_they_are_likely() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path());
    let (questions, ledger) = (questions(), Ledger::new());
    let batch = [&questions[0]];
    let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger);
    let settings = Expectation { samples: 2000, sampling: Sampling { temperature: 1.5, top_p: 1.0 }, ..expectation() };
    step.candidates(4, 2, false).unwrap();
    let span = ledger.span(Phase::Select);
    let inputs = [("a", &step.selected.inputs[0])];
    let selector = pipeline.selector.as_ref().unwrap();
    let drawn =
        distinct(selector.sample(&inputs, 2, settings.samples, settings.sampling, KEY, &span).unwrap().remove(0));
    for list in &drawn {
        let (share, expected) = (f64::from(list.count) / 2000.0, list.log_proposal.exp());
        let tolerance = 4.0 * (expected * (1.0 - expected) / 2000.0).sqrt() + 1e-9;
        assert!((share - expected).abs() <= tolerance, "{list:?}: {share} {expected}");
    }
    let sum: f64 = drawn.iter().map(|list| list.log_proposal.exp()).sum();
    assert!(sum > 0.99 && sum < 1.0 + 1e-6, "{sum} of 12 lists in 2000 draws");
    assert!(drawn.iter().any(|list| (list.log_proposal - list.log_prob).abs() > 1e-3), "tempered draws differ");
    // The likeliest list by single tokens is among them.
    let greedy = selector.select(&[&step.selected.inputs[0]], 2, &span).unwrap().remove(0);
    assert!(drawn.iter().any(|list| list.list == greedy), "{greedy:?}");
}

/// E-steps and M-steps in turn raise the exact log p(y|x) = log Σ_z p(z|x) p(y|x,d_z), whichever model trains.
#[test]
fn alternating_steps_raise_the_marginal_likelihood() {
    let folder = tempfile::tempdir().unwrap();
    for mode in [Mode::Selector, Mode::Generator, Mode::Joint] {
        let pipeline = pipeline(&folder.path().join(mode.name()));
        let (questions, ledger) = (questions(), Ledger::new());
        let batch: Vec<&Question> = questions.iter().collect();
        let trains = Trains { generator: mode != Mode::Selector, ..Trains::default() };
        let marginal = || -> f64 {
            let lists: Vec<Vec<u32>> =
                (0..4u32).flat_map(|a| (0..4).filter(move |b| *b != a).map(move |b| vec![a, b])).collect();
            let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger);
            step.candidates(4, 2, false).unwrap();
            let selections = step.selections().unwrap().to_vec();
            let all = asked(&selections, |_| lists.iter().map(Vec::as_slice));
            let likelihoods = step.log_probs(&all, ToGenerator::Stopped).unwrap().0.sum(1).unwrap();
            let likelihoods = likelihoods.to_vec1::<f32>().unwrap();
            let mut sum = 0.0;
            for (input, likelihoods) in step.selected.inputs.iter().zip(likelihoods.chunks(lists.len())) {
                let selector = pipeline.selector.as_ref().unwrap();
                let prior = selector.log_probs(&[(input, &lists)], Scoring::Trie, Grad::Off).unwrap();
                let terms = prior.to_vec1::<f32>().unwrap().into_iter().zip(likelihoods);
                sum += terms.map(|(prior, likelihood)| f64::from(prior + likelihood).exp()).sum::<f64>().ln();
            }
            sum / 2.0
        };
        let before = marginal();
        for number in 0..40 {
            let mut step = Step::new(&pipeline, &batch, trains, SETTINGS, &ledger);
            step.expect(&expectation(), SampleKey { seed: 1, step: number }).unwrap();
            let store = Dro { mode, ..Dro::default() }.loss(&mut step).unwrap().backward().unwrap();
            let parts = [&pipeline.selector.as_ref().unwrap().generator, &pipeline.generator];
            for (_, var) in parts.into_iter().flat_map(|part| part.params().trainable()) {
                let Some(gradient) = store.get(var) else { continue };
                let norm = gradient.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
                let rate = 0.02 / f64::from(norm.max(0.5));
                var.set(&(var.as_tensor() - (gradient * rate).unwrap()).unwrap()).unwrap();
            }
        }
        let after = marginal();
        assert!(after > before + 0.2, "{mode:?}: {before} {after}");
    }
}

#[test]
fn a_warm_up_teaches_gold_first_or_the_generators_order() {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = pipeline(folder.path());
    let (questions, ledger) = (questions(), Ledger::new());
    let batch: Vec<&Question> = questions.iter().collect();
    let teaching =
        |teacher| Teaching { candidates: 4, choose: 2, teacher, gold_injection: teacher == Teacher::GoldFirst };
    let taught = |teaching: &Teaching| {
        let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger);
        step.teach(teaching).unwrap();
        let loss = SelectorSft { teacher: teaching.teacher, scoring: Scoring::Trie }.loss(&mut step).unwrap();
        assert_eq!(reached(&pipeline, &loss).1, 0, "the generator teaches, it does not learn");
        assert!(reached(&pipeline, &loss).0 > 0);
        (step.selections().unwrap().to_vec(), step.observed.retrieved.clone())
    };
    let (selections, retrieved) = taught(&teaching(Teacher::GoldFirst));
    for ((selection, question), retrieved) in selections.iter().zip(&questions).zip(&retrieved) {
        let gold = pipeline.corpus.ordinal(&question.gold_passages[0]).unwrap().unwrap();
        let first = selection.lists[0].list[0] as usize;
        assert_eq!(selection.candidates[first], gold);
        // Injected in the last place where retrieval missed it, else where it was.
        assert!(retrieved.contains(&gold) || first == 3, "{first}");
    }
    let (selections, _) = taught(&teaching(Teacher::Likelihood));
    for (question, selection) in selections.iter().enumerate() {
        let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger);
        step.take(selections.clone(), 2).unwrap();
        let mut single = |candidate: usize| {
            let alone = [Asked { question, passages: vec![selection.candidates[candidate]] }];
            step.log_probs(&alone, ToGenerator::Stopped).unwrap().0.sum_all().unwrap().to_scalar::<f32>().unwrap()
        };
        let scores: Vec<f32> = (0..4).map(&mut single).collect();
        let list = &selection.lists[0].list;
        assert_eq!(list.len(), 2);
        let others = (0..4u32).filter(|candidate| !list.contains(candidate));
        assert!(scores[list[0] as usize] >= scores[list[1] as usize]);
        assert!(
            others.into_iter().all(|other| scores[other as usize] <= scores[list[1] as usize]),
            "{scores:?} {list:?}"
        );
    }
}

#[test]
fn what_teaches_nothing_is_refused_with_the_reason() {
    let refused = |settings: Expectation| settings.check(true).unwrap_err().to_string();
    assert!(refused(Expectation { samples: 1, ..expectation() }).contains("expected gradient is zero"));
    assert!(refused(Expectation { samples: 0, ..expectation() }).contains("`0` lists"));
    // A generator alone learns from one list.
    Expectation { samples: 1, ..expectation() }.check(false).unwrap();
    assert!(Expectation { samples: 0, ..expectation() }.check(false).is_err());
    assert!(refused(Expectation { choose: 5, ..expectation() }).contains("`5` of `4`"));
    assert!(refused(Expectation { choose: 0, ..expectation() }).contains("`0` of `4`"));
    assert!(refused(Expectation { candidates: 1, choose: 1, ..expectation() }).contains("`1` of `1`"));
    let cold = Sampling { temperature: 0.0, top_p: 1.0 };
    assert!(refused(Expectation { sampling: cold, ..expectation() }).contains("temperature is `0`"));

    let folder = tempfile::tempdir().unwrap();
    let mut pipeline = pipeline(folder.path());
    let (questions, ledger) = (questions(), Ledger::new());
    let batch: Vec<&Question> = questions.iter().collect();
    let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger);
    step.expect(&expectation(), KEY).unwrap();
    let mut selections = step.selections().unwrap().to_vec();
    selections.swap(0, 1);
    assert!(step.give(selections, 2).unwrap_err().to_string().contains("other questions"));
    pipeline.selector = None;
    let mut step = Step::new(&pipeline, &batch, Trains::default(), SETTINGS, &ledger);
    assert!(step.expect(&expectation(), KEY).unwrap_err().to_string().contains("no selector"));
}

#[test]
fn gold_takes_the_places_of_the_last_candidates() {
    let injected = |candidates: &[u32], gold: &[u32]| {
        let mut candidates = candidates.to_vec();
        inject(&mut candidates, gold);
        candidates
    };
    assert_eq!(injected(&[5, 6, 7, 8], &[9]), [5, 6, 7, 9]);
    assert_eq!(injected(&[5, 6, 7, 8], &[8, 9]), [5, 6, 9, 8]);
    assert_eq!(injected(&[5, 6], &[1, 2, 3]), [2, 3]);
    assert_eq!(injected(&[5, 6], &[6]), [5, 6]);
    assert_eq!(gold_first(&[5, 6, 7, 8], &[8, 1, 6], 3), [3, 1, 0]);
    assert_eq!(gold_first(&[5, 6], &[], 5), [0, 1]);
    assert_eq!(by_likelihood(&[-2.0, -1.0, -1.0, -0.5], 3), [3, 1, 2]);
}
