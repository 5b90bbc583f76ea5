//! The one error type of the program: what was wrong, what caused it, and what to type next.
//!
//! A message is lower case, has no full stop, puts the offending value in backticks and says what was expected.
//! Messages of Lance and candle are causes, never the message itself.

use std::error::Error as StdError;
use std::fmt;

/// Result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, why, and how to mend it.
#[derive(Debug)]
pub struct Error {
    message: String,
    hint: Option<String>,
    divergence: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with a message and nothing else.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, divergence: false, source: None }
    }

    /// Adds the command or the change that mends it; replaces an earlier hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint unless this error or one of its causes has one already.
    pub fn or_hint(self, hint: impl Into<String>) -> Self {
        if self.find_hint().is_some() { self } else { self.hint(hint) }
    }

    /// Marks an error as training that left the finite numbers.
    pub fn divergence(mut self) -> Self {
        self.divergence = true;
        self
    }

    /// Whether training left the finite numbers: other settings may go on, the same ones will not.
    pub fn is_divergence(&self) -> bool {
        self.divergence
    }

    /// Whether a full disk is among the causes.
    pub fn out_of_space(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            let full = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            // Libraries wrap the system's error in types of their own; its text survives that.
            if full == Some(std::io::ErrorKind::StorageFull) || error.to_string().contains("No space left on device") {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Names the error that caused this one.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The hint nearest to the top of the chain of causes.
    pub fn find_hint(&self) -> Option<String> {
        if self.hint.is_some() {
            return self.hint.clone();
        }
        let mut cause = self.source();
        while let Some(error) = cause {
            if let Some(inner) = error.downcast_ref::<Error>() {
                return inner.find_hint();
            }
            if let Some(inner) = error.downcast_ref::<ragtune_index::Error>() {
                return inner.hint();
            }
            cause = error.source();
        }
        None
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<candle_core::Error> for Error {
    fn from(source: candle_core::Error) -> Self {
        Error::new("a tensor operation failed").because(source)
    }
}

impl From<std::io::Error> for Error {
    fn from(source: std::io::Error) -> Self {
        Error::new("reading or writing a file failed").because(source)
    }
}

impl From<serde_json::Error> for Error {
    fn from(source: serde_json::Error) -> Self {
        Error::new("a JSON text could not be read or written").because(source)
    }
}

impl From<ragtune_index::Error> for Error {
    fn from(source: ragtune_index::Error) -> Self {
        let hint = source.hint();
        let mut error = Error::new(source.to_string());
        error.hint = hint;
        if let Some(cause) = StdError::source(&source) {
            error.source = Some(cause.to_string().into());
        }
        error
    }
}

/// Adds what was being done to the error of a `Result`.
pub trait Context<T> {
    /// Wraps the error in one that says what was being done when it happened.
    fn context(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: StdError + Send + Sync + 'static> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::new(message()).because(source))
    }
}
