//! One model in the shared cache: `refs/<revision>` holds a commit, `snapshots/<commit>` the files of it, each a link to
//! its content in `blobs/`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Context, Result};
use crate::models::weights;

/// The folder of one model in the cache.
#[derive(Clone, Debug)]
pub(super) struct CachedRepo {
    folder: PathBuf,
}

impl CachedRepo {
    /// The model's folder; whether it exists is another question.
    pub fn new(cache: &Path, repo: &str) -> Self {
        Self { folder: cache.join(hf_hub::Repo::model(repo.to_owned()).folder_name()) }
    }

    /// The commit that a revision stood for when it was last fetched.
    pub fn commit(&self, revision: &str) -> Option<String> {
        let noted = fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        let noted = noted.map(|text| text.trim().to_owned());
        noted.filter(|commit| !commit.is_empty() && commit.chars().all(|c| c.is_ascii_alphanumeric())).or_else(|| {
            // A commit stands for itself.
            (is_commit(revision) && self.snapshot(revision).is_dir()).then(|| revision.to_owned())
        })
    }

    /// Where the files of a commit are.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where a content is, by the name the hub gives it.
    pub fn blob(&self, content: &str) -> PathBuf {
        self.folder.join("blobs").join(content)
    }

    /// Puts a content that is there already under the name of a file of a commit.
    pub fn link(&self, content: &str, commit: &str, file: &str) -> Result<()> {
        let target = self.snapshot(commit).join(file);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).context(|| format!("cannot create `{}`", parent.display()))?;
        }
        // Relative, as every tool writes them, so that the cache can be moved: out of the file's folders, the commit's and
        // `snapshots`.
        let up = "../".repeat(Path::new(file).components().count() + 1);
        std::os::unix::fs::symlink(format!("{up}blobs/{content}"), &target)
            .context(|| format!("cannot create `{}`", target.display()))
    }
}

/// Whether a revision is the full name of a commit, which always stands for the same files.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.chars().all(|c| c.is_ascii_hexdigit())
}

/// The first file that a loader of this folder would miss; `None` when the folder is whole.
pub(super) fn missing(folder: &Path) -> Result<Option<String>> {
    let has = |name: &str| folder.join(name).is_file();
    if has("adapter_config.json") {
        return Ok((!has("adapter_model.safetensors")).then(|| "adapter_model.safetensors".to_owned()));
    }
    let mut inner = String::new();
    if let Some(modules) = read(&folder.join("modules.json")) {
        for module in modules.as_array().map(Vec::as_slice).unwrap_or_default() {
            let text = |key: &str| module.get(key).and_then(Value::as_str).unwrap_or_default();
            let (kind, path) = (text("type").rsplit('.').next().unwrap_or_default(), text("path"));
            let config = super::listing::join(path, "config.json");
            match kind {
                "Transformer" => inner = path.to_owned(),
                "Normalize" | "Dropout" => {}
                _ if !has(&config) => return Ok(Some(config)),
                _ => {}
            }
        }
    }
    for name in ["config.json", "tokenizer.json"] {
        let name = super::listing::join(&inner, name);
        if !has(&name) {
            return Ok(Some(name));
        }
    }
    let weights = folder.join(&inner);
    if weights.join(weights::SINGLE).is_file() {
        return Ok(None);
    }
    let index = weights.join(weights::INDEX);
    if !index.is_file() {
        return Ok(Some(super::listing::join(&inner, weights::SINGLE)));
    }
    let lost = weights::shards(&index)?.into_iter().find(|shard| !weights.join(shard).is_file());
    Ok(lost.map(|shard| super::listing::join(&inner, &shard)))
}

/// A JSON file; `None` where there is none, or none that can be understood: the loader says which.
fn read(path: &Path) -> Option<Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let lacks = || missing(folder.path()).unwrap().unwrap_or_default();
        let put = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(lacks(), "config.json");
        put("config.json", "{}");
        put("tokenizer.json", "{}");
        assert_eq!(lacks(), "model.safetensors");
        put("model.safetensors.index.json", r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#);
        put("one.safetensors", "");
        assert_eq!(lacks(), "two.safetensors");
        put("model.safetensors", "");
        assert_eq!(lacks(), "");
        put(
            "modules.json",
            r#"[{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "1_Pooling"},
                {"type": "x.Normalize", "path": "2_Normalize"}]"#,
        );
        assert_eq!(lacks(), "1_Pooling/config.json");
        put("1_Pooling/config.json", "{}");
        assert_eq!(lacks(), "");
        put("adapter_config.json", "{}");
        assert_eq!(lacks(), "adapter_model.safetensors");
    }

    #[test]
    fn a_link_leads_to_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let repo = CachedRepo::new(folder.path(), "owner/name");
        let blob = repo.blob("00ff");
        assert!(blob.ends_with("models--owner--name/blobs/00ff"));
        fs::create_dir_all(blob.parent().unwrap()).unwrap();
        fs::write(&blob, "content").unwrap();
        for file in ["config.json", "1_Pooling/config.json"] {
            repo.link("00ff", "abc", file).unwrap();
            assert_eq!(fs::read_to_string(repo.snapshot("abc").join(file)).unwrap(), "content");
        }
        assert_eq!(repo.commit("main"), None);
        fs::create_dir_all(folder.path().join("models--owner--name/refs")).unwrap();
        fs::write(folder.path().join("models--owner--name/refs/main"), "abc\n").unwrap();
        assert_eq!(repo.commit("main").as_deref(), Some("abc"));
    }
}
