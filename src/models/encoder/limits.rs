//! What stands beside the transformer about texts: the length limit, lower-casing, and what the tokenizer must add.

use std::path::Path;

use super::config::Config;
use crate::error::{Error, Result};
use crate::models::text::Text;

/// Where sentence-transformers keeps the settings of the transformer: the first that is there.
const FILES: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Settings that change how texts are read or which model reads them, in ways we do not have.
const FOREIGN: [&str; 5] = ["processing_kwargs", "processor_kwargs", "tokenizer_args", "config_kwargs", "config_args"];

/// How texts are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Ids a text is cut to, special tokens included.
    pub max_length: usize,
    /// Whether texts are put into lower case before the tokenizer sees them.
    pub do_lower_case: bool,
}

impl Limits {
    /// Reads the settings beside a transformer of so many positions. Without `max_seq_length` the tokenizer's limit
    /// counts, but never more than the positions.
    pub fn read(dir: &Path, positions: usize) -> Result<Self> {
        let path = FILES.iter().map(|file| dir.join(file)).find(|path| path.is_file());
        let settings = Config::read_or_empty(&path.unwrap_or_else(|| dir.join(FILES[0])))?;
        check_text_only(&settings)?;
        let max_length = match settings.get("max_seq_length") {
            None => tokenizer_limit(dir)?.map_or(positions, |limit| limit.min(positions)),
            Some(_) => {
                let limit = settings.size("max_seq_length", None)?;
                if limit > positions {
                    return Err(settings
                        .refused("max_seq_length", &format!("at most {positions}"))
                        .hint("the transformer has no more positions than that"));
                }
                limit
            }
        };
        Ok(Self { max_length, do_lower_case: settings.flag("do_lower_case", false)? })
    }
}

/// Refuses settings of newer versions under which texts are not simply tokenized and the last states not simply taken.
fn check_text_only(settings: &Config) -> Result<()> {
    for (key, only) in [("transformer_task", "feature-extraction"), ("module_output_name", "token_embeddings")] {
        if settings.text(key, only)? != only {
            return Err(settings.refused(key, &format!("`{only}`")));
        }
    }
    if let Some(modality) = settings.get("modality_config") {
        let plain = |text: &serde_json::Value| {
            let is = |key: &str, only: &str| text.get(key).and_then(serde_json::Value::as_str) == Some(only);
            is("method", "forward") && is("method_output_name", "last_hidden_state")
        };
        // With a `message` texts would be put into the chat template first.
        if modality.get("message").is_some() || !modality.get("text").is_some_and(plain) {
            return Err(settings.refused("modality_config", "`text` alone, with `forward` and `last_hidden_state`"));
        }
    }
    for key in FOREIGN {
        let harmless = |name: &String| name == "trust_remote_code";
        if !settings.get(key).and_then(|value| value.as_object()).is_none_or(|map| map.keys().all(harmless)) {
            return Err(settings.refused(key, "none"));
        }
    }
    Ok(())
}

/// `model_max_length` of the tokenizer; huge numbers stand for none.
fn tokenizer_limit(dir: &Path) -> Result<Option<usize>> {
    let config = Config::read_or_empty(&dir.join("tokenizer_config.json"))?;
    let limit = config.get("model_max_length").and_then(|limit| limit.as_u64());
    Ok(limit.and_then(|limit| usize::try_from(limit).ok()))
}

/// Refuses a tokenizer whose settings promise a token around every text that `tokenizer.json` does not add: transformers
/// adds it by code of its own for some language models, and the last token is often the one that is pooled.
pub(super) fn check_special_tokens(dir: &Path, text: &Text) -> Result<()> {
    let config = Config::read_or_empty(&dir.join("tokenizer_config.json"))?;
    let (ids, special) = (text.encode("a", true)?, text.special());
    for (flag, part, found) in [("add_bos_token", "bos", ids.first()), ("add_eos_token", "eos", ids.last())] {
        if !config.flag(flag, false)? {
            continue;
        }
        let (token, promised) = special.get(part).cloned().unwrap_or_else(|| ("?".to_owned(), None));
        if promised.is_none() || promised.as_ref() != found {
            return Err(Error::new(format!(
                "`{}` promises `{flag}`, but `tokenizer.json` does not add the token `{token}`",
                config.path().display()
            ))
            .hint(
                "load the tokenizer with transformers and save it again: \
                 AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)",
            ));
        }
    }
    Ok(())
}

/// How many ids at the beginning of a prompted text are the prompt's, as sentence-transformers counts them: those of the
/// prompt alone with its special tokens, but for the one that closes it.
pub(super) fn prompt_tokens(text: &Text, prompt: &str, max_length: usize) -> Result<usize> {
    if prompt.is_empty() {
        return Ok(0);
    }
    let (whole, bare) = (text.encode(prompt, true)?, text.encode(prompt, false)?);
    let closed = if bare.is_empty() { !whole.is_empty() } else { !whole.ends_with(&bare) };
    Ok(whole.len().min(max_length).saturating_sub(usize::from(closed)))
}
