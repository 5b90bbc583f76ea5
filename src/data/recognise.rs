//! Recognises a format by what is in a file or folder.

use super::lines::{LONGEST_LINE, Lines, open};
use super::{Format, excerpt};
use crate::error::{Context, Error, Result};
use serde_json::Value;
use std::io::Read;
use std::path::Path;

/// What a path holds, and the first record where it is JSON Lines.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recognised {
    pub(super) format: Format,
    pub(super) first: Option<Value>,
}

/// What was looked for, in every refusal.
const LOOKED_FOR: &str = "looked for JSON Lines (one object a line), SQuAD JSON (an object with `data`) and a BEIR folder \
                          (`corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`)";

/// Recognises a file or folder. A folder is a BEIR folder when it holds `corpus.jsonl` or `queries.jsonl`; a file
/// `<folder>/qrels/<split>.tsv` names one split of a BEIR folder.
pub(super) fn recognise(path: &Path) -> Result<Recognised> {
    let beir = Recognised { format: Format::Beir, first: None };
    if path.is_dir() {
        if path.join("corpus.jsonl").is_file() || path.join("queries.jsonl").is_file() {
            return Ok(beir);
        }
        return Err(unknown(path, "the folder holds neither `corpus.jsonl` nor `queries.jsonl`"));
    }
    if is_split(path) {
        return Ok(beir);
    }
    let mut lines = Lines::open(path)?;
    let first = match lines.next()? {
        Some(line) => line.trim().to_owned(),
        None => return Err(unknown(path, "the file holds no line")),
    };
    match serde_json::from_str::<Value>(&first) {
        Ok(Value::Object(object)) if object.get("data").is_some_and(Value::is_array) => {
            Ok(Recognised { format: Format::Squad, first: None })
        }
        Ok(value @ Value::Object(_)) => Ok(Recognised { format: Format::Jsonl, first: Some(value) }),
        Ok(Value::Array(_)) => Err(array(path)),
        Ok(_) => Err(unknown(path, &format!("line 1 is `{}`", excerpt(&first)))),
        Err(error) if error.is_eof() && first.starts_with('[') => Err(array(path)),
        Err(error) if error.is_eof() && first.starts_with('{') => spread(path, &first),
        Err(error) => Err(unknown(path, &format!("line 1 is not JSON: `{}`", excerpt(&first))).because(error)),
    }
}

/// Whether the path is `<folder>/qrels/<split>.tsv`.
pub(super) fn is_split(path: &Path) -> bool {
    let in_qrels = path.parent().and_then(Path::file_name).is_some_and(|name| name == "qrels");
    in_qrels && path.extension().is_some_and(|extension| extension == "tsv")
}

/// An object that goes on after line 1: SQuAD JSON with line breaks, or a damaged first line.
fn spread(path: &Path, first: &str) -> Result<Recognised> {
    let mut text = String::new();
    let read = open(path)?.take(LONGEST_LINE as u64).read_to_string(&mut text);
    read.context(|| format!("could not read `{}` as UTF-8 text", path.display()))?;
    let text = text.trim_start_matches('\u{feff}');
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.get("data").is_some_and(Value::is_array) => {
            Ok(Recognised { format: Format::Squad, first: None })
        }
        Ok(_) => Err(unknown(path, "the file is one JSON object without a list `data`")),
        Err(error) => {
            let what = format!("line 1 breaks off inside a JSON object: `…{}`", tail(first));
            Err(unknown(path, &what).because(error))
        }
    }
}

fn tail(text: &str) -> String {
    let characters: Vec<char> = text.chars().rev().take(40).collect();
    characters.into_iter().rev().collect()
}

fn array(path: &Path) -> Error {
    unknown(path, "the file is one JSON list")
        .hint(format!("write one object a line: jq -c '.[]' {} > NEW.jsonl", path.display()))
}

fn unknown(path: &Path, found: &str) -> Error {
    Error::new(format!("`{}` is in no known format: {found}; {LOOKED_FOR}", path.display()))
        .hint("ragtune data check FILE says what is understood of a file")
}
