//! Words to token ids and back, by the `tokenizer.json` of a model folder.
//!
//! The file's own truncation and padding are switched off: a length limit is a decision of the caller, who also wants
//! to know how often it bites.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::{Tokenizer, TruncationDirection, TruncationParams, TruncationStrategy};

use crate::error::{Context, Error, Result};

/// The file read by [`Text::load`].
pub const FILE: &str = "tokenizer.json";

/// Files about the tokenizer that are kept, where they exist, to be written when the model is saved.
const COMPANIONS: [&str; 7] = [
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
];

/// The parts a token can play, as the files name them.
const SPECIAL: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

/// Token ids with their places in the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The ids.
    pub ids: Vec<u32>,
    /// First byte, and the one after the last, that each stands for.
    pub bytes: Vec<(usize, usize)>,
}

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Text {
    tokenizer: Tokenizer,
    digest: String,
    files: Arc<BTreeMap<&'static str, Vec<u8>>>,
}

impl Text {
    /// Reads `tokenizer.json` of a model folder.
    pub fn load(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = std::fs::read(&path).map_err(|source| {
            Error::new(format!("cannot read the tokenizer `{}`", path.display()))
                .hint("the folder needs `tokenizer.json`: save the model's fast tokenizer into it")
                .because(source)
        })?;
        let mut tokenizer = Tokenizer::from_bytes(&bytes).map_err(|source| {
            Error::new(format!("`{}` is not a tokenizer", path.display()))
                .hint("copy the file again, or save the tokenizer with a current version of transformers")
                .because(source)
        })?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|source| Error::new("cannot lift the length limit").because(source))?;
        let digest = blake3::hash(&bytes).to_hex().to_string();
        // Kept in memory: the folder may be gone, or be the one that is replaced, when the model is saved.
        let mut files = BTreeMap::from([(FILE, bytes)]);
        for name in COMPANIONS {
            let path = dir.join(name);
            if path.is_file() {
                files.insert(name, std::fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?);
            }
        }
        Ok(Self { tokenizer, digest, files: Arc::new(files) })
    }

    /// The same tokenizer cutting every text to `limit` ids, special tokens included; see [`Text::encode_limited`].
    pub fn with_limit(mut self, limit: usize) -> Result<Self> {
        let special = self.encode("", true)?.len();
        if limit <= special {
            return Err(Error::new(format!(
                "a length limit of `{limit}` ids leaves no room beside {special} special tokens"
            )));
        }
        let truncation = TruncationParams {
            direction: TruncationDirection::Right,
            max_length: limit,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        };
        self.tokenizer
            .with_truncation(Some(truncation))
            .map_err(|source| Error::new(format!("cannot limit texts to `{limit}` ids")).because(source))?;
        Ok(self)
    }

    /// The ids of a text; `special` adds what the model expects around it (such as `[CLS]` and `[SEP]`).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>> {
        Ok(self.encode_limited(text, special)?.0)
    }

    /// The ids of a text, and whether the limit of [`Text::with_limit`] cut it.
    pub fn encode_limited(&self, text: &str, special: bool) -> Result<(Vec<u32>, bool)> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special)
            .map_err(|source| Error::new(format!("cannot tokenize a text of {} bytes", text.len())).because(source))?;
        Ok((encoding.get_ids().to_vec(), !encoding.get_overflowing().is_empty()))
    }

    /// The ids of a text without special tokens, and for each the bytes of the text that it stands for.
    pub fn locate(&self, text: &str) -> Result<Located> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|source| Error::new(format!("cannot tokenize a text of {} bytes", text.len())).because(source))?;
        Ok(Located { ids: encoding.get_ids().to_vec(), bytes: encoding.get_offsets().to_vec() })
    }

    /// The text of ids, without special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.tokenizer
            .decode(ids, true)
            .map_err(|source| Error::new(format!("cannot turn {} ids into text", ids.len())).because(source))
    }

    /// One more than the largest id it can produce, added tokens included: what an embedding table needs in rows.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab(true).into_values().max().map_or(0, |largest| largest as usize + 1)
    }

    /// The id of a token, where it has one.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    /// How it cuts words: `WordPiece`, `BPE`, `Unigram` or `WordLevel`.
    pub fn kind(&self) -> &'static str {
        match self.tokenizer.get_model() {
            ModelWrapper::BPE(_) => "BPE",
            ModelWrapper::WordPiece(_) => "WordPiece",
            ModelWrapper::WordLevel(_) => "WordLevel",
            ModelWrapper::Unigram(_) => "Unigram",
        }
    }

    /// The tokens with a part to play (`bos`, `eos`, `unk`, `sep`, `pad`, `cls`, `mask`) that its files name, each with its
    /// id where the tokenizer knows it. None of them is needed here: what needs one says so.
    pub fn special(&self) -> BTreeMap<&'static str, (String, Option<u32>)> {
        let files: Vec<Value> = ["tokenizer_config.json", "special_tokens_map.json"]
            .iter()
            .filter_map(|name| serde_json::from_slice(self.files.get(name)?).ok())
            .collect();
        let named = |part: &str| {
            files.iter().find_map(|file: &Value| {
                let token = file.get(format!("{part}_token"))?;
                token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
            })
        };
        SPECIAL
            .into_iter()
            .filter_map(|part| {
                let token = named(part)?;
                let id = self.token_id(&token);
                Some((part, (token, id)))
            })
            .collect()
    }

    /// Hex blake3 of `tokenizer.json`.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Writes the tokenizer's files, as they were read, into a model folder.
    pub fn write_files(&self, to: &Path) -> Result<()> {
        for (name, bytes) in self.files.iter() {
            let path = to.join(name);
            std::fs::write(&path, bytes).context(|| format!("cannot write `{}`", path.display()))?;
        }
        Ok(())
    }
}
