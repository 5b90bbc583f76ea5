//! What `config.json` and its companions say about a generator, checked before any weight is read.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::super::text::Text;
use crate::error::{Context, Error, Result};

/// The model families that can be loaded, by their `model_type`.
pub const SUPPORTED: [&str; 1] = ["llama"];

/// How rotary frequencies are stretched beyond the lengths of pretraining.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor, at least 1.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, interpolation between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` count as long.
        low_frequency: f64,
        /// Wavelengths below `original / high` count as short.
        high_frequency: f64,
        /// Positions of the pretraining.
        original: f64,
    },
}

/// The sizes and switches of a Llama decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorConfig {
    /// V: rows of the embedding and of the output layer.
    pub vocabulary: usize,
    /// D: width of the hidden state.
    pub hidden: usize,
    /// Width inside the feed-forward block.
    pub intermediate: usize,
    /// L: decoder layers.
    pub layers: usize,
    /// H: query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Longest sequence in tokens.
    pub max_positions: usize,
    /// Added to the mean square inside every norm.
    pub norm_eps: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// How rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether query, key, value and output projections have biases.
    pub attention_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether the output layer is the embedding.
    pub tied: bool,
}

/// Ids with a meaning, from `generation_config.json`, `config.json` and `tokenizer_config.json`, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put before a text, where the model has one.
    pub bos: Option<u32>,
    /// Any of these ends an answer; the first is appended to training answers. May be empty.
    pub eos: Vec<u32>,
    /// Fills the right of shorter rows. No result depends on it, so that 0 serves where the model names none.
    pub pad: u32,
}

impl GeneratorConfig {
    /// Reads and checks `config.json` of a model folder; the second part is the file as it stands, for saving.
    pub fn read(dir: &Path) -> Result<(Self, Value)> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| {
            Error::new(format!("cannot read the generator's `{}`", path.display()))
                .hint("give the folder of a Hugging Face model: config.json, tokenizer.json, model.safetensors")
                .because(source)
        })?;
        let value: Value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
        let config = Self::parse(&value).map_err(|error| {
            let hint = error.find_hint();
            let wrapped = Error::new(format!("cannot use the generator `{}`: {error}", dir.display()));
            match hint {
                Some(hint) => wrapped.hint(hint),
                None => wrapped,
            }
        })?;
        Ok((config, value))
    }

    /// Understands the content of a `config.json`, or says what about it is not supported.
    pub fn parse(value: &Value) -> Result<Self> {
        let family = value.get("model_type").and_then(Value::as_str).unwrap_or("");
        if !SUPPORTED.contains(&family) {
            return Err(Error::new(format!(
                "model type `{family}` is not supported, expected one of: {}",
                SUPPORTED.join(", ")
            ))
            .hint("choose a model whose config.json says one of these as `model_type`"));
        }
        let raw: Raw = serde_json::from_value(value.clone())
            .map_err(|source| Error::new(format!("config.json of a Llama model is incomplete: {source}")))?;
        raw.check()
    }
}

impl SpecialTokens {
    /// Finds the special tokens of a model folder; ids outside the vocabulary are errors.
    pub fn read(dir: &Path, config: &Value, text: &Text, vocabulary: usize) -> Result<Self> {
        let generation = optional_json(&dir.join("generation_config.json"))?;
        let tokenizer = optional_json(&dir.join("tokenizer_config.json"))?;
        let find = |key: &str| -> Result<Vec<u32>> {
            for source in [&generation, config] {
                let ids = token_ids(source.get(format!("{key}_id")), key)?;
                if !ids.is_empty() {
                    return Ok(ids);
                }
            }
            let named = tokenizer.get(key);
            let content = named.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
            Ok(content.and_then(|token| text.token_id(token)).into_iter().collect())
        };
        let (bos, eos, pad) = (find("bos_token")?, find("eos_token")?, find("pad_token")?);
        for id in bos.iter().chain(&eos).chain(&pad) {
            if *id as usize >= vocabulary {
                return Err(Error::new(format!(
                    "special token id `{id}` of `{}` is outside the vocabulary of {vocabulary} tokens",
                    dir.display()
                ))
                .hint("correct the `*_token_id` entries of config.json or generation_config.json"));
            }
        }
        Ok(Self { bos: bos.first().copied(), pad: pad.first().copied().unwrap_or(0), eos })
    }
}

#[derive(Deserialize)]
struct Raw {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    #[serde(default = "two_thousand_and_forty_eight")]
    max_position_embeddings: usize,
    #[serde(default = "one_millionth")]
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<BTreeMap<String, Value>>,
    /// What newer versions of transformers write for `rope_theta` and `rope_scaling` together.
    rope_parameters: Option<BTreeMap<String, Value>>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<Value>,
}

// What transformers' LlamaConfig takes for a key that is absent.
fn two_thousand_and_forty_eight() -> usize {
    2048
}

fn one_millionth() -> f64 {
    1e-6
}

impl Raw {
    fn check(self) -> Result<GeneratorConfig> {
        let key_value_heads = self.num_key_value_heads.unwrap_or(self.num_attention_heads);
        for (key, size) in [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", key_value_heads),
            ("max_position_embeddings", self.max_position_embeddings),
        ] {
            if size == 0 {
                return Err(Error::new(format!("`{key}` is `0`, expected at least 1")));
            }
        }
        if !self.num_attention_heads.is_multiple_of(key_value_heads) {
            return Err(Error::new(format!(
                "`num_key_value_heads` is `{key_value_heads}`, expected a divisor of `num_attention_heads`, which is `{}`",
                self.num_attention_heads
            )));
        }
        if self.head_dim.is_none() && !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::new(format!(
                "`hidden_size` is `{}`, expected a multiple of `num_attention_heads`, which is `{}`",
                self.hidden_size, self.num_attention_heads
            )));
        }
        let head_dim = self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads);
        if head_dim == 0 || !head_dim.is_multiple_of(2) {
            return Err(Error::new(format!("`head_dim` is `{head_dim}`, expected an even number above 0")));
        }
        let activation = self.hidden_act.as_deref().unwrap_or("silu");
        if activation != "silu" && activation != "swish" {
            return Err(Error::new(format!("`hidden_act` is `{activation}`, expected `silu`")));
        }
        if self.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
            return Err(Error::new("`partial_rotary_factor` is not supported, expected it to be 1 or absent"));
        }
        if self.quantization_config.is_some_and(|value| !value.is_null()) {
            return Err(Error::new("`quantization_config` is set, expected full-precision weights")
                .hint("quantised checkpoints cannot be fine-tuned here: use the full-precision one"));
        }
        let entries = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = match (&self.rope_parameters, self.rope_theta) {
            (Some(entries), theta) => number(entries, "rope_theta")?.or(theta),
            (None, theta) => theta,
        };
        let rope_theta = theta.unwrap_or(10_000.0);
        if !(rope_theta.is_finite() && rope_theta > 0.0) {
            return Err(Error::new(format!("`rope_theta` is `{rope_theta}`, expected a number above 0")));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(Error::new(format!("`rms_norm_eps` is `{}`, expected a number from 0", self.rms_norm_eps)));
        }
        let rope_scaling = match entries {
            Some(entries) => scaling(entries, self.max_position_embeddings)?,
            None => RopeScaling::None,
        };
        Ok(GeneratorConfig {
            vocabulary: self.vocab_size,
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            key_value_heads,
            head_dim,
            max_positions: self.max_position_embeddings,
            norm_eps: self.rms_norm_eps,
            rope_theta,
            rope_scaling,
            attention_bias: self.attention_bias,
            mlp_bias: self.mlp_bias,
            tied: self.tie_word_embeddings,
        })
    }
}

fn scaling(entries: &BTreeMap<String, Value>, max_positions: usize) -> Result<RopeScaling> {
    let kind = entries.get("rope_type").or_else(|| entries.get("type")).and_then(Value::as_str).unwrap_or("default");
    let required = |key: &str| -> Result<f64> {
        match number(entries, key)? {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            Some(value) => Err(Error::new(format!("`{key}` of rope scaling is `{value}`, expected a number above 0"))),
            None => Err(Error::new(format!("rope scaling `{kind}` needs `{key}`"))),
        }
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        "llama3" => {
            let original = match number(entries, "original_max_position_embeddings")? {
                Some(_) => required("original_max_position_embeddings")?,
                None => max_positions as f64,
            };
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if high <= low {
                return Err(Error::new(format!(
                    "`high_freq_factor` of rope scaling is `{high}`, expected more than `low_freq_factor`, which is `{low}`"
                )));
            }
            Ok(RopeScaling::Llama3 { factor: required("factor")?, low_frequency: low, high_frequency: high, original })
        }
        other => Err(Error::new(format!(
            "rope scaling `{other}` is not supported, expected one of: default, linear, llama3"
        ))
        .hint("choose a model with one of these kinds of `rope_scaling`")),
    }
}

fn number(entries: &BTreeMap<String, Value>, key: &str) -> Result<Option<f64>> {
    match entries.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .map(Some)
            .ok_or_else(|| Error::new(format!("`{key}` of rope scaling is `{value}`, expected a number"))),
    }
}

fn token_ids(value: Option<&Value>, key: &str) -> Result<Vec<u32>> {
    let one = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .ok_or_else(|| Error::new(format!("`{key}_id` is `{value}`, expected a token id")))
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        // transformers wrote -1 for "none" in early Llama configurations.
        Some(value) if value.as_i64() == Some(-1) => Ok(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn optional_json(path: &Path) -> Result<Value> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(Error::new(format!("cannot read `{}`", path.display())).because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sizes() -> Value {
        json!({"model_type": "llama", "vocab_size": 10, "hidden_size": 8, "intermediate_size": 12,
               "num_hidden_layers": 1, "num_attention_heads": 2})
    }

    fn with(key: &str, value: Value) -> Result<GeneratorConfig> {
        let mut config = sizes();
        config[key] = value;
        GeneratorConfig::parse(&config)
    }

    #[test]
    fn absent_keys_take_the_defaults_of_transformers() {
        let config = GeneratorConfig::parse(&sizes()).unwrap();
        assert_eq!((config.key_value_heads, config.head_dim, config.max_positions), (2, 4, 2048));
        assert_eq!((config.norm_eps, config.rope_theta), (1e-6, 10_000.0));
        assert!(!config.tied && !config.attention_bias && config.rope_scaling == RopeScaling::None);
    }

    #[test]
    fn newer_rope_parameters_are_understood() {
        let config = with("rope_parameters", json!({"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5})).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (5e5, RopeScaling::Linear { factor: 2.0 }));
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (key, value, named) in [
            ("model_type", json!("mistral"), "`mistral` is not supported, expected one of: llama"),
            ("rope_scaling", json!({"rope_type": "dynamic", "factor": 2.0}), "`dynamic` is not supported"),
            ("rope_scaling", json!({"rope_type": "yarn", "factor": 2.0}), "`yarn` is not supported"),
            ("rope_scaling", json!({"type": "longrope"}), "`longrope` is not supported"),
            ("rope_scaling", json!({"type": "linear"}), "needs `factor`"),
            ("rope_scaling", json!({"type": "linear", "factor": "two"}), "expected a number"),
            ("hidden_act", json!("gelu"), "`gelu`"),
            ("num_key_value_heads", json!(3), "`3`, expected a divisor"),
            ("num_attention_heads", json!(3), "`8`, expected a multiple"),
            ("head_dim", json!(3), "`3`, expected an even number"),
            ("num_hidden_layers", json!(0), "`num_hidden_layers` is `0`"),
            ("quantization_config", json!({"bits": 4}), "quantization_config"),
            ("vocab_size", json!("many"), "vocab"),
        ] {
            let config = with(key, value);
            let message = match config {
                Err(error) => error.to_string(),
                Ok(config) => panic!("{key} was accepted: {config:?}"),
            };
            assert!(message.contains(named) || (key == "vocab_size" && message.contains("many")), "{key}: {message}");
        }
    }
}
