//! Passes in training: the masks of fixtures/golden/dropout.py, their statistics, and that nothing else drops.

use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::super::Grad;
use super::super::dropout::{Draw, Dropping};
use super::golden::*;
use super::*;

/// A copy of a model folder with other settings.
fn with_config(name: &str, changes: &Value) -> tempfile::TempDir {
    let (from, to) = (fixture(name), tempfile::tempdir().unwrap());
    for entry in std::fs::read_dir(&from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    let path = to.path().join(CONFIG);
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    std::fs::write(path, config.to_string()).unwrap();
    to
}

fn sequences(dir: &Path) -> Vec<Scored> {
    Golden::read(dir).scored()
}

#[test]
fn outputs_and_every_gradient_equal_transformers_with_the_same_masks() {
    let expected = Trained::read("generators");
    assert_eq!(expected.len(), 10);
    for (name, case) in expected {
        let dir = with_config(&name, &case.config);
        let mut generator = load(dir.path());
        generator.set_dropout(Dropping::Config);
        for checkpointing in [false, true] {
            generator.set_checkpointing(checkpointing);
            case.assert_equals(&name, &generator, &sequences(dir.path()));
        }
    }
}

#[test]
fn without_a_share_or_without_a_draw_every_bit_is_that_of_no_dropout() {
    for case in CASES {
        let dir = fixture(case);
        let (mut generator, sequences) = (load(&dir), sequences(&dir));
        let plain = values(&generator.answer_log_probs(&sequences, Grad::On).unwrap().0);
        let drawing =
            |generator: &Generator, draw| values(&generator.answer_log_probs_drawing(&sequences, draw).unwrap().0);
        assert_eq!(plain, drawing(&generator, Draw::new(1)), "{case}: off until it is set");
        generator.set_dropout(Dropping::Share(0.0));
        assert_eq!(plain, drawing(&generator, Draw::new(1)), "{case}");
        generator.set_dropout(Dropping::Share(0.3));
        assert_eq!(plain, values(&generator.answer_log_probs(&sequences, Grad::On).unwrap().0), "{case}");
        let dropped = drawing(&generator, Draw::new(1));
        assert_ne!(plain, dropped, "{case}");
        assert_eq!(dropped, drawing(&generator.try_clone().unwrap(), Draw::new(1)), "{case}: same seed, same bits");
        assert_ne!(dropped, drawing(&generator, Draw::new(1).of(0)), "{case}: other step, other mask");
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(dropped, single.install(|| drawing(&generator, Draw::new(1))), "{case}: one thread");
    }
}

/// The mean over many masks is near the result without dropout, and every gradient is there.
#[test]
fn scores_of_many_masks_lie_around_the_one_without_and_no_gradient_is_missing() {
    for case in CASES {
        let dir = fixture(case);
        let (mut generator, sequences) = (load(&dir), sequences(&dir));
        let exact = values(&generator.answer_log_probs(&sequences, Grad::Off).unwrap().0);
        generator.set_dropout(Dropping::Share(0.003));
        let distance = |one: &[f64]| {
            one.iter().zip(&exact).map(|(one, exact)| (one - f64::from(*exact)).powi(2)).sum::<f64>().sqrt()
        };
        let (passes, mut mean, mut spread) = (128, vec![0f64; exact.len()], 0.0);
        for seed in 0..passes {
            let (scores, _) = generator.answer_log_probs_drawing(&sequences, Draw::new(seed)).unwrap();
            if seed == 0 {
                let store = scores.sum_all().unwrap().backward().unwrap();
                for (name, var) in generator.params().trainable() {
                    assert!(store.get(var).is_some(), "{case}: no gradient reached {name}");
                }
            }
            let scores: Vec<f64> = values(&scores).into_iter().map(f64::from).collect();
            spread += distance(&scores) / passes as f64;
            mean.iter_mut().zip(&scores).for_each(|(mean, score)| *mean += score / passes as f64);
        }
        assert!(spread > 1e-3, "{case}: masks change little: {spread}");
        assert!(distance(&mean) < 0.5 * spread, "{case}: the mean is off by {}, one pass by {spread}", distance(&mean));
    }
}

#[test]
fn dropout_is_read_where_transformers_has_it_and_nonsense_is_refused() {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let named = |name: &str, changes: &str| {
        load(with_config(name, &json(changes)).path()).dropout().named().collect::<Vec<_>>()
    };
    assert_eq!(named("generator/tied", r#"{"attention_dropout": null}"#), [("attention", 0.0)]);
    assert_eq!(named("generator_families/gemma2", r#"{"attention_dropout": 0.25}"#), [("attention", 0.25)]);
    assert_eq!(
        named("generator_families/neox", r#"{"hidden_dropout": 0.5}"#),
        [("embedding", 0.5), ("attention", 0.0), ("attended", 0.5), ("feed_forward", 0.5)]
    );
    assert_eq!(
        named("generator_families/phi3", r#"{"resid_pdrop": 0.5, "embd_pdrop": 0.25}"#),
        [("attention", 0.0), ("attended", 0.5), ("feed_forward", 0.5)]
    );
    let dir = with_config("generator_families/phi3", &json(r#"{"resid_pdrop": 1}"#));
    let error = Generator::load(dir.path(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("`resid_pdrop` is `1`") && error.find_hint().is_some(), "{error}");
}

#[test]
fn another_dropout_is_no_other_model() {
    let dir = with_config("generator_families/neox", &serde_json::json!({"hidden_dropout": 0.5}));
    let of = |dir: &Path| Decoder::read(dir).unwrap().0.identity();
    assert_eq!(of(dir.path()), of(&fixture("generator_families/neox")));
}

#[test]
fn what_is_computed_twice_draws_the_same_masks() {
    for (name, rank) in [("generator_families/neox", None), ("generator_families/phi3", Some(2))] {
        let dir = fixture(name);
        let (mut generator, sequences) = (load(&dir), sequences(&dir));
        generator.set_dropout(Dropping::Share(0.3));
        if let Some(rank) = rank {
            let config = crate::models::lora::LoraConfig { rank, dropout: 0.3, ..Default::default() };
            generator.add_lora(&config, 1).unwrap();
            for (_, var) in generator.params().trainable().filter(|(name, _)| name.contains("lora_B")) {
                var.set(&(var.ones_like().unwrap() * 0.05).unwrap()).unwrap();
            }
        }
        let run = |generator: &Generator| {
            let (scores, _) = generator.answer_log_probs_drawing(&sequences, Draw::new(4)).unwrap();
            let mut store = scores.sum_all().unwrap().backward().unwrap();
            generator.finish_backward(&mut store).unwrap();
            (values(&scores), store)
        };
        let (once, want) = run(&generator);
        generator.set_checkpointing(true);
        let (twice, got) = run(&generator);
        assert_eq!(once, twice, "{name}");
        for (weight, var) in generator.params().trainable() {
            let (want, got): (&Tensor, &Tensor) = (want.get(var).unwrap(), got.get(var).unwrap());
            let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
            let error = norm(&(got - want).unwrap());
            assert!(error <= 1e-5 * norm(want), "{name} {weight}: {error} of {}", norm(want));
        }
    }
}
