//! One writer at a time: an advisory lock on a file that says who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Name of the lock file in the index directory.
pub(crate) const LOCK: &str = "LOCK";

/// The right to write to one index. Given up on drop, and by the kernel when the process dies however it dies, so that a
/// lock never outlives its writer. Readers need none.
#[derive(Debug)]
pub struct WriterLock {
    dir: PathBuf,
    // Held for its lock alone: closing it gives the lock up.
    file: File,
}

impl WriterLock {
    /// Takes the lock of the index at `dir` (its canonical path) or says who has it.
    pub(crate) fn take(dir: &Path, owner: &str) -> Result<Self> {
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io("opening", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(held(dir, &mut file)),
            Err(TryLockError::Error(error)) => return Err(Error::io("locking", &path)(error)),
        }
        // What is written is for people: a full disk must not keep anybody from freeing it.
        let line = format!("{}\n{}\n", owner.replace(['\n', '\r'], " "), std::process::id());
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(line.as_bytes()));
        Ok(Self { dir: dir.to_path_buf(), file })
    }

    /// Refuses a lock that was taken on another index.
    pub(crate) fn must_be_for(&self, dir: &Path) -> Result<()> {
        if self.dir == dir {
            return Ok(());
        }
        Err(Error::WrongLock { held: self.dir.clone(), wanted: dir.to_path_buf() })
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // Best effort, for instance on a full disk: what is not written down now is by the next writer.
        let _ = crate::vouch::remember(&self.dir);
        // Closing the file gives the lock up only when no process has it open: one that was started just now, by another thread
        // of this program, has a copy until it runs its own.
        let _ = self.file.unlock();
    }
}

fn held(dir: &Path, file: &mut File) -> Error {
    let mut content = Vec::new();
    let _ = file.take(4096).read_to_end(&mut content);
    let content = String::from_utf8_lossy(&content);
    let mut lines = content.lines();
    let mut line = || lines.next().filter(|line| !line.is_empty()).unwrap_or("unknown").to_string();
    Error::Locked { dir: dir.to_path_buf(), owner: line(), pid: line() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_writer_learns_the_name_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = WriterLock::take(dir.path(), "train run-7").unwrap();
        let refused = WriterLock::take(dir.path(), "another").unwrap_err();
        let message = refused.to_string();
        assert!(message.contains("`train run-7`"), "{message}");
        assert!(message.contains(&std::process::id().to_string()), "{message}");
        assert!(refused.hint().is_some());
        drop(first);
        WriterLock::take(dir.path(), "another").unwrap();
    }

    #[test]
    fn a_copy_of_the_file_in_another_process_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = WriterLock::take(dir.path(), "first").unwrap();
        let copy = lock.file.try_clone().unwrap();
        assert!(WriterLock::take(dir.path(), "second").is_err());
        drop(lock);
        WriterLock::take(dir.path(), "second").unwrap();
        drop(copy);
    }

    #[test]
    fn a_lock_is_for_one_index() {
        let dir = tempfile::tempdir().unwrap();
        let lock = WriterLock::take(dir.path(), "a").unwrap();
        assert!(lock.must_be_for(dir.path()).is_ok());
        assert!(matches!(lock.must_be_for(Path::new("/elsewhere")), Err(Error::WrongLock { .. })));
    }
}
