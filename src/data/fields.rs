//! Takes fields out of one JSON object, with errors that name the place, the field and the value.

use super::{excerpt, list};
use crate::error::{Error, Result};
use serde_json::{Map, Value};

/// One JSON object and where it stands.
pub(super) struct Fields<'a> {
    object: Map<String, Value>,
    place: &'a str,
}

impl<'a> Fields<'a> {
    /// Parses one line. Errors when it is not one JSON object.
    pub(super) fn parse(line: &str, place: &'a str) -> Result<Self> {
        let value: Value = serde_json::from_str(line).map_err(|error| {
            let column = error.column();
            Error::new(format!(
                "{place}: column {column}: not valid JSON (`{}`), expected one object a line",
                excerpt(line)
            ))
            .because(error)
        })?;
        match value {
            Value::Object(object) => Ok(Self { object, place }),
            other => Err(Error::new(format!(
                "{place}: expected a JSON object, found {} (`{}`)",
                kind(&other),
                excerpt(line)
            ))),
        }
    }

    /// Names of all fields, in alphabetical order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.object.keys().map(String::as_str)
    }

    /// Whether one of these fields is there and not null.
    pub(super) fn has(&self, names: &[&str]) -> bool {
        self.first(names).is_some()
    }

    /// The id: a non-empty string, or a whole number, which is taken as its digits.
    pub(super) fn id(&self, names: &[&str]) -> Result<String> {
        let (name, value) = self.required(names)?;
        identifier(value).ok_or_else(|| self.wrong(name, value, "a non-empty string or a whole number"))
    }

    /// A string with more than spaces in it.
    pub(super) fn text(&self, names: &[&str]) -> Result<String> {
        let (name, value) = self.required(names)?;
        match value {
            Value::String(text) if !text.trim().is_empty() => Ok(text.clone()),
            _ => Err(self.wrong(name, value, "a string that is not empty")),
        }
    }

    /// A string, empty when the field is missing or null.
    pub(super) fn optional_text(&self, names: &[&str]) -> Result<String> {
        match self.first(names) {
            None => Ok(String::new()),
            Some((_, Value::String(text))) => Ok(text.clone()),
            Some((name, value)) => Err(self.wrong(name, value, "a string")),
        }
    }

    /// A list of strings; one string counts as a list of one, a missing field as none. `{"text": [...]}`, as in the SQuAD
    /// tables of Hugging Face, counts as its list.
    pub(super) fn texts(&self, names: &[&str]) -> Result<Vec<String>> {
        let Some((name, value)) = self.first(names) else { return Ok(Vec::new()) };
        let value = value.get("text").filter(|_| value.is_object()).unwrap_or(value);
        self.each(name, value, "a list of strings that are not empty", |item| {
            let text = match item {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            (!text.trim().is_empty()).then_some(text)
        })
    }

    /// A list of ids; one id counts as a list of one, a missing field as none.
    pub(super) fn ids(&self, names: &[&str]) -> Result<Vec<String>> {
        let Some((name, value)) = self.first(names) else { return Ok(Vec::new()) };
        self.each(name, value, "a list of non-empty strings or whole numbers", identifier)
    }

    /// Numbers by id, in the order of the ids; a missing field as none.
    pub(super) fn scores(&self, names: &[&str]) -> Result<Vec<(String, f32)>> {
        let Some((name, value)) = self.first(names) else { return Ok(Vec::new()) };
        let expected = "an object of passage ids and numbers";
        let Value::Object(scores) = value else { return Err(self.wrong(name, value, expected)) };
        let mut found = Vec::with_capacity(scores.len());
        for (id, score) in scores {
            let number = score.as_f64().map(|score| score as f32).filter(|score| score.is_finite());
            let number = number.ok_or_else(|| {
                self.error(format!(
                    "`{name}` of passage `{id}` is `{}`, expected a number",
                    excerpt(&score.to_string())
                ))
            })?;
            if id.trim().is_empty() {
                return Err(self.error(format!("`{name}` scores a passage with an empty id, expected {expected}")));
            }
            found.push((id.clone(), number));
        }
        found.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(found)
    }

    /// An error about this object.
    pub(super) fn error(&self, message: impl std::fmt::Display) -> Error {
        Error::new(format!("{}: {message}", self.place))
    }

    fn each(
        &self,
        name: &str,
        value: &Value,
        expected: &str,
        take: impl Fn(&Value) -> Option<String>,
    ) -> Result<Vec<String>> {
        let items = match value {
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        let mut found: Vec<String> = Vec::with_capacity(items.len());
        for item in items {
            let text = take(item).ok_or_else(|| self.wrong(name, item, expected))?;
            if !found.contains(&text) {
                found.push(text);
            }
        }
        Ok(found)
    }

    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &Value)> {
        let present = names.iter().filter_map(|&name| Some((name, self.object.get(name)?)));
        present.into_iter().find(|(_, value)| !value.is_null())
    }

    fn required<'n>(&self, names: &[&'n str]) -> Result<(&'n str, &Value)> {
        self.first(names).ok_or_else(|| {
            let wanted = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
            self.error(format!("no field {wanted}, found {}", list(self.names())))
        })
    }

    fn wrong(&self, name: &str, value: &Value, expected: &str) -> Error {
        let shown = excerpt(&value.to_string());
        self.error(format!("`{name}` is {} (`{shown}`), expected {expected}", kind(value)))
    }
}

fn identifier(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(text) if text.trim().is_empty() => "an empty string",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(line: &str) -> Fields<'static> {
        Fields::parse(line, "f:3").unwrap()
    }

    #[test]
    fn ids_are_strings_or_whole_numbers() {
        assert_eq!(fields(r#"{"_id": 17}"#).id(&["id", "_id"]).unwrap(), "17");
        assert_eq!(fields(r#"{"id": "a", "_id": "b"}"#).id(&["id", "_id"]).unwrap(), "a");
        let message = |line: &str| fields(line).id(&["id", "_id"]).unwrap_err().to_string();
        assert_eq!(
            message(r#"{"id": 1.5}"#),
            "f:3: `id` is a number (`1.5`), expected a non-empty string or a whole number"
        );
        assert!(message(r#"{"id": ""}"#).contains("`id` is an empty string"));
        assert_eq!(message(r#"{"x": 1, "text": 2}"#), "f:3: no field `id` or `_id`, found `text` and `x`");
        assert!(message("{}").ends_with("found nothing"));
    }

    #[test]
    fn lists_take_one_value_many_or_none() {
        let texts = |line: &str| fields(line).texts(&["answers", "answer"]);
        assert_eq!(texts(r#"{"answer": "x"}"#).unwrap(), ["x"]);
        assert_eq!(texts(r#"{"answers": ["x", 7, "x"]}"#).unwrap(), ["x", "7"]);
        assert_eq!(texts(r#"{"answers": {"text": ["x"], "answer_start": [1]}}"#).unwrap(), ["x"]);
        assert!(texts(r#"{"answers": null}"#).unwrap().is_empty());
        let error = texts(r#"{"answers": ["x", " "]}"#).unwrap_err().to_string();
        assert!(error.starts_with("f:3: `answers` is an empty string (`\" \"`)"), "{error}");
        assert!(fields(r#"{"gold": [[1]]}"#).ids(&["gold"]).is_err());
    }

    #[test]
    fn scores_are_numbers_by_id() {
        let scores = |line: &str| fields(line).scores(&["teacher_scores"]);
        assert_eq!(
            scores(r#"{"teacher_scores": {"b": 2, "a": -0.5}}"#).unwrap(),
            [("a".into(), -0.5), ("b".into(), 2.0)]
        );
        assert!(scores("{}").unwrap().is_empty());
        let message = |line: &str| scores(line).unwrap_err().to_string();
        assert_eq!(
            message(r#"{"teacher_scores": {"a": "high"}}"#),
            "f:3: `teacher_scores` of passage `a` is `\"high\"`, expected a number"
        );
        assert!(message(r#"{"teacher_scores": {"a": 1e300}}"#).contains("expected a number"));
        assert!(message(r#"{"teacher_scores": {" ": 1}}"#).contains("empty id"));
        assert!(message(r#"{"teacher_scores": [1]}"#).contains("is a list (`[1]`), expected an object"));
    }

    #[test]
    fn what_is_not_an_object_is_named() {
        let message = |line: &str| Fields::parse(line, "f:3").err().unwrap().to_string();
        assert_eq!(message("[1]"), "f:3: expected a JSON object, found a list (`[1]`)");
        assert_eq!(message("id,text"), "f:3: column 1: not valid JSON (`id,text`), expected one object a line");
    }
}
