//! Old versions: which there are, which are protected, and removing the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use lance::dataset::cleanup::CleanupPolicyBuilder;

use super::Table;
use super::rewrite::OPERATION;
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

    /// Removes every version but these, the newest and tagged ones, then the files that no version refers to any more. The
    /// caller holds the writer's lock and stages nothing: `spare` names files that are to stay all the same.
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

    /// Names of the files in `data` and in `_deletions` that this version refers to.
    pub(crate) fn files(&self) -> BTreeSet<String> {
        let fragments = self.dataset.fragments().iter();
        let data = fragments.flat_map(|fragment| fragment.files.iter().map(|file| file.path.clone()));
        data.chain(self.deletion_files().into_iter().flatten()).collect()
    }

    /// Files in `data` and in `_deletions` that no version refers to: staged and abandoned, or left half-written by a killed
    /// process.
    pub(crate) fn unreferenced(&self) -> Result<Vec<PathBuf>> {
        self.unreferenced_by(&self.versions()?)
    }

    /// Files in `data` and in `_deletions` that none of these versions refers to.
    pub(crate) fn unreferenced_by(&self, versions: &[u64]) -> Result<Vec<PathBuf>> {
        let mut referenced = BTreeSet::new();
        for version in versions {
            referenced.extend(self.at(*version)?.files());
        }
        let mut files = entries(&self.data_dir())?;
        files.extend(entries(&self.deletions_dir())?);
        Ok(files.into_iter().filter(|file| !referenced.contains(name(file))).collect())
    }

    /// Whether every file that this version refers to is there.
    pub(crate) fn complete(&self) -> bool {
        let (data, deletions) = (self.data_dir(), self.deletions_dir());
        self.files().iter().all(|file| data.join(file).exists() || deletions.join(file).exists())
    }

    /// What the commit of this version did, and when by the clock of the machine that did it (RFC 3339), as far as it says.
    pub(crate) fn provenance(&self) -> Result<(Option<String>, String)> {
        let failed = || Error::storage(format!("reading how version {} came about", self.version()));
        let transaction = wait(self.dataset.read_transaction())?.map_err(failed())?;
        let properties = transaction.and_then(|transaction| transaction.transaction_properties);
        let operation = properties.and_then(|properties| properties.get(OPERATION).cloned());
        Ok((operation, self.dataset.version().timestamp.to_rfc3339()))
    }

    /// Where the manifest of a version lies.
    pub(crate) fn manifest_path(&self, version: u64) -> PathBuf {
        self.path.join("_versions").join(format!("{:020}.manifest", u64::MAX - version))
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
        let (newest, content) = loop {
            let files = entries(&dir.join(super::DATASET).join("_versions"))?;
            // Names count down, so that the first is the newest; the ancient naming that counts up is never written.
            let Some(newest) = files.into_iter().find(|file| name(file).ends_with(".manifest")) else {
                return Ok(None);
            };
            match fs::read(&newest) {
                Ok(content) => break (newest, content),
                // Another process that opened the index set it aside since it was listed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("reading", &newest)(error)),
            }
        };
        Ok((!content.ends_with(MANIFEST_END)).then_some(newest))
    }
}
