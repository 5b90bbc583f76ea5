//! Which generations there are. The dataset decides: a sidecar only saves the look into it.

use std::path::{Path, PathBuf};

use crate::durable::name;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::manifest::{GraphInfo, Manifest, find_sidecar, sidecar_name};
use crate::table::{Rows, Table};

/// What can be told of a generation without loading it.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerationInfo {
    /// Its number; later generations have higher ones.
    pub number: u32,
    /// What embedded it.
    pub fingerprint: Fingerprint,
    /// The version of the Lance dataset that it is: of its newest retained state.
    pub dataset_version: u64,
    /// Length of its vectors.
    pub dim: usize,
    /// Number of its ordinals: passages, deleted ones included.
    pub len: usize,
    /// Whether it is the newest.
    pub current: bool,
    /// Who keeps it from being removed, besides being the newest or the one before.
    pub protected_by: Vec<String>,
    /// Its graph, as its manifest describes it; whether the file agrees is seen when the generation is opened.
    pub graph: Option<GraphInfo>,
}

/// A generation that the dataset holds, over the rows it has at one version, and its sidecar as far as there is one. Passages
/// that are added or deleted make another such state of the same generation.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) number: u32,
    pub(crate) fingerprint: Fingerprint,
    /// The first retained version with these vectors and rows, opened.
    pub(crate) table: Table,
    /// Its vector files, in the order of fragments: the identity of its vectors.
    pub(crate) files: Vec<String>,
    /// Its rows: with the vectors, the identity of the state.
    pub(crate) rows: Rows,
    pub(crate) dim: usize,
    /// Where its sidecar lies, whole or not.
    pub(crate) sidecar: Option<PathBuf>,
    /// The sidecar's manifest, or why there is none that counts. It may be that of an earlier state, whose passages are the
    /// first of this one's.
    pub(crate) manifest: Result<Manifest, String>,
}

impl Known {
    /// Name of the sidecar it has, or should have.
    pub(crate) fn sidecar_name(&self) -> String {
        let own = self.sidecar.as_ref().map(|sidecar| name(sidecar).to_string());
        own.unwrap_or_else(|| sidecar_name(self.number, &self.files))
    }

    /// Whether the sidecar's manifest knows all passages.
    pub(crate) fn described(&self) -> bool {
        self.manifest.as_ref().is_ok_and(|manifest| manifest.vectors.len() == self.files.len())
    }

    fn same_state(&self, table: &Table, files: &[String]) -> Result<bool> {
        Ok(self.files == files && self.rows == table.rows()?)
    }
}

/// Name of the setting that keeps the fingerprint of a generation.
pub(crate) fn fingerprint_key(number: u32) -> String {
    format!("{FINGERPRINT_PREFIX}{number}")
}

/// How the names of those settings begin.
pub(crate) const FINGERPRINT_PREFIX: &str = "ragtune.generation.";

/// The newest generation in a table that is at its newest version.
pub(crate) fn newest(dir: &Path, uuid: &str, table: &Table) -> Result<Option<Known>> {
    let Some(files) = table.vector_files()? else { return Ok(None) };
    let known = look(dir, uuid, table, files)?;
    // Later commits only change settings: the generation is the version that brought it.
    let mut first = table.clone();
    for version in table.versions()?.into_iter().rev().filter(|version| *version < table.version()) {
        // Gone since they were listed, if another writer cleaned up.
        let Ok(earlier) = table.at(version) else { break };
        if !known.same_state(&earlier, &earlier.vector_files()?.unwrap_or_default())? {
            break;
        }
        first = earlier;
    }
    Ok(Some(Known { table: first, ..known }))
}

/// All generations that the dataset still holds, in all retained states: ascending by version, and so by number.
pub(crate) fn all(dir: &Path, uuid: &str, table: &Table) -> Result<Vec<Known>> {
    let mut found: Vec<Known> = Vec::new();
    for version in table.versions()? {
        match one(dir, uuid, table, version, found.last()) {
            Ok(known) => found.extend(known),
            // Retired since it was listed: its manifest goes before anything else that it needs.
            Err(_) if !table.lists(version)? => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// The state of a version, unless it is that of the one before, holds no generation, or is removed in part.
fn one(dir: &Path, uuid: &str, table: &Table, version: u64, before: Option<&Known>) -> Result<Option<Known>> {
    let at = table.at(version)?;
    let Some(files) = at.vector_files()? else { return Ok(None) };
    if half_removed(table, &at, &files)? {
        return Ok(None);
    }
    // A state may come back, as when all that was appended is deleted: then it is the newest again.
    match before {
        Some(before) if before.same_state(&at, &files)? => Ok(None),
        _ => look(dir, uuid, &at, files).map(Some),
    }
}

/// Old versions that a killed writer had begun to remove: the next commit or mending removes the rest.
pub(crate) fn removed_in_part(table: &Table) -> Result<Vec<u64>> {
    let in_part = |version: u64| {
        let at = table.at(version)?;
        at.vector_files()?.map_or(Ok(false), |files| half_removed(table, &at, &files))
    };
    let mut found = Vec::new();
    for version in table.versions()? {
        match in_part(version) {
            Ok(false) => {}
            // Wholly removed since it was listed.
            _ if !table.lists(version)? => {}
            Ok(true) => found.push(version),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether files of a version are gone that nothing needs: not the newest's, and not protected. So a power cut leaves one that
/// took the files and not yet the manifest, and so did earlier programs that were killed.
fn half_removed(newest: &Table, at: &Table, files: &[String]) -> Result<bool> {
    if at.complete() {
        return Ok(false);
    }
    if newest.vector_files()?.is_some_and(|needed| needed == files) && newest.rows()? == at.rows()? {
        return Ok(false);
    }
    Ok(newest.tags()?.iter().all(|(_, version)| *version != at.version()))
}

fn look(dir: &Path, uuid: &str, table: &Table, files: Vec<String>) -> Result<Known> {
    let dim = table.dim()?.unwrap_or(0);
    let sidecar = find_sidecar(dir, &files)?;
    let manifest = match &sidecar {
        None => Err("its graph was never finished or is gone".to_string()),
        Some((sidecar, known)) => match Manifest::read(sidecar) {
            Ok(manifest) if files.get(..*known).is_some_and(|files| manifest.describes(uuid, files)) => Ok(manifest),
            Ok(_) => Err(format!("`{}` describes other vectors", name(sidecar))),
            Err(error) => Err(error.in_full()),
        },
    };
    let number = match &manifest {
        Ok(manifest) => manifest.number,
        Err(_) => table.generation_number()?,
    };
    let kept = table.config().get(&fingerprint_key(number));
    let fingerprint: Option<Fingerprint> = kept.and_then(|kept| serde_json::from_str(kept).ok());
    let fingerprint = fingerprint
        .ok_or_else(|| Error::corrupt(dir, format!("the dataset does not say what embedded generation {number}")))?;
    let rows = table.rows()?;
    let manifest =
        manifest.and_then(|manifest| match manifest.fingerprint == fingerprint && manifest.dim as usize == dim {
            // A checksum says that it was written so, not that it is right: passages are counted from this number on.
            true if manifest.len as usize > rows.len() => {
                Err(format!("its manifest tells of {} passages, the dataset has {}", manifest.len, rows.len()))
            }
            true => Ok(manifest),
            false => Err("its manifest and the dataset disagree".to_string()),
        });
    let sidecar = sidecar.map(|(sidecar, _)| sidecar);
    Ok(Known { number, fingerprint, table: table.clone(), files, rows, dim, sidecar, manifest })
}

/// Owners as part of a tag's name: `keep-<owner>-g<number>`. Letters, digits and `-` stand for themselves; any other byte is
/// written as `_` and two hex digits.
pub(crate) fn tag_of(owner: &str, number: u32) -> String {
    let mut tag = String::from("keep-");
    for byte in owner.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => tag.push(char::from(byte)),
            other => tag.push_str(&format!("_{other:02x}")),
        }
    }
    tag.push_str(&format!("-g{number}"));
    tag
}

/// The owner and the generation that a tag names, if it is one of ours.
pub(crate) fn owner_of(tag: &str) -> Option<(String, u32)> {
    let (owner, number) = tag.strip_prefix("keep-")?.rsplit_once("-g")?;
    let mut bytes = Vec::new();
    let mut rest = owner.bytes();
    while let Some(byte) = rest.next() {
        let plain = match byte {
            b'_' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        };
        bytes.push(plain);
    }
    Some((String::from_utf8(bytes).ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_carry_any_owner() {
        for owner in ["run-7", "runs/joint seed=1", "ü_g3", "a-g2", ""] {
            let tag = tag_of(owner, 12);
            assert!(tag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{tag}");
            assert_eq!(owner_of(&tag), Some((owner.to_string(), 12)));
        }
        for foreign in ["release", "keep-x", "keep-x-gy", "keep-_zz-g1"] {
            assert_eq!(owner_of(foreign), None);
        }
    }
}
