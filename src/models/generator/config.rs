//! The sizes of a decoder and the switches by which the families differ. `families.rs` reads them from `config.json`.

use std::path::Path;

use serde_json::Value;

use super::families;
use super::scaling::RopeScaling;
use crate::error::{Context, Error, Result};
use crate::models::nn::Activation;

/// The model families that can be loaded, by their `model_type`.
pub const SUPPORTED: [&str; 9] =
    ["llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "gpt_neox", "phi3"];

/// A model family; it decides names, defaults and switches, and nothing else: every layer follows the switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 1 to 3, SmolLM and SmolLM2, and whatever else is stored as a Llama.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen 2 and 2.5: biases of queries, keys and values; sliding windows in upper layers.
    Qwen2,
    /// Qwen 3: queries and keys are normed head by head.
    Qwen3,
    /// SmolLM 3: some layers know no positions.
    SmolLm3,
    /// Gemma 2: four norms a layer, capped scores and logits, every other layer with a window.
    Gemma2,
    /// The text part of Gemma 3: as Gemma 2 with normed queries and keys, two rotary bases and no caps.
    Gemma3,
    /// GPT-NeoX and Pythia: layer norms with bias, attention and feed-forward side by side.
    GptNeoX,
    /// Phi-3 and Phi-4-mini: joined projections, LongRoPE.
    Phi3,
}

impl Family {
    /// All of them, in the order of [`SUPPORTED`].
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::SmolLm3,
        Self::Gemma2,
        Self::Gemma3,
        Self::GptNeoX,
        Self::Phi3,
    ];

    /// Its `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::SmolLm3 => "smollm3",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3_text",
            Self::GptNeoX => "gpt_neox",
            Self::Phi3 => "phi3",
        }
    }

    /// By its `model_type`.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }
}

/// How a layer scales its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square times a weight.
    Rms,
    /// Root mean square times 1 + weight, as Gemma stores it.
    RmsAroundOne,
    /// Mean and variance, weight and bias.
    Layer,
}

/// How queries, keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKeyValue {
    /// Three projections.
    Split,
    /// One projection: all queries, then all keys, then all values.
    Joined,
    /// One projection: query, key and value of the first head, then of the second, and so on.
    JoinedByHead,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedForward {
    /// down(activation(gate(x)) · up(x)).
    Gated,
    /// The same with gate and up as one projection, gate first.
    GatedJoined,
    /// down(activation(up(x))).
    Plain,
}

/// Which rotary frequencies a layer uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// None: the layer knows no positions but by its mask.
    None,
    /// The model's, with its scaling.
    Global,
    /// Those of Gemma 3's layers with a window, never scaled.
    Local,
}

/// What one layer has of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerKind {
    /// Tokens a token sees, itself included; all where there is none.
    pub window: Option<usize>,
    /// How queries and keys are rotated.
    pub rotation: Rotation,
}

impl LayerKind {
    /// Pairs of query and key that the layer scores over a sequence of `length` tokens, counting the causal half as
    /// length²/2.
    pub fn scored_pairs(&self, length: usize) -> f64 {
        let length = length as f64;
        match self.window.map(|window| window as f64) {
            Some(window) if window < length => length * window - window * window / 2.0,
            _ => length * length / 2.0,
        }
    }
}

/// The sizes and switches of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorConfig {
    /// The family it belongs to.
    pub family: Family,
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
    /// Hk: key and value heads; divides `heads`.
    pub key_value_heads: usize,
    /// Dh: width of one head.
    pub head_dim: usize,
    /// R: numbers of a head that are rotated; even, at most Dh.
    pub rotary: usize,
    /// Longest sequence in tokens.
    pub max_positions: usize,
    /// The kind of all norms.
    pub norm: NormKind,
    /// Added to the variance or mean square inside every norm.
    pub norm_eps: f64,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Base of the wavelengths of layers with [`Rotation::Local`].
    pub rope_local_theta: f64,
    /// How rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Window and rotation of each of the L layers.
    pub kinds: Vec<LayerKind>,
    /// Whether a token sees only what stands before it. Generators always do; a decoder trained to embed may not.
    pub causal: bool,
    /// How queries, keys and values are stored.
    pub query_key_value: QueryKeyValue,
    /// Whether query, key and value projections have biases.
    pub input_bias: bool,
    /// Whether the projection after attention has a bias.
    pub output_bias: bool,
    /// Whether queries and keys are normed head by head.
    pub query_key_norm: bool,
    /// What q · k is multiplied by.
    pub attention_scale: f64,
    /// Bound of attention scores: s becomes cap · tanh(s / cap).
    pub attention_soft_cap: Option<f64>,
    /// Whether attention and feed-forward read the same input and are added together.
    pub parallel: bool,
    /// Whether what attention and feed-forward add is normed too.
    pub norms_after: bool,
    /// The feed-forward block.
    pub feed_forward: FeedForward,
    /// Its activation.
    pub activation: Activation,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// What embeddings are multiplied by.
    pub embedding_scale: Option<f64>,
    /// Bound of logits: z becomes cap · tanh(z / cap).
    pub logit_soft_cap: Option<f64>,
    /// Whether the output layer is the embedding.
    pub tied: bool,
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
        families::parse(value)
    }

    /// H·Dh: width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Hk·Dh: width of all key heads, and of all value heads.
    pub fn key_width(&self) -> usize {
        self.key_value_heads * self.head_dim
    }
}
