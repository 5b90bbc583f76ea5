//! What a repository holds, and which of it the loaders read.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::models::weights::{INDEX, SINGLE};

/// Settings and tokenizer files that are read from a model's folder or a module's.
const READ: [&str; 11] = [
    "modules.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "prompt.json",
    "ragtune.json",
    "adapter_config.json",
    "adapter_model.safetensors",
];

/// The answer of the hub about one revision.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub sha: String,
    /// Every file.
    siblings: Vec<File>,
}

/// One file of a repository.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct File {
    /// Its path in the repository.
    #[serde(rename = "rfilename")]
    pub path: String,
    /// Its bytes, where the hub says.
    pub size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Large>,
}

/// What the hub says of a file that git does not hold itself.
#[derive(Clone, Debug, Default, Deserialize)]
struct Large {
    sha256: Option<String>,
}

impl Listing {
    /// Refuses a commit or a path that would lead out of the cache.
    pub fn check(self) -> Result<Self> {
        let outside = |path: &str| {
            path.is_empty() || Path::new(path).components().any(|part| !matches!(part, Component::Normal(_)))
        };
        let odd = self.siblings.iter().find(|file| outside(&file.path)).map(|file| file.path.clone());
        let commit = !self.sha.is_empty() && self.sha.chars().all(|c| c.is_ascii_alphanumeric());
        match (commit, odd) {
            (true, None) => Ok(self),
            (false, _) => Err(Error::new(format!("the hub calls the commit `{}`, expected its digits", self.sha))),
            (_, Some(path)) => Err(Error::new(format!("the hub lists the file `{path}`, which lies outside"))),
        }
    }

    /// The file of this path.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.siblings.iter().find(|file| file.path == path)
    }

    /// The files that a loader reads, but for the shards that an index among them names.
    pub fn wanted(&self) -> Vec<&File> {
        let paths: BTreeSet<&str> = self.siblings.iter().map(|file| file.path.as_str()).collect();
        let is_wanted = |file: &&File| {
            let (folder, name) = split(&file.path);
            let weights = match name {
                SINGLE => true,
                // Whole weights are read first, so shards beside them are never opened.
                INDEX => !paths.contains(join(folder, SINGLE).as_str()),
                _ => false,
            };
            is_module(folder) && (weights || is_read(name))
        };
        self.siblings.iter().filter(is_wanted).collect()
    }

    /// Whether weights are there only in PyTorch's own format, which is not read.
    pub fn pickled_only(&self) -> bool {
        let has = |test: &dyn Fn(&str) -> bool| self.siblings.iter().any(|file| test(&file.path));
        has(&|path| path.ends_with(".bin")) && !has(&|path| path.ends_with(".safetensors"))
    }
}

impl File {
    /// The name of its content in the cache, where the hub says.
    pub fn content(&self) -> Option<&str> {
        let name = self.lfs.as_ref().and_then(|large| large.sha256.as_deref()).or(self.blob.as_deref())?;
        name.chars().all(|c| c.is_ascii_hexdigit()).then_some(name)
    }
}

/// `folder/name`, or the name alone at the top.
pub(super) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// The folder of a path, empty at the top, and its name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The top, or a folder of sentence-transformers, such as `1_Pooling`; what other folders hold (`onnx`, `original`, ...)
/// is the same model for other programs.
fn is_module(folder: &str) -> bool {
    let numbered = || folder.split_once('_').is_some_and(|(number, rest)| digits(number) && !rest.contains('/'));
    folder.is_empty() || numbered()
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

fn is_read(name: &str) -> bool {
    let like = |start: &str, end: &str| name.starts_with(start) && name.ends_with(end);
    READ.contains(&name)
        || like("config", ".json")
        || like("sentence_", "_config.json")
        || name.starts_with("tokenizer")
        || like("chat_template", ".jinja")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let siblings = paths.iter().map(|path| File { path: (*path).to_owned(), ..File::default() }).collect();
        Listing { sha: "0f".to_owned(), siblings }
    }

    fn wanted(paths: &[&str]) -> Vec<String> {
        listing(paths).wanted().into_iter().map(|file| file.path.clone()).collect()
    }

    #[test]
    fn what_loaders_read_is_wanted_and_nothing_else() {
        let read = [
            "1_Pooling/config.json",
            "2_Dense/config.json",
            "2_Dense/model.safetensors",
            "config.json",
            "config_sentence_transformers.json",
            "model.safetensors",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "chat_template.jinja",
        ];
        let other = [
            ".gitattributes",
            "README.md",
            "pytorch_model.bin",
            "tf_model.h5",
            "rust_model.ot",
            "model.fp16.safetensors",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "onnx/model.onnx",
            "onnx/config.json",
            "openvino/openvino_model.bin",
            "original/params.json",
            "2_Dense/pytorch_model.bin",
            "train_script.py",
        ];
        let all: Vec<&str> = read.iter().chain(&other).copied().collect();
        assert_eq!(wanted(&all), read);
        assert_eq!(wanted(&["model.safetensors.index.json", "a.safetensors"]), ["model.safetensors.index.json"]);
        assert_eq!(wanted(&["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]).len(), 2);
    }

    #[test]
    fn paths_that_lead_out_are_refused_and_pickles_are_seen() {
        assert!(listing(&["config.json"]).check().is_ok());
        for path in ["../config.json", "/etc/passwd", "a/../../b", ""] {
            assert!(listing(&[path]).check().is_err(), "`{path}`");
        }
        assert!(Listing { sha: "../x".to_owned(), ..listing(&[]) }.check().is_err());
        assert!(listing(&["pytorch_model.bin", "config.json"]).pickled_only());
        assert!(!listing(&["pytorch_model.bin", "model.safetensors"]).pickled_only());
    }
}
