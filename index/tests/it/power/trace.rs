//! Watches a process: every change it makes to files under a directory, in an order in which they can have happened.
//!
//! By ptrace, as debuggers do: every system call of every thread is seen at its end, before the thread goes on. So nothing
//! escapes whatever library makes the call, except writes through shared memory maps and io_uring, which are refused: a
//! program that begins to use them fails the test instead of passing it unseen.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disk::{Name, Node, Op};

const GET_SYSCALL_INFO: libc::c_uint = 0x420e;
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// What a process did.
pub struct Recording {
    /// First what was there before it started, synced, then its own changes.
    pub ops: Vec<Op>,
    /// How many of them were there before.
    pub before: usize,
    /// Of every node whether it is a directory.
    pub is_dir: Vec<bool>,
}

/// Runs a command to its end, which must be a good one, and records what it does under `root`, a canonical path. Nothing where the
/// system does not permit to watch a process; an error is one of the watching, which must not pass for that.
pub fn record(command: &mut Command, root: &Path) -> io::Result<Option<Recording>> {
    let mut recorder = Recorder::new(root)?;
    let before = recorder.ops.len();
    // SAFETY: called in the child between fork and exec; ptrace is one system call and allocates nothing.
    unsafe { command.pre_exec(|| ptrace(libc::PTRACE_TRACEME, 0, 0, 0).map(drop)) };
    let main = match command.spawn() {
        Ok(child) => child.id() as libc::pid_t,
        // What the child's request to be watched was answered with; the program itself is this one, and runs.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EACCES)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut status = 0;
    // SAFETY: `status` lives as long as the call. The child has stopped at its exec.
    unsafe { libc::waitpid(main, &mut status, 0) };
    let options =
        libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, main, 0, options as usize)?;
    ptrace(libc::PTRACE_SYSCALL, main, 0, 0)?;
    let (mut known, mut calls) = (HashSet::from([main]), HashMap::new());
    let mut ended = None;
    loop {
        // Only children of this thread: other tests run in others.
        // SAFETY: as above.
        let thread = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        if thread < 0 {
            break;
        }
        if !libc::WIFSTOPPED(status) {
            if thread == main {
                ended = Some(status);
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let mut deliver = 0;
        if signal == SYSCALL_STOP {
            match syscall(thread)? {
                Some(Stop::Entry(call)) => drop(calls.insert(thread, call)),
                Some(Stop::Exit(result)) => {
                    if let (Some(call), Some(result)) = (calls.remove(&thread), result) {
                        recorder.see(thread, &call, result)?;
                    }
                }
                None => {}
            }
        } else if status >> 16 == 0 && !(signal == libc::SIGSTOP && known.insert(thread)) {
            deliver = signal as usize;
        }
        // A thread that was killed meanwhile is reported by the next wait.
        let _ = ptrace(libc::PTRACE_SYSCALL, thread, 0, deliver);
    }
    assert_eq!(ended, Some(0), "the watched process failed");
    Ok(Some(Recording { ops: recorder.ops, before, is_dir: recorder.is_dir }))
}

fn ptrace(request: libc::c_uint, thread: libc::pid_t, address: usize, data: usize) -> io::Result<libc::c_long> {
    // SAFETY: the requests used here read and write nothing but `data` where it is the address of a live buffer of `address` bytes.
    match unsafe { libc::ptrace(request, thread, address, data) } {
        -1 => Err(io::Error::last_os_error()),
        got => Ok(got),
    }
}

struct Call {
    number: i64,
    arguments: [u64; 6],
}

enum Stop {
    Entry(Call),
    /// With its result unless it failed.
    Exit(Option<i64>),
}

fn syscall(thread: libc::pid_t) -> io::Result<Option<Stop>> {
    // SAFETY: plain numbers, for which zeros are values.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    match ptrace(GET_SYSCALL_INFO, thread, size_of_val(&info), &raw mut info as usize) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        other => other?,
    };
    // SAFETY: `op` says which of the union's parts the kernel filled.
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => unsafe {
            Some(Stop::Entry(Call { number: info.u.entry.nr as i64, arguments: info.u.entry.args }))
        },
        libc::PTRACE_SYSCALL_INFO_EXIT => unsafe {
            Some(Stop::Exit((info.u.exit.is_error == 0).then_some(info.u.exit.sval)))
        },
        _ => None,
    })
}

struct Recorder {
    root: PathBuf,
    ops: Vec<Op>,
    is_dir: Vec<bool>,
    /// What the names stand for now.
    paths: BTreeMap<PathBuf, Node>,
    /// By the system's inode number, which may come again for another file once one is gone.
    inodes: HashMap<u64, Node>,
}

impl Recorder {
    fn new(root: &Path) -> io::Result<Self> {
        let mut recorder = Self {
            root: root.to_path_buf(),
            ops: Vec::new(),
            is_dir: vec![true],
            paths: BTreeMap::from([(root.to_path_buf(), 0)]),
            inodes: HashMap::from([(root.metadata()?.ino(), 0)]),
        };
        recorder.take_in(root)?;
        recorder.ops.extend((0..recorder.is_dir.len()).map(Op::Sync));
        Ok(recorder)
    }

    /// What is there already.
    fn take_in(&mut self, dir: &Path) -> io::Result<()> {
        for entry in dir.read_dir()? {
            let path = entry?.path();
            let node = self.appears(&path, path.is_dir())?;
            if path.is_dir() {
                self.take_in(&path)?;
            } else {
                self.ops.push(Op::Write { file: node, at: 0, bytes: std::fs::read(&path)? });
            }
        }
        Ok(())
    }

    fn appears(&mut self, path: &Path, is_dir: bool) -> io::Result<Node> {
        let node = self.is_dir.len();
        self.is_dir.push(is_dir);
        self.inodes.insert(path.metadata()?.ino(), node);
        let name = self.name(path, Some(node));
        self.ops.push(Op::Names(vec![name]));
        self.paths.insert(path.to_path_buf(), node);
        Ok(node)
    }

    fn name(&self, path: &Path, now: Option<Node>) -> Name {
        let dir = self.paths[path.parent().unwrap()];
        Name { dir, name: path.file_name().unwrap().to_str().unwrap().to_string(), now }
    }

    /// A system call that succeeded.
    fn see(&mut self, thread: libc::pid_t, call: &Call, result: i64) -> io::Result<()> {
        let Call { number, arguments: a } = call;
        let here = libc::AT_FDCWD as u64;
        match *number {
            libc::SYS_openat if a[2] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0 => {
                self.opened(thread, result, a[2] as i32)
            }
            libc::SYS_openat2 => panic!("openat2 is not understood"),
            libc::SYS_write | libc::SYS_writev => self.wrote(thread, a[0], None, result),
            libc::SYS_pwrite64 | libc::SYS_pwritev => self.wrote(thread, a[0], Some(a[3]), result),
            libc::SYS_pwritev2 => self.wrote(thread, a[0], Some(a[3]).filter(|at| *at != u64::MAX), result),
            libc::SYS_copy_file_range => {
                assert!(a[3] == 0, "copy_file_range to an offset is not understood");
                self.wrote(thread, a[2], None, result)
            }
            libc::SYS_sendfile => self.wrote(thread, a[0], None, result),
            libc::SYS_ftruncate => self.resized(thread, a[0], a[1], false),
            libc::SYS_fallocate => self.resized(thread, a[0], a[2] + a[3], true),
            libc::SYS_fsync | libc::SYS_fdatasync => self.synced(thread, a[0]),
            libc::SYS_renameat => self.renamed(thread, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_renameat2 => {
                assert!(a[4] & !u64::from(libc::RENAME_NOREPLACE) == 0, "renameat2 with flags {:x}", a[4]);
                self.renamed(thread, (a[0], a[1]), (a[2], a[3]))
            }
            libc::SYS_linkat => self.linked(thread, (a[0], a[1]), (a[2], a[3])),
            libc::SYS_unlinkat => self.removed(thread, (a[0], a[1])),
            libc::SYS_mkdirat => self.made(thread, (a[0], a[1])),
            libc::SYS_mmap => self.mapped(thread, a),
            libc::SYS_io_uring_setup => panic!("io_uring is not understood"),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open if a[1] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0 => {
                self.opened(thread, result, a[1] as i32)
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => self.opened(thread, result, libc::O_CREAT | libc::O_TRUNC),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => self.renamed(thread, (here, a[0]), (here, a[1])),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => self.linked(thread, (here, a[0]), (here, a[1])),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => self.removed(thread, (here, a[0])),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => self.made(thread, (here, a[0])),
            _ => Ok(()),
        }
    }

    fn opened(&mut self, thread: libc::pid_t, fd: i64, flags: i32) -> io::Result<()> {
        let path = std::fs::read_link(descriptor(thread, fd as u64))?;
        if !path.starts_with(&self.root) {
            return Ok(());
        }
        assert!(flags & libc::O_TMPFILE != libc::O_TMPFILE, "files without a name are not understood");
        match self.paths.get(&path) {
            None => drop(self.appears(&path, false)?),
            Some(node) if flags & libc::O_TRUNC != 0 => self.ops.push(Op::Length { file: *node, to: 0 }),
            Some(_) => {}
        }
        Ok(())
    }

    fn wrote(&mut self, thread: libc::pid_t, fd: u64, at: Option<u64>, count: i64) -> io::Result<()> {
        let Some(file) = self.node(thread, fd) else { return Ok(()) };
        let at = match at {
            Some(at) => at,
            // The position is behind what was written.
            None => position(thread, fd)? - count as u64,
        };
        let mut bytes = vec![0; count as usize];
        File::open(descriptor(thread, fd))?.read_exact_at(&mut bytes, at)?;
        self.ops.push(Op::Write { file, at, bytes });
        Ok(())
    }

    fn resized(&mut self, thread: libc::pid_t, fd: u64, to: u64, only_longer: bool) -> io::Result<()> {
        let Some(file) = self.node(thread, fd) else { return Ok(()) };
        let now = File::open(descriptor(thread, fd))?.metadata()?.len();
        self.ops.push(Op::Length { file, to: if only_longer { to.max(now) } else { to } });
        Ok(())
    }

    fn synced(&mut self, thread: libc::pid_t, fd: u64) -> io::Result<()> {
        if let Some(node) = self.node(thread, fd) {
            self.ops.push(Op::Sync(node));
        }
        Ok(())
    }

    fn renamed(&mut self, thread: libc::pid_t, from: (u64, u64), to: (u64, u64)) -> io::Result<()> {
        let (from, to) = (path(thread, from)?, path(thread, to)?);
        match (self.paths.get(&from).copied(), to.starts_with(&self.root)) {
            (None, false) => return Ok(()),
            (Some(node), true) => {
                let names = vec![self.name(&to, Some(node)), self.name(&from, None)];
                self.ops.push(Op::Names(names));
            }
            _ => panic!("{} was moved to {}: across the border", from.display(), to.display()),
        }
        let moved: Vec<PathBuf> = self.paths.keys().filter(|path| path.starts_with(&from)).cloned().collect();
        self.paths.retain(|path, _| !path.starts_with(&to) || path.starts_with(&from));
        for path in moved {
            let node = self.paths.remove(&path).unwrap();
            let rest = path.strip_prefix(&from).unwrap();
            // Joining an empty rest would add a slash.
            self.paths.insert(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) }, node);
        }
        Ok(())
    }

    fn linked(&mut self, thread: libc::pid_t, from: (u64, u64), to: (u64, u64)) -> io::Result<()> {
        let (from, to) = (path(thread, from)?, path(thread, to)?);
        if to.starts_with(&self.root) {
            let node = self.paths[&from];
            let name = self.name(&to, Some(node));
            self.ops.push(Op::Names(vec![name]));
            self.paths.insert(to, node);
        }
        Ok(())
    }

    fn removed(&mut self, thread: libc::pid_t, at: (u64, u64)) -> io::Result<()> {
        let path = path(thread, at)?;
        if self.paths.contains_key(&path) {
            let name = self.name(&path, None);
            self.ops.push(Op::Names(vec![name]));
            self.paths.remove(&path);
        }
        Ok(())
    }

    fn made(&mut self, thread: libc::pid_t, at: (u64, u64)) -> io::Result<()> {
        let path = path(thread, at)?;
        if path.starts_with(&self.root) {
            self.appears(&path, true)?;
        }
        Ok(())
    }

    fn mapped(&self, thread: libc::pid_t, a: &[u64; 6]) -> io::Result<()> {
        let writes = a[2] as i32 & libc::PROT_WRITE != 0 && a[3] as i32 & libc::MAP_SHARED != 0;
        if writes && a[3] as i32 & libc::MAP_ANONYMOUS == 0 && self.node(thread, a[4]).is_some() {
            panic!("writing through a memory map is not understood");
        }
        Ok(())
    }

    /// The file or directory that a descriptor is of, if it is one of those watched.
    fn node(&self, thread: libc::pid_t, fd: u64) -> Option<Node> {
        let link = descriptor(thread, fd);
        if !std::fs::read_link(&link).ok()?.starts_with(&self.root) {
            return None;
        }
        let node = self.inodes.get(&link.metadata().ok()?.ino());
        Some(*node.unwrap_or_else(|| panic!("{} is unknown", link.display())))
    }
}

fn descriptor(thread: libc::pid_t, fd: u64) -> PathBuf {
    PathBuf::from(format!("/proc/{thread}/fd/{}", fd as i32))
}

fn position(thread: libc::pid_t, fd: u64) -> io::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{}", fd as i32))?;
    let line = text.lines().find_map(|line| line.strip_prefix("pos:"));
    line.and_then(|position| position.trim().parse().ok()).ok_or_else(|| io::Error::other("no position is told"))
}

/// A path in the memory of a thread, made absolute.
fn path(thread: libc::pid_t, (dir, address): (u64, u64)) -> io::Result<PathBuf> {
    let memory = File::open(format!("/proc/{thread}/mem"))?;
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, address + bytes.len() as u64)?;
        if byte[0] == 0 {
            break;
        }
        bytes.push(byte[0]);
    }
    let path = PathBuf::from(String::from_utf8(bytes).map_err(io::Error::other)?);
    if path.is_absolute() {
        return Ok(path);
    }
    let from = match dir as i32 {
        libc::AT_FDCWD => PathBuf::from(format!("/proc/{thread}/cwd")),
        _ => descriptor(thread, dir),
    };
    Ok(std::fs::read_link(from)?.join(path))
}
