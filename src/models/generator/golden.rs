//! What the golden tests of generator, adapter and decoding share: fixtures written by fixtures/golden/generator.py,
//! generator_families.py and dropout.py.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::super::dropout::Draw;
use super::super::nn::with_values;
use super::super::params::Params;
use super::super::weights::Weights;
use super::{Generator, Scored};

/// The tiny random models, as folders below fixtures/golden: Llamas first, then one or more of every family.
pub const CASES: [&str; 16] = [
    "generator/tied",
    "generator/tied-head",
    "generator/untied-bias",
    "generator/llama3",
    "generator_families/llama-yarn",
    "generator_families/llama-longrope",
    "generator_families/llama-dynamic",
    "generator_families/mistral",
    "generator_families/qwen2",
    "generator_families/qwen3",
    "generator_families/smollm3",
    "generator_families/gemma2",
    "generator_families/gemma3",
    "generator_families/neox",
    "generator_families/neox-sequential",
    "generator_families/phi3",
];

/// Sequences to score and the continuations that transformers generates for them.
#[derive(Deserialize)]
pub struct Golden {
    pub sequences: Vec<Row>,
    pub greedy: Vec<Vec<u32>>,
}

#[derive(Deserialize)]
pub struct Row {
    pub ids: Vec<u32>,
    pub answer_start: usize,
}

impl Golden {
    pub fn read(dir: &Path) -> Self {
        serde_json::from_str(&std::fs::read_to_string(dir.join("golden.json")).unwrap()).unwrap()
    }

    pub fn scored(&self) -> Vec<Scored> {
        self.sequences.iter().map(Row::scored).collect()
    }

    pub fn ids(&self) -> Vec<Vec<u32>> {
        self.sequences.iter().map(|row| row.ids.clone()).collect()
    }
}

impl Row {
    pub fn scored(&self) -> Scored {
        Scored { ids: self.ids.clone(), answer_start: self.answer_start }
    }
}

/// A folder below fixtures/golden.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden")).join(path)
}

/// A real model outside the repository, or a note that the test is skipped.
pub fn shared(name: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/models").join(name);
    if dir.is_dir() {
        return Some(dir);
    }
    eprintln!("skipped: `{}` is absent", dir.display());
    None
}

pub fn load(dir: &Path) -> Generator {
    Generator::load(dir, &Device::Cpu).unwrap()
}

pub fn tensors(dir: &Path) -> Weights {
    Weights::read_file(&dir.join("golden.safetensors"), &Device::Cpu).unwrap()
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    with_values(tensor, <[f32]>::to_vec).unwrap()
}

/// The numbers that the golden script makes too: ((i + salt) · 2654435761 mod 2³²) / 2³² − ½.
pub fn hashed(count: usize, salt: u64) -> impl Iterator<Item = f64> {
    (0..count as u64).map(move |i| ((i + salt) * 2_654_435_761 % (1 << 32)) as f64 / (1u64 << 32) as f64 - 0.5)
}

pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    for (at, (found, expected)) in values(found).into_iter().zip(values(expected)).enumerate() {
        assert!((found - expected).abs() <= tolerance, "{what}[{at}]: {found}, transformers has {expected}");
    }
}

/// Gradients of Σ log-probability · weight over all answers, for every trainable weight: |difference| ≤ 1e-4 of the
/// tensor's largest entry. The golden file must hold exactly the trainable weights.
pub fn assert_gradients(generator: &Generator, log_probs: &Tensor, golden: &mut Weights) {
    let weights = golden.take_any("weights").unwrap().unwrap();
    let store = (log_probs * weights).unwrap().sum_all().unwrap().backward().unwrap();
    let mut without = Vec::new();
    for (name, var) in generator.params().trainable() {
        let expected = golden.take(&format!("grad.{name}"), var.dims()).unwrap();
        let Some(found) = store.get(var.as_tensor()) else {
            without.push(name);
            continue;
        };
        let largest = values(&expected).into_iter().fold(0f32, |most, value| most.max(value.abs()));
        assert!(largest > 0.0, "the golden gradient of {name} is zero: it shows nothing");
        assert_near(name, found, &expected, 1e-4 * largest);
    }
    assert!(without.is_empty(), "no gradient reached {without:?}");
    let unmatched: Vec<&str> = golden.names().filter(|name| name.starts_with("grad.")).collect();
    assert!(unmatched.is_empty(), "transformers trains {unmatched:?} too");
}

/// The bits of every weight, to see that nothing changed.
pub fn bits(params: &Params) -> Vec<u32> {
    params.iter().flat_map(|(_, param)| values(&param.var)).map(f32::to_bits).collect()
}

/// What fixtures/golden/dropout.py says of a model in training.
#[derive(Deserialize)]
pub struct Trained {
    /// Changed keys of its settings.
    pub config: serde_json::Value,
    /// The model under an adapter.
    #[serde(default)]
    pub base: String,
    pass: u64,
    log_probs: Vec<Vec<f32>>,
    /// Norm and two projections of each gradient.
    gradients: BTreeMap<String, [f64; 3]>,
}

impl Trained {
    /// All of one kind by name.
    pub fn read(kind: &str) -> BTreeMap<String, Self> {
        let text = std::fs::read_to_string(fixture("dropout.json")).unwrap();
        let mut all: serde_json::Value = serde_json::from_str(&text).unwrap();
        serde_json::from_value(all[kind].take()).unwrap()
    }

    pub fn assert_equals(&self, name: &str, generator: &Generator, sequences: &[Scored]) {
        let draw = Draw::new(17).of(3).of(self.pass);
        let (log_probs, _) = generator.answer_log_probs_drawing(sequences, draw).unwrap();
        for (found, expected) in log_probs.to_vec2::<f32>().unwrap().iter().zip(&self.log_probs) {
            for (found, expected) in found.iter().zip(expected) {
                let tolerance = 1e-5 * expected.abs().max(1.0);
                assert!((found - expected).abs() <= tolerance, "{name}: {found}, transformers has {expected}");
            }
        }
        let weights: Vec<f32> = hashed(log_probs.elem_count(), 7).map(|value| value as f32).collect();
        let weights = Tensor::from_vec(weights, log_probs.shape(), &Device::Cpu).unwrap();
        let mut store = (log_probs * weights).unwrap().sum_all().unwrap().backward().unwrap();
        generator.finish_backward(&mut store).unwrap();
        let trainable: Vec<&str> = generator.params().trainable().map(|(name, _)| name).collect();
        assert!(self.gradients.keys().eq(trainable), "{name}: other tensors train");
        for (key, [norm, projections @ ..]) in &self.gradients {
            let gradient = store.get(&generator.params().get(key).unwrap().var);
            let found = values(gradient.unwrap_or_else(|| panic!("{name}: no gradient of {key}")));
            let found: Vec<f64> = found.into_iter().map(f64::from).collect();
            let own = found.iter().map(|value| value * value).sum::<f64>().sqrt();
            assert!((own - norm).abs() <= 1e-4 * norm, "{name} {key}: norm {own}, transformers has {norm}");
            for (k, expected) in projections.iter().enumerate() {
                let projected: f64 = found.iter().zip(noise(k as u64)).map(|(value, noise)| value * noise).sum();
                let off = (projected - expected).abs();
                assert!(off <= 1e-4 * norm, "{name} {key}: projection {projected}, transformers has {expected}");
            }
        }
    }
}

/// The noise of fixtures/golden/minilm.py: splitmix64 of k · 2⁴⁰ + i in [−1, 1).
pub fn noise(k: u64) -> impl Iterator<Item = f64> {
    (0u64..).map(move |i| {
        let mut z = ((k << 40) + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    })
}
