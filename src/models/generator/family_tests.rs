//! What is of its own in a family, beyond the golden numbers that all of them share in `tests.rs`.

use candle_core::{DType, Device, Tensor};

use super::super::Grad;
use super::super::batch::TokenBatch;
use super::super::params::Params;
use super::super::weights::Weights;
use super::golden::*;
use super::*;

fn batch(dir: &Path) -> TokenBatch {
    TokenBatch::new(&Golden::read(dir).ids(), &Device::Cpu).unwrap()
}

#[test]
fn every_family_has_golden_numbers() {
    let mut seen: Vec<&str> = CASES.iter().map(|case| load(&fixture(case)).family()).collect();
    seen.dedup();
    seen.sort_unstable();
    seen.dedup();
    let mut all = SUPPORTED.to_vec();
    all.sort_unstable();
    assert_eq!(seen, all);
    assert_eq!(Family::ALL.map(Family::name), SUPPORTED);
}

#[test]
fn the_states_of_a_decoder_are_what_the_output_layer_reads() {
    for case in CASES {
        let dir = fixture(case);
        let generator = load(&dir);
        let (decoder, _) = Decoder::read(&dir).unwrap();
        let states = decoder.states(generator.params().view(Grad::Off), decoder.causal_root(), &batch(&dir)).unwrap();
        assert_eq!(states.dims(), [28, decoder.hidden()], "{case}");
        let logits = generator.head(Grad::Off).unwrap().logits(&states).unwrap();
        assert_near(case, &logits, &tensors(&dir).take_any("logits").unwrap().unwrap(), 1e-5);
        assert!(!states.track_op());
        let sizes = (generator.max_positions(), generator.config().vocabulary);
        assert_eq!((decoder.max_positions(), decoder.vocabulary()), sizes);
    }
}

#[test]
fn a_bare_decoder_that_sees_both_sides_equals_transformers() {
    let dir = fixture("generator_families/gemma3-both-sides");
    let (decoder, _) = Decoder::read(&dir).unwrap();
    let mut weights = Weights::read_folder(&dir, &Device::Cpu).unwrap();
    let mut params = Params::new();
    for (name, shape) in decoder.shapes("") {
        params.insert(name.clone(), weights.take(&name, &shape).unwrap(), true).unwrap();
    }
    assert_eq!(weights.names().next(), None, "a tensor that `shapes` does not name");
    let states = decoder.states(params.view(Grad::On), "", &batch(&dir)).unwrap();
    assert_near("states", &states, &tensors(&dir).take_any("states").unwrap().unwrap(), 1e-5);
    let store = states.sqr().unwrap().sum_all().unwrap().backward().unwrap();
    for (name, var) in params.trainable() {
        assert!(store.get(var.as_tensor()).is_some(), "no gradient reached {name}");
    }
    let error = Generator::load(&dir, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("both sides"), "{error}");
    assert!(error.find_hint().unwrap().contains("--encoder"));
}

#[test]
fn decoders_that_compute_differently_have_different_identities() {
    let identities = CASES.map(|case| Decoder::read(&fixture(case)).unwrap().0.identity());
    for (at, one) in identities.iter().enumerate() {
        assert!(!identities[..at].contains(one), "{} is as another: {one}", CASES[at]);
        assert_eq!(*one, Decoder::read(&fixture(CASES[at])).unwrap().0.identity());
    }
}

#[test]
fn names_and_shapes_are_those_of_the_checkpoint() {
    for case in CASES {
        let generator = load(&fixture(case));
        let config = generator.config();
        let mut expected = config.shapes(config.causal_root());
        if !config.tied {
            expected.push((config.head_name().to_owned(), vec![config.vocabulary, config.hidden]));
        }
        expected.sort();
        let found = generator.params().iter().map(|(name, param)| (name.to_owned(), param.var.dims().to_vec()));
        assert_eq!(found.collect::<Vec<_>>(), expected, "{case}");
    }
}

#[test]
fn what_lies_beyond_a_window_is_not_seen() {
    let dir = fixture("generator_families/mistral");
    let generator = load(&dir);
    let last = |first: u32| {
        let ids = vec![vec![first, 5, 6, 7, 8, 9, 10, 11]];
        generator.start(&ids).unwrap().log_probs().unwrap()
    };
    // Two layers with a window of 4 see 7 tokens, the last included.
    assert_eq!(values(&last(20)), values(&last(21)));
    let near = |second: u32| {
        let ids = vec![vec![4, second, 6, 7, 8, 9, 10, 11]];
        generator.start(&ids).unwrap().log_probs().unwrap()
    };
    assert_ne!(values(&near(20)), values(&near(21)));
}

#[test]
fn a_window_saves_flops() {
    let windowed = load(&fixture("generator_families/mistral"));
    let config = windowed.config();
    let parameters = 2.0 * windowed.non_embedding_parameters() as f64;
    let width = config.query_width() as f64;
    // Each of two layers scores 3 of 3 tokens, but 4 of 10 for most.
    assert_eq!(windowed.forward_flops(&[3], 0), 3.0 * parameters + 4.0 * width * 2.0 * 4.5);
    assert_eq!(windowed.forward_flops(&[10], 0), 10.0 * parameters + 4.0 * width * 2.0 * 32.0);
}

#[test]
fn masks_that_old_pythias_store_are_no_defect() {
    let from = fixture("generator_families/neox");
    let root = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        std::fs::copy(from.join(file), root.path().join(file)).unwrap();
    }
    let mut stored = Weights::read_folder(&from, &Device::Cpu).unwrap();
    let names: Vec<String> = stored.names().map(str::to_owned).collect();
    let mut all: BTreeMap<String, Tensor> =
        names.into_iter().map(|name| (name.clone(), stored.take_any(&name).unwrap().unwrap())).collect();
    for derived in ["bias", "masked_bias", "rotary_emb.inv_freq"] {
        let tensor = Tensor::ones(2, DType::F32, &Device::Cpu).unwrap();
        all.insert(format!("gpt_neox.layers.0.attention.{derived}"), tensor);
    }
    weights::write(&root.path().join(weights::SINGLE), &all).unwrap();
    assert_eq!(load(root.path()).params().digest().unwrap(), load(&from).params().digest().unwrap());
    all.insert("gpt_neox.layers.0.attention.sinks".into(), Tensor::ones(2, DType::F32, &Device::Cpu).unwrap());
    weights::write(&root.path().join(weights::SINGLE), &all).unwrap();
    let error = Generator::load(root.path(), &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("attention.sinks"), "{error}");
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn the_same_on_portable_layers() {
    crate::models::nn::portably(|| {
        the_states_of_a_decoder_are_what_the_output_layer_reads();
        a_bare_decoder_that_sees_both_sides_equals_transformers();
        what_lies_beyond_a_window_is_not_seen();
    });
}
