//! The encoder against sentence-transformers (fixtures/golden/encoder.py, minilm.py), and the folders it must refuse.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::*;
use crate::models::weights;

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(file)
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(listing: &Value) -> Vec<&str> {
    listing["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn load(dir: &Path) -> Result<Encoder> {
    Encoder::load(dir, &Device::Cpu)
}

fn vectors(encoder: &Encoder, texts: &[&str], role: Role) -> Tensor {
    encoder.forward(&encoder.tokenize(texts, role).unwrap().ids, Grad::Off).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    nn::with_values(tensor, |values| values.iter().map(|value| value.to_bits()).collect()).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Gradients of Σ vectors · r by name, of the weights that have one.
fn gradients(encoder: &Encoder, ids: &[Vec<u32>], r: &Tensor) -> BTreeMap<String, Tensor> {
    let loss = (encoder.forward(ids, Grad::On).unwrap() * r).unwrap().sum_all().unwrap();
    let store = loss.backward().unwrap();
    let found = |(name, param): (&str, &crate::models::params::Param)| {
        Some((name.to_owned(), store.get(param.var.as_tensor())?.clone()))
    };
    encoder.params().iter().filter_map(found).collect()
}

/// A copy of the tiny encoder that a test may damage.
struct Copy {
    root: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("1_Pooling")).unwrap();
        for file in ["modules.json", "1_Pooling/config.json", "config_sentence_transformers.json", "config.json"]
            .into_iter()
            .chain(["sentence_bert_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
        {
            fs::copy(golden("encoder").join(file), root.path().join(file)).unwrap();
        }
        Self { root }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn edit(&self, file: &str, change: impl FnOnce(&mut Value)) -> &Self {
        let path = self.path().join(file);
        let mut value = json_of(&path);
        change(&mut value);
        fs::write(path, value.to_string()).unwrap();
        self
    }

    fn tensors(&self, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> &Self {
        let path = self.path().join("model.safetensors");
        let mut all = candle_core::safetensors::load(&path, &Device::Cpu).unwrap().into_iter().collect();
        change(&mut all);
        weights::write(&path, &all).unwrap();
        self
    }

    /// The message and hint with which loading fails.
    fn refusal(&self) -> String {
        let error = load(self.path()).unwrap_err();
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text += &format!("; {inner}");
            cause = inner.source();
        }
        format!("{text}; hint: {}", error.find_hint().unwrap_or_default())
    }
}

/// The tiny encoder with another pooling, said in the old form, and without normalisation.
fn with_pooling(mode: &str) -> Copy {
    let copy = Copy::new();
    if mode != "mean" {
        copy.edit("modules.json", |list| list.as_array_mut().unwrap().truncate(2));
        copy.edit("1_Pooling/config.json", |pooling| {
            *pooling = json!({
                "word_embedding_dimension": 24,
                "pooling_mode_cls_token": mode == "cls",
                "pooling_mode_mean_tokens": false,
                "pooling_mode_max_tokens": mode == "max",
            });
        });
    }
    copy
}

#[test]
fn ids_vectors_and_all_gradients_equal_sentence_transformers() {
    let listing = json_of(&golden("encoder.json"));
    let expected = candle_core::safetensors::load(golden("encoder.safetensors"), &Device::Cpu).unwrap();
    for mode in ["mean", "cls", "max"] {
        let mut encoder = load(with_pooling(mode).path()).unwrap();
        for (role, name) in [(Role::Question, "question"), (Role::Passage, "passage")] {
            let tokenized = encoder.tokenize(&texts(&listing), role).unwrap();
            assert_eq!(json!(tokenized.ids), listing[name], "{name}");
            assert_eq!(tokenized.truncated, 2, "the long text and the one with many accents are cut");
            let got = values(&encoder.forward(&tokenized.ids, Grad::Off).unwrap());
            let error = largest_difference(&got, &values(&expected[&format!("{mode}/{name}")]));
            assert!(error < 1e-5, "{mode} {name}: {error}");
        }
        // Everything may train: what then has no gradient is what has no part in a vector.
        encoder.params_mut().set_trainable(|_| true);
        let ids = encoder.tokenize(&texts(&listing), Role::Passage).unwrap().ids;
        let got = gradients(&encoder, &ids, &expected[&format!("{mode}/r")]);
        let missing: Vec<&str> = encoder.params().names().filter(|name| !got.contains_key(*name)).collect();
        assert_eq!(missing, ["pooler.dense.bias", "pooler.dense.weight"]);
        assert_eq!(encoder.unused(), missing);
        let named: BTreeMap<&str, &Tensor> = expected
            .iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(&format!("{mode}/d."))?, tensor)))
            .collect();
        assert!(named.keys().copied().eq(got.keys().map(String::as_str)), "{mode}: the same tensors have a gradient");
        let all = norm(&named.values().flat_map(|tensor| values(tensor)).collect::<Vec<_>>());
        for (name, want) in named {
            let (got, want) = (values(&got[name]), values(want));
            let difference: Vec<f64> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
            // A key's bias moves all scores of a query alike: its gradient is 0 but for rounding, which is measured
            // against the gradient as a whole.
            let allowed = 1e-4 * norm(&want) + 1e-7 * all;
            assert!(norm(&difference) <= allowed, "{mode} {name}: {} of {}", norm(&difference), norm(&want));
            let top = want.iter().fold(0f64, |top, value| top.max(value.abs()));
            let error = largest_difference(&got, &want);
            assert!(error <= 1e-4 * top + 1e-7 * all, "{mode} {name}: {error} of {top}");
        }
    }
}

/// The noise of fixtures/golden/minilm.py: splitmix64 of k · 2⁴⁰ + i in [−1, 1).
fn projection(k: u64, gradient: &[f64]) -> f64 {
    let noise = |i: u64| {
        let mut z = ((k << 40) + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    gradient.iter().enumerate().map(|(i, value)| value * noise(i as u64)).sum()
}

/// The folder of models beside the repository, or a message that the test was skipped.
fn real_model(test: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models/all-MiniLM-L6-v2");
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("{test} was skipped: there is no `{}`", dir.display());
    None
}

#[test]
fn minilm_gives_the_vectors_and_gradients_of_sentence_transformers() {
    let Some(dir) = real_model("minilm_gives_the_vectors_and_gradients_of_sentence_transformers") else { return };
    let listing = json_of(&golden("minilm.json"));
    let expected = candle_core::safetensors::load(golden("minilm.safetensors"), &Device::Cpu).unwrap();
    let mut encoder = load(&dir).unwrap();
    assert_eq!((encoder.dim(), encoder.max_length()), (384, 256));
    assert_eq!(encoder.unused(), ["embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight"]);
    let tokenized = encoder.tokenize(&texts(&listing), Role::Passage).unwrap();
    assert_eq!(tokenized.truncated, 1);
    let got = values(&encoder.forward(&tokenized.ids, Grad::Off).unwrap());
    let error = largest_difference(&got, &values(&expected["vectors"]));
    assert!(error < 1e-5, "vectors differ by {error}");

    encoder.params_mut().set_trainable(|_| true);
    let got = gradients(&encoder, &tokenized.ids, &expected["r"]);
    let named: BTreeMap<&str, Vec<f64>> =
        expected.iter().filter_map(|(name, tensor)| Some((name.strip_prefix("d.")?, values(tensor)))).collect();
    assert!(named.keys().copied().eq(got.keys().map(String::as_str)), "the same tensors have a gradient");
    assert_eq!(named.len(), encoder.params().len() - 2, "all but the pooler");
    let all = norm(&named.values().map(|described| described[0]).collect::<Vec<_>>());
    for (name, want) in named {
        let got = values(&got[name]);
        let allowed = 1e-4 * want[0] + 1e-7 * all;
        assert!((norm(&got) - want[0]).abs() <= allowed, "{name}: |g| {} of {}", norm(&got), want[0]);
        for k in 0..4 {
            let (got, want) = (projection(k, &got), want[k as usize + 1]);
            assert!((got - want).abs() <= allowed, "{name}: projection {k} is {got}, expected {want} ± {allowed}");
        }
    }
}

#[test]
fn a_saved_encoder_loads_to_the_same_bits() {
    let sentences = ["the river runs", "who wrote it?"];
    for mode in ["mean", "cls", "max"] {
        let encoder = load(with_pooling(mode).path()).unwrap();
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("deep/saved");
        encoder.save(&dir).unwrap();
        let again = load(&dir).unwrap();
        assert_eq!(encoder.fingerprint().unwrap(), again.fingerprint().unwrap());
        for role in [Role::Question, Role::Passage] {
            assert_eq!(bits(&vectors(&encoder, &sentences, role)), bits(&vectors(&again, &sentences, role)), "{mode}");
        }
        assert_eq!(again.unused(), ["pooler.dense.bias", "pooler.dense.weight"], "the pooler is kept");
        // Over itself, and from there to elsewhere although the folder it came from is gone.
        again.save(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        again.save(&root.path().join("second")).unwrap();
        assert_eq!(again.fingerprint().unwrap(), load(&root.path().join("second")).unwrap().fingerprint().unwrap());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 2, "nothing temporary stays");
        assert_eq!(root.path().join("second/2_Normalize").is_dir(), mode == "mean");
    }
}

#[test]
fn a_vector_does_not_depend_on_its_batch() {
    let encoder = load(&golden("encoder")).unwrap();
    let listing = json_of(&golden("encoder.json"));
    let together = vectors(&encoder, &texts(&listing), Role::Passage).to_vec2::<f32>().unwrap();
    for (text, row) in texts(&listing).into_iter().zip(together) {
        let alone = values(&vectors(&encoder, &[text], Role::Passage));
        let row: Vec<f64> = row.into_iter().map(f64::from).collect();
        assert!(largest_difference(&alone, &row) < 1e-6, "{text}");
        assert!((norm(&row) - 1.0).abs() < 1e-6);
    }
    let ids = encoder.tokenize(&texts(&listing), Role::Passage).unwrap().ids;
    let first = bits(&encoder.forward(&ids, Grad::Off).unwrap());
    assert_eq!(first, bits(&encoder.forward(&ids, Grad::On).unwrap()), "recording changes nothing");
}

#[test]
fn only_what_trains_gets_a_gradient() {
    let mut encoder = load(&golden("encoder")).unwrap();
    let ids = encoder.tokenize(&["the sea", "a stone"], Role::Question).unwrap().ids;
    let r = Tensor::ones((2, 24), DType::F32, &Device::Cpu).unwrap().narrow(1, 0, 24).unwrap();
    let default: Vec<String> = gradients(&encoder, &ids, &r).into_keys().collect();
    assert_eq!(default.len(), encoder.params().len() - 2, "all but the pooler train at first");
    encoder.params_mut().set_trainable(|name| name.ends_with("1.output.dense.weight"));
    let some = gradients(&encoder, &ids, &r);
    assert_eq!(some.keys().collect::<Vec<_>>(), ["encoder.layer.1.output.dense.weight"]);
    encoder.params_mut().set_trainable(|_| false);
    assert!(gradients(&encoder, &ids, &r).is_empty());
}

#[test]
fn training_a_clone_leaves_the_original_and_changes_the_fingerprint() {
    let encoder = load(&golden("encoder")).unwrap();
    let clone = encoder.try_clone().unwrap();
    assert_eq!(encoder.fingerprint().unwrap(), clone.fingerprint().unwrap());
    let before = bits(&vectors(&encoder, &["the sea"], Role::Question));
    let change = |name: &str| {
        let var = &clone.params().get(name).unwrap().var;
        var.set(&(var.as_detached_tensor() + 0.01).unwrap()).unwrap();
    };
    change("pooler.dense.bias");
    assert_eq!(encoder.fingerprint().unwrap(), clone.fingerprint().unwrap(), "the pooler decides nothing");
    change("encoder.layer.0.output.dense.bias");
    let (old, new) = (encoder.fingerprint().unwrap(), clone.fingerprint().unwrap());
    let different: Vec<&String> = old.keys().filter(|key| old[*key] != new[*key]).collect();
    assert_eq!(different, ["weights"]);
    assert_eq!(before, bits(&vectors(&encoder, &["the sea"], Role::Question)));
    assert_ne!(before, bits(&vectors(&clone, &["the sea"], Role::Question)));
}

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
fn flops_follow_the_formula() {
    let encoder = load(&golden("encoder")).unwrap();
    // Two layers of width 24 with 40 inside: four square products, two oblong ones, biases and two norms.
    let weights = 2 * (4 * (24 * 24 + 24) + (24 * 40 + 40) + (40 * 24 + 24) + 2 * (24 + 24));
    assert_eq!(encoder.non_embedding_parameters(), weights);
    let of = |t: f64| 2.0 * weights as f64 * t + 4.0 * 2.0 * 24.0 * t * t;
    assert_eq!(encoder.forward_flops(&[3, 20]), of(3.0) + of(20.0));
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
    refused(&edited("config.json", |c| c["model_type"] = json!("roberta")), &["`\"roberta\"`", "bert"]);
    refused(&edited("config.json", |c| c["hidden_act"] = json!("gelu_new")), &["gelu_new"]);
    refused(&edited("config.json", |c| c["position_embedding_type"] = json!("relative_key")), &["relative_key"]);
    refused(&edited("config.json", |c| c["num_attention_heads"] = json!(5)), &["num_attention_heads", "24"]);
    refused(&edited("config.json", |c| c["hidden_size"] = json!("wide")), &["does not describe a BERT"]);
    refused(&edited("config.json", |c| c["num_hidden_layers"] = json!(1)), &["encoder.layer.1."]);
    refused(&edited("config.json", |c| c["num_hidden_layers"] = json!(3)), &["encoder.layer.2.", "missing"]);
    refused(&edited("config.json", |c| c["vocab_size"] = json!(50)), &["50 rows"]);
    refused(
        &edited("config.json", |c| c["intermediate_size"] = json!(41)),
        &["encoder.layer.0.intermediate.dense.bias", "[40]", "[41]"],
    );
    refused(
        &edited("1_Pooling/config.json", |c| c["pooling_mode"] = json!("lasttoken")),
        &["lasttoken", "mean, cls, max"],
    );
    refused(&edited("1_Pooling/config.json", |c| c["pooling_mode"] = json!(["mean", "cls"])), &["mean + cls"]);
    refused(&edited("1_Pooling/config.json", |c| c["embedding_dimension"] = json!(25)), &["`25`", "24"]);
    refused(&edited("1_Pooling/config.json", |c| c["include_prompt"] = json!(false)), &["include_prompt"]);
    refused(&edited("modules.json", |c| c[2]["type"] = json!("sentence_transformers.models.Dense")), &["Dense"]);
    refused(&edited("modules.json", |c| c[1]["path"] = json!("../elsewhere")), &["../elsewhere"]);
    refused(&edited("sentence_bert_config.json", |c| c["max_seq_length"] = json!(500)), &["`500`", "24"]);
    refused(&edited("sentence_bert_config.json", |c| c["max_seq_length"] = json!(2)), &["`2`", "special"]);
    refused(&edited("config_sentence_transformers.json", |c| c["default_prompt_name"] = json!("x")), &["`x`"]);

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
