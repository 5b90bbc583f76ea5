//! Old versions whose manifest is damaged: nobody needs them, and whoever changes the index would stumble over them.

use std::path::{Path, PathBuf};

use crate::durable::{remove, sync_dir};
use crate::error::Result;
use crate::table::Table;
use crate::vouch;

/// Removes the manifests of versions that cannot be read and are neither the newest nor tagged, and says which; the next retiring
/// takes what belongs to them alone. Only where the file itself is known to be damaged: one that is whole may be a newer program's,
/// and one that the system does not let this user read is not lost.
pub(crate) fn drop_versions(dir: &Path, table: &Table) -> Result<Vec<u64>> {
    let broken: Vec<u64> =
        table.versions()?.into_iter().filter(|version| table.at(*version).and_then(|at| at.rows()).is_err()).collect();
    if broken.is_empty() {
        return Ok(broken);
    }
    let tagged: Vec<u64> = table.tags()?.into_iter().map(|(_, version)| version).collect();
    let mut gone = Vec::new();
    for version in broken {
        let manifest: PathBuf = table.manifest_path(version);
        if version == table.version() || tagged.contains(&version) || !vouch::damaged(dir, &manifest)? {
            continue;
        }
        remove(&manifest)?;
        gone.push(version);
    }
    if let Some(versions) = gone.first().and_then(|first| table.manifest_path(*first).parent().map(PathBuf::from)) {
        sync_dir(&versions)?;
    }
    Ok(gone)
}
