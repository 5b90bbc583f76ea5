//! Files of weights that are not what `config.json` promises: each defect is named, with what was expected.

use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::support::*;

fn encoder_copy(folder: &Path) -> PathBuf {
    let to = folder.join("encoder");
    copy(&encoder(), &to);
    to
}

fn generator_copy(folder: &Path) -> PathBuf {
    let to = folder.join("generator");
    copy(&small_generator(), &to);
    to
}

#[track_caller]
fn encoder_is_refused(encoder: &Path, says: &[&str]) {
    let folder = folder();
    let out = folder.path().join("index");
    build(&fixture("tiny/corpus.jsonl"), encoder, &out).refused(says);
    assert!(!out.exists());
}

#[track_caller]
fn generator_is_refused(generator: &Path, says: &[&str]) {
    let folder = folder();
    let out = folder.path().join("run");
    train_with(generator, "joint", base_index(), &out).run().refused(says);
    assert!(!out.exists());
}

/// Writes the file of weights again with one tensor of another type, its values zero.
fn retype(weights: &Path, which: &str, dtype: Dtype, bytes: usize) {
    let file = std::fs::read(weights).unwrap();
    let parsed = SafeTensors::deserialize(&file).unwrap();
    let zeros = |shape: &[usize]| vec![0u8; shape.iter().product::<usize>() * bytes];
    let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = parsed
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let shape = view.shape().to_vec();
            match name == which {
                true => (name, dtype, shape.clone(), zeros(&shape)),
                false => (name, view.dtype(), shape, view.data().to_vec()),
            }
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    let written = safetensors::serialize(views, None).unwrap();
    std::fs::write(weights, written).unwrap();
}

#[test]
fn shards_load_and_a_missing_one_is_named_with_what_it_held() {
    let folder = folder();
    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let encoder = encoder_copy(folder.path());
    let index = folder.path().join("index");
    shard(&encoder, &names);
    build(&fixture("tiny/corpus.jsonl"), &encoder, &index).done();
    assert_eq!(search(&index, "red bull", 5, &[]), search(base_index(), "red bull", 5, &[]));
    std::fs::remove_file(encoder.join(names[1])).unwrap();
    let promised = json(&encoder.join("model.safetensors.index.json"));
    let of_second = promised["weight_map"].as_object().unwrap().iter().filter(|(_, shard)| **shard == names[1]);
    let count = format!("{} tensors", of_second.clone().count());
    let first = format!("`{}`", of_second.map(|(name, _)| name.as_str()).min().unwrap());
    encoder_is_refused(&encoder, &[&format!("the shard `{}`", names[1]), "is missing", &count, &first]);

    let generator = generator_copy(folder.path());
    shard(&generator, &names);
    train_with(&generator, "frozen", base_index(), &folder.path().join("run")).run().done();
    std::fs::remove_file(generator.join(names[0])).unwrap();
    generator_is_refused(&generator, &[&format!("the shard `{}`", names[0]), "is missing"]);
    // An index that promises more than its shards hold.
    let encoder = folder.path().join("promising");
    copy(&crate::support::encoder(), &encoder);
    shard(&encoder, &names);
    let path = encoder.join("model.safetensors.index.json");
    let mut promised = json(&path);
    promised["weight_map"]["encoder.layer.9.lost"] = names[0].into();
    std::fs::write(&path, promised.to_string()).unwrap();
    encoder_is_refused(&encoder, &["encoder.layer.9.lost", names[0], "lacks it"]);
}

#[test]
fn a_tensor_too_many_or_missing_is_named() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    let mut config = json(&encoder.join("config.json"));
    // One layer fewer than there are weights: the others are too many.
    config["num_hidden_layers"] = 1.into();
    std::fs::write(encoder.join("config.json"), config.to_string()).unwrap();
    encoder_is_refused(&encoder, &["encoder.layer.1."]);
    let generator = generator_copy(folder.path());
    let mut config = json(&generator.join("config.json"));
    config["num_hidden_layers"] = 1.into();
    std::fs::write(generator.join("config.json"), config.to_string()).unwrap();
    generator_is_refused(&generator, &["model.layers.1."]);
    config["num_hidden_layers"] = 3.into();
    std::fs::write(generator.join("config.json"), config.to_string()).unwrap();
    generator_is_refused(&generator, &["model.layers.2.", "missing"]);
}

#[test]
fn a_tensor_of_another_type_is_named_with_both() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    let name = "encoder.layer.0.attention.self.query.weight";
    for (dtype, bytes, shown) in [(Dtype::I8, 1, "I8"), (Dtype::I64, 8, "I64"), (Dtype::F8_E4M3, 1, "F8_E4M3")] {
        std::fs::copy(crate::support::encoder().join("model.safetensors"), encoder.join("model.safetensors")).unwrap();
        retype(&encoder.join("model.safetensors"), name, dtype, bytes);
        encoder_is_refused(&encoder, &[name, shown, "expected f32, f16, bf16 or f64", "[160, 160]"]);
    }
    let generator = generator_copy(folder.path());
    let name = "model.layers.1.mlp.up_proj.weight";
    retype(&generator.join("model.safetensors"), name, Dtype::U8, 1);
    generator_is_refused(&generator, &[name, "U8", "full-precision"]);
}

#[test]
fn pickled_weights_are_refused_with_the_command_that_converts_them() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    let convert = |pickle: &str| format!("{pickle} {}", encoder.join("model.safetensors").display());
    std::fs::rename(encoder.join("model.safetensors"), encoder.join("pytorch_model.bin")).unwrap();
    let command = convert(encoder.join("pytorch_model.bin").to_str().unwrap());
    encoder_is_refused(&encoder, &["pytorch_model.bin", "PyTorch's own format", "python3 -c", "save_file", &command]);
    let generator = generator_copy(folder.path());
    std::fs::rename(generator.join("model.safetensors"), generator.join("pytorch_model-00001-of-00002.bin")).unwrap();
    std::fs::write(generator.join("pytorch_model.bin.index.json"), "{}").unwrap();
    generator_is_refused(&generator, &["pytorch_model.bin.index.json", "save_pretrained"]);
    // Nothing at all.
    std::fs::remove_file(encoder.join("pytorch_model.bin")).unwrap();
    encoder_is_refused(&encoder, &["holds neither `model.safetensors` nor"]);
}

#[test]
fn adapters_that_cannot_be_used() {
    let folder = folder();
    let trained = folder.path().join("run");
    train("generator", base_index(), &trained).and(&["--steps", "1", "--lora-rank", "2"]).run().done();
    let adapter = folder.path().join("adapter");
    let refused = |change: &dyn Fn(&Path), says: &[&str]| {
        let _ = std::fs::remove_dir_all(&adapter);
        copy(&trained.join("adapter"), &adapter);
        change(&adapter);
        ragtune(&["eval", "--limit", "1"])
            .with("--index", base_index())
            .with("--generator", small_generator())
            .with("--adapter", &adapter)
            .with("--questions", fixture("tiny/dev.jsonl"))
            .run()
            .refused(says);
    };
    let config = |key: &'static str, value: serde_json::Value| {
        move |adapter: &Path| {
            let path = adapter.join("adapter_config.json");
            let mut config = json(&path);
            config[key] = value.clone();
            std::fs::write(&path, config.to_string()).unwrap();
        }
    };
    refused(&config("r", 0.into()), &["rank is `0`", "at least 1"]);
    refused(&config("r", 3.into()), &["lora_A", "[2, 48]", "[3, 48]"]);
    refused(&config("target_modules", serde_json::json!(["no_proj"])), &["`no_proj`", "matches no module", "q_proj"]);
    refused(
        &config("target_modules", serde_json::json!(["q_proj"])),
        &["down_proj", "that none of its target modules needs"],
    );
    refused(&config("peft_type", "IA3".into()), &["`IA3`", "LORA"]);
    let weights = "adapter_model.safetensors";
    refused(
        &|adapter| std::fs::rename(adapter.join(weights), adapter.join("adapter_model.bin")).unwrap(),
        &["adapter_model.bin", "PyTorch's own format", "python3 -c"],
    );
    refused(&|adapter| std::fs::remove_file(adapter.join(weights)).unwrap(), &[weights]);
    refused(
        &|adapter| {
            edit_tensors(&adapter.join(weights), |name, tensor| {
                if name.ends_with("layers.1.self_attn.q_proj.lora_B.weight") {
                    tensor.values[0] = f32::INFINITY;
                }
            });
        },
        &["layers.1.self_attn.q_proj.lora_B.weight`", "inf"],
    );
    // The settings of a new one, before anything is loaded twice.
    let out = folder.path().join("new");
    for (words, says) in [
        (&["--lora-rank", "0"][..], &["--lora-rank 0"][..]),
        (&["--lora-rank", "2", "--lora-targets", "no_proj"], &["`no_proj`", "matches no module"]),
    ] {
        train("joint", base_index(), &out).and(words).run().refused(says);
        assert!(!out.exists());
    }
}

#[test]
fn models_whose_tokenizer_has_no_padding_token_work() {
    let folder = folder();
    let without_pad = |model: &Path| {
        for file in ["tokenizer_config.json", "special_tokens_map.json", "config.json", "generation_config.json"] {
            let path = model.join(file);
            if !path.is_file() {
                continue;
            }
            let mut settings = json(&path);
            let settings = settings.as_object_mut().unwrap();
            settings.retain(|key, _| key != "pad_token" && key != "pad_token_id");
            std::fs::write(&path, serde_json::Value::Object(settings.clone()).to_string()).unwrap();
        }
    };
    let (encoder, generator) = (encoder_copy(folder.path()), generator_copy(folder.path()));
    without_pad(&encoder);
    without_pad(&generator);
    let index = folder.path().join("index");
    build(&fixture("tiny/corpus.jsonl"), &encoder, &index).done();
    for query in ["red bull", "who sang the song"] {
        assert_eq!(search(&index, query, 5, &[]), search(base_index(), query, 5, &[]));
    }
    let scores = |generator: &Path, name: &str| {
        let out = folder.path().join(name);
        train_with(generator, "generator", base_index(), &out).and(&["--steps", "2"]).run().done();
        (std::fs::read_to_string(out.join("metrics.jsonl")).unwrap(), lines(&out.join("scores-final.jsonl")))
    };
    assert!(scores(&generator, "without") == scores(&small_generator(), "with"), "no result depends on it");
    let inspected = ragtune(&["inspect", "--json"]).and(&[generator.to_str().unwrap()]).run().json();
    assert!(inspected["tokenizer"]["special"]["pad"].is_null(), "{inspected:#}");
}
