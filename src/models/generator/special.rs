//! Token ids with a meaning.

use std::path::Path;

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::models::text::Text;

/// Ids with a meaning, from `generation_config.json`, `config.json` and `tokenizer_config.json`, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Put before a text, where the model has one.
    pub bos: Option<u32>,
    /// Any of these ends an answer; the first is appended to training answers. May be empty.
    pub eos: Vec<u32>,
    /// Fills the right of shorter rows elsewhere. No result depends on it, so that 0 serves where the model names none.
    pub pad: u32,
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
