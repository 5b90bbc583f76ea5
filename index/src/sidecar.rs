//! Putting a finished sidecar in its place, so that the notes of the one that it replaces are never lost: they are in the old one,
//! in the new one, or in both.

use std::path::{Path, PathBuf};

use crate::durable::{entries, name, remove, sync_dir};
use crate::error::{Error, Result};
use crate::manifest::{GENERATIONS, Manifest, UNFINISHED, belongs_to, sidecar_name};
use crate::sealed;
use crate::survey::Known;

/// How a sidecar begins that another one is replacing.
const REPLACED: &str = ".tmp-old-";

/// An empty directory in which the sidecar of a state is made.
pub(crate) fn begin(dir: &Path, known: &Known) -> Result<PathBuf> {
    let unfinished = unfinished(dir, known);
    remove(&unfinished)?;
    std::fs::create_dir_all(&unfinished).map_err(Error::io("creating", &unfinished))?;
    Ok(unfinished)
}

/// Makes what [`begin`] gave the sidecar of the state. Everything in it is durable already. The one of these very vectors that there
/// was, under whatever number, steps aside by its name and is removed afterwards; that of an earlier state stays. One that a newer
/// program wrote is not replaced.
pub(crate) fn put(dir: &Path, known: &Known) -> Result<PathBuf> {
    let (generations, unfinished) = (dir.join(GENERATIONS), unfinished(dir, known));
    let place = generations.join(sidecar_name(known.number, &known.files));
    let mut old: Vec<PathBuf> = known.sidecar.iter().filter(|old| belongs_to(old, &known.files)).cloned().collect();
    if place.exists() && !old.contains(&place) {
        old.push(place.clone());
    }
    for old in &old {
        sealed::known(Manifest::read(old))?;
    }
    if !old.is_empty() {
        // The new one's name must last before the old one's goes: only a name that is there can be salvaged.
        sync_dir(&generations)?;
    }
    let mut aside = Vec::new();
    for old in &old {
        let to = generations.join(format!("{REPLACED}{}", name(old)));
        remove(&to)?;
        std::fs::rename(old, &to).map_err(Error::io("renaming", old))?;
        aside.push(to);
    }
    if !aside.is_empty() {
        sync_dir(&generations)?;
    }
    std::fs::rename(&unfinished, &place).map_err(Error::io("renaming to", &place))?;
    sync_dir(&generations)?;
    aside.iter().try_for_each(|old| remove(old))?;
    Ok(place)
}

/// Finishes what a crash between the two renames of [`put`] left: the old sidecar aside, the new one complete and not yet in its
/// place. Says where it is then.
pub(crate) fn salvage(dir: &Path, uuid: &str, known: &Known) -> Result<Option<PathBuf>> {
    let Some(unfinished) = salvageable(dir, uuid, known)? else { return Ok(None) };
    let generations = dir.join(GENERATIONS);
    let place = generations.join(sidecar_name(known.number, &known.files));
    std::fs::rename(&unfinished, &place).map_err(Error::io("renaming to", &place))?;
    sync_dir(&generations)?;
    Ok(Some(place))
}

/// What [`salvage`] would put in its place.
pub(crate) fn salvageable(dir: &Path, uuid: &str, known: &Known) -> Result<Option<PathBuf>> {
    let (generations, unfinished) = (dir.join(GENERATIONS), unfinished(dir, known));
    let place = generations.join(sidecar_name(known.number, &known.files));
    let has_one = known.sidecar.as_ref().is_some_and(|own| belongs_to(own, &known.files));
    let aside = |path: &PathBuf| name(path).starts_with(REPLACED) && belongs_to(path, &known.files);
    if has_one || place.exists() || !entries(&generations)?.iter().any(aside) {
        return Ok(None);
    }
    let complete = Manifest::read(&unfinished).is_ok_and(|manifest| manifest.describes(uuid, &known.files));
    Ok(complete.then_some(unfinished))
}

fn unfinished(dir: &Path, known: &Known) -> PathBuf {
    dir.join(GENERATIONS).join(format!("{UNFINISHED}{}", sidecar_name(known.number, &known.files)))
}
