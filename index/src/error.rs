//! The errors of the index: whose mistake each one is, and what to type.

use std::error::Error as StdError;
use std::path::{Path, PathBuf};

impl From<ragtune_nearest::Refused> for Error {
    fn from(refused: ragtune_nearest::Refused) -> Self {
        Error::Setting { name: refused.name, value: refused.value, expected: refused.expected }
    }
}

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A cause of any type.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// What went wrong. `Display` is the message; [`Error::hint`] is what to type next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's mistake: there is nothing at the path, or something that is no index.
    #[error("`{}` is no index: {why}", dir.display())]
    NoIndex {
        /// The directory that was named.
        dir: PathBuf,
        /// What is missing or unexpected there.
        why: String,
    },
    /// The caller's mistake: an index is already there and is never overwritten.
    #[error("`{}` already holds an index", dir.display())]
    Exists {
        /// The directory that was named.
        dir: PathBuf,
    },
    /// Written by a newer program than this one.
    #[error("`{file}` has format `{found}`, this program reads formats up to {known}")]
    Format {
        /// What was being read.
        file: String,
        /// The format it declares.
        found: String,
        /// The newest format this program knows.
        known: u32,
    },
    /// The corpus file holds no passage.
    #[error("the corpus `{name}` holds no passage, at least one was expected")]
    Empty {
        /// Name of the corpus file.
        name: String,
    },
    /// A passage without an id, or with one that another passage already has.
    #[error("passage {at} of the corpus {what}")]
    BadId {
        /// Position of the passage in the corpus, from 1.
        at: u64,
        /// What is wrong with its id.
        what: String,
    },
    /// The iterator of passages failed; the cause is its own error.
    #[error("reading the corpus failed")]
    Passages(#[source] Cause),
    /// The function that was to embed new passages failed; the cause is its own error.
    #[error("embedding the new passages failed")]
    Embedding(#[source] Cause),
    /// Ids that no passage has.
    #[error("{} of the {asked} ids are those of no passage: {}", unknown.len(), some(unknown))]
    UnknownIds {
        /// How many ids were given.
        asked: usize,
        /// Those that no passage has.
        unknown: Vec<String>,
    },
    /// Every passage was to be deleted.
    #[error("all {passages} passages were to be deleted, at least one must stay")]
    Last {
        /// How many there are.
        passages: usize,
    },
    /// The index has passages but no generation yet.
    #[error("the index `{}` holds passages but no vectors", dir.display())]
    NoVectors {
        /// The index.
        dir: PathBuf,
    },
    /// The index has other passages than those this corpus was opened with, or no longer the files that are needed.
    #[error("the index `{}` was changed by another program since it was opened", dir.display())]
    Changed {
        /// The index.
        dir: PathBuf,
    },
    /// A generation that embeds other passages than the corpus has.
    #[error("generation {number} embeds other passages than the index has now")]
    OtherPassages {
        /// The generation.
        number: u32,
    },
    /// A condition that cannot be understood.
    #[error("`{condition}` is no condition on passages")]
    Condition {
        /// The condition.
        condition: String,
        /// What the storage library said.
        #[source]
        source: Cause,
    },
    /// Another process (or another handle of this one) writes to the index.
    #[error("the index `{}` is being written by `{owner}` (process {pid})", dir.display())]
    Locked {
        /// The index.
        dir: PathBuf,
        /// The name the writer gave.
        owner: String,
        /// Its process id, or `unknown`.
        pid: String,
    },
    /// The lock handed in belongs to another index.
    #[error("the writer's lock belongs to `{}`, one for `{}` was expected", held.display(), wanted.display())]
    WrongLock {
        /// The index the lock was taken on.
        held: PathBuf,
        /// The index that was to be written.
        wanted: PathBuf,
    },
    /// A query from another encoder than the one that made the vectors.
    #[error(
        "the query was encoded by `{asked}`, generation {number} of the index by `{stored}`; they differ in {}",
        differences.join("; ")
    )]
    WrongEncoder {
        /// Fingerprint id of the query's encoder.
        asked: String,
        /// Fingerprint id of the generation's encoder.
        stored: String,
        /// The generation that was searched.
        number: u32,
        /// One line for each property that differs.
        differences: Vec<String>,
    },
    /// A view was searched as if an encoder were known to have made its vectors.
    #[error("generation {number} is seen with other vectors than it stores: no encoder is known to have made them")]
    View {
        /// The generation that the view was made of.
        number: u32,
    },
    /// Vectors or queries of another length than the index holds.
    #[error("{what}: got {given}, expected {expected}")]
    Dimension {
        /// What had the wrong length.
        what: String,
        /// The length it had.
        given: usize,
        /// The length that was expected.
        expected: usize,
    },
    /// A set of passages of another corpus, or of another state of this one.
    #[error("the set of allowed passages is one of {given} passages, where there are {expected}")]
    OtherSet {
        /// How many passages there were where it was made.
        given: usize,
        /// How many there are here.
        expected: usize,
    },
    /// More passages asked for than there are.
    #[error("the {k} nearest passages were asked for, the corpus holds {len}")]
    TooMany {
        /// How many were asked for.
        k: usize,
        /// How many there are.
        len: usize,
    },
    /// A vector that cannot be stored or searched: not finite, or not of length one.
    #[error("{what}")]
    BadVector {
        /// Which one, and what is wrong with it.
        what: String,
    },
    /// A setting outside its range.
    #[error("`{value}` is no value for {name}, {expected} was expected")]
    Setting {
        /// Name of the setting.
        name: &'static str,
        /// The value given.
        value: String,
        /// The range.
        expected: &'static str,
    },
    /// A passage ordinal, fragment or range that is not in the corpus.
    #[error("{what}")]
    NotThere {
        /// What was asked for and what there is.
        what: String,
    },
    /// A generation that is not retained.
    #[error("generation {number} is not in the index, it holds {}", list(retained))]
    NoGeneration {
        /// The generation asked for.
        number: u32,
        /// The generations there are.
        retained: Vec<u32>,
    },
    /// A state of the index that is not retained.
    #[error("version {version} is no state of the index, it holds {}", list(retained))]
    NoVersion {
        /// The version asked for.
        version: u64,
        /// The versions there are.
        retained: Vec<u64>,
    },
    /// Going back to what is the newest already.
    #[error("generation {number} (version {version}) is the newest already")]
    Newest {
        /// The generation.
        number: u32,
        /// Its version of the dataset.
        version: u64,
    },
    /// `commit` before every fragment was written.
    #[error("generation {number} misses the vectors of {pending} of {fragments} fragments")]
    Incomplete {
        /// The generation being written.
        number: u32,
        /// How many fragments are missing.
        pending: usize,
        /// How many there are.
        fragments: usize,
    },
    /// A file whose content is not what was written.
    #[error("`{file}` is damaged: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// What was found.
        what: String,
    },
    /// The operating system refused.
    #[error("{doing} `{}` failed", path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The storage library failed.
    #[error("{doing} failed")]
    Storage {
        /// What was being done.
        doing: String,
        /// What the library said.
        #[source]
        source: Cause,
    },
}

impl Error {
    /// What to do about it, where that can be said.
    pub fn hint(&self) -> Option<String> {
        if self.out_of_space() {
            return Some("the disk is full: free some space and run the same command again; nothing was lost".into());
        }
        if self.read_only() {
            return Some(
                "this user or this disk may only read here: searching works, changing the index does not".into(),
            );
        }
        Some(match self {
            Error::NoIndex { dir, .. } => {
                format!("build one: `ragtune index build --corpus FILE --encoder DIR --out {}`", dir.display())
            }
            Error::Exists { dir } => {
                format!("name another directory, or remove this one first: `rm -r {}`", dir.display())
            }
            Error::Format { .. } => "use the version of ragtune that wrote it, or a newer one".into(),
            Error::Empty { .. } => "look at it with `ragtune data check FILE`".into(),
            Error::BadId { .. } => "give every passage its own id; `ragtune data check FILE` lists them".into(),
            Error::UnknownIds { .. } => {
                "nothing was changed; leave these ids out: deleted passages have none either".into()
            }
            Error::Last { .. } => "nothing was deleted; to get rid of the whole index, remove its directory".into(),
            Error::NoVectors { .. } => "run the same `ragtune index build` again; it goes on where it stopped".into(),
            Error::Changed { .. } => "run the same command again: it reads the index as it is now".into(),
            Error::OtherPassages { number } => format!(
                "embed the passages there are now: `ragtune index refresh --encoder DIR --index DIR`, or go back to those: \
                 `ragtune index rollback --generation {number} --index DIR`"
            ),
            Error::Condition { .. } => "compare `id`, `title` or `text` as in SQL, with texts in single quotes: \
                 `title LIKE 'A%'`, `id IN ('7', '9') AND text != ''`"
                .into(),
            Error::Locked { .. } => "wait until it has finished, or stop that process".into(),
            Error::WrongEncoder { .. } => "name the encoder that built the index, or embed the corpus with this one: \
                 `ragtune index build --corpus FILE --encoder DIR --out NEW`"
                .into(),
            Error::View { .. } => "search it as stale, and say so in the records: `Trust::StaleAllowed`".into(),
            Error::Dimension { .. } => {
                "an index holds vectors of one dimension: build another index for another encoder".into()
            }
            Error::OtherSet { .. } => {
                "make the set of the corpus that the search is in: `Corpus::ordinals` or `matching`".into()
            }
            Error::TooMany { len, .. } => format!("ask for at most {len}: `--top-k {len}`"),
            Error::BadVector { .. } => "the encoder's weights may hold NaN or its normalisation may be off; \
                 vectors must be finite and of length one"
                .into(),
            Error::Setting { name, expected, .. } => format!("choose {expected} for {name}"),
            Error::NoGeneration { .. } | Error::NoVersion { .. } | Error::Newest { .. } => {
                "`ragtune index versions --index DIR` lists what can be gone back to".into()
            }
            Error::Corrupt { .. } | Error::Storage { .. } => {
                "`ragtune index check --index DIR` says what is damaged and how to mend it".into()
            }
            _ => return None,
        })
    }

    /// Whether the cause is a full disk.
    pub(crate) fn out_of_space(&self) -> bool {
        self.caused_by(&[std::io::ErrorKind::StorageFull], "No space left on device")
    }

    /// Whether the cause is that nothing may be written.
    fn read_only(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        self.caused_by(&[PermissionDenied, ReadOnlyFilesystem], "Read-only file system")
    }

    /// Whether the system's error is of such a kind, or, where a library wraps it in a type of its own, says so.
    fn caused_by(&self, kinds: &[std::io::ErrorKind], said: &str) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            if kind.is_some_and(|kind| kinds.contains(&kind)) || error.to_string().contains(said) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// For `map_err`: what was being done to which file.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { doing, path, source }
    }

    /// For `map_err`: what the storage library was doing.
    pub(crate) fn storage<E: Into<Cause>>(doing: impl Into<String>) -> impl FnOnce(E) -> Error {
        let doing = doing.into();
        move |source| Error::Storage { doing, source: source.into() }
    }

    pub(crate) fn corrupt(file: impl AsRef<Path>, what: impl Into<String>) -> Error {
        Error::Corrupt { file: file.as_ref().display().to_string(), what: what.into() }
    }

    /// The message with its causes on one line, for places that keep a text instead of an error.
    pub(crate) fn in_full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let said = error.to_string();
            // Lance repeats the text of its causes in its own.
            if !text.contains(&said) {
                text.push_str(": ");
                text.push_str(&said);
            }
            cause = error.source();
        }
        text
    }
}

/// The first few of many names, in backticks.
fn some(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(10).map(|name| format!("`{name}`")).collect();
    let more = if names.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

fn list(numbers: &[impl ToString]) -> String {
    if numbers.is_empty() {
        return "none".into();
    }
    numbers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
