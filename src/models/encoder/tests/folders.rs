//! What is read from a folder, in all its forms, and the folders that must be refused.

use std::collections::HashMap;

use super::*;

#[test]
fn settings_are_read_and_show_in_the_fingerprint() {
    let original = load(&golden("encoder")).unwrap();
    assert_eq!((original.prompt(Role::Question), original.prompt(Role::Passage)), ("ask: ", "tell: "));
    assert_eq!(original.max_length(), 20, "the tokenizer's limit, as the folder names no other");
    type Edit = (&'static str, &'static str, fn(&mut Value));
    let edits: [Edit; 6] = [
        ("max_length", "sentence_bert_config.json", |settings| settings["max_seq_length"] = json!(9)),
        ("lower_case", "sentence_bert_config.json", |settings| settings["do_lower_case"] = json!(true)),
        ("normalize", "modules.json", |list| list.as_array_mut().unwrap().truncate(2)),
        ("pooling", "1_Pooling/config.json", |pooling| pooling["pooling_mode"] = json!("cls")),
        ("query_prefix", "config_sentence_transformers.json", |config| config["prompts"]["query"] = json!("q: ")),
        ("tokenizer", "tokenizer.json", |tokenizer| tokenizer["normalizer"]["lowercase"] = json!(false)),
    ];
    for (key, file, change) in edits {
        let copy = Copy::new();
        let (old, new) = (original.fingerprint().unwrap(), load(copy.edit(file, change).path()).unwrap());
        let new = new.fingerprint().unwrap();
        let different: Vec<&String> = old.keys().filter(|key| old[*key] != new[*key]).collect();
        assert_eq!(different, [key]);
    }
    let copy = Copy::new();
    copy.edit("config_sentence_transformers.json", |config| {
        *config = json!({"prompts": {"both": "b: ", "passage": "p: "}, "default_prompt_name": "both"});
    });
    let encoder = load(copy.path()).unwrap();
    assert_eq!((encoder.prompt(Role::Question), encoder.prompt(Role::Passage)), ("b: ", "p: "));
    copy.edit("sentence_bert_config.json", |settings| {
        *settings = json!({"max_seq_length": 5, "do_lower_case": true});
    });
    let encoder = load(copy.path()).unwrap();
    let tokenized = encoder.tokenize(&["THE", "the sea the sea"], Role::Question).unwrap();
    assert_eq!(tokenized.truncated, 1);
    assert!(tokenized.ids.iter().all(|ids| ids.len() == 5 && ids[4] == 3), "[SEP] stays: {tokenized:?}");
}

#[test]
fn weights_are_found_sharded_prefixed_and_in_half_precision() {
    let original = load(&golden("encoder")).unwrap();
    let expected = bits(&vectors(&original, &["the sea"], Role::Question));

    let prefixed = Copy::new();
    prefixed.tensors(|all| {
        *all = std::mem::take(all).into_iter().map(|(name, tensor)| (format!("bert.{name}"), tensor)).collect();
        all.insert("cls.predictions.bias".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
    });
    let encoder = load(prefixed.path()).unwrap();
    assert_eq!(bits(&vectors(&encoder, &["the sea"], Role::Question)), expected);
    assert_eq!(encoder.unused(), ["cls.predictions.bias", "pooler.dense.bias", "pooler.dense.weight"]);

    let sharded = Copy::new();
    let single = sharded.path().join("model.safetensors");
    let all = candle_core::safetensors::load(&single, &Device::Cpu).unwrap();
    fs::remove_file(single).unwrap();
    let mut map = BTreeMap::new();
    for (at, part) in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate() {
        let of_part = |name: &str| usize::from(name.contains("layer.1")) == at;
        let tensors = all.iter().filter(|(name, _)| of_part(name)).map(|(n, t)| (n.clone(), t.clone())).collect();
        weights::write(&sharded.path().join(part), &tensors).unwrap();
        map.extend(tensors.into_keys().map(|name| (name, *part)));
    }
    let index = sharded.path().join("model.safetensors.index.json");
    fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    assert_eq!(bits(&vectors(&load(sharded.path()).unwrap(), &["the sea"], Role::Question)), expected);
    map.insert("encoder.layer.7.lost".to_owned(), "model-00001-of-00002.safetensors");
    fs::write(&index, json!({"weight_map": map}).to_string()).unwrap();
    assert!(sharded.refusal().contains("encoder.layer.7.lost"), "{}", sharded.refusal());
    fs::write(&index, json!({"weight_map": {"a": "../model.safetensors"}}).to_string()).unwrap();
    assert!(sharded.refusal().contains("../model.safetensors"), "{}", sharded.refusal());

    for dtype in [DType::F16, DType::BF16] {
        let half = Copy::new();
        let path = half.path().join("model.safetensors");
        let all: HashMap<String, Tensor> =
            all.iter().map(|(name, tensor)| (name.clone(), tensor.to_dtype(dtype).unwrap())).collect();
        candle_core::safetensors::save(&all, &path).unwrap();
        let got = values(&vectors(&load(half.path()).unwrap(), &["the sea"], Role::Question));
        let error = largest_difference(&got, &values(&vectors(&original, &["the sea"], Role::Question)));
        assert!(error > 0.0 && error < 0.05, "{dtype:?}: {error}");
    }
}

#[test]
fn folders_that_cannot_be_used_are_refused_by_name() {
    let refused = |copy: &Copy, parts: &[&str]| {
        let text = copy.refusal();
        for part in parts {
            assert!(text.contains(part), "`{text}` should say `{part}`");
        }
    };
    let edited = |file: &str, change: fn(&mut Value)| {
        let copy = Copy::new();
        copy.edit(file, change);
        copy
    };
    let unknown = edited("config.json", |c| c["model_type"] = json!("t5"));
    refused(&unknown, &["`\"t5\"`", "bert, roberta, xlm-roberta, camembert, mpnet, distilbert, modernbert", "llama"]);
    refused(&edited("config.json", |c| c["model_type"] = json!(null)), &["model_type", "modernbert"]);
    refused(&edited("config.json", |c| c["hidden_act"] = json!("mish")), &["mish", "gelu_new"]);
    refused(&edited("config.json", |c| c["position_embedding_type"] = json!("relative_key")), &["relative_key"]);
    refused(&edited("config.json", |c| c["is_decoder"] = json!(true)), &["is_decoder", "supported model types"]);
    refused(&edited("config.json", |c| c["num_attention_heads"] = json!(5)), &["num_attention_heads", "24"]);
    refused(&edited("config.json", |c| c["hidden_size"] = json!("wide")), &["hidden_size", "wide", "whole number"]);
    refused(&edited("config.json", |c| c["vocab_size"] = json!(0)), &["vocab_size", "`0`", "at least 1"]);
    refused(&edited("config.json", |c| c["num_hidden_layers"] = json!(1)), &["encoder.layer.1."]);
    refused(&edited("config.json", |c| c["num_hidden_layers"] = json!(3)), &["encoder.layer.2.", "missing"]);
    refused(&edited("config.json", |c| c["vocab_size"] = json!(50)), &["50 rows"]);
    refused(
        &edited("config.json", |c| c["intermediate_size"] = json!(41)),
        &["encoder.layer.0.intermediate.dense.bias", "[40]", "[41]"],
    );
    refused(
        &edited("1_Pooling/config.json", |c| c["pooling_mode"] = json!("median")),
        &["`median`", "cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken"],
    );
    refused(&edited("1_Pooling/config.json", |c| c["pooling_mode"] = json!(["mean", "no"])), &["mean + no"]);
    refused(&edited("1_Pooling/config.json", |c| c["pooling_mode"] = json!([])), &["`none`"]);
    refused(&edited("1_Pooling/config.json", |c| c["include_prompt"] = json!("no")), &["include_prompt", "`true`"]);
    refused(&edited("1_Pooling/config.json", |c| c["embedding_dimension"] = json!(25)), &["`25`", "24"]);
    refused(&edited("modules.json", |c| c[2]["type"] = json!("sentence_transformers.models.CNN")), &["CNN", "Dense"]);
    refused(&edited("modules.json", |c| c[1]["type"] = json!("sentence_transformers.models.CNN")), &["CNN", "Pooling"]);
    refused(&edited("modules.json", |c| c.as_array_mut().unwrap().truncate(1)), &["fewer than two", "Pooling"]);
    refused(&edited("modules.json", |c| c[1]["path"] = json!("../elsewhere")), &["../elsewhere"]);
    refused(&edited("sentence_bert_config.json", |c| c["max_seq_length"] = json!(500)), &["`500`", "24"]);
    refused(&edited("sentence_bert_config.json", |c| c["max_seq_length"] = json!(2)), &["`2`", "special"]);
    refused(&edited("config_sentence_transformers.json", |c| c["default_prompt_name"] = json!("x")), &["`x`"]);
    refused(&edited("config_sentence_transformers.json", |c| c["truncate_dim"] = json!(0)), &["truncate_dim", "`0`"]);
    refused(&edited("config_sentence_transformers.json", |c| c["truncate_dim"] = json!(25)), &["`25`", "24"]);
    let settings = "sentence_bert_config.json";
    refused(&edited(settings, |c| c["transformer_task"] = json!("fill-mask")), &["fill-mask", "feature-extraction"]);
    refused(&edited(settings, |c| c["modality_config"]["message"] = json!({})), &["modality_config", "message"]);
    refused(&edited(settings, |c| c["processing_kwargs"] = json!({"text": {"a": 1}})), &["processing_kwargs"]);

    for file in ["modules.json", "1_Pooling/config.json", "config.json", "tokenizer.json", "model.safetensors"] {
        let copy = Copy::new();
        fs::remove_file(copy.path().join(file)).unwrap();
        refused(&copy, &[file, "hint: "]);
        fs::write(copy.path().join(file), "{ not what it should be").unwrap();
        refused(&copy, &[file]);
    }

    let name = "encoder.layer.0.attention.self.query.weight";
    let copy = Copy::new();
    copy.tensors(|all| drop(all.remove(name)));
    refused(&copy, &[name, "missing", "[24, 24]"]);
    let copy = Copy::new();
    copy.tensors(|all| drop(all.insert(name.to_owned(), Tensor::zeros((24, 23), DType::F32, &Device::Cpu).unwrap())));
    refused(&copy, &[name, "[24, 23]", "[24, 24]"]);
    let copy = Copy::new();
    copy.tensors(|all| drop(all.insert(name.to_owned(), Tensor::full(f32::NAN, (24, 24), &Device::Cpu).unwrap())));
    refused(&copy, &[name, "NaN", "position 0"]);
    let copy = Copy::new();
    copy.tensors(|all| drop(all.insert("surprise".to_owned(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap())));
    refused(&copy, &["surprise"]);

    let copy = Copy::new();
    let path = copy.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    for length in [0, 5, 100, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        refused(&copy, &["damaged"]);
    }
    let missing = load(Path::new("/nowhere/at/all")).unwrap_err();
    assert!(missing.to_string().contains("/nowhere/at/all"), "{missing}");
    let encoder = load(&golden("encoder")).unwrap();
    assert!(encoder.forward(&[vec![2; 25]], Grad::Off).unwrap_err().to_string().contains("`25`"));
    assert!(encoder.forward(&[vec![2, 4_000_000, 3]], Grad::Off).unwrap_err().to_string().contains("`4000000`"));
}

#[test]
fn a_checkpoint_is_taken_over_whole_or_not_at_all() {
    let encoder = load(&golden("encoder")).unwrap();
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("checkpoint");
    let digest = encoder.params().digest().unwrap();
    encoder.params().to_safetensors(&path).unwrap();
    let var = &encoder.params().get("embeddings.LayerNorm.bias").unwrap().var;
    var.set(&(var.as_detached_tensor() + 1.0).unwrap()).unwrap();
    assert_ne!(encoder.params().digest().unwrap(), digest);
    encoder.params().load_into(&path).unwrap();
    assert_eq!(encoder.params().digest().unwrap(), digest);

    let good: BTreeMap<String, Tensor> =
        candle_core::safetensors::load(&path, &Device::Cpu).unwrap().into_iter().collect();
    let name = "pooler.dense.weight";
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (part, change) in [
        ("missing", None),
        ("[24, 23]", Some(zeros(&[24, 23]))),
        ("inf", Some((zeros(&[24, 24]) + f64::INFINITY).unwrap())),
    ] {
        let mut bad = good.clone();
        bad.insert("embeddings.LayerNorm.bias".to_owned(), zeros(&[24]));
        bad.remove(name);
        bad.extend(change.map(|tensor| (name.to_owned(), tensor)));
        weights::write(&path, &bad).unwrap();
        let message = encoder.params().load_into(&path).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains(part), "{message}");
        assert_eq!(encoder.params().digest().unwrap(), digest, "nothing may have changed");
    }
    let mut surplus = good;
    surplus.insert("surprise".to_owned(), zeros(&[1]));
    weights::write(&path, &surplus).unwrap();
    assert!(encoder.params().load_into(&path).unwrap_err().to_string().contains("surprise"));
}
