//! Values of a JSON object by key, each checked for its kind. A key that is null counts as absent.

use serde_json::Value;

use crate::error::{Error, Result};

/// The entries of a JSON object.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    value: &'a Value,
    /// What messages say after the name of a key.
    place: &'static str,
}

impl<'a> Reader<'a> {
    /// Of a whole file.
    pub fn new(value: &'a Value) -> Self {
        Self { value, place: "" }
    }

    /// Of a part of a file; messages put `place` after the key.
    pub fn inside(value: &'a Value, place: &'static str) -> Self {
        Self { value, place }
    }

    /// Whether the key is there, if only as null.
    pub fn has(&self, key: &str) -> bool {
        self.value.get(key).is_some()
    }

    /// The value itself.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A whole number from 0.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let whole = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok());
        self.read(key, whole, "a whole number")
    }

    /// A whole number that must be there.
    pub fn required(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::new(format!("`{key}`{} is missing, expected a whole number", self.place)))
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.read(key, |value| value.as_f64().filter(|number| number.is_finite()), "a number")
    }

    /// A finite number above 0.
    pub fn positive(&self, key: &str) -> Result<Option<f64>> {
        let above = |value: &Value| value.as_f64().filter(|number| number.is_finite() && *number > 0.0);
        self.read(key, above, "a number above 0")
    }

    /// True or false, `default` where the key is absent.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.read(key, Value::as_bool, "true or false")?.unwrap_or(default))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, Value::as_str, "a text")
    }

    /// A list of finite numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        self.read(key, |value| value.as_array()?.iter().map(number).collect(), "a list of numbers")
    }

    /// A list of texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.read(key, |value| value.as_array()?.iter().map(Value::as_str).collect(), "a list of texts")
    }

    fn read<T>(&self, key: &str, understand: impl Fn(&'a Value) -> Option<T>, expected: &str) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match understand(value) {
            Some(understood) => Ok(Some(understood)),
            None => Err(Error::new(format!("`{key}`{} is `{value}`, expected {expected}", self.place))),
        }
    }
}
