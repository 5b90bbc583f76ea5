//! Model folders that cannot be used.

use std::path::{Path, PathBuf};

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

/// Refused wherever an encoder is read; the index is as it was.
#[track_caller]
fn encoder_is_refused(encoder: &Path, says: &[&str]) {
    let folder = folder();
    let index = index_copy(folder.path());
    build(&fixture("tiny/corpus.jsonl"), encoder, &index).refused(says);
    let out = folder.path().join("new");
    build(&fixture("tiny/corpus.jsonl"), encoder, &out).refused(says);
    assert!(!out.exists());
    ragtune(&["index", "search", "--query", "x"])
        .with("--index", &index)
        .with("--encoder", encoder)
        .run()
        .refused(says);
    train("joint", &index, &folder.path().join("run")).with("--encoder", encoder).run().refused(says);
    assert!(is_clean(&index));
    assert_eq!(search(&index, "red bull", 3, &[]), search(base_index(), "red bull", 3, &[]));
}

/// Refused wherever a generator is read.
#[track_caller]
fn generator_is_refused(generator: &Path, says: &[&str]) {
    let folder = folder();
    let out = folder.path().join("run");
    train_with(generator, "joint", base_index(), &out).run().refused(says);
    assert!(!out.exists());
    ragtune(&["eval"])
        .with("--index", base_index())
        .with("--generator", generator)
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .refused(says);
}

#[test]
fn an_encoder_folder_that_is_not_there() {
    encoder_is_refused(Path::new("no-such-encoder"), &["`no-such-encoder`"]);
}

#[test]
fn an_encoder_without_tokenizer() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    std::fs::remove_file(encoder.join("tokenizer.json")).unwrap();
    encoder_is_refused(&encoder, &["tokenizer.json"]);
}

#[test]
fn an_encoder_with_a_tensor_of_the_wrong_shape() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    edit_tensors(&encoder.join("model.safetensors"), |name, tensor| {
        if name.ends_with("encoder.layer.1.attention.self.key.weight") {
            tensor.shape[0] -= 1;
            tensor.values.truncate(tensor.shape[0] * tensor.shape[1]);
        }
    });
    encoder_is_refused(&encoder, &["encoder.layer.1.attention.self.key.weight`", "[159, 160]", "[160, 160]"]);
}

#[test]
fn an_encoder_with_a_tensor_missing_or_not_a_number() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    let weights = encoder.join("model.safetensors");
    edit_tensors(&weights, |name, tensor| {
        if name.ends_with("encoder.layer.0.output.dense.bias") {
            tensor.values[3] = f32::NAN;
        }
    });
    encoder_is_refused(&encoder, &["encoder.layer.0.output.dense.bias`", "NaN"]);
    // A configuration that promises more layers than there are weights.
    std::fs::copy(crate::support::encoder().join("model.safetensors"), &weights).unwrap();
    let mut config = json(&encoder.join("config.json"));
    config["num_hidden_layers"] = 3.into();
    std::fs::write(encoder.join("config.json"), config.to_string()).unwrap();
    encoder_is_refused(&encoder, &["encoder.layer.2.", "missing"]);
}

#[test]
fn an_encoder_whose_weights_are_cut_short() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    let weights = encoder.join("model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    for kept in [0, 5, 400, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&weights, &bytes[..kept]).unwrap();
        let out = folder.path().join("index");
        build(&fixture("tiny/corpus.jsonl"), &encoder, &out).refused(&["model.safetensors"]);
    }
}

/// A flipped bit in a model's weights makes it another model: an index built by the sound one says so.
#[test]
fn an_encoder_with_a_flipped_bit_is_another_encoder() {
    let folder = folder();
    let encoder = encoder_copy(folder.path());
    let weights = encoder.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let at = bytes.len() - 1000;
    bytes[at] ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    let fingerprint = json_of_stats(base_index())["encoder"].as_str().unwrap().to_owned();
    ragtune(&["index", "search", "--query", "x"])
        .with("--index", base_index())
        .with("--encoder", &encoder)
        .run()
        .refused(&[&format!("`{fingerprint}`"), "weights", "ragtune index build"]);
}

fn json_of_stats(index: &Path) -> serde_json::Value {
    ragtune(&["index", "stats", "--json"]).with("--index", index).run().json()
}

#[test]
fn a_generator_that_is_not_there_or_not_a_llama() {
    generator_is_refused(Path::new("no-such-generator"), &["no-such-generator"]);
    generator_is_refused(&encoder(), &["config.json"]);
}

#[test]
fn a_generator_without_tokenizer() {
    let folder = folder();
    let generator = generator_copy(folder.path());
    std::fs::remove_file(generator.join("tokenizer.json")).unwrap();
    generator_is_refused(&generator, &["tokenizer.json"]);
}

#[test]
fn a_generator_with_a_tokenizer_of_another_vocabulary() {
    let folder = folder();
    let generator = folder.path().join("generator");
    copy(&fixture("golden/generator/llama3"), &generator);
    std::fs::copy(small_generator().join("tokenizer.json"), generator.join("tokenizer.json")).unwrap();
    generator_is_refused(&generator, &["6144", "100", "tokenizer"]);
    // And the other way round.
    let generator = folder.path().join("large");
    copy(&fixture("models/qa-llama"), &generator);
    std::fs::copy(fixture("golden/generator/llama3").join("tokenizer.json"), generator.join("tokenizer.json")).unwrap();
    generator_is_refused(&generator, &["6144", "100", "tokenizer"]);
}

#[test]
fn a_generator_with_a_tensor_of_the_wrong_shape_or_missing() {
    let folder = folder();
    let generator = generator_copy(folder.path());
    edit_tensors(&generator.join("model.safetensors"), |name, tensor| {
        if name == "model.layers.1.self_attn.k_proj.weight" {
            tensor.shape[0] *= 2;
            tensor.values.extend(tensor.values.clone());
        }
    });
    generator_is_refused(&generator, &["model.layers.1.self_attn.k_proj.weight`", "[32, 32]", "[16, 32]"]);
}

#[test]
fn prompts_that_do_not_fit_the_generator() {
    let folder = folder();
    let out = folder.path().join("run");
    train("joint", base_index(), &out).with("--max-prompt-tokens", "300").run().refused(&[
        "300",
        "256",
        "--max-prompt-tokens 247",
    ]);
    assert!(!out.exists());
    // Its own prompt settings ask for more than it has.
    generator_is_refused(&fixture("golden/generator/llama3"), &["448", "128"]);
}
