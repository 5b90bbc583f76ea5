//! Files and folders that are replaced whole: written under a temporary name beside the target, synced, renamed.
//!
//! A crash at any moment leaves the old content or the new one, never a mixture; what it may leave besides is a
//! temporary `.name.XXXXXX.tmp`, which nothing reads.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};

/// Replaces the file `path` by what `write` puts at the path it is given; durable when it returns.
pub fn replace_file(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = parent(path)?;
    let temporary = tempfile::Builder::new()
        .prefix(&hidden(path))
        .suffix(".tmp")
        .tempfile_in(&parent)
        .context(|| format!("cannot write in `{}`", parent.display()))?
        .into_temp_path();
    write(&temporary)?;
    readable(&temporary)?;
    sync(&temporary)?;
    temporary.persist(path).context(|| format!("cannot replace `{}`", path.display()))?;
    sync(&parent)
}

/// Replaces the folder `dir` by what `write` puts into the empty folder it is given; durable when it returns.
///
/// An existing non-empty folder is replaced only when it holds the file `mark` (so that a mistyped path never loses
/// somebody's data); the exchange of the two is one atomic system call.
pub fn replace_folder(dir: &Path, mark: &str, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = parent(dir)?;
    let occupied = match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_some(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(Error::new(format!("cannot write to `{}`", dir.display())).because(error)),
    };
    if occupied && !dir.join(mark).exists() {
        return Err(Error::new(format!(
            "`{}` is not empty and holds no `{mark}`, so it is not replaced",
            dir.display()
        ))
        .hint("name a folder that does not exist yet"));
    }
    let temporary = tempfile::Builder::new()
        .prefix(&hidden(dir))
        .suffix(".tmp")
        .tempdir_in(&parent)
        .context(|| format!("cannot write in `{}`", parent.display()))?;
    write(temporary.path())?;
    sync_tree(temporary.path())?;
    if occupied {
        exchange(temporary.path(), dir)?;
        sync(&parent)?;
        // The temporary name now holds the old folder, which the guard removes.
        drop(temporary);
    } else {
        fs::rename(temporary.path(), dir).context(|| format!("cannot create `{}`", dir.display()))?;
        let _ = temporary.keep();
    }
    sync(&parent)
}

fn parent(path: &Path) -> Result<PathBuf> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    };
    fs::create_dir_all(&parent).context(|| format!("cannot create the folder `{}`", parent.display()))?;
    Ok(parent)
}

fn hidden(path: &Path) -> String {
    format!(".{}.", path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default())
}

/// Temporary files and folders are made for their owner only; what replaces a target gets the usual rights.
fn readable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .context(|| format!("cannot set the rights of `{}`", path.display()))
}

fn sync_tree(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sync_tree(&path)?;
        } else {
            readable(&path)?;
            sync(&path)?;
        }
    }
    readable(dir)?;
    sync(dir)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .context(|| format!("cannot bring `{}` safely to the disk", path.display()))
}

fn exchange(one: &Path, other: &Path) -> Result<()> {
    let name = |path: &Path| {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|source| Error::new(format!("`{}` is no path", path.display())).because(source))
    };
    let (one_name, other_name) = (name(one)?, name(other)?);
    // SAFETY: both are NUL-terminated strings that outlive the call; the call touches no memory of this process.
    #[cfg(target_os = "macos")]
    let status = unsafe { libc::renamex_np(one_name.as_ptr(), other_name.as_ptr(), libc::RENAME_SWAP) };
    // SAFETY: as above.
    #[cfg(not(target_os = "macos"))]
    let status = unsafe {
        libc::renameat2(libc::AT_FDCWD, one_name.as_ptr(), libc::AT_FDCWD, other_name.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if status == 0 {
        return Ok(());
    }
    Err(Error::new(format!("cannot replace the folder `{}`", other.display()))
        .because(std::io::Error::last_os_error())
        .hint("name a folder that does not exist yet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_replaced_whole_and_a_foreign_one_is_left() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("model");
        let put = |text: &'static str| {
            move |path: &Path| {
                fs::write(path.join("config.json"), text)?;
                Ok(())
            }
        };
        replace_folder(&dir, "config.json", put("one")).unwrap();
        fs::write(dir.join("stale"), "old").unwrap();
        replace_folder(&dir, "config.json", put("two")).unwrap();
        assert_eq!(fs::read_to_string(dir.join("config.json")).unwrap(), "two");
        assert!(!dir.join("stale").exists(), "nothing of the old folder may stay");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "no temporary folder may stay");

        let foreign = root.path().join("thesis");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("chapter.tex"), "work of years").unwrap();
        let error = replace_folder(&foreign, "config.json", put("three")).unwrap_err();
        assert!(error.to_string().contains("thesis"), "{error}");
        assert!(foreign.join("chapter.tex").exists());
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("weights");
        replace_file(&path, |temporary| Ok(fs::write(temporary, "whole")?)).unwrap();
        let failed = replace_file(&path, |temporary| {
            fs::write(temporary, "ha")?;
            Err(Error::new("disk full"))
        });
        assert!(failed.is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }
}
