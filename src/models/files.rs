//! The files of a model's folder that decide what it computes, as digests: a tokenizer, a rotation's base or a chat template that
//! changes in place changes results as surely as a weight does.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use super::weights::INDEX;
use crate::error::{Context, Error, Result};

/// What is read beside the weights, from the folder or from that of a module.
const SETTINGS: [&str; 13] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "prompt.json",
    "selector_prompt.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    // Which vectors the questions of an encoder may search.
    "ragtune.json",
];

/// Hex blake3 over the names and contents of what is read of a model's folder beside its weights: configuration, tokenizer,
/// special tokens, templates, modules.
pub fn settings_digest(folder: &Path) -> Result<String> {
    digest_of(folder, &|name| SETTINGS.contains(&name))
}

/// The same over its weights too: equal digests are equal models.
pub fn digest(folder: &Path) -> Result<String> {
    digest_of(folder, &|name| SETTINGS.contains(&name) || name == INDEX || name.ends_with(".safetensors"))
}

fn digest_of(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<String> {
    let failed = |path: &Path| format!("`{}` cannot be read", path.display());
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut add = |prefix: &str, dir: &Path| -> Result<()> {
        for entry in std::fs::read_dir(dir).context(|| failed(dir))? {
            let path = entry.context(|| failed(dir))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if wanted(&name) && path.is_file() {
                found.insert(format!("{prefix}{name}"), path);
            }
        }
        Ok(())
    };
    add("", folder)?;
    for entry in std::fs::read_dir(folder).context(|| failed(folder))? {
        let path = entry.context(|| failed(folder))?.path();
        // A module: `1_Pooling`, `2_Dense`.
        if path.join("config.json").is_file() {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            add(&format!("{name}/"), &path)?;
        }
    }
    if found.is_empty() {
        return Err(Error::new(format!("`{}` holds no file of a model", folder.display()))
            .hint("name the folder with config.json, tokenizer.json and the weights"));
    }
    let mut hasher = blake3::Hasher::new();
    for (name, path) in &found {
        let mut content = blake3::Hasher::new();
        File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut content)).context(|| failed(path))?;
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(content.finalize().as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decides_is_in_the_digests_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path();
        std::fs::create_dir(dir.join("1_Pooling")).unwrap();
        for (name, text) in [
            ("config.json", "{}"),
            ("tokenizer.json", "{}"),
            ("chat_template.jinja", "{{ messages }}"),
            ("1_Pooling/config.json", "{}"),
            ("model.safetensors", "weights"),
            ("README.md", "about"),
        ] {
            std::fs::write(dir.join(name), text).unwrap();
        }
        let now = || (settings_digest(dir).unwrap(), digest(dir).unwrap());
        let mut before = now();
        assert_ne!(before.0, before.1);
        for name in ["config.json", "tokenizer.json", "chat_template.jinja", "1_Pooling/config.json", "prompt.json"] {
            std::fs::write(dir.join(name), "changed").unwrap();
            let after = now();
            assert!(before.0 != after.0 && before.1 != after.1, "{name}");
            before = after;
        }
        std::fs::write(dir.join("model.safetensors"), "others").unwrap();
        let after = now();
        assert!(before.0 == after.0 && before.1 != after.1);
        std::fs::write(dir.join("README.md"), "more").unwrap();
        assert_eq!(now(), after);
        assert!(settings_digest(&dir.join("nowhere")).unwrap_err().to_string().contains("nowhere"));
        std::fs::create_dir(dir.join("empty")).unwrap();
        assert!(digest(&dir.join("empty")).unwrap_err().to_string().contains("no file of a model"));
    }
}
