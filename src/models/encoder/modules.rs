//! What a sentence-transformers folder puts around its transformer: pooling, normalisation, prompts, length limit.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::config::{BertConfig, read_json};
use crate::error::{Error, Result};

/// How the vectors of tokens become the vector of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    Mean,
    Cls,
    Max,
}

impl Pooling {
    const ALL: [Pooling; 3] = [Pooling::Mean, Pooling::Cls, Pooling::Max];

    /// The name sentence-transformers gives it.
    pub fn name(self) -> &'static str {
        match self {
            Pooling::Mean => "mean",
            Pooling::Cls => "cls",
            Pooling::Max => "max",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|pooling| pooling.name() == name)
    }
}

/// Boolean keys of older folders, and the mode each stands for.
pub(super) const POOLING_KEYS: [(&str, &str); 6] = [
    ("pooling_mode_cls_token", "cls"),
    ("pooling_mode_mean_tokens", "mean"),
    ("pooling_mode_max_tokens", "max"),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
    ("pooling_mode_weightedmean_tokens", "weightedmean"),
    ("pooling_mode_lasttoken", "lasttoken"),
];

/// Everything around the transformer that decides a vector.
#[derive(Clone, Debug)]
pub(super) struct Modules {
    /// Folder of the transformer inside the model's.
    pub transformer_path: PathBuf,
    pub pooling: Pooling,
    pub normalize: bool,
    pub query_prompt: String,
    pub passage_prompt: String,
    /// Ids a text is cut to; 0 until [`Modules::checked`] has seen the transformer.
    pub max_length: usize,
    pub do_lower_case: bool,
    /// `config_sentence_transformers.json`, to be saved again.
    pub raw: Value,
    pooled_width: u64,
}

impl Modules {
    /// Reads `modules.json` and the files it names, but for the transformer's own.
    pub fn read(dir: &Path) -> Result<Self> {
        let list_path = dir.join("modules.json");
        let list = read_json(&list_path)?.ok_or_else(|| {
            Error::new(format!("there is no `{}`, so the pooling is not known", list_path.display())).hint(
                "give a sentence-transformers folder; from a bare transformer make one with \
                 SentenceTransformer(modules=[Transformer(DIR), Pooling(...), Normalize()]).save(OUT)",
            )
        })?;
        let (transformer, pooling, normalize) = parts(&list, &list_path)?;
        let (pooling, pooled_width, include_prompt) = read_pooling(&dir.join(pooling).join("config.json"))?;

        let raw = read_json(&dir.join("config_sentence_transformers.json"))?.unwrap_or_else(|| serde_json::json!({}));
        let default = match raw.get("default_prompt_name").and_then(Value::as_str) {
            None => String::new(),
            Some(name) => prompt(&raw, name).ok_or_else(|| {
                Error::new(format!("`default_prompt_name` of `{}` is `{name}`, which is no prompt", dir.display()))
                    .hint("add it to `prompts` in config_sentence_transformers.json, or set the name to null")
            })?,
        };
        // The names encode_query and encode_document of sentence-transformers look for, in their order.
        let query_prompt = prompt(&raw, "query").unwrap_or_else(|| default.clone());
        let passage_prompt =
            ["document", "passage", "corpus"].iter().find_map(|name| prompt(&raw, name)).unwrap_or(default);
        let prompted = !query_prompt.is_empty() || !passage_prompt.is_empty();
        if prompted && !include_prompt {
            return Err(Error::new(format!(
                "pooling of `{}` has `include_prompt` false, expected true: leaving prompts out of the pooling is not supported",
                dir.display()
            )));
        }
        Ok(Self {
            transformer_path: transformer,
            pooling,
            normalize,
            query_prompt,
            passage_prompt,
            max_length: 0,
            do_lower_case: false,
            raw,
            pooled_width,
        })
    }

    /// Adds what stands beside the transformer (`sentence_bert_config.json`, else the tokenizer's limit) and checks it
    /// against the transformer's shape.
    pub fn checked(mut self, config: &BertConfig, transformer: &Path) -> Result<Self> {
        if self.pooled_width != config.hidden_size as u64 {
            return Err(Error::new(format!(
                "pooling expects vectors of `{}` numbers, the transformer of `{}` gives {}",
                self.pooled_width,
                transformer.display(),
                config.hidden_size
            ))
            .hint("pooling and transformer come from different models: copy both from one"));
        }
        let path = transformer.join("sentence_bert_config.json");
        let settings = read_json(&path)?.unwrap_or_else(|| serde_json::json!({}));
        self.do_lower_case = settings.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false);
        let positions = config.max_position_embeddings;
        self.max_length = match settings.get("max_seq_length") {
            None | Some(Value::Null) => tokenizer_limit(transformer)?.map_or(positions, |limit| limit.min(positions)),
            Some(value) => match value.as_u64().and_then(|limit| usize::try_from(limit).ok()) {
                Some(limit) if limit <= positions => limit,
                _ => {
                    let message =
                        format!("`max_seq_length` of `{}` is `{value}`, expected at most {positions}", path.display());
                    return Err(Error::new(message).hint("the transformer has no more positions than that"));
                }
            },
        };
        Ok(self)
    }
}

/// Folders of transformer and pooling, and whether a normalisation follows: the only chain supported.
fn parts(list: &Value, path: &Path) -> Result<(PathBuf, PathBuf, bool)> {
    let field = |module: &Value, key: &str| module.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut chain = Vec::new();
    for module in list.as_array().map(Vec::as_slice).unwrap_or_default() {
        let (Some(kind), Some(folder)) = (field(module, "type"), field(module, "path")) else {
            return Err(Error::new(format!("a module of `{}` lacks `type` or `path`", path.display())));
        };
        let folder = PathBuf::from(folder);
        if folder.components().any(|part| !matches!(part, Component::Normal(_))) {
            let message = format!("`{}` names the folder `{}`, expected one inside", path.display(), folder.display());
            return Err(Error::new(message));
        }
        chain.push((kind.rsplit('.').next().unwrap_or_default().to_owned(), folder));
    }
    let kinds: Vec<&str> = chain.iter().map(|(kind, _)| kind.as_str()).collect();
    let normalize = match kinds.as_slice() {
        ["Transformer", "Pooling"] => false,
        ["Transformer", "Pooling", "Normalize"] => true,
        _ => {
            let expected = "`Transformer, Pooling` or `Transformer, Pooling, Normalize`";
            return Err(Error::new(format!(
                "`{}` lists the modules `{}`, expected {expected}",
                path.display(),
                kinds.join(", ")
            ))
            .hint("choose an encoder without further modules"));
        }
    };
    let mut folders = chain.into_iter().map(|(_, folder)| folder);
    let (transformer, pooling) = (folders.next().unwrap_or_default(), folders.next().unwrap_or_default());
    Ok((transformer, pooling, normalize))
}

/// Mode, width and `include_prompt` of a pooling, in the old form (a boolean per mode) or the new (one string).
fn read_pooling(path: &Path) -> Result<(Pooling, u64, bool)> {
    let config = read_json(path)?.ok_or_else(|| {
        Error::new(format!("there is no `{}`, so the pooling is not known", path.display()))
            .hint("copy the whole sentence-transformers folder again")
    })?;
    let modes: Vec<String> = match config.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode.clone()],
        Some(Value::Array(modes)) => modes.iter().map(|mode| mode.as_str().unwrap_or("?").to_owned()).collect(),
        Some(other) => vec![other.to_string()],
        None => {
            let on = |key: &str| config.get(key).and_then(Value::as_bool).unwrap_or(false);
            POOLING_KEYS.iter().filter(|(key, _)| on(key)).map(|(_, mode)| (*mode).to_owned()).collect()
        }
    };
    let supported = Pooling::ALL.map(Pooling::name).join(", ");
    let pooling = match modes.as_slice() {
        [mode] => Pooling::named(mode),
        _ => None,
    };
    let Some(pooling) = pooling else {
        let got = if modes.is_empty() { "none".to_owned() } else { modes.join(" + ") };
        return Err(Error::new(format!("pooling `{got}` of `{}` is not supported", path.display()))
            .hint(format!("supported poolings, one at a time: {supported}")));
    };
    let width = ["word_embedding_dimension", "embedding_dimension"].iter().find_map(|key| config.get(key)?.as_u64());
    let Some(width) = width else {
        return Err(Error::new(format!("`{}` has no `word_embedding_dimension`", path.display())));
    };
    Ok((pooling, width, config.get("include_prompt").and_then(Value::as_bool).unwrap_or(true)))
}

fn prompt(config: &Value, name: &str) -> Option<String> {
    config.get("prompts")?.get(name)?.as_str().map(str::to_owned)
}

/// `model_max_length` of the tokenizer; huge numbers stand for none.
fn tokenizer_limit(dir: &Path) -> Result<Option<usize>> {
    let config = read_json(&dir.join("tokenizer_config.json"))?;
    let limit = config.as_ref().and_then(|config| config.get("model_max_length"));
    Ok(limit.and_then(Value::as_u64).and_then(|limit| usize::try_from(limit).ok()))
}
