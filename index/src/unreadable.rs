//! Old versions whose manifest is damaged: nobody needs them, and whoever changes the index would stumble over them.

use std::path::{Path, PathBuf};

use crate::durable::{remove, sync_dir};
use crate::error::Result;
use crate::table::Table;
use crate::vouch;

/// Removes the manifests of versions that are damaged and are neither the newest nor tagged, and says which; the next
/// retiring takes what belongs to them alone. Only where the file itself is known to be damaged: one that is whole may
/// be a newer program's, and one that the system does not let this user read is not lost. Whether Lance can read it does
/// not matter: it reads a changed letter in a setting, and whoever needs that setting fails.
pub(crate) fn drop_versions(dir: &Path, table: &Table) -> Result<Vec<u64>> {
    let mut broken = Vec::new();
    for version in table.versions()?.into_iter().filter(|version| *version != table.version()) {
        if vouch::damaged(dir, &table.manifest_path(version))? {
            broken.push(version);
        }
    }
    if broken.is_empty() {
        return Ok(broken);
    }
    let tagged: Vec<u64> = table.tags()?.into_iter().map(|(_, version)| version).collect();
    let mut gone = Vec::new();
    for version in broken {
        if tagged.contains(&version) {
            continue;
        }
        remove(&table.manifest_path(version))?;
        gone.push(version);
    }
    if let Some(versions) = gone.first().and_then(|first| table.manifest_path(*first).parent().map(PathBuf::from)) {
        sync_dir(&versions)?;
    }
    Ok(gone)
}
