//! JSON files that know whether they are whole: `{"blake3": "..", "content": {"format": 1, ..}}`.
//!
//! The checksum is over the content as compact JSON with sorted keys, so that the layout of the file does not matter.

use std::fs;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::durable::{name, write_atomic, write_synced};
use crate::error::{Error, Result};

/// The format this program writes into `content` and the newest it reads.
pub(crate) const FORMAT: u32 = 1;

/// Content and checksum as the text of a file.
pub(crate) fn seal(content: &impl Serialize) -> Result<Vec<u8>> {
    let failed = || Error::storage("writing a JSON text");
    let mut content = serde_json::to_value(content).map_err(failed())?;
    if let Value::Object(fields) = &mut content {
        fields.insert("format".into(), FORMAT.into());
    }
    let blake3 = checksum(&content);
    let mut text =
        serde_json::to_vec_pretty(&serde_json::json!({ "blake3": blake3, "content": content })).map_err(failed())?;
    text.push(b'\n');
    Ok(text)
}

/// Replaces a sealed file durably.
pub(crate) fn write(path: &Path, content: &impl Serialize) -> Result<()> {
    write_atomic(path, &seal(content)?)
}

/// Writes a sealed file where nobody looks yet.
pub(crate) fn write_new(path: &Path, content: &impl Serialize) -> Result<()> {
    write_synced(path, &seal(content)?)
}

/// The content of a sealed file, or an error that says what is wrong with the file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    open(path, &fs::read(path).map_err(Error::io("reading", path))?)
}

/// The content of a sealed file with these bytes; `path` is what errors call it.
pub(crate) fn open<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T> {
    let damaged = |what: String| Error::corrupt(path, what);
    let mut value: Value = serde_json::from_slice(bytes).map_err(|error| damaged(format!("it is no JSON: {error}")))?;
    let content = value.get_mut("content").map(Value::take).unwrap_or_default();
    if value.get("blake3").and_then(Value::as_str) != Some(&checksum(&content)) {
        return Err(damaged("its checksum does not match its content".into()));
    }
    // Only after the checksum: a flipped bit must not pass for a newer format.
    match content.get("format").and_then(Value::as_u64) {
        Some(format) if format <= u64::from(FORMAT) => {}
        format => {
            let found = format.map_or("none".into(), |format| format.to_string());
            return Err(Error::Format { file: name(path).into(), found, known: FORMAT });
        }
    }
    serde_json::from_value(content).map_err(|error| damaged(error.to_string()))
}

/// What was read, or nothing where the file is missing or damaged and may be made anew. One of a newer format may not: it is whole,
/// and this program does not know what it would throw away.
pub(crate) fn known<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(content) => Ok(Some(content)),
        // One without a format that is a number is damaged, not newer.
        Err(Error::Format { file, found, known }) if found.parse::<u64>().is_ok() => {
            Err(Error::Format { file, found, known })
        }
        Err(_) => Ok(None),
    }
}

/// Hex blake3 of a JSON value with the keys of every object in order.
fn checksum(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (key, value) in fields {
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Makes a sealed file one that a newer program wrote.
    pub(crate) fn make_newer(path: &Path) {
        let mut file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        file["content"]["format"] = 99.into();
        file["blake3"] = checksum(&file["content"]).into();
        fs::write(path, file.to_string()).unwrap();
    }

    #[test]
    fn a_sealed_file_is_read_back_and_no_flipped_bit_passes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let content = BTreeMap::from([("recall", 0.97f32), ("bytes", 12.0)]);
        write(&path, &content).unwrap();
        let kept: BTreeMap<String, f32> = read(&path).unwrap();
        assert_eq!((kept["recall"], kept["bytes"]), (0.97, 12.0));
        let good = fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).unwrap();
            if let Ok(read) = read::<BTreeMap<String, f32>>(&path) {
                // Only the layout changed, for instance a space into a tab's neighbour that JSON also skips.
                assert_eq!(read, kept, "bit {bit}");
            }
        }
        for length in 0..good.len() - 1 {
            fs::write(&path, &good[..length]).unwrap();
            assert!(read::<BTreeMap<String, f32>>(&path).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let content = serde_json::json!({ "format": 99 });
        let sealed = serde_json::json!({ "blake3": checksum(&content), "content": content });
        fs::write(&path, sealed.to_string()).unwrap();
        let error = read::<Value>(&path).unwrap_err();
        assert!(matches!(error, Error::Format { .. }), "{error}");
        assert!(error.to_string().contains("`99`"), "{error}");
    }
}
