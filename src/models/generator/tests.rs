use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::batch::TokenBatch;
use super::super::{Grad, weights};
use super::golden::*;
use super::*;

#[test]
fn outputs_and_every_gradient_equal_transformers() {
    for case in CASES {
        let dir = fixture(case);
        let (generator, golden, mut tensors) = (load(&dir), Golden::read(&dir), tensors(&dir));
        let (log_probs, mask) = generator.answer_log_probs(&golden.scored(), Grad::On).unwrap();
        assert_near(case, &log_probs, &tensors.take_any("log_probs").unwrap().unwrap(), 1e-5);
        assert_near(case, &mask, &tensors.take_any("mask").unwrap().unwrap(), 0.0);
        assert_gradients(&generator, &log_probs, &mut tensors);
    }
}

#[test]
fn all_logits_equal_transformers() {
    for case in CASES {
        let dir = fixture(case);
        let (generator, ids) = (load(&dir), Golden::read(&dir).ids());
        let batch = TokenBatch::new(&ids, &Device::Cpu).unwrap();
        let states = generator.network(Grad::Off).unwrap().states(&batch, None, |_, _, _| Ok(())).unwrap();
        let expected = tensors(&dir).take_any("logits").unwrap().unwrap();
        assert_near(case, &generator.head(Grad::Off).unwrap().logits(&states).unwrap(), &expected, 1e-5);
    }
}

#[test]
fn scores_do_not_depend_on_the_rest_of_the_batch() {
    for case in CASES {
        let dir = fixture(case);
        let (generator, sequences) = (load(&dir), Golden::read(&dir).scored());
        let (together, _) = generator.answer_log_probs(&sequences, Grad::Off).unwrap();
        for (row, sequence) in sequences.iter().enumerate() {
            let (alone, mask) = generator.answer_log_probs(std::slice::from_ref(sequence), Grad::Off).unwrap();
            let width = sequence.answer_length();
            assert_eq!((alone.dims(), values(&mask)), ([1, width].as_slice(), vec![1.0; width]));
            let part = together.narrow(0, row, 1).unwrap().narrow(1, 0, width).unwrap();
            assert_near(case, &alone, &part, 1e-5);
        }
    }
}

#[test]
fn without_gradient_nothing_is_recorded() {
    let dir = fixture("generator/tied");
    let (log_probs, _) = load(&dir).answer_log_probs(&Golden::read(&dir).scored(), Grad::Off).unwrap();
    assert!(!log_probs.track_op());
}

#[test]
fn the_same_input_gives_the_same_bits() {
    let dir = fixture("generator/llama3");
    let run = || {
        let generator = load(&dir);
        let (log_probs, _) = generator.answer_log_probs(&Golden::read(&dir).scored(), Grad::On).unwrap();
        let store = log_probs.sum_all().unwrap().backward().unwrap();
        let gradients = generator.params().trainable().flat_map(|(_, var)| values(store.get(var.as_tensor()).unwrap()));
        gradients.chain(values(&log_probs)).map(f32::to_bits).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let generator = load(&fixture("generator/tied"));
    let refused = |ids: Vec<u32>, answer_start: usize, words: &[&str]| {
        let error = generator.answer_log_probs(&[Scored { ids, answer_start }], Grad::Off).unwrap_err();
        let message = format!("{error} {}", error.find_hint().unwrap_or_default());
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refused(vec![1, 5, 6], 3, &["answer of sequence 0 is empty"]);
    refused(vec![1, 5, 6], 9, &["answer of sequence 0 is empty", "`9` of 3"]);
    refused(vec![1, 5, 6], 0, &["no prompt"]);
    refused(vec![], 0, &["is empty"]);
    refused(vec![1, 100, 6], 2, &["`100`", "100 tokens"]);
    refused(vec![5; 33], 2, &["`33` tokens", "at most 32", "--max-prompt-tokens"]);
    assert!(generator.answer_log_probs(&[], Grad::Off).is_err());
}

#[test]
fn flops_follow_the_formula() {
    let generator = load(&fixture("generator/tied"));
    // Two layers of q, o (16x16), k, v (8x16), three of 16x24, two norms; one final norm.
    let parameters = 2 * (2 * 256 + 2 * 128 + 3 * 384 + 2 * 16) + 16;
    assert_eq!(generator.non_embedding_parameters(), parameters);
    assert_eq!(generator.parameter_count(), parameters + 1600);
    let parameters = parameters as f64;
    let expected = 2.0 * parameters * 8.0 + 2.0 * 2.0 * 16.0 * (9.0 + 25.0) + 2.0 * 1600.0 * 4.0;
    assert_eq!(generator.forward_flops(&[3, 5], 4), expected);
}

#[test]
fn special_tokens_are_found() {
    let generator = load(&fixture("generator/tied"));
    assert_eq!(*generator.special(), SpecialTokens { bos: Some(1), eos: vec![2], pad: 0 });
    assert_eq!(generator.prompt_ids("w7 w99").unwrap(), [1, 7, 99]);
    let by_name = copy_with(|_, dir| {
        fs::remove_file(dir.join("generation_config.json")).unwrap();
        edit(dir, "config.json", |config| {
            config["bos_token_id"] = Value::Null;
            config["eos_token_id"] = json!([2, 7]);
            config["pad_token_id"] = json!(-1);
        });
    });
    let generator = load(by_name.path());
    assert_eq!(*generator.special(), SpecialTokens { bos: Some(1), eos: vec![2, 7], pad: 0 });
}

#[test]
fn a_saved_generator_is_the_same_one() {
    for case in CASES {
        let generator = load(&fixture(case));
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("saved");
        generator.save(&dir).unwrap();
        generator.save(&dir).unwrap();
        let again = load(&dir);
        assert_eq!(again.params().digest().unwrap(), generator.params().digest().unwrap(), "{case}");
        assert_eq!((again.config(), again.special()), (generator.config(), generator.special()), "{case}");
        assert_eq!(again.text().digest(), generator.text().digest());
    }
}

#[test]
fn a_clone_shares_no_weight() {
    let generator = load(&fixture("generator/tied"));
    let clone = generator.try_clone().unwrap();
    let before = bits(generator.params());
    let norm = &clone.params().get("model.norm.weight").unwrap().var;
    norm.set(&norm.zeros_like().unwrap()).unwrap();
    assert_eq!(bits(generator.params()), before);
    assert_ne!(bits(clone.params()), before);
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

#[test]
fn damaged_folders_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut BTreeMap<String, Tensor>, &Path), words: &[&str]| {
        let dir = copy_with(change);
        let error = Generator::load(dir.path(), &Device::Cpu).unwrap_err();
        let message = format!("{error} {}", error.find_hint().unwrap_or_default());
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        assert!(error.find_hint().is_some(), "{message} has no hint");
    };
    let query = "model.layers.1.self_attn.q_proj.weight";
    refused(&|tensors, _| drop(tensors.remove(query)), &[query, "missing", "[16, 16]"]);
    refused(&|tensors, _| drop(tensors.remove(EMBEDDING)), &[EMBEDDING, "missing"]);
    let bias = Tensor::zeros(16, candle_core::DType::F32, &Device::Cpu).unwrap();
    refused(
        &|tensors, _| drop(tensors.insert("model.layers.0.self_attn.q_proj.bias".into(), bias.clone())),
        &["q_proj.bias"],
    );
    refused(&|tensors, _| drop(tensors.insert(query.into(), bias.clone())), &[query, "[16], expected [16, 16]"]);
    let poisoned = Tensor::full(f32::NAN, 16, &Device::Cpu).unwrap();
    refused(
        &|tensors, _| drop(tensors.insert("model.norm.weight".into(), poisoned.clone())),
        &["model.norm.weight", "NaN"],
    );
    let other = Tensor::zeros((100, 16), candle_core::DType::F32, &Device::Cpu).unwrap();
    refused(&|tensors, _| drop(tensors.insert(HEAD.into(), other.clone())), &[HEAD, EMBEDDING, "differ"]);
    refused(&|_, dir| fs::remove_file(dir.join("tokenizer.json")).unwrap(), &["tokenizer"]);
    refused(&|_, dir| fs::remove_file(dir.join("config.json")).unwrap(), &["config.json"]);
    refused(
        &|_, dir| edit(dir, "config.json", |config| config["model_type"] = json!("mixtral")),
        &["`mixtral`", "llama, mistral"],
    );
    refused(
        &|_, dir| {
            edit(dir, "config.json", |config| config["rope_scaling"] = json!({"rope_type": "spiral", "factor": 4.0}))
        },
        &["`spiral`", "linear, dynamic"],
    );
    refused(&|_, dir| edit(dir, "config.json", |config| config["vocab_size"] = json!(90)), &["100 tokens", "only 90"]);
    refused(
        &|_, dir| edit(dir, "generation_config.json", |config| config["eos_token_id"] = json!(100)),
        &["`100`", "100 tokens"],
    );
}

#[test]
fn an_equal_second_copy_of_a_tied_embedding_and_stored_frequencies_are_no_defect() {
    let dir = copy_with(|tensors, _| {
        tensors.insert(HEAD.into(), tensors[EMBEDDING].clone());
        let frequencies = Tensor::ones(2, candle_core::DType::F32, &Device::Cpu).unwrap();
        tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), frequencies);
    });
    let tied = load(&fixture("generator/tied"));
    assert_eq!(load(dir.path()).params().digest().unwrap(), tied.params().digest().unwrap());
}

#[derive(Deserialize)]
struct Real {
    prompts: Vec<String>,
    sequences: Vec<Row>,
    log_probs: Vec<Vec<f32>>,
    gradients: BTreeMap<String, Projected>,
    greedy: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
struct Projected {
    norm: f64,
    projection: f64,
}

#[test]
fn real_models_equal_transformers() {
    let text = fs::read_to_string(fixture("generator_real.json")).unwrap();
    let golden: BTreeMap<String, Real> = serde_json::from_str(&text).unwrap();
    assert_eq!(golden.len(), 3);
    for (name, real) in golden {
        let Some(dir) = shared(&name) else { continue };
        let generator = load(&dir);
        let scored: Vec<Scored> = real.sequences.iter().map(Row::scored).collect();
        let prompts: Vec<Vec<u32>> = scored.iter().map(|row| row.ids[..row.answer_start].to_vec()).collect();
        for (text, ids) in real.prompts.iter().zip(&prompts) {
            assert_eq!(generator.prompt_ids(text).unwrap(), *ids, "{name}: {text}");
        }
        let (log_probs, _) = generator.answer_log_probs(&scored, Grad::On).unwrap();
        for (found, expected) in log_probs.to_vec2::<f32>().unwrap().iter().zip(&real.log_probs) {
            for (found, expected) in found.iter().zip(expected) {
                // Some of these answers are as unlikely as e^-26: 1e-5 of the value there.
                let tolerance = 1e-5 * expected.abs().max(1.0);
                assert!((found - expected).abs() <= tolerance, "{name}: {found}, transformers has {expected}");
            }
        }
        let weights: Vec<f32> = hashed(log_probs.elem_count(), 7).map(|value| value as f32).collect();
        let weights = Tensor::from_vec(weights, log_probs.shape(), &Device::Cpu).unwrap();
        let store = (log_probs * weights).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(generator.params().len(), real.gradients.len(), "{name}");
        for (key, var) in generator.params().trainable() {
            let expected = &real.gradients[key];
            let found = values(store.get(var.as_tensor()).unwrap_or_else(|| panic!("{name}: no gradient of {key}")));
            let norm = found.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
            let projection: f64 =
                found.iter().zip(hashed(found.len(), 0)).map(|(&value, r)| f64::from(value) * r).sum();
            let tolerance = 1e-4 * expected.norm;
            assert!((norm - expected.norm).abs() <= tolerance, "{name} {key}: norm {norm} not {}", expected.norm);
            let off = (projection - expected.projection).abs();
            assert!(off <= tolerance, "{name} {key}: projection {projection} not {}", expected.projection);
        }
        let written = generator.greedy(&prompts, 24, &[2]).unwrap();
        assert_eq!(written, real.greedy, "{name}");
    }
}

/// A copy of the tied model, changed before it is loaded.
fn copy_with(change: impl Fn(&mut BTreeMap<String, Tensor>, &Path)) -> tempfile::TempDir {
    let (from, dir) = (fixture("generator/tied"), tempfile::tempdir().unwrap());
    for file in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    let mut stored = weights::Weights::read_folder(&from, &Device::Cpu).unwrap();
    let names: Vec<String> = stored.names().map(str::to_owned).collect();
    let mut tensors: BTreeMap<String, Tensor> =
        names.into_iter().map(|name| (name.clone(), stored.take_any(&name).unwrap().unwrap())).collect();
    change(&mut tensors, dir.path());
    weights::write(&dir.path().join(weights::SINGLE), &tensors).unwrap();
    dir
}

fn edit(dir: &Path, file: &str, change: impl Fn(&mut Value)) {
    let path = dir.join(file);
    let mut value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn every_family_is_the_same_on_portable_layers() {
    crate::models::nn::portably(|| {
        outputs_and_every_gradient_equal_transformers();
        all_logits_equal_transformers();
        scores_do_not_depend_on_the_rest_of_the_batch();
        without_gradient_nothing_is_recorded();
    });
}
