//! Fixtures, folders, and the program as a process.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

mod generator;
mod hub;
mod tensors;
mod tmpfs;

pub use generator::small_generator;
pub use hub::{Hub, Model};
pub use tensors::{TensorData, edit_tensors, shard};
pub use tmpfs::Tmpfs;

/// Says that this machine does not permit a test; a failure where RAGTUNE_NO_SKIP=1 says that it must.
pub fn skipped(why: &str) {
    let must = std::env::var("RAGTUNE_NO_SKIP").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    assert!(!must, "RAGTUNE_NO_SKIP is set, and {why}");
    eprintln!("skipped: {why}");
}

/// Longest time any single process may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// A file or folder of the fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(path)
}

/// The fixture encoder.
pub fn encoder() -> PathBuf {
    fixture("models/encoder")
}

/// A folder for one test, removed with it.
pub fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("ragtune-it-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What all tests share: made once, never changed by them, removed by the next run of the tests.
pub fn shared() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(root).unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            // Of a test process that is no more.
            if name.strip_prefix("shared-").is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = root.join(format!("shared-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        dir
    })
}

/// An index over the tiny corpus by the fixture encoder. Not to be changed: see [`index_copy`].
pub fn base_index() -> &'static Path {
    static INDEX: OnceLock<PathBuf> = OnceLock::new();
    INDEX.get_or_init(|| {
        let dir = shared().join("index");
        build(&fixture("tiny/corpus.jsonl"), &encoder(), &dir).done();
        dir
    })
}

/// The base index as the test's own.
pub fn index_copy(folder: &Path) -> PathBuf {
    let to = folder.join("index");
    copy(base_index(), &to);
    to
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file under a folder, relative to it, in order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(dir, &mut found);
    let mut found: Vec<PathBuf> = found.iter().map(|path| path.strip_prefix(dir).unwrap().to_path_buf()).collect();
    found.sort();
    found
}

/// The first lines of a file as another file.
pub fn first_lines(of: &Path, lines: usize, to: &Path) {
    let text = std::fs::read_to_string(of).unwrap();
    let kept: Vec<&str> = text.lines().take(lines).collect();
    std::fs::write(to, kept.join("\n") + "\n").unwrap();
}

/// Lines of a JSON Lines file.
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Hex blake3 of a file.
pub fn digest(path: &Path) -> String {
    blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string()
}

/// A command line of the program.
pub struct Ragtune(Command);

/// A command line that begins with these words.
pub fn ragtune(words: &[&str]) -> Ragtune {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ragtune"));
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // No test asks the real hub, whatever it names: a mistyped path is never looked up over the network.
    for name in NETWORK {
        command.env_remove(name);
    }
    command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", shared().join("no-cache"));
    Ragtune(command)
}

/// Variables of this process that would lead elsewhere.
const NETWORK: [&str; 13] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_ENDPOINT",
    "HF_HUB_CACHE",
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

impl Ragtune {
    /// Adds a flag with its value.
    pub fn with(mut self, flag: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.arg(flag).arg(value);
        self
    }

    /// Adds words as they are.
    pub fn and(mut self, words: &[&str]) -> Self {
        self.0.args(words);
        self
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it to its end.
    pub fn run(self) -> Ran {
        self.start().end()
    }

    /// Starts it and comes back at once.
    pub fn start(mut self) -> Running {
        Running { typed: format!("{:?}", self.0), child: self.0.spawn().unwrap() }
    }
}

/// A process of the program; killed when the test gives it up.
pub struct Running {
    typed: String,
    child: Child,
}

impl Running {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until something holds; false when the process ended before.
    pub fn until(&mut self, holds: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        loop {
            if holds() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return holds();
            }
            assert!(start.elapsed() < PATIENCE, "waited in vain: {}", self.typed);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL: no handler runs, nothing is tidied up.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGKILL so long after something holds, unless it ended before; whether it was still at work.
    pub fn kill_when(mut self, holds: impl Fn() -> bool, wait: Duration) -> bool {
        let start = Instant::now();
        let mut due = None;
        while due.is_none_or(|due| Instant::now() < due) && self.child.try_wait().unwrap().is_none() {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {}", self.typed);
            if due.is_none() && holds() {
                due = Some(Instant::now() + wait);
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        let working = self.child.try_wait().unwrap().is_none();
        self.kill();
        working
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        // SAFETY: sends a signal to a child that this handle still owns, so its id is not anybody else's.
        unsafe { libc::kill(self.child.id() as libc::pid_t, libc::SIGTERM) };
    }

    /// Waits for its end.
    pub fn end(mut self) -> Ran {
        let (stdout, stderr) = (self.child.stdout.take(), self.child.stderr.take());
        let read = |pipe: Option<Box<dyn std::io::Read + Send>>| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                pipe.unwrap().read_to_end(&mut bytes).unwrap();
                String::from_utf8(bytes).unwrap()
            })
        };
        let stdout = read(stdout.map(|pipe| Box::new(pipe) as _));
        let stderr = read(stderr.map(|pipe| Box::new(pipe) as _));
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "takes too long: {}", self.typed);
            std::thread::sleep(Duration::from_millis(2));
        };
        let ran = Ran {
            typed: std::mem::take(&mut self.typed),
            code: status.code(),
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
        };
        assert!(!ran.stderr.contains("panicked"), "{ran:?}");
        assert!(
            !ran.stdout.contains('\u{1b}') && !ran.stderr.contains('\u{1b}'),
            "colours without a terminal: {ran:?}"
        );
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ended.
#[derive(Debug)]
pub struct Ran {
    /// What was typed: failed assertions print it.
    #[allow(dead_code)]
    pub typed: String,
    /// Exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it said.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl Ran {
    /// It must have succeeded.
    #[track_caller]
    pub fn done(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    /// It must have succeeded and printed one JSON value and nothing else.
    #[track_caller]
    pub fn json(self) -> Value {
        let ran = self.done();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:#?}"))
    }

    /// It must have warned first, of all this, one warning a line; what follows them is looked at next.
    #[track_caller]
    pub fn warned(mut self, says: &[&str]) -> Self {
        let warnings: usize =
            self.stderr.split_inclusive('\n').take_while(|line| line.starts_with("warning: ")).map(str::len).sum();
        let rest = self.stderr.split_off(warnings);
        for part in says {
            assert!(self.stderr.contains(part), "`{part}` is not warned of: {self:#?}");
        }
        self.stderr = rest;
        self
    }

    /// It must have been refused: exit code 2, nothing on stdout, an error that says all this, and a hint.
    #[track_caller]
    pub fn refused(self, says: &[&str]) -> Self {
        assert_eq!(self.code, Some(2), "{self:#?}");
        assert!(self.stdout.is_empty(), "{self:#?}");
        assert!(self.stderr.starts_with("error: "), "{self:#?}");
        let hint = self.stderr.find("\nhint: ").unwrap_or_else(|| panic!("no hint: {self:#?}"));
        assert!(self.stderr[hint + 7..].trim().len() > 10, "no hint worth the name: {self:#?}");
        for part in says {
            assert!(self.stderr.contains(part), "`{part}` is not said: {self:#?}");
        }
        self
    }
}

/// Builds an index.
pub fn build(corpus: &Path, encoder: &Path, out: &Path) -> Ran {
    build_command(corpus, encoder, out).run()
}

/// The command that builds an index.
pub fn build_command(corpus: &Path, encoder: &Path, out: &Path) -> Ragtune {
    ragtune(&["index", "build"]).with("--corpus", corpus).with("--encoder", encoder).with("--out", out)
}

/// Whether `index check` finds an index clean.
pub fn is_clean(index: &Path) -> bool {
    let ran = ragtune(&["index", "check"]).with("--index", index).run();
    assert!(matches!(ran.code, Some(0 | 1)), "{ran:#?}");
    // What a failed test shows.
    if ran.code == Some(1) {
        println!("{}", ran.stdout);
    }
    ran.code == Some(0)
}

/// A search; ids, best first.
pub fn search(index: &Path, query: &str, k: usize, more: &[&str]) -> Vec<String> {
    let found = ragtune(&["index", "search", "--json"])
        .with("--index", index)
        .with("--query", query)
        .with("--top-k", k.to_string())
        .and(more)
        .run()
        .json();
    found.as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap().to_owned()).collect()
}

/// Training on the tiny questions with the small generator, quickly.
pub fn train(strategy: &str, index: &Path, out: &Path) -> Ragtune {
    train_with(&small_generator(), strategy, index, out)
}

/// The same with another generator.
pub fn train_with(generator: &Path, strategy: &str, index: &Path, out: &Path) -> Ragtune {
    ragtune(&["train", "--batch-size", "2", "--top-k", "2", "--eval-limit", "4", "--max-answer-tokens", "8"])
        .with("--strategy", strategy)
        .with("--index", index)
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", generator)
        .with("--out", out)
}
