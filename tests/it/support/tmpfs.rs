//! A disk that is soon full.

use std::path::Path;
use std::process::Command;

/// A small tmpfs, unmounted on drop.
pub struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// Mounts one of so many KiB; `None`, and a line that says so, where that is not permitted.
    pub fn mount(kibibytes: usize) -> Option<Self> {
        let dir = super::folder();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kibibytes}k"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => {
                super::skipped("a tmpfs cannot be mounted here");
                None
            }
        }
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, kibibytes: usize) {
        let size = format!("remount,size={kibibytes}k");
        let status = Command::new("mount").args(["-o", &size]).arg(self.path()).status().unwrap();
        assert!(status.success());
    }

    /// Makes it read-only or writable again.
    pub fn writable(&self, writable: bool) {
        let mode = if writable { "remount,rw" } else { "remount,ro" };
        let status = Command::new("mount").args(["-o", mode]).arg(self.path()).status().unwrap();
        assert!(status.success());
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        super::files(self.path()).iter().map(|file| self.path().join(file).metadata().unwrap().len()).sum()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
