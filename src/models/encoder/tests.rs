//! The encoder against sentence-transformers (fixtures/golden/encoder.py, encoder_families.py, minilm.py, dropout.py), and the
//! folders it must refuse.

mod dropout;
mod families;
mod folders;
mod surroundings;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::*;
use crate::models::generator::golden::noise;
use crate::models::{nn, weights};

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
    gradients_of(encoder, &(encoder.forward(ids, Grad::On).unwrap() * r).unwrap())
}

/// Gradients of the sum of all numbers by name, of the weights that have one.
fn gradients_of(encoder: &Encoder, numbers: &Tensor) -> BTreeMap<String, Tensor> {
    let store = numbers.sum_all().unwrap().backward().unwrap();
    let found = |(name, param): (&str, &crate::models::params::Param)| {
        Some((name.to_owned(), store.get(param.var.as_tensor())?.clone()))
    };
    encoder.params().iter().filter_map(found).collect()
}

/// Every gradient is there, and equal to the expected one: 10⁻⁴ of its norm and of its largest number.
fn assert_gradients(label: &str, got: &BTreeMap<String, Tensor>, named: &BTreeMap<&str, &Tensor>) {
    assert!(named.keys().copied().eq(got.keys().map(String::as_str)), "{label}: the same tensors have a gradient");
    let all = norm(&named.values().flat_map(|tensor| values(tensor)).collect::<Vec<_>>());
    for (name, want) in named {
        let (got, want) = (values(&got[*name]), values(want));
        let difference: Vec<f64> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        // A key's bias moves all scores of a query alike: its gradient is 0 but for rounding, which is measured
        // against the gradient as a whole.
        let allowed = 1e-4 * norm(&want) + 1e-7 * all;
        assert!(norm(&difference) <= allowed, "{label} {name}: {} of {}", norm(&difference), norm(&want));
        let top = want.iter().fold(0f64, |top, value| top.max(value.abs()));
        let error = largest_difference(&got, &want);
        assert!(error <= 1e-4 * top + 1e-7 * all, "{label} {name}: {error} of {top}");
    }
}

/// The tensors whose names begin with `prefix`, without it.
fn named<'a>(all: &'a std::collections::HashMap<String, Tensor>, prefix: &str) -> BTreeMap<&'a str, &'a Tensor> {
    all.iter().filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?, tensor))).collect()
}

/// What a test does to a JSON file.
type Change = fn(&mut Value);

/// A copy of a tiny encoder that a test may damage.
struct Copy {
    root: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        Self::of(&golden("encoder"))
    }

    fn of(folder: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(folder).unwrap() {
            let (from, to) = (entry.as_ref().unwrap().path(), root.path().join(entry.unwrap().file_name()));
            if from.is_file() {
                fs::copy(from, to).unwrap();
                continue;
            }
            fs::create_dir(&to).unwrap();
            for file in fs::read_dir(from).unwrap() {
                let file = file.unwrap();
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
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
        self.tensors_of("model.safetensors", change)
    }

    fn tensors_of(&self, file: &str, change: impl FnOnce(&mut BTreeMap<String, Tensor>)) -> &Self {
        let path = self.path().join(file);
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
        assert_gradients(mode, &got, &named(&expected, &format!("{mode}/d.")));
    }
}

fn projection(k: u64, gradient: &[f64]) -> f64 {
    gradient.iter().zip(noise(k)).map(|(value, noise)| value * noise).sum()
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
fn flops_follow_the_formula() {
    let encoder = load(&golden("encoder")).unwrap();
    // Two layers of width 24 with 40 inside: four square products, two oblong ones, biases and two norms.
    let weights = 2 * (4 * (24 * 24 + 24) + (24 * 40 + 40) + (40 * 24 + 24) + 2 * (24 + 24));
    assert_eq!(encoder.non_embedding_parameters(), weights);
    let of = |t: f64| 2.0 * weights as f64 * t + 4.0 * 2.0 * 24.0 * t * t;
    assert_eq!(encoder.forward_flops(&[3, 20]), of(3.0) + of(20.0));
}

/// The same numbers out of candle's operations, as on another device.
#[test]
fn everything_is_the_same_on_portable_layers() {
    nn::portably(|| {
        ids_vectors_and_all_gradients_equal_sentence_transformers();
        minilm_gives_the_vectors_and_gradients_of_sentence_transformers();
        only_what_trains_gets_a_gradient();
        training_a_clone_leaves_the_original_and_changes_the_fingerprint();
    });
}
