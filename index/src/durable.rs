//! Writing so that a stopped machine finds either the old file or the new one: write, sync, rename, sync the directory.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces a file: on return the new content is durable; a crash leaves the old file or the new one, and perhaps a
/// `.tmp-` file beside it.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    write_atomic_parts(path, &[content])
}

/// The same with content that lies in several places.
pub(crate) fn write_atomic_parts(path: &Path, parts: &[&[u8]]) -> Result<()> {
    write_by(&beside(path), path, parts)
}

/// The same by way of this temporary file in the same directory.
pub(crate) fn write_by(temporary: &Path, path: &Path, parts: &[&[u8]]) -> Result<()> {
    let written = write_parts(temporary, parts)
        .and_then(|()| fs::rename(temporary, path).map_err(Error::io("renaming to", path)));
    if written.is_err() {
        // The error matters, not whether the attempt at tidying succeeds.
        let _ = fs::remove_file(temporary);
    }
    written?;
    sync_dir(parent(path))
}

/// Writes a new file and syncs its content, not its directory.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> Result<()> {
    write_parts(path, &[content])
}

fn write_parts(path: &Path, parts: &[&[u8]]) -> Result<()> {
    let mut file = File::create(path).map_err(Error::io("creating", path))?;
    for part in parts {
        file.write_all(part).map_err(Error::io("writing", path))?;
    }
    file.sync_all().map_err(Error::io("syncing", path))
}

/// Makes the content of an existing file durable.
pub(crate) fn sync_file(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(Error::io("syncing", path))
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("syncing", path))
}

/// Makes a directory and those above it that are missing; on return the names of all that were made are durable.
pub(crate) fn create_dir_synced(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists()).collect();
    fs::create_dir_all(path).map_err(Error::io("creating", path))?;
    missing.into_iter().try_for_each(|made| sync_dir(parent(made)))
}

/// Makes every file and directory below a directory durable, and the directory itself.
pub(crate) fn sync_tree(path: &Path) -> Result<()> {
    for entry in entries(path)? {
        if entry.is_dir() {
            sync_tree(&entry)?;
        } else {
            sync_file(&entry)?;
        }
    }
    sync_dir(path)
}

/// What lies in a directory, in the order of names; nothing where there is no directory.
pub(crate) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let read = match fs::read_dir(path) {
        Ok(read) => read,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("reading the directory", path)(error)),
    };
    let mut found = Vec::new();
    for entry in read {
        found.push(entry.map_err(Error::io("reading the directory", path))?.path());
    }
    found.sort();
    Ok(found)
}

/// The last part of a path as text, empty where it is none.
pub(crate) fn name(path: &Path) -> &str {
    path.file_name().and_then(OsStr::to_str).unwrap_or("")
}

/// Removes a file or a whole directory; one that is already gone is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("removing", path)(error)),
        _ => Ok(()),
    }
}

/// Length and hex blake3 of a file, read in pieces.
pub(crate) fn digest(path: &Path) -> Result<(u64, String)> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).map_err(Error::io("opening", path))?;
    hasher.update_reader(file).map_err(Error::io("reading", path))?;
    Ok((hasher.count(), hasher.finalize().to_hex().to_string()))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn beside(path: &Path) -> PathBuf {
    parent(path).join(format!(".tmp-{}", name(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_leaves_no_temporary_and_digests_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two!").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two!");
        assert_eq!(digest(&path).unwrap(), (4, blake3::hash(b"two!").to_hex().to_string()));
        assert_eq!(entries(dir.path()).unwrap(), [path]);
    }

    #[test]
    fn a_missing_directory_holds_nothing() {
        assert!(entries(Path::new("/nonexistent/ragtune")).unwrap().is_empty());
        remove(Path::new("/nonexistent/ragtune")).unwrap();
    }
}
