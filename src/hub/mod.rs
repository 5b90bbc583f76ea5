//! Models by name: where a folder is expected, `owner/name` or `owner/name@revision` is looked up on a model hub.
//!
//! The files lie in the cache that every Hugging Face tool shares (`models--owner--name/snapshots/<commit>`), fetched by the
//! hf-hub crate, which goes on with files that came in part. Only what the loaders read is fetched. One question to the hub
//! turns the revision into a commit, and every file is of that commit; a commit that is whole in the cache needs no request.
//!
//! | environment | says |
//! |---|---|
//! | `HF_HUB_CACHE`, `HF_HOME` | where the cache is: the first, else `hub` in the second, else `~/.cache/huggingface/hub` |
//! | `HF_ENDPOINT` | which hub: `https://huggingface.co` unless set |
//! | `HF_TOKEN` | for private and gated models; else the token file that `hf auth login` wrote |
//! | `HF_HUB_OFFLINE` | 1, true, yes, on: nothing but the cache |

mod cache;
mod fetch;
mod listing;
mod name;
mod refusals;
mod settings;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use name::Name;
use settings::Settings;

use crate::error::Result;

/// Where a model of the hub came from: kept in run records, so that a run goes on with the very same files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// `owner/name`.
    pub repo: String,
    /// The branch, tag or commit asked for; `main` where none was.
    pub revision: String,
    /// The commit it stood for.
    pub commit: String,
}

impl Origin {
    /// What stands for these very files for ever: `owner/name@commit`.
    pub fn pinned(&self) -> PathBuf {
        PathBuf::from(format!("{}@{}", self.repo, self.commit))
    }

    /// Whether what was typed asks for this model at this revision.
    pub fn answers(&self, typed: &Path) -> bool {
        Name::parse(typed).is_some_and(|name| name.repo == self.repo && name.revision() == self.revision)
    }
}

/// A model folder that can be read, and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The folder.
    pub folder: PathBuf,
    /// The model of the hub it holds; none for a folder that was typed.
    pub origin: Option<Origin>,
}

impl Located {
    /// What to write down to find it again: the pinned name, or the folder.
    pub fn name(&self) -> PathBuf {
        self.origin.as_ref().map_or_else(|| self.folder.clone(), Origin::pinned)
    }
}

/// How far fetching a model got.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// `owner/name`.
    pub repo: &'a str,
    /// The file that is being fetched.
    pub file: &'a str,
    /// Bytes here so far, of all files that were missing.
    pub done: u64,
    /// Bytes of all files that were missing, as far as they are known.
    pub total: u64,
}

/// The folder that a value of `--encoder`, `--generator` or `--adapter` stands for: itself where it exists, else a model of
/// the hub, fetched where it is not in the cache. What neither exists nor can be a model's name is returned as it is: the
/// loader that wanted the folder says what is wrong.
///
/// `observe` hears of progress, and nothing when no file has to be fetched.
///
/// # Errors
/// No such model or revision, no connection, no permission, a disk that is full, a cache that lacks it while
/// `HF_HUB_OFFLINE` is set.
pub fn locate(typed: &Path, observe: &mut dyn FnMut(Progress<'_>)) -> Result<Located> {
    match Name::parse(typed).filter(|_| !typed.exists()) {
        Some(name) => fetch::snapshot(&Settings::from_env()?, &name, observe),
        None => Ok(Located { folder: typed.to_path_buf(), origin: None }),
    }
}
