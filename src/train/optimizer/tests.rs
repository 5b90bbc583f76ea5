use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::*;
use crate::models::weights::Weights;

fn golden() -> Weights {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/adamw.safetensors");
    Weights::read_file(Path::new(path), &Device::Cpu).unwrap()
}

const NAMES: [&str; 4] = ["a.weight", "b.bias", "c.weight", "d.weight"];

fn taken(weights: &mut Weights, prefix: &str) -> Gradients {
    let take = |name: &str| weights.take_any(&format!("{prefix}.{name}")).unwrap().unwrap();
    NAMES.map(|name| name.to_owned()).into_iter().zip(NAMES.map(take)).collect()
}

fn params(start: &Gradients) -> Params {
    let mut params = Params::new();
    for (name, tensor) in start {
        params.insert(name.clone(), tensor.clone(), true).unwrap();
    }
    params
}

fn values(tensor: &Tensor) -> Vec<f32> {
    with_values(tensor, <[f32]>::to_vec).unwrap()
}

fn bits(params: &Params) -> Vec<u32> {
    params.iter().flat_map(|(_, param)| values(&param.var)).map(f32::to_bits).collect()
}

fn assert_near(params: &Params, expected: &Gradients, tolerance: f32) {
    for (name, tensor) in expected {
        let found = values(&params.get(name).unwrap().var);
        for (found, expected) in found.iter().zip(values(tensor)) {
            assert!((found - expected).abs() <= tolerance, "{name}: {found}, torch has {expected}");
        }
    }
}

#[test]
fn ten_steps_equal_torch() {
    for (label, config, lr) in [
        ("plain", AdamWConfig::default(), 1e-2),
        ("decay", AdamWConfig { beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.1 }, 3e-3),
    ] {
        let mut golden = golden();
        let params = params(&taken(&mut golden, "start"));
        let mut optimizer = AdamW::new(config).unwrap();
        for step in 0..10 {
            optimizer.step(&params, &taken(&mut golden, &format!("gradient.{step}")), lr).unwrap();
            if step == 0 || step == 9 {
                assert_near(&params, &taken(&mut golden, &format!("{label}.{step}")), 1e-6);
            }
        }
        assert_eq!(optimizer.steps(), 10);
    }
}

#[test]
fn clipping_equals_torch() {
    for (label, limit) in [("clipped", 1.0), ("unclipped", 1e6)] {
        let mut golden = golden();
        let mut gradients = taken(&mut golden, "gradient.0");
        let expected_norm = values(&golden.take_any(&format!("{label}.norm")).unwrap().unwrap())[0];
        let norm = clip(&mut gradients, limit).unwrap();
        assert!((norm / f64::from(expected_norm) - 1.0).abs() < 1e-6, "{norm} not {expected_norm}");
        for (name, expected) in taken(&mut golden, label) {
            for (found, expected) in values(&gradients[&name]).iter().zip(values(&expected)) {
                assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1e-3), "{name}: {found} not {expected}");
            }
        }
    }
}

#[test]
fn a_saved_and_loaded_optimizer_continues_to_the_bit() {
    let mut golden = golden();
    let start = taken(&mut golden, "start");
    let steps: Vec<Gradients> = (0..6).map(|step| taken(&mut golden, &format!("gradient.{step}"))).collect();
    let whole = params(&start);
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    for gradients in &steps {
        optimizer.step(&whole, gradients, 1e-2).unwrap();
    }

    let parted = params(&start);
    let mut first = AdamW::new(AdamWConfig::default()).unwrap();
    for gradients in &steps[..3] {
        first.step(&parted, gradients, 1e-2).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("optimizer.safetensors");
    crate::models::weights::write(&path, &first.state().unwrap()).unwrap();
    let mut file = Weights::read_file(&path, &Device::Cpu).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let state: BTreeMap<String, Tensor> =
        names.into_iter().map(|name| (name.clone(), file.take_any(&name).unwrap().unwrap())).collect();
    let mut second = AdamW::new(AdamWConfig::default()).unwrap();
    second.load_state(state).unwrap();
    assert_eq!(second.steps(), 3);
    for gradients in &steps[3..] {
        second.step(&parted, gradients, 1e-2).unwrap();
    }
    assert_eq!(bits(&parted), bits(&whole));
}

#[test]
fn large_step_counts_survive() {
    let start = taken(&mut golden(), "start");
    let params = params(&start);
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    optimizer.step(&params, &start, 0.0).unwrap();
    optimizer.steps = 0x0123_4567_89ab_cdef;
    let mut other = AdamW::new(AdamWConfig::default()).unwrap();
    other.load_state(optimizer.state().unwrap()).unwrap();
    assert_eq!(other.steps(), 0x0123_4567_89ab_cdef);
}

#[test]
fn what_does_not_fit_is_named_and_changes_nothing() {
    let mut golden = golden();
    let mut params = params(&taken(&mut golden, "start"));
    let gradients = taken(&mut golden, "gradient.0");
    let before = bits(&params);
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    let mut refused = |gradients: &Gradients, params: &Params, words: [&str; 2]| {
        let error = optimizer.step(params, gradients, 1e-2).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
        assert_eq!(optimizer.steps(), 0);
    };

    let mut without = gradients.clone();
    without.remove("c.weight");
    refused(&without, &params, ["`c.weight`", "no gradient"]);

    let mut misshapen = gradients.clone();
    misshapen.insert("b.bias".to_owned(), gradients["a.weight"].clone());
    refused(&misshapen, &params, ["`b.bias`", "[3, 4], expected [5]"]);

    let mut poisoned = gradients.clone();
    let nan = Tensor::from_vec(vec![0.0, f32::NAN, 0.0, 0.0, 0.0], 5, &Device::Cpu).unwrap();
    poisoned.insert("b.bias".to_owned(), nan);
    refused(&poisoned, &params, ["`b.bias`", "NaN"]);
    assert!(global_norm(&poisoned).unwrap_err().to_string().contains("`b.bias`"));

    params.set_trainable(|name| name != "a.weight");
    refused(&gradients, &params, ["`a.weight`", "does not train"]);
    assert_eq!(bits(&params), before);
}

#[test]
fn a_weight_without_gradient_is_named_after_the_backward_pass() {
    let params = params(&taken(&mut golden(), "start"));
    let used = params.get("a.weight").unwrap().var.as_tensor();
    let store = used.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    let error = gradients(&params, &store).unwrap_err();
    assert!(error.to_string().contains("`b.bias`, `c.weight`, `d.weight`"), "{error}");
    assert!(!error.to_string().contains("a.weight"), "{error}");
}

#[test]
fn parts_of_a_batch_add_up() {
    let mut golden = golden();
    let (one, two) = (taken(&mut golden, "gradient.0"), taken(&mut golden, "gradient.1"));
    let mut sum = Gradients::new();
    accumulate(&mut sum, &one, 1.0).unwrap();
    accumulate(&mut sum, &two, 0.5).unwrap();
    for name in NAMES {
        for ((sum, one), two) in values(&sum[name]).iter().zip(values(&one[name])).zip(values(&two[name])) {
            assert_eq!(*sum, one + 0.5 * two);
        }
    }
    sum.remove("a.weight");
    assert!(accumulate(&mut sum, &one, 1.0).is_err());
}

#[test]
fn a_foreign_state_is_refused_by_name() {
    let start = taken(&mut golden(), "start");
    let params = params(&start);
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    optimizer.step(&params, &start, 1e-2).unwrap();
    let state = optimizer.state().unwrap();
    let refused = |state: BTreeMap<String, Tensor>, word: &str| {
        let mut other = AdamW::new(AdamWConfig::default()).unwrap();
        let error = other.load_state(state).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
        assert_eq!((other.steps(), other.moments.len()), (0, 0));
    };
    for lost in ["step", "m.a.weight", "v.d.weight"] {
        let mut part = state.clone();
        part.remove(lost);
        refused(part, &lost.replace("m.", "v."));
    }
    let changed = |name: &str, tensor: &Tensor| {
        let mut other = state.clone();
        other.insert(name.to_owned(), tensor.clone());
        other
    };
    refused(changed("e.weight", &state["m.b.bias"]), "`e.weight`");
    refused(changed("v.b.bias", &state["v.a.weight"]), "[3, 4], expected [5]");
    let nan = Tensor::full(f32::NAN, 5, &Device::Cpu).unwrap();
    refused(changed("v.b.bias", &nan), "`v.b.bias`");
    refused(changed("step", &nan), "`NaN`");
}

#[test]
fn a_state_of_other_weights_is_refused_at_the_next_step() {
    let start = taken(&mut golden(), "start");
    let whole = params(&start);
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    optimizer.step(&whole, &start, 1e-2).unwrap();
    let mut part = start.clone();
    part.remove("c.weight");
    let fewer = params(&part);
    let mut smaller = AdamW::new(AdamWConfig::default()).unwrap();
    smaller.step(&fewer, &part, 1e-2).unwrap();

    let before = bits(&whole);
    let error = smaller.step(&whole, &start, 1e-2).unwrap_err().to_string();
    assert!(error.contains("no state of `c.weight`"), "{error}");
    assert_eq!((smaller.steps(), bits(&whole)), (1, before));
    let error = optimizer.step(&fewer, &part, 1e-2).unwrap_err().to_string();
    assert!(error.contains("state of `c.weight`, which does not train"), "{error}");
}

#[test]
fn senseless_settings_are_refused() {
    for config in [
        AdamWConfig { beta1: 1.0, ..AdamWConfig::default() },
        AdamWConfig { beta2: -0.1, ..AdamWConfig::default() },
        AdamWConfig { eps: f64::NAN, ..AdamWConfig::default() },
        AdamWConfig { weight_decay: -1.0, ..AdamWConfig::default() },
    ] {
        assert!(AdamW::new(config).is_err(), "{config:?}");
    }
    let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
    assert!(optimizer.step(&Params::new(), &Gradients::new(), f64::NAN).is_err());
}

#[test]
fn an_update_beyond_the_numbers_is_named() {
    let start = Gradients::from([("w".to_owned(), Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap())]);
    let gradient = |value: f32| Gradients::from([("w".to_owned(), Tensor::new(&[value, 0.5], &Device::Cpu).unwrap())]);
    // A weight that overflows, and a mean square that does.
    for (lr, value) in [(1e39, 1.0), (1e-3, 1e30)] {
        let params = params(&start);
        let error = AdamW::new(AdamWConfig::default()).unwrap().step(&params, &gradient(value), lr).unwrap_err();
        assert!(error.to_string().contains("`w`") && error.find_hint().unwrap().starts_with(LOWER), "{error}");
        assert_eq!(values(&params.get("w").unwrap().var), [1.0, 2.0], "the last good weights are in place");
    }
}

/// The same numbers and refusals out of candle's operations, as on another device.
#[test]
fn the_same_where_weights_are_not_on_the_cpu() {
    nn::portably(|| {
        ten_steps_equal_torch();
        clipping_equals_torch();
        a_saved_and_loaded_optimizer_continues_to_the_bit();
        large_step_counts_survive();
        what_does_not_fit_is_named_and_changes_nothing();
        a_weight_without_gradient_is_named_after_the_backward_pass();
        parts_of_a_batch_add_up();
        a_state_of_other_weights_is_refused_at_the_next_step();
        an_update_beyond_the_numbers_is_named();
    });
}
