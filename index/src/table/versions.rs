//! Old versions: which there are, which are protected, and removing the rest.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use lance::dataset::refs::TagContents;

use super::Table;
use super::rewrite::OPERATION;
use crate::durable::{entries, name, remove, sync_dir, write_by};
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

    /// The version that the file of a tag protects; none where it cannot be read as Lance reads it. One such file fails the
    /// listing of all, so that a version alone would not do.
    pub(crate) fn tagged(file: &Path) -> Option<u64> {
        serde_json::from_slice::<TagContents>(&fs::read(file).ok()?).ok().map(|content| content.version)
    }

    /// Protects a version from removal.
    pub(crate) fn tag(&self, tag: &str, version: u64) -> Result<()> {
        let tags = self.dataset.tags();
        wait(async { tags.create(tag, version).await })?.map_err(Error::storage(format!("writing the tag `{tag}`")))
    }

    /// Makes a tag protect this version, whatever it protected and whether it can be read: in one step, so that there is no
    /// moment at which it protects nothing. Lance's own update syncs nothing, and its temporary file is no tag for Lance either:
    /// its name does not end in `.json`.
    pub(crate) fn move_tag(&self, tag: &str, version: u64) -> Result<()> {
        let path = self.tags_dir().join(format!("{tag}.json"));
        let manifest = self.manifest_path(version);
        let bytes = manifest.metadata().map_err(Error::io("looking at", &manifest))?.len();
        let present = fs::read(&path).ok().and_then(|text| serde_json::from_slice::<TagContents>(&text).ok());
        let content = TagContents {
            branch: None,
            version,
            created_at: present.as_ref().and_then(|present| present.created_at),
            updated_at: None,
            manifest_size: bytes as usize,
            metadata: present.map(|present| present.metadata).unwrap_or_default(),
        };
        let text = serde_json::to_vec_pretty(&content).map_err(Error::storage(format!("writing the tag `{tag}`")))?;
        write_by(&self.tags_dir().join(format!(".tmp-{tag}")), &path, &[&text])
    }

    /// Where the tags lie.
    pub(crate) fn tags_dir(&self) -> PathBuf {
        self.path.join("_refs/tags")
    }

    /// Gives up a protection.
    pub(crate) fn untag(&self, tag: &str) -> Result<()> {
        let tags = self.dataset.tags();
        wait(async { tags.delete(tag).await })?.map_err(Error::storage(format!("removing the tag `{tag}`")))
    }

    /// Removes the manifest of every version but these, the newest and tagged ones. The caller holds the writer's lock.
    ///
    /// Lance's own cleanup is not used. It removes the files of an old version before its manifest, so that a reader meets a
    /// version that is listed and cannot be read; and it removes what no version refers to once that is a week old, which work
    /// that was interrupted for longer than that is, too.
    pub(crate) fn forget(&self, versions: &BTreeSet<u64>) -> Result<()> {
        let newest = self.latest()?;
        let tagged: BTreeSet<u64> = newest.tags()?.into_iter().map(|(_, version)| version).collect();
        let mut gone = false;
        for version in newest.versions()? {
            if versions.contains(&version) || tagged.contains(&version) || version == newest.version() {
                continue;
            }
            remove(&self.manifest_path(version))?;
            gone = true;
        }
        match gone {
            true => sync_dir(&self.path.join("_versions")),
            false => Ok(()),
        }
    }

    /// Removes the files that no version refers to, but for those of the names in `spare`. The caller holds the writer's lock.
    pub(crate) fn sweep(&self, spare: &BTreeSet<String>) -> Result<()> {
        let newest = self.latest()?;
        for file in newest.unreferenced()?.into_iter().filter(|file| !spare.contains(name(file))) {
            remove(&file)?;
        }
        let mut logs = BTreeSet::new();
        for version in newest.versions()? {
            logs.extend(newest.at(version)?.dataset.manifest().transaction_file.clone());
        }
        for log in entries(&self.path.join("_transactions"))? {
            if name(&log).ends_with(".txn") && !logs.contains(name(&log)) {
                remove(&log)?;
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
            match self.at(*version) {
                Ok(at) => referenced.extend(at.files()),
                // Retired by a writer since it was listed.
                Err(_) if !self.lists(*version)? => {}
                Err(error) => return Err(error),
            }
        }
        let mut files = entries(&self.data_dir())?;
        files.extend(entries(&self.deletions_dir())?);
        Ok(files.into_iter().filter(|file| !referenced.contains(name(file))).collect())
    }

    /// Whether a version is on disk now. One that is not was retired, and its files are gone or will be.
    pub(crate) fn lists(&self, version: u64) -> Result<bool> {
        Ok(self.versions()?.contains(&version))
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
    /// store marks what it has not published yet, with `.json.tmp.`, by which Lance does, and with `.tmp` before it.
    pub(crate) fn half_written(&self) -> Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for dir in ["_versions", "_transactions", "_refs/tags"] {
            let files = entries(&self.path.join(dir))?;
            found.extend(files.into_iter().filter(|file| {
                let name = name(file);
                name.contains('#') || name.contains(".json.tmp.") || name.starts_with(".tmp")
            }));
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
