//! An encoder as a sentence-transformers folder.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::Encoder;
use super::modules::POOLING_KEYS;
use crate::error::{Context, Result};
use crate::models::folder::replace_folder;
use crate::models::weights;

/// The file that marks a folder as one we may replace.
const MARK: &str = "modules.json";

/// Writes weights, configuration, modules, tokenizer and model card; durable and whole on return.
pub(super) fn save(encoder: &Encoder, dir: &Path) -> Result<()> {
    replace_folder(dir, MARK, |folder| {
        encoder.params.to_safetensors(&folder.join(weights::SINGLE))?;
        encoder.text.write_files(folder)?;
        write_json(&folder.join("config.json"), &config(encoder))?;
        write_json(&folder.join(MARK), &modules(encoder))?;
        write_json(&folder.join("config_sentence_transformers.json"), &encoder.modules.raw)?;
        let limits = json!({
            "max_seq_length": encoder.modules.max_length,
            "do_lower_case": encoder.modules.do_lower_case,
        });
        write_json(&folder.join("sentence_bert_config.json"), &limits)?;
        let pooling = folder.join("1_Pooling");
        fs::create_dir(&pooling)?;
        write_json(&pooling.join("config.json"), &pooling_config(encoder))?;
        if encoder.modules.normalize {
            fs::create_dir(folder.join("2_Normalize"))?;
        }
        let card = folder.join("README.md");
        fs::write(&card, model_card(encoder)).context(|| format!("cannot write `{}`", card.display()))
    })
}

/// The configuration as it was read, but for what a save decides: the class and the type of the weights.
fn config(encoder: &Encoder) -> Value {
    let mut config = encoder.config.raw.clone();
    if let Some(config) = config.as_object_mut() {
        config.insert("architectures".to_owned(), json!(["BertModel"]));
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), json!("float32"));
    }
    config
}

fn modules(encoder: &Encoder) -> Value {
    // The class names that every version of sentence-transformers knows.
    let mut list = vec![("", "Transformer"), ("1_Pooling", "Pooling")];
    if encoder.modules.normalize {
        list.push(("2_Normalize", "Normalize"));
    }
    let entry = |(at, (path, class)): (usize, &(&str, &str))| json!({"idx": at, "name": at.to_string(), "path": path, "type": format!("sentence_transformers.models.{class}")});
    list.iter().enumerate().map(entry).collect()
}

fn pooling_config(encoder: &Encoder) -> Value {
    let mut config = Map::new();
    config.insert("word_embedding_dimension".to_owned(), json!(encoder.dim()));
    for (key, mode) in POOLING_KEYS {
        config.insert(key.to_owned(), json!(mode == encoder.modules.pooling.name()));
    }
    config.insert("include_prompt".to_owned(), json!(true));
    Value::Object(config)
}

fn model_card(encoder: &Encoder) -> String {
    let normalised = if encoder.modules.normalize { ", scaled to unit length" } else { "" };
    format!(
        "---\nlibrary_name: sentence-transformers\ntags:\n- sentence-transformers\n- feature-extraction\n---\n\n\
         # An encoder saved by ragtune\n\n\
         BERT of {} layers and width {}, f32. A text is cut to {} tokens; the vector is the {} of its tokens{normalised}.\n\n\
         ```python\nfrom sentence_transformers import SentenceTransformer\n\
         vectors = SentenceTransformer(\"this folder\").encode([\"a text\"])\n```\n",
        encoder.config.num_hidden_layers,
        encoder.dim(),
        encoder.max_length(),
        encoder.modules.pooling.name(),
    )
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    fs::write(path, text + "\n").context(|| format!("cannot write `{}`", path.display()))
}
