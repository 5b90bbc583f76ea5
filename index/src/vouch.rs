//! Checksums of the dataset's manifests. Lance's manifests carry none, and a flipped bit in one can change a setting or a
//! number of rows unseen. Whoever gives up the writer's lock writes down those that are new; from then on they are verified,
//! the newest whenever the index is opened.
//!
//! A manifest never changes under its name. One that a killed writer left is written down by the next writer, as it is then.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::durable::{entries, name, remove, sync_dir};
use crate::error::{Error, Result};
use crate::sealed;
use crate::table::{DATASET, MANIFEST_END};

/// Name of the list in the index directory.
pub(crate) const MANIFESTS: &str = "manifests.json";

/// Content of [`MANIFESTS`]: hex blake3 by file name.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vouched {
    manifests: BTreeMap<String, String>,
}

/// Brings the list up to date, durably: manifests that are gone are forgotten, new ones taken as they are. A list of a newer
/// format is refused, and stays.
pub(crate) fn remember(dir: &Path) -> Result<()> {
    let before = list(dir)?;
    let files = manifests(dir)?;
    if before.as_ref().is_some_and(|before| lost(before, &files).is_some()) {
        // Its checksum is all that tells of the newest state: it must not be forgotten.
        return Ok(());
    }
    let (mut now, mut new) = (Vouched::default(), false);
    for file in files {
        let known = before.as_ref().and_then(|before| before.manifests.get(name(&file)));
        new |= known.is_none();
        let digest = match known {
            Some(known) => known.clone(),
            None => match whole(&file)? {
                Some(content) => blake3::hash(&content).to_hex().to_string(),
                None => continue,
            },
        };
        now.manifests.insert(name(&file).to_string(), digest);
    }
    match now.manifests.is_empty() || before.as_ref() == Some(&now) {
        true => Ok(()),
        false => {
            if new {
                // One that a killed writer left may have a name that no cut would spare: from now on it is missed.
                sync_dir(&dir.join(DATASET).join("_versions"))?;
            }
            sealed::write(&dir.join(MANIFESTS), &now)
        }
    }
}

/// Forgets the list of an index that is no more: what is created in its place gives manifests the same names. Durable on return.
pub(crate) fn forget(dir: &Path) -> Result<()> {
    let list = dir.join(MANIFESTS);
    match list.exists() {
        true => remove(&list).and_then(|()| sync_dir(dir)),
        false => Ok(()),
    }
}

/// The newest manifest that is known where all that are there are older. Retiring never removes the newest, and one that is known was
/// durable: it was lost since.
fn lost<'a>(vouched: &'a Vouched, files: &[PathBuf]) -> Option<&'a str> {
    // Names count down, so that the first is the newest.
    let (newest, _) = vouched.manifests.first_key_value()?;
    files.first().is_none_or(|there| name(there) > newest.as_str()).then_some(newest.as_str())
}

/// Refuses a newest manifest that is not what was written, or that is older than what was written.
pub(crate) fn verify_newest(dir: &Path) -> Result<()> {
    // The list first: a writer may go on meanwhile, and what it adds is no loss.
    let Some(vouched) = list(dir)? else { return Ok(()) };
    let files = manifests(dir)?;
    if let Some(lost) = lost(&vouched, &files) {
        let what = format!(
            "it is gone, and with it the newest state: `{MANIFESTS}` tells of it. Put it back from a copy; to go on with an \
             older state on purpose, remove `{MANIFESTS}`"
        );
        return Err(Error::corrupt(format!("{DATASET}/_versions/{lost}"), what));
    }
    let newest = files.into_iter().next();
    match newest.map(|newest| changed(&newest, &vouched)).transpose()?.flatten() {
        Some((file, what)) => Err(Error::corrupt(format!("{DATASET}/_versions/{file}"), what)),
        None => Ok(()),
    }
}

/// Whether the list holds the checksum of a manifest.
pub(crate) fn knows(dir: &Path, manifest: &Path) -> Result<bool> {
    Ok(list(dir)?.is_some_and(|vouched| vouched.manifests.contains_key(name(manifest))))
}

/// Whether a manifest is not what was written, for certain: its checksum is known and another, or it is cut short.
pub(crate) fn damaged(dir: &Path, manifest: &Path) -> Result<bool> {
    let vouched = list(dir)?.unwrap_or_default();
    match vouched.manifests.contains_key(name(manifest)) {
        true => Ok(changed(manifest, &vouched)?.is_some()),
        false => Ok(manifest.exists() && whole(manifest)?.is_none()),
    }
}

/// The list, if there is one that is whole; one of a newer format is refused.
pub(crate) fn list(dir: &Path) -> Result<Option<Vouched>> {
    sealed::known(sealed::read(&dir.join(MANIFESTS)))
}

/// A file, relative to the index directory, and what is wrong with it.
type Changed = (String, String);

/// The files that are not what was written, relative to the index directory, each with what is wrong; whether the list
/// itself is damaged. A list that is not there says nothing: older programs wrote none.
pub(crate) fn defects(dir: &Path) -> Result<(Vec<Changed>, Option<String>)> {
    let place = dir.join(MANIFESTS);
    if !place.exists() {
        return Ok((Vec::new(), None));
    }
    let vouched: Vouched = match sealed::read(&place) {
        Ok(vouched) => vouched,
        Err(error) => return Ok((Vec::new(), Some(error.in_full()))),
    };
    let mut found = Vec::new();
    for file in manifests(dir)? {
        if let Some((file, what)) = changed(&file, &vouched)? {
            found.push((format!("{DATASET}/_versions/{file}"), what));
        }
    }
    Ok((found, None))
}

fn changed(file: &Path, vouched: &Vouched) -> Result<Option<(String, String)>> {
    let Some(written) = vouched.manifests.get(name(file)) else { return Ok(None) };
    let content = match std::fs::read(file) {
        Ok(content) => content,
        // Retired by a writer since it was listed.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("reading", file)(error)),
    };
    let same = blake3::hash(&content).to_hex().as_str() == written;
    Ok((!same).then(|| (name(file).to_string(), "its content is not what was written".to_string())))
}

/// The content of a manifest, unless it is half-written or gone.
fn whole(file: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(file) {
        Ok(content) => Ok(content.ends_with(MANIFEST_END).then_some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("reading", file)(error)),
    }
}

fn manifests(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = entries(&dir.join(DATASET).join("_versions"))?;
    files.retain(|file| name(file).ends_with(".manifest"));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_taken_as_they_are_once_and_verified_ever_after() {
        let dir = tempfile::tempdir().unwrap();
        let versions = dir.path().join(DATASET).join("_versions");
        remember(dir.path()).unwrap();
        assert!(!dir.path().join(MANIFESTS).exists(), "nothing to remember");
        std::fs::create_dir_all(&versions).unwrap();
        let (old, new, torn) = (versions.join("9.manifest"), versions.join("8.manifest"), versions.join("7.manifest"));
        std::fs::write(&old, "old LANC").unwrap();
        remember(dir.path()).unwrap();
        std::fs::write(&new, "new LANC").unwrap();
        verify_newest(dir.path()).unwrap();
        remember(dir.path()).unwrap();
        std::fs::write(&torn, "to").unwrap();
        remember(dir.path()).unwrap();
        std::fs::remove_file(&torn).unwrap();
        assert_eq!(defects(dir.path()).unwrap(), (Vec::new(), None));
        std::fs::write(&old, "odd LANC").unwrap();
        verify_newest(dir.path()).unwrap();
        remember(dir.path()).unwrap();
        let (found, list) = defects(dir.path()).unwrap();
        assert!(found.len() == 1 && found[0].0.ends_with("9.manifest") && list.is_none(), "{found:?}");
        std::fs::write(&new, "now LANC").unwrap();
        assert!(verify_newest(dir.path()).unwrap_err().to_string().contains("8.manifest"));
        assert!(damaged(dir.path(), &new).unwrap() && damaged(dir.path(), &old).unwrap());
        std::fs::remove_file(&new).unwrap();
        remember(dir.path()).unwrap();
        let error = verify_newest(dir.path()).unwrap_err().to_string();
        assert!(error.contains("8.manifest") && error.contains("is gone"), "{error}");
        forget(dir.path()).unwrap();
        verify_newest(dir.path()).unwrap();
        remember(dir.path()).unwrap();
        std::fs::write(&new, "another commit LANC").unwrap();
        verify_newest(dir.path()).unwrap();
        std::fs::write(dir.path().join(MANIFESTS), "{").unwrap();
        assert!(defects(dir.path()).unwrap().1.is_some());
    }
}
