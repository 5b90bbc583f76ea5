//! `config.json` of a BERT, with every setting refused that would change the arithmetic in a way we do not have.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Context, Error, Result};

/// Model types this program embeds with.
const SUPPORTED: [&str; 1] = ["bert"];

/// Shape of a BERT.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    #[serde(default = "tiny")]
    pub layer_norm_eps: f64,
    #[serde(default)]
    pub pad_token_id: u32,
    /// The whole file, to be saved again.
    #[serde(skip)]
    pub raw: Value,
}

fn two() -> usize {
    2
}

fn tiny() -> f64 {
    1e-12
}

impl BertConfig {
    /// Reads and checks `config.json` of a folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let raw = read_json(&path)?.ok_or_else(|| {
            Error::new(format!("there is no `{}`", path.display()))
                .hint("give the folder of a sentence-transformers model, with config.json beside its weights")
        })?;
        let refuse = |key: &str, expected: &str| match raw.get(key) {
            Some(value) => {
                Err(Error::new(format!("`{key}` of `{}` is `{value}`, expected {expected}", path.display()))
                    .hint(format!("supported model types: {}", SUPPORTED.join(", "))))
            }
            None => Err(Error::new(format!("`{}` has no `{key}`, expected {expected}", path.display()))),
        };
        let text = |key: &str| raw.get(key).and_then(Value::as_str);
        if !text("model_type").is_some_and(|model_type| SUPPORTED.contains(&model_type)) {
            return refuse("model_type", &format!("one of: {}", SUPPORTED.join(", ")));
        }
        if text("hidden_act").unwrap_or("gelu") != "gelu" {
            return refuse("hidden_act", "`gelu`");
        }
        if text("position_embedding_type").unwrap_or("absolute") != "absolute" {
            return refuse("position_embedding_type", "`absolute`");
        }
        if raw.get("is_decoder").and_then(Value::as_bool).unwrap_or(false) {
            return refuse("is_decoder", "`false`");
        }
        let mut config: Self =
            serde_json::from_value(raw.clone()).context(|| format!("`{}` does not describe a BERT", path.display()))?;
        let sizes = [config.vocab_size, config.hidden_size, config.intermediate_size, config.max_position_embeddings];
        if sizes.contains(&0) || config.type_vocab_size == 0 {
            return Err(Error::new(format!("`{}` holds a size of 0", path.display())));
        }
        if config.num_attention_heads == 0 || !config.hidden_size.is_multiple_of(config.num_attention_heads) {
            return refuse("num_attention_heads", &format!("a divisor of hidden_size `{}`", config.hidden_size));
        }
        if config.pad_token_id as usize >= config.vocab_size {
            return refuse("pad_token_id", &format!("less than vocab_size `{}`", config.vocab_size));
        }
        config.raw = raw;
        Ok(config)
    }

    /// The settings that decide a vector and cannot be seen in the shapes of the weights.
    pub fn identity(&self) -> String {
        format!("bert heads={} layer_norm_eps={:e}", self.num_attention_heads, self.layer_norm_eps)
    }
}

/// The JSON of a file; `None` when there is no such file.
pub(super) fn read_json(path: &Path) -> Result<Option<Value>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::new(format!("cannot read `{}`", path.display())).because(error)),
    };
    serde_json::from_str(&text).map(Some).context(|| format!("`{}` is not JSON", path.display()))
}
