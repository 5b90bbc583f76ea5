use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use super::super::Grad;
use super::super::dropout::Draw;
use super::super::generator::Scored;
use super::super::generator::golden::*;
use super::super::weights::{self, Weights};
use super::*;

/// Adapters written by peft, each with the model it belongs to.
const ADAPTERS: [(&str, &str); 4] = [
    ("all-linear", "tied"),
    ("attention-bias", "untied-bias"),
    // Joined projections; the first is rank-stabilised.
    ("phi3-joined", "phi3"),
    ("neox-joined", "neox"),
];

fn base(name: &str) -> Generator {
    let llama = fixture("generator").join(name);
    load(&if llama.is_dir() { llama } else { fixture("generator_families").join(name) })
}

fn scores(generator: &Generator, sequences: &[Scored]) -> Tensor {
    generator.answer_log_probs(sequences, Grad::Off).unwrap().0
}

#[test]
fn outputs_and_every_gradient_equal_peft() {
    for (adapter, name) in ADAPTERS {
        let dir = fixture("lora").join(adapter);
        let (mut generator, golden, mut tensors) = (base(name), Golden::read(&dir), tensors(&dir));
        let frozen: Vec<String> = generator.params().names().map(str::to_owned).collect();
        generator.load_adapter(&dir).unwrap();
        let (log_probs, _) = generator.answer_log_probs(&golden.scored(), Grad::On).unwrap();
        assert_near(adapter, &log_probs, &tensors.take_any("log_probs").unwrap().unwrap(), 1e-5);
        let store = log_probs.sum_all().unwrap().backward().unwrap();
        for name in frozen {
            let var = &generator.params().get(&name).unwrap().var;
            assert!(store.get(var.as_tensor()).is_none(), "work was done for the gradient of the frozen `{name}`");
        }
        assert_gradients(&generator, &log_probs, &mut tensors);
        let written = generator.greedy(&golden.ids(), 12, &[2]).unwrap();
        assert_eq!(written, golden.greedy, "{adapter}");
    }
}

#[test]
fn a_new_adapter_changes_no_bit_of_the_output() {
    let sequences = Golden::read(&fixture("generator/tied")).scored();
    let mut generator = base("tied");
    let before = values(&scores(&generator, &sequences));
    generator.add_lora(&LoraConfig::default(), 7).unwrap();
    assert_eq!(values(&scores(&generator, &sequences)), before);
    assert_eq!(generator.lora().unwrap().modules().count(), 14);
    assert_eq!(generator.params().trainable().count(), 28);
}

#[test]
fn merged_equals_unmerged() {
    for (adapter, name) in ADAPTERS {
        let dir = fixture("lora").join(adapter);
        let (mut generator, sequences) = (base(name), Golden::read(&dir).scored());
        let plain = scores(&generator, &sequences);
        generator.load_adapter(&dir).unwrap();
        let adapted = scores(&generator, &sequences);
        let config = generator.lora().unwrap().config().clone();
        generator.merge_lora().unwrap();
        assert_near(adapter, &scores(&generator, &sequences), &adapted, 2e-5);
        assert_ne!(values(&plain), values(&adapted), "the adapter does nothing, so the test shows nothing");
        assert!(generator.lora().is_none() && generator.merge_lora().is_err());
        let base_names: Vec<String> = base(name).params().names().map(str::to_owned).collect();
        assert!(generator.params().names().eq(base_names.iter().map(String::as_str)));
        assert_eq!(generator.params().trainable().count(), base_names.len());
        // What was merged comes out again.
        let merged = bits(generator.params());
        generator.unmerge_lora().unwrap();
        assert_near(adapter, &scores(&generator, &sequences), &adapted, 2e-5);
        let untouched = base(name);
        for name in &base_names {
            let (ours, theirs) = (generator.params().get(name).unwrap(), untouched.params().get(name).unwrap());
            assert_near(name, &ours.var, &theirs.var, 1e-6);
            assert!(!ours.trainable, "{name} trains beside its adapter");
        }
        assert_eq!(generator.lora().unwrap().config(), &config);
        assert!(generator.unmerge_lora().unwrap_err().to_string().contains("has an adapter on it"));
        generator.merge_lora().unwrap();
        assert_eq!(generator.params().trainable().count(), base_names.len());
        assert!(bits(generator.params()).len() == merged.len());
        let saved = tempfile::tempdir().unwrap();
        generator.save(&saved.path().join("merged")).unwrap();
        assert_eq!(bits(load(&saved.path().join("merged")).params()), bits(generator.params()));
    }
}

#[test]
fn the_start_depends_on_the_seed_and_has_the_spread_of_peft() {
    let start = |seed: u64| {
        let mut generator = base("tied");
        generator.add_lora(&LoraConfig { rank: 50, ..LoraConfig::default() }, seed).unwrap();
        generator
    };
    let (one, same, other) = (start(1), start(1), start(2));
    assert_eq!(bits(one.params()), bits(same.params()));
    assert_ne!(bits(one.params()), bits(other.params()));
    for (projection, input) in [("self_attn.q_proj", 16f32), ("mlp.down_proj", 24f32)] {
        let a = one.params().get(&name_a(&format!("model.layers.1.{projection}"))).unwrap();
        let values = values(&a.var);
        let (largest, bound) = (values.iter().fold(0f32, |most, value| most.max(value.abs())), input.sqrt().recip());
        assert!(largest <= bound && largest > 0.97 * bound, "{projection}: {largest} of {bound}");
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        assert!(mean.abs() < 0.1 * bound, "{projection}: mean {mean}");
    }
    let (q, k) = (name_a("model.layers.0.self_attn.q_proj"), name_a("model.layers.0.self_attn.k_proj"));
    assert_ne!(values(&one.params().get(&q).unwrap().var), values(&one.params().get(&k).unwrap().var));
}

#[test]
fn a_saved_adapter_is_the_same_one() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("adapter");
    let mut generator = base("untied-bias");
    generator.load_adapter(&fixture("lora/attention-bias")).unwrap();
    generator.save_adapter(&dir).unwrap();
    let mut again = base("untied-bias");
    again.load_adapter(&dir).unwrap();
    assert_eq!(bits(again.params()), bits(generator.params()));
    assert_eq!(again.lora(), generator.lora());
    assert!(again.save(&root.path().join("model")).unwrap_err().to_string().contains("adapter"));
    assert!(again.load_adapter(&dir).unwrap_err().to_string().contains("already"));
    assert!(base("tied").save_adapter(&dir).is_err());
}

#[test]
fn targets_match_as_in_peft() {
    let config = base("tied").config().clone();
    let modules = |targets: &[&str]| {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        LoraConfig { targets, ..LoraConfig::default() }.modules(&config)
    };
    assert_eq!(modules(&["q_proj", "down_proj"]).unwrap().len(), 4);
    assert_eq!(modules(&["self_attn.q_proj"]).unwrap().len(), 2);
    assert_eq!(modules(&["model.layers.1.mlp.up_proj", "up_proj"]).unwrap().len(), 2);
    assert_eq!(modules(&["all-linear"]).unwrap().len(), 14);
    assert_eq!(modules(&["All-Linear", "q_proj"]).unwrap().len(), 14);
    for nothing in ["proj", "q_pro", "lm_head", "embed_tokens", ""] {
        let error = modules(&["v_proj", nothing]).unwrap_err();
        assert!(error.to_string().contains(&format!("`{nothing}`")), "{error}");
        assert!(error.find_hint().unwrap().contains("gate_proj"));
    }
}

#[test]
fn targets_are_those_of_the_family() {
    for (name, targets, modules) in [
        ("phi3", ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], 8),
        ("neox", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"], 8),
    ] {
        let mut generator = base(name);
        generator.add_lora(&LoraConfig::default(), 7).unwrap();
        let lora = generator.lora().unwrap();
        assert_eq!(
            (lora.config().targets.as_slice(), lora.modules().count()),
            (&targets.map(str::to_owned)[..], modules)
        );
        let targets = vec!["q_proj".to_owned()];
        let error = LoraConfig { targets, ..LoraConfig::default() }.modules(generator.config()).unwrap_err();
        let hint = error.find_hint().unwrap();
        assert!(hint.contains(lora.config().targets[0].as_str()) && hint.contains("all-linear"), "{hint}");
    }
}

#[test]
fn the_scale_is_rank_stabilised_where_asked_for() {
    let config = LoraConfig { rank: 4, alpha: 6.0, ..LoraConfig::default() };
    assert_eq!((config.scale(), LoraConfig { rank_stabilised: true, ..config.clone() }.scale()), (1.5, 3.0));
    let root = tempfile::tempdir().unwrap();
    let dir = copy_with(root.path(), &|config, _| config["use_rslora"] = json!(true));
    let mut generator = base("tied");
    generator.load_adapter(&dir).unwrap();
    assert_eq!(generator.lora().unwrap().config().scale(), 6.0 / 3f64.sqrt());
    let again = root.path().join("again");
    generator.save_adapter(&again).unwrap();
    let mut other = base("tied");
    other.load_adapter(&again).unwrap();
    assert_eq!(other.lora(), generator.lora());
}

#[test]
fn dropout_of_an_adapter_equals_peft_with_the_same_masks_and_answers_do_not_depend_on_it() {
    let expected = Trained::read("adapters");
    assert_eq!(expected.len(), 2);
    for (name, case) in expected {
        let root = tempfile::tempdir().unwrap();
        let dir = copy_of(&name, root.path(), &|config, _| {
            config.as_object_mut().unwrap().extend(case.config.as_object().unwrap().clone());
        });
        let sequences = Golden::read(&fixture(&name)).scored();
        let (mut dropping, mut plain) = (load(&fixture(&case.base)), load(&fixture(&case.base)));
        dropping.load_adapter(&dir).unwrap();
        plain.load_adapter(&fixture(&name)).unwrap();
        assert_eq!(values(&scores(&dropping, &sequences)), values(&scores(&plain, &sequences)));
        for checkpointing in [false, true] {
            dropping.set_checkpointing(checkpointing);
            case.assert_equals(&name, &dropping, &sequences);
        }
        // With gradients but without a draw nothing is dropped either.
        dropping.set_checkpointing(false);
        let (kept, _) = dropping.answer_log_probs(&sequences, Grad::On).unwrap();
        assert_eq!(values(&kept), values(&scores(&plain, &sequences)));
        let draw = Draw::new(1);
        let (kept, _) = plain.answer_log_probs_drawing(&sequences, draw).unwrap();
        assert_eq!(values(&kept), values(&scores(&plain, &sequences)));
        let saved = root.path().join("again");
        dropping.save_adapter(&saved).unwrap();
        let mut again = load(&fixture(&case.base));
        again.load_adapter(&saved).unwrap();
        assert_eq!(again.lora().unwrap().config().dropout, 0.25);
    }
}

/// Beside a matrix that trains itself the adapter drops the same.
#[test]
fn dropout_beside_a_matrix_that_trains_is_that_beside_a_frozen_one() {
    let sequences = Golden::read(&fixture("lora/all-linear")).scored();
    let mut generator = base("tied");
    generator.load_adapter(&fixture("lora/all-linear")).unwrap();
    generator.lora.as_mut().unwrap().config.dropout = 0.4;
    let drawn = |generator: &Generator| generator.answer_log_probs_drawing(&sequences, Draw::new(3)).unwrap().0;
    let frozen = drawn(&generator);
    generator.params_mut().set_trainable(|_| true);
    let trained = drawn(&generator);
    assert_near("log-probabilities", &trained, &frozen, 1e-5);
    assert_ne!(values(&frozen), values(&scores(&generator, &sequences)));
    let store = trained.sum_all().unwrap().backward().unwrap();
    assert!(generator.params().trainable().all(|(_, var)| store.get(var).is_some()));
}

#[test]
fn only_what_was_merged_can_be_taken_out() {
    let error = base("tied").unmerge_lora().unwrap_err();
    assert!(error.to_string().contains("no adapter was merged"), "{error}");
    assert!(error.find_hint().is_some());
    // Two adapters, one after the other: the last goes first.
    let mut generator = base("tied");
    generator.load_adapter(&fixture("lora/all-linear")).unwrap();
    generator.merge_lora().unwrap();
    let between = generator.try_clone().unwrap();
    generator.add_lora(&LoraConfig { rank: 2, ..LoraConfig::default() }, 3).unwrap();
    generator.merge_lora().unwrap();
    generator.unmerge_lora().unwrap();
    assert_eq!(generator.lora().unwrap().config().rank, 2);
    for (name, param) in between.params().iter() {
        assert_near(name, &generator.params().get(name).unwrap().var, &param.var, 1e-6);
    }
}

#[test]
fn senseless_adapters_are_refused() {
    let refused = |config: LoraConfig, word: &str| {
        let mut generator = base("tied");
        let before = generator.params().len();
        let error = generator.add_lora(&config, 1).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!((generator.params().len(), generator.params().trainable().count()), (before, before));
    };
    let plain = LoraConfig::default;
    refused(LoraConfig { rank: 0, ..plain() }, "rank is `0`");
    refused(LoraConfig { alpha: f64::NAN, ..plain() }, "alpha is `NaN`");
    refused(LoraConfig { dropout: 1.0, ..plain() }, "dropout is `1`");
    refused(LoraConfig { targets: vec![], ..plain() }, "no target");
    refused(LoraConfig { targets: vec!["w_proj".to_owned()], ..plain() }, "`w_proj`");
}

#[test]
fn foreign_and_damaged_adapters_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Value, &mut BTreeMap<String, Tensor>), words: &[&str]| {
        let root = tempfile::tempdir().unwrap();
        let dir = copy_with(root.path(), change);
        let mut generator = base("tied");
        let before = generator.params().len();
        let error = generator.load_adapter(&dir).unwrap_err();
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        assert!(error.find_hint().is_some(), "{message} has no hint");
        assert_eq!((generator.params().len(), generator.params().trainable().count()), (before, before));
    };
    refused(&|config, _| config["peft_type"] = json!("LOHA"), &["`LOHA`", "`LORA`"]);
    refused(&|config, _| config["use_dora"] = json!(true), &["`use_dora` is `true`"]);
    refused(&|config, _| config["use_rslora"] = json!("yes"), &["`use_rslora`"]);
    refused(&|config, _| config["lora_dropout"] = json!(1.0), &["dropout is `1`"]);
    refused(&|config, _| config["rank_pattern"] = json!({"q_proj": 4}), &["`rank_pattern`"]);
    refused(&|config, _| config["modules_to_save"] = json!(["lm_head"]), &["`modules_to_save`", "lm_head"]);
    refused(&|config, _| config["bias"] = json!("all"), &["`bias`", "all"]);
    refused(&|config, _| config["target_modules"] = json!(".*_proj"), &["`target_modules`"]);
    refused(&|config, _| config["r"] = json!(0), &["rank is `0`"]);
    refused(&|config, _| config["r"] = json!(4), &["lora_A", "[3, 24], expected [4, 24]"]);
    refused(&|config, _| config["target_modules"] = json!(["q_proj"]), &["down_proj.lora_A.weight"]);
    let name = name_b("model.layers.1.self_attn.v_proj");
    refused(&|_, tensors| drop(tensors.remove(&name)), &[&name, "missing"]);
    let poisoned = Tensor::full(f32::INFINITY, (8, 3), &Device::Cpu).unwrap();
    refused(&|_, tensors| drop(tensors.insert(name.clone(), poisoned.clone())), &[&name, "inf"]);
    let absent = base("tied").load_adapter(Path::new("no-such-adapter")).unwrap_err();
    assert!(absent.to_string().contains("no-such-adapter/adapter_config.json"), "{absent}");
}

/// A copy of an adapter, changed before it is loaded.
fn copy_with(root: &Path, change: &dyn Fn(&mut Value, &mut BTreeMap<String, Tensor>)) -> PathBuf {
    copy_of("lora/all-linear", root, change)
}

fn copy_of(name: &str, root: &Path, change: &dyn Fn(&mut Value, &mut BTreeMap<String, Tensor>)) -> PathBuf {
    let from = fixture(name);
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(from.join("adapter_config.json")).unwrap()).unwrap();
    let mut stored = Weights::read_file(&from.join("adapter_model.safetensors"), &Device::Cpu).unwrap();
    let names: Vec<String> = stored.names().map(str::to_owned).collect();
    let mut tensors: BTreeMap<String, Tensor> =
        names.into_iter().map(|name| (name.clone(), stored.take_any(&name).unwrap().unwrap())).collect();
    change(&mut config, &mut tensors);
    fs::write(root.join("adapter_config.json"), config.to_string()).unwrap();
    weights::write(&root.join("adapter_model.safetensors"), &tensors).unwrap();
    root.to_path_buf()
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn the_same_on_portable_layers() {
    crate::models::nn::portably(|| {
        outputs_and_every_gradient_equal_peft();
        a_new_adapter_changes_no_bit_of_the_output();
        merged_equals_unmerged();
        a_saved_adapter_is_the_same_one();
    });
}
