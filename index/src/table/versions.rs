//! Old versions: which there are, which are protected, and removing the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use lance::dataset::cleanup::CleanupPolicyBuilder;

use super::Table;
use crate::durable::{entries, name, remove};
use crate::error::{Error, Result};
use crate::table::runtime::wait;

/// Last bytes of every complete Lance manifest.
pub(crate) const MANIFEST_END: &[u8] = b"LANC";

impl Table {
    /// All versions on disk, ascending.
    pub(crate) fn versions(&self) -> Result<Vec<u64>> {
        let found = wait(self.dataset.version_refs())?.map_err(Error::storage("listing the versions"))?;
        Ok(found.into_iter().map(|version| version.version).collect())
    }

    /// All tags with the version each protects, in the order of names.
    pub(crate) fn tags(&self) -> Result<Vec<(String, u64)>> {
        let tags = self.dataset.tags();
        let found = wait(async { tags.list().await })?.map_err(Error::storage("listing the tags"))?;
        let mut found: Vec<(String, u64)> = found.into_iter().map(|(tag, content)| (tag, content.version)).collect();
        found.sort();
        Ok(found)
    }

    /// Protects a version from removal.
    pub(crate) fn tag(&self, tag: &str, version: u64) -> Result<()> {
        let tags = self.dataset.tags();
        wait(async { tags.create(tag, version).await })?.map_err(Error::storage(format!("writing the tag `{tag}`")))
    }

    /// Gives up a protection.
    pub(crate) fn untag(&self, tag: &str) -> Result<()> {
        let tags = self.dataset.tags();
        wait(async { tags.delete(tag).await })?.map_err(Error::storage(format!("removing the tag `{tag}`")))
    }

    /// Removes every version but these, the newest and tagged ones, then the vector files that no version refers to any
    /// more. The caller holds the writer's lock and stages nothing: `spare` names files that are to stay all the same.
    pub(crate) fn retain(&self, versions: &BTreeSet<u64>, spare: &BTreeSet<String>) -> Result<()> {
        let newest = self.latest()?;
        let old: Vec<u64> = newest
            .versions()?
            .into_iter()
            .filter(|version| !versions.contains(version) && *version != newest.version())
            .collect();
        if !old.is_empty() {
            let failed = || Error::storage("removing old versions");
            let policy = CleanupPolicyBuilder::default()
                .versions(old)
                .map_err(failed())?
                .error_if_tagged_old_versions(false)
                .build();
            wait(async { newest.dataset.cleanup_with_policy(policy).await })?.map_err(failed())?;
        }
        for file in newest.unreferenced()? {
            if !spare.contains(name(&file)) {
                remove(&file)?;
            }
        }
        Ok(())
    }

    /// Files in `data` that no version refers to: staged and abandoned, or left half-written by a killed process.
    pub(crate) fn unreferenced(&self) -> Result<Vec<PathBuf>> {
        let mut referenced = BTreeSet::new();
        for version in self.versions()? {
            let table = self.at(version)?;
            for fragment in table.dataset.fragments().iter() {
                referenced.extend(fragment.files.iter().map(|file| file.path.clone()));
            }
        }
        let files = entries(&self.data_dir())?;
        Ok(files.into_iter().filter(|file| !referenced.contains(name(file))).collect())
    }

    /// Half-written manifests and tags that a killed process left behind: files with `#` in their name, by which the object
    /// store marks what it has not published yet.
    pub(crate) fn half_written(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for dir in ["_versions", "_transactions", "_refs/tags"] {
            let files = entries(&self.path.join(dir))?;
            found.extend(files.into_iter().filter(|file| name(file).contains('#') || name(file).starts_with(".tmp")));
        }
        Ok(found)
    }

    /// The newest manifest if it is not whole, as a power cut can leave it. A manifest that is whole is never reported, also
    /// where this program cannot read it: a newer one may have written it.
    pub(crate) fn torn_manifest(dir: &std::path::Path) -> Result<Option<PathBuf>> {
        let files = entries(&dir.join(super::DATASET).join("_versions"))?;
        // Names count down, so that the first is the newest; the ancient naming that counts up is never written.
        let newest = files.into_iter().find(|file| name(file).ends_with(".manifest"));
        let Some(newest) = newest else { return Ok(None) };
        let content = fs::read(&newest).map_err(Error::io("reading", &newest))?;
        Ok((!content.ends_with(MANIFEST_END)).then_some(newest))
    }
}
