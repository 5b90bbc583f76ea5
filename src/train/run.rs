//! The folder of a run: what is in it, and that one process at a time writes there.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::models::folder::replace_file;

/// A run folder held for writing.
pub struct RunFolder {
    dir: PathBuf,
    lock: File,
}

impl RunFolder {
    /// Makes a new run folder; one that exists and is not empty is refused. What a run leaves that was killed before its
    /// settings were written - a lock, a file of settings under a name of its own - does not count: there is nothing to go on
    /// with.
    pub fn create(dir: &Path) -> Result<Self> {
        let begun = |name: &std::ffi::OsStr| {
            let name = name.to_string_lossy();
            name == "LOCK" || (name.starts_with(".config.toml") && name.ends_with(".tmp"))
        };
        let occupied = std::fs::read_dir(dir)
            .is_ok_and(|mut entries| entries.any(|entry| !entry.is_ok_and(|entry| begun(&entry.file_name()))));
        if occupied {
            return Err(Error::new(format!("the run folder `{}` exists and is not empty", dir.display()))
                .hint(format!("choose another `--out`, or go on with it: ragtune train --resume {}", dir.display())));
        }
        std::fs::create_dir_all(dir).context(|| format!("the run folder `{}` cannot be made", dir.display()))?;
        Self::hold(dir)
    }

    /// Opens an existing run folder to go on with it.
    pub fn open(dir: &Path) -> Result<Self> {
        if !dir.join("config.toml").is_file() {
            return Err(Error::new(format!("`{}` is not a run folder: it has no config.toml", dir.display()))
                .hint("give the folder that `ragtune train --out` made"));
        }
        Self::hold(dir)
    }

    fn hold(dir: &Path) -> Result<Self> {
        let path = dir.join("LOCK");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .context(|| format!("`{}` cannot be opened", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let owner = std::fs::read_to_string(&path).unwrap_or_default();
                return Err(Error::new(format!(
                    "the run folder `{}` is in use by process {}",
                    dir.display(),
                    owner.trim()
                ))
                .hint("wait until it ends, or stop it; it writes a checkpoint when it is interrupted"));
            }
            Err(TryLockError::Error(source)) => return Err(source.into()),
        }
        lock.set_len(0)?;
        writeln!(&lock, "{}", std::process::id())?;
        Ok(Self { dir: dir.to_path_buf(), lock })
    }

    /// The folder itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where checkpoints go.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// Where the trained encoder goes.
    pub fn encoder(&self) -> PathBuf {
        self.dir.join("encoder")
    }

    /// Where a fully trained generator goes.
    pub fn generator(&self) -> PathBuf {
        self.dir.join("generator")
    }

    /// Where a trained adapter goes.
    pub fn adapter(&self) -> PathBuf {
        self.dir.join("adapter")
    }

    /// A name for this run that other folders of the same name do not share: tags in the index carry it.
    pub fn id(&self) -> String {
        let path = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        let digest = blake3::hash(path.to_string_lossy().as_bytes()).to_hex();
        let name: String = path
            .file_name()
            .map(|name| name.to_string_lossy().chars().filter(|c| c.is_ascii_alphanumeric()).take(24).collect())
            .unwrap_or_default();
        format!("run-{name}-{}", digest.get(..8).unwrap_or_default())
    }

    /// Gives up a new run that never began: what was put into the folder is removed, so that the corrected command can be
    /// typed again.
    pub fn discard(self) -> Result<()> {
        for name in ["config.toml", "LOCK"] {
            match std::fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(std::fs::remove_dir(&self.dir)?)
    }

    /// Writes a file of the run whole.
    pub fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        replace_file(&self.dir.join(name), |path| Ok(std::fs::write(path, content)?))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Closing the file would do, if no process that was started just now had a copy of it.
        let _ = self.lock.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_or_occupied_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run");
        let held = RunFolder::create(&dir).unwrap();
        // A lock alone is no run, but this one is held.
        assert!(RunFolder::create(&dir).err().unwrap().to_string().contains("in use by process"));
        assert!(RunFolder::open(&dir).err().unwrap().to_string().contains("no config.toml"));
        held.write("config.toml", b"").unwrap();
        assert!(RunFolder::create(&dir).err().unwrap().to_string().contains("not empty"));
        let error = RunFolder::open(&dir).err().unwrap();
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        drop(held);
        assert!(RunFolder::open(&dir).is_ok());
    }
}
