//! Passes in training: the masks of fixtures/golden/dropout.py, their statistics, and that nothing else drops.

use super::families::folder;
use super::*;
use crate::models::dropout::{Draw, Dropping};

const FAMILIES: [&str; 8] =
    ["roberta", "mpnet", "distilbert", "modernbert", "modernbert-bias", "llama", "qwen3", "gemma3_text"];

/// Σ numbers · h, h the numbers of generator.py.
fn weighted(numbers: &Tensor) -> Tensor {
    let h: Vec<f32> =
        crate::models::generator::golden::hashed(numbers.elem_count(), 7).map(|value| value as f32).collect();
    (numbers * Tensor::from_vec(h, numbers.dims(), &Device::Cpu).unwrap()).unwrap()
}

fn sentences(encoder: &Encoder) -> Vec<Vec<u32>> {
    let listing = json_of(&golden("encoder_families.json"));
    encoder.tokenize(&texts(&listing), Role::Passage).unwrap().ids
}

#[test]
fn vectors_and_all_gradients_equal_transformers_with_the_same_masks() {
    let expected = json_of(&golden("dropout.json"));
    let cases = expected["encoders"].as_object().unwrap();
    assert_eq!(cases.len(), 7);
    for (name, case) in cases {
        let copy = Copy::of(&golden(name));
        copy.edit("config.json", |config| {
            config.as_object_mut().unwrap().extend(case["config"].as_object().unwrap().clone());
        });
        let mut encoder = load(copy.path()).unwrap();
        encoder.set_dropout(Dropping::Config);
        let listing = json_of(&golden(&format!("{}.json", name.split('/').next().unwrap())));
        let ids = encoder.tokenize(&texts(&listing), Role::Passage).unwrap().ids;
        let draw = Draw::new(17).of(3).of(case["pass"].as_u64().unwrap());
        let vectors = encoder.forward_drawing(&ids, Role::Passage, draw).unwrap();
        let rows = case["vectors"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        let want: Vec<f64> = rows.map(|value| value.as_f64().unwrap()).collect();
        let error = largest_difference(&values(&vectors), &want);
        assert!(error < 1e-5, "{name}: {error}");

        let got = gradients_of(&encoder, &weighted(&vectors));
        let named = case["gradients"].as_object().unwrap();
        assert!(named.keys().eq(got.keys()), "{name}: the same tensors have a gradient");
        let number = |value: &Value| value.as_f64().unwrap();
        let all = norm(&named.values().map(|described| number(&described[0])).collect::<Vec<_>>());
        for (tensor, want) in named {
            let got = values(&got[tensor]);
            let allowed = 1e-4 * number(&want[0]) + 1e-7 * all;
            let error = (norm(&got) - number(&want[0])).abs();
            assert!(error <= allowed, "{name} {tensor}: |g| is off by {error} of {}", want[0]);
            for k in 0..2 {
                let error = (projection(k, &got) - number(&want[k as usize + 1])).abs();
                assert!(error <= allowed, "{name} {tensor}: projection {k} is off by {error}, allowed {allowed}");
            }
        }
    }
}

#[test]
fn without_a_share_or_without_a_draw_every_bit_is_that_of_no_dropout() {
    for case in FAMILIES {
        let mut encoder = load(&folder(case)).unwrap();
        let ids = sentences(&encoder);
        let plain = bits(&encoder.forward_as(&ids, Role::Passage, Grad::On).unwrap());
        let drawing = |encoder: &Encoder, draw| bits(&encoder.forward_drawing(&ids, Role::Passage, draw).unwrap());
        assert_eq!(plain, drawing(&encoder, Draw::new(1)), "{case}: off until it is set");
        encoder.set_dropout(Dropping::Share(0.0));
        assert_eq!(plain, drawing(&encoder, Draw::new(1)), "{case}");
        encoder.set_dropout(Dropping::Share(0.3));
        for grad in [Grad::On, Grad::Off] {
            assert_eq!(plain, bits(&encoder.forward_as(&ids, Role::Passage, grad).unwrap()), "{case}");
        }
        let dropped = drawing(&encoder, Draw::new(1));
        assert_ne!(plain, dropped, "{case}");
        assert_eq!(dropped, drawing(&encoder.try_clone().unwrap(), Draw::new(1)), "{case}: same seed, same bits");
        assert_ne!(dropped, drawing(&encoder, Draw::new(2)), "{case}: other seed, other mask");
        assert_ne!(dropped, drawing(&encoder, Draw::new(1).of(0)), "{case}: other step, other mask");
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(dropped, single.install(|| drawing(&encoder, Draw::new(1))), "{case}: one thread");
        encoder.set_dropout(Dropping::Off);
        assert_eq!(plain, drawing(&encoder, Draw::new(1)), "{case}");
    }
}

/// The mean over many masks is near the vector without dropout, and every gradient is there.
#[test]
fn vectors_of_many_masks_lie_around_the_one_without_and_no_gradient_is_missing() {
    for case in FAMILIES {
        let mut encoder = load(&folder(case)).unwrap();
        let ids = sentences(&encoder);
        let vectors = encoder.forward_as(&ids, Role::Passage, Grad::On).unwrap();
        let (exact, expected) = (values(&vectors), gradients_of(&encoder, &weighted(&vectors)));
        encoder.set_dropout(Dropping::Share(0.003));
        let passes = 128;
        let mut mean = vec![0.0; exact.len()];
        let mut spread = 0.0;
        for seed in 0..passes {
            let vectors = encoder.forward_drawing(&ids, Role::Passage, Draw::new(seed)).unwrap();
            if seed == 0 {
                let found = gradients_of(&encoder, &weighted(&vectors));
                assert!(found.keys().eq(expected.keys()), "{case}");
                assert!(found.values().all(|gradient| values(gradient).iter().all(|value| value.is_finite())));
            }
            let vectors = values(&vectors);
            let off: Vec<f64> = vectors.iter().zip(&exact).map(|(a, b)| a - b).collect();
            spread += norm(&off) / passes as f64;
            mean.iter_mut().zip(&vectors).for_each(|(mean, value)| *mean += value / passes as f64);
        }
        let off = norm(&mean.iter().zip(&exact).map(|(a, b)| a - b).collect::<Vec<_>>());
        assert!(spread > 0.001 * norm(&exact), "{case}: masks change little: {spread} of {}", norm(&exact));
        assert!(off < 0.5 * spread, "{case}: the mean is off by {off}, one pass by {spread}");
    }
}

#[test]
fn dropout_is_read_with_the_defaults_of_transformers_and_nonsense_is_refused() {
    let named = |case: &str| load(&folder(case)).unwrap().dropout().named().collect::<Vec<_>>();
    let usual = [("embedding", 0.1), ("attention", 0.1), ("attended", 0.1), ("feed_forward", 0.1)];
    assert_eq!(named("roberta"), usual);
    assert_eq!(named("distilbert"), [usual[0], usual[1], usual[3]]);
    assert_eq!(named("modernbert"), usual.map(|(name, _)| (name, 0.0)));
    assert_eq!(named("llama"), [("attention", 0.0)]);
    let absent = Copy::of(&folder("mpnet"));
    absent.edit("config.json", |config| {
        let map = config.as_object_mut().unwrap();
        map.retain(|key, _| !key.contains("dropout"));
    });
    assert_eq!(load(absent.path()).unwrap().dropout().named().collect::<Vec<_>>(), usual);
    for (case, key, change) in [
        ("roberta", "hidden_dropout_prob", (|c| c["hidden_dropout_prob"] = json!(1.0)) as Change),
        ("distilbert", "attention_dropout", |c| c["attention_dropout"] = json!(-0.5)),
        ("modernbert", "mlp_dropout", |c| c["mlp_dropout"] = json!("some")),
        ("llama", "attention_dropout", |c| c["attention_dropout"] = json!(2)),
    ] {
        let copy = Copy::of(&folder(case));
        let text = copy.edit("config.json", change).refusal();
        assert!(text.contains(key), "{case}: {text}");
    }
}
