//! What `ragtune inspect --json` prints: names and meanings here are a promise, changed only with [`SCHEMA`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use crate::hub::Origin;

/// Version of what `inspect --json` prints.
pub(super) const SCHEMA: u32 = 1;

/// What `inspect --json` prints. What a kind of folder does not have is null.
#[derive(Debug, Serialize)]
pub(super) struct Inspected {
    pub(super) schema: u32,
    pub(super) folder: PathBuf,
    pub(super) hub: Option<Origin>,
    /// `encoder`, `generator` or `adapter`.
    pub(super) kind: &'static str,
    /// `model_type` of the configuration; of an adapter, its kind.
    pub(super) family: String,
    pub(super) architecture: Option<String>,
    pub(super) parameters: Parameters,
    /// Tensors in the files.
    pub(super) tensors: usize,
    /// Numbers in the files by the type they are stored in.
    pub(super) stored: BTreeMap<String, u64>,
    pub(super) shape: Option<Shape>,
    pub(super) encoder: Option<EncoderPart>,
    pub(super) generator: Option<GeneratorPart>,
    pub(super) adapter: Option<AdapterPart>,
    pub(super) tokenizer: Option<TokenizerPart>,
    pub(super) trains: Vec<Trained>,
    /// Files by name with their bytes.
    pub(super) files: BTreeMap<String, u64>,
    pub(super) bytes: u64,
}

/// Numbers in the weights, each tensor once.
#[derive(Debug, Serialize)]
pub(super) struct Parameters {
    pub(super) total: u64,
    /// In embedding tables and an output layer.
    pub(super) embedding: u64,
    /// In tensors that have no part in a result, such as a pooler.
    pub(super) unused: u64,
}

/// Sizes by `config.json`; a key it lacks is null.
#[derive(Debug, Serialize)]
pub(super) struct Shape {
    pub(super) width: Option<u64>,
    pub(super) inner: Option<u64>,
    pub(super) layers: Option<u64>,
    pub(super) heads: Option<u64>,
    pub(super) key_value_heads: Option<u64>,
    pub(super) positions: Option<u64>,
    pub(super) vocabulary: Option<u64>,
}

/// What only an encoder has.
#[derive(Debug, Serialize)]
pub(super) struct EncoderPart {
    /// Numbers in a vector.
    pub(super) dimension: usize,
    /// Tokens a text is cut to.
    pub(super) max_length: usize,
    pub(super) pooling: String,
    /// Whether every vector has unit length.
    pub(super) normalize: bool,
    pub(super) question_prompt: String,
    pub(super) passage_prompt: String,
    /// Every prompt by its name.
    pub(super) prompts: BTreeMap<String, String>,
    pub(super) modules: Vec<&'static str>,
    pub(super) unused: Vec<String>,
    /// By place, the share that `--dropout config` drops in training.
    pub(super) dropout: BTreeMap<&'static str, f64>,
}

/// What only a generator has.
#[derive(Debug, Serialize)]
pub(super) struct GeneratorPart {
    /// Tokens of prompt and answer together.
    pub(super) max_positions: usize,
    /// Where its prompts come from: `prompt.json`, `chat template` or `default`.
    pub(super) prompt: &'static str,
    pub(super) begin: Option<u32>,
    pub(super) end: Vec<u32>,
    /// By place, the share that `--dropout config` drops in training.
    pub(super) dropout: BTreeMap<&'static str, f64>,
}

/// What only an adapter has.
#[derive(Debug, Serialize)]
pub(super) struct AdapterPart {
    pub(super) rank: Option<u64>,
    pub(super) alpha: Option<f64>,
    /// Share of its inputs that training dropped.
    pub(super) dropout: Option<f64>,
    /// Whether its scale is alpha / √rank.
    pub(super) rank_stabilised: Option<bool>,
    pub(super) targets: Value,
    /// Modules with an adapter.
    pub(super) modules: usize,
    pub(super) base: Option<String>,
}

/// How texts become tokens.
#[derive(Debug, Serialize)]
pub(super) struct TokenizerPart {
    pub(super) kind: &'static str,
    pub(super) vocabulary: usize,
    /// Tokens with a part to play; `pad` is always named, null where there is none.
    pub(super) special: BTreeMap<&'static str, Option<SpecialToken>>,
}

/// A token by name and number; no number where the tokenizer does not know it.
#[derive(Debug, Serialize)]
pub(super) struct SpecialToken {
    pub(super) token: String,
    pub(super) id: Option<u32>,
}

/// What one strategy would train of this model.
#[derive(Debug, Serialize)]
pub(super) struct Trained {
    pub(super) strategy: &'static str,
    pub(super) tensors: usize,
    pub(super) parameters: u64,
    /// As a low-rank adapter beside frozen weights.
    pub(super) lora: bool,
}
