//! The JSON files of a model folder, read with errors that name file, key, value and what was expected.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::models::dropout;

/// One JSON file of a model folder. A key that is `null` counts as absent.
#[derive(Clone, Debug)]
pub(super) struct Config {
    path: PathBuf,
    raw: Value,
}

impl Config {
    /// Reads a file; `None` when there is no such file.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(format!("cannot read `{}`", path.display())).because(error)),
        };
        let raw = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
        Ok(Some(Self { path: path.to_path_buf(), raw }))
    }

    /// Reads a file that may be missing and then says nothing.
    pub fn read_or_empty(path: &Path) -> Result<Self> {
        let empty = || Self { path: path.to_path_buf(), raw: Value::Object(serde_json::Map::new()) };
        Ok(Self::read(path)?.unwrap_or_else(empty))
    }

    /// The whole file, to be saved again.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    /// A whole number from 0; without a default the key must be there.
    pub fn whole(&self, key: &str, default: Option<usize>) -> Result<usize> {
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => value.and_then(number).ok_or_else(|| self.refused(key, "a whole number")),
        }
    }

    /// A whole number from 1.
    pub fn size(&self, key: &str, default: Option<usize>) -> Result<usize> {
        match self.whole(key, default)? {
            0 => Err(self.refused(key, "a whole number of at least 1")),
            size => Ok(size),
        }
    }

    /// A number above 0.
    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let usable = |number: &f64| number.is_finite() && *number > 0.0;
        value.as_f64().filter(usable).ok_or_else(|| self.refused(key, "a number above 0"))
    }

    /// A share that dropout may have, or `default`.
    pub fn dropout(&self, key: &str, default: f64) -> Result<f64> {
        let Some(value) = self.get(key) else { return Ok(default) };
        dropout::checked(key, value.as_f64().ok_or_else(|| self.refused(key, "a number"))?)
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.refused(key, "`true` or `false`"))
    }

    /// A text.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.refused(key, "a text"))
    }

    /// The error of a key whose value cannot be used, or that is missing.
    pub fn refused(&self, key: &str, expected: &str) -> Error {
        let path = self.path.display();
        match self.raw.get(key) {
            Some(value) => Error::new(format!("`{key}` of `{path}` is `{value}`, expected {expected}")),
            None => Error::new(format!("`{path}` has no `{key}`, expected {expected}")),
        }
    }
}
