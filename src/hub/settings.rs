//! What the environment says about the hub, under the names that every Hugging Face tool knows.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::error::{Context, Error, Result};

/// The hub that is meant where none is named.
const ENDPOINT: &str = "https://huggingface.co";

/// Which hub, which cache, which token.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// The cache, absolute: it holds `models--owner--name`.
    pub cache: PathBuf,
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// What is sent as bearer token.
    pub token: Option<String>,
    /// Whether nothing but the cache may be asked.
    pub offline: bool,
}

impl Settings {
    /// The settings of this process.
    pub fn from_env() -> Result<Self> {
        Self::read(|name| std::env::var_os(name).filter(|value| !value.is_empty()))
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let text = |name: &str| variable(name).map(|value| value.to_string_lossy().trim().to_owned());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(folder("HOME")?.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE").or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
            Error::new("there is no place for models of the hub: neither `HF_HOME` nor `HOME` is set")
                .hint("set HF_HOME to a folder with room for them")
        })?;
        let cache = std::path::absolute(&cache).context(|| format!("`{}` is no usable path", cache.display()))?;
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned()).trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            return Err(Error::new(format!(
                "`HF_ENDPOINT` is `{endpoint}`, expected an address with https:// or http://"
            ))
            .hint(format!("unset HF_ENDPOINT for {ENDPOINT}")));
        }
        let file = folder("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        // No file, no token: most models need none, and the hub says so where one is missing.
        let stored = || std::fs::read_to_string(file?).ok().map(|token| token.trim().to_owned());
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(stored);
        let offline = text("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value));
        Ok(Self { cache, endpoint, token: token.filter(|token| !token.is_empty()), offline })
    }
}

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::read(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value)).filter(|value| !value.is_empty())
        })
    }

    #[test]
    fn the_usual_variables_are_understood_and_the_nearer_one_wins() {
        let settings = read(&[("HOME", "/home/a")]).unwrap();
        assert_eq!(settings.cache, PathBuf::from("/home/a/.cache/huggingface/hub"));
        assert_eq!((settings.endpoint.as_str(), settings.offline, settings.token), (ENDPOINT, false, None));
        let settings = read(&[("HOME", "/home/a"), ("XDG_CACHE_HOME", "/cache")]).unwrap();
        assert_eq!(settings.cache, PathBuf::from("/cache/huggingface/hub"));
        let all =
            [("HF_HOME", "/hf"), ("HF_ENDPOINT", "http://127.0.0.1:8/"), ("HF_TOKEN", " t "), ("HOME", "/home/a")];
        let settings = read(&all).unwrap();
        assert_eq!(settings.cache, PathBuf::from("/hf/hub"));
        assert_eq!((settings.endpoint.as_str(), settings.token.as_deref()), ("http://127.0.0.1:8", Some("t")));
        assert_eq!(
            read(&[("HF_HUB_CACHE", "/elsewhere"), ("HF_HOME", "/hf")]).unwrap().cache,
            PathBuf::from("/elsewhere")
        );
        for (value, offline) in [("1", true), ("TRUE", true), ("yes", true), ("On", true), ("0", false), ("", false)] {
            assert_eq!(read(&[("HOME", "/a"), ("HF_HUB_OFFLINE", value)]).unwrap().offline, offline, "{value}");
        }
    }

    #[test]
    fn a_token_file_is_read_and_nonsense_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), "from-file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        assert_eq!(read(&[("HF_HOME", home)]).unwrap().token.as_deref(), Some("from-file"));
        assert_eq!(read(&[("HF_HOME", home), ("HF_TOKEN", "set")]).unwrap().token.as_deref(), Some("set"));
        assert!(read(&[("HOME", "/a"), ("HF_ENDPOINT", "huggingface.co")]).unwrap_err().find_hint().is_some());
        assert!(read(&[]).unwrap_err().to_string().contains("HF_HOME"));
    }
}
