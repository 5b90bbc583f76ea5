//! Protections that follow their generation, and those that cannot be read or that protect something else than their name
//! says: a damaged file must not let a generation be removed that somebody keeps. Their names say what they are for, so that
//! they can be written anew.

use std::path::PathBuf;

use crate::corpus::Corpus;
use crate::durable::{entries, name, remove, sync_dir};
use crate::error::Result;
use crate::survey::{self, Known};
use crate::table::Table;

/// The owner whose protections follow: what they keep is the newest state of their generation, with what was appended to it and
/// without what was deleted. Those of any other owner stay at the state they were written for, whose passages a run was about.
pub const BASE: &str = "base";

/// The protections that are behind the newest state of their generation and are to follow it, with its version.
pub(crate) fn moves(tags: &[(String, u64)], known: &[Known]) -> Vec<(String, u64)> {
    let behind = tags.iter().filter_map(|(tag, version)| {
        let (_, number) = survey::owner_of(tag).filter(|(owner, _)| owner == BASE)?;
        let newest = known.iter().rev().find(|known| known.number == number)?.table.version();
        (newest != *version).then(|| (tag.clone(), newest))
    });
    behind.collect()
}

/// A protection that does not do what its name says.
#[derive(Debug)]
pub(crate) struct Broken {
    /// Its file.
    pub(crate) path: PathBuf,
    pub(crate) tag: String,
    /// The generation it is to keep.
    pub(crate) number: u32,
    pub(crate) what: String,
}

/// All of them.
pub(crate) fn broken(corpus: &Corpus) -> Result<Vec<Broken>> {
    let table = corpus.table().latest()?;
    let versions = table.versions()?;
    let mut found = Vec::new();
    for path in entries(&table.tags_dir())? {
        let Some(tag) = name(&path).strip_suffix(".json").map(str::to_string) else { continue };
        let Some((_, number)) = survey::owner_of(&tag) else { continue };
        let what = match Table::tagged(&path) {
            None => "it cannot be read".to_string(),
            // Listed again: a writer may have moved it to a version that it committed meanwhile.
            Some(version) if !versions.contains(&version) && !table.lists(version)? => {
                format!("it protects version {version}, which is not there")
            }
            Some(version) => match number_of(&table, version) {
                Some(there) if there == number => continue,
                Some(there) => format!("it protects generation {there}"),
                None => format!("it protects version {version}, which is no generation"),
            },
        };
        found.push(Broken { path, tag, number, what });
    }
    Ok(found)
}

/// Writes a broken protection anew in one step or, where its generation is gone, removes it; says which it was.
pub(crate) fn restore(corpus: &Corpus, broken: &Broken, known: &[Known]) -> Result<String> {
    match known.iter().rev().find(|known| known.number == broken.number) {
        Some(known) => {
            corpus.table().move_tag(&broken.tag, known.table.version())?;
            Ok(format!("wrote the protection `{}` anew: {}", broken.tag, broken.what))
        }
        None => {
            remove(&broken.path)?;
            sync_dir(&corpus.table().tags_dir())?;
            Ok(format!("removed the protection `{}` of a generation that is gone", broken.tag))
        }
    }
}

fn number_of(table: &Table, version: u64) -> Option<u32> {
    let at = table.at(version).ok()?;
    at.vector_files().ok().flatten()?;
    at.generation_number().ok()
}
