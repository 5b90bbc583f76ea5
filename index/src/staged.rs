//! What the journal remembers of a fragment whose vectors were written and not committed.

use serde::{Deserialize, Serialize};

use crate::passage::Fragment;

/// A file of vectors that is on disk and not yet part of the dataset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Staged {
    /// The fragment whose vectors it holds.
    pub(crate) fragment: Fragment,
    /// Its name in the dataset's `data` directory.
    pub(crate) file: String,
    /// Its length.
    pub(crate) bytes: u64,
    /// Hex blake3 of its content.
    pub(crate) blake3: String,
    /// Lance's own description of it, which the commit hands back.
    pub(crate) lance: serde_json::Value,
}
