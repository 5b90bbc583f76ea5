//! `MANIFEST.json`, `texts.json` and `manifests.json`: whatever is accepted says the same when it is sealed again.

use std::fmt::Debug;
use std::path::Path;
use std::sync::LazyLock;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::bend::bend;
use crate::fingerprint::Fingerprint;
use crate::input::{Input, flipped};
use crate::manifest::{GraphInfo, Manifest, VectorFile, belongs_to, sidecar_name};
use crate::sealed::{open, seal};
use crate::texts::{Texts, Written};
use crate::vouch::Vouched;

/// Whether the input is one of the files; panics where one is not what it should be.
pub fn check(data: &[u8]) -> bool {
    let mut input = Input::of(data);
    let bytes = match input.byte() % 3 {
        0 => input.rest().to_vec(),
        1 => bent(&mut input),
        _ => match with_right_checksum(input.rest()) {
            Some(bytes) => bytes,
            None => return false,
        },
    };
    let manifest = examine::<Manifest>(&bytes);
    if let Some(manifest) = &manifest {
        let files: Vec<String> = manifest.vectors.iter().map(|vectors| vectors.file.clone()).collect();
        assert!(manifest.describes(&manifest.uuid, &files));
        assert!(belongs_to(Path::new(&sidecar_name(manifest.number, &files)), &files));
    }
    let (texts, vouched) = (examine::<Texts>(&bytes), examine::<Vouched>(&bytes));
    let any = examine::<Value>(&bytes);
    assert!(any.is_some() || (manifest.is_none() && texts.is_none() && vouched.is_none()));
    manifest.is_some() || texts.is_some() || vouched.is_some()
}

/// One of each, whole and as content; and the same with a value that is as good.
pub fn seeds() -> Vec<Vec<u8>> {
    let begun = |kind: u8, rest: &[u8]| [&[kind], rest].concat();
    let files = FILES.iter().map(|file| begun(0, file));
    let contents = FILES.iter().map(|file| begun(2, content(file).to_string().as_bytes()));
    // A recall of 1, and one more field.
    let bent = [begun(1, &[0, 0, 4, 9, 7, 9, 4]), begun(1, &[1, 0, 0, 1]), begun(1, &[2, 0, 0, 1])];
    files.chain(contents).chain(bent).collect()
}

/// One of each kind of file.
static FILES: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| {
    let vectors = |fragment| VectorFile { fragment, rows: 4, file: "a.lance".into(), bytes: 9, blake3: "ab".into() };
    let graph = GraphInfo {
        recall_at_10: 0.5,
        probes: 200,
        ef: 64,
        links: 16,
        ef_construction: 200,
        origin: "reuse:2".into(),
        built_recall_at_10: Some(1.0),
        unreachable_relinked: 0,
        bytes: 300,
    };
    let manifest = Manifest {
        uuid: "u".into(),
        number: 3,
        dataset_version: 7,
        len: 8,
        dim: 4,
        metric: "inner product".into(),
        fingerprint: Fingerprint::new([("weights".to_string(), "x".to_string())].into()),
        vectors: vec![vectors(0), vectors(1)],
        graph,
        graph_blake3: "cd".into(),
    };
    let written = |file: &str| Written { file: file.into(), bytes: 9, blake3: "ab".into() };
    let texts = Texts { uuid: "u".into(), files: vec![written("a.lance")], deletions: vec![written("0-1.arrow")] };
    let vouched: Vouched = serde_json::from_value(json!({ "manifests": { "18446744073709551614.manifest": "ab" } }))
        .expect("a list of manifests");
    [seal(&manifest), seal(&texts), seal(&vouched)].map(|file| file.expect("it can be sealed"))
});

fn content(file: &[u8]) -> Value {
    let mut value: Value = serde_json::from_slice(file).expect("a sealed file is JSON");
    value["content"].take()
}

/// One of the files with other values in it.
fn bent(input: &mut Input<'_>) -> Vec<u8> {
    let mut content = content(&FILES[input.below(FILES.len())]);
    bend(&mut content, input);
    with_right_checksum(content.to_string().as_bytes()).expect("it is JSON")
}

/// What the file says, if it is accepted.
fn examine<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let path = Path::new("a.json");
    let said: T = match open(path, bytes) {
        Ok(said) => said,
        Err(error) => {
            assert!(!error.in_full().is_empty() && error.hint().is_some(), "{error:?}");
            return None;
        }
    };
    for bad in flipped(bytes, 2) {
        if let Ok(other) = open::<T>(path, &bad) {
            assert_eq!(other, said, "only the layout changed");
        }
    }
    let sealed = seal(&said).expect("what was read can be sealed");
    let again = open::<T>(path, &sealed).unwrap_or_else(|error| panic!("{}: {said:?}", error.in_full()));
    // Bytes, since the format may have been an older one, which is not what is written.
    assert!(seal(&again).expect("it was sealed before") == sealed, "{said:?} became {again:?}");
    Some(said)
}

/// A file with this content, as it is laid out, and the checksum of FORMAT.md; `None` where it is no JSON.
fn with_right_checksum(content: &[u8]) -> Option<Vec<u8>> {
    let value: Value = serde_json::from_slice(content).ok()?;
    let mut text = String::new();
    canonical(&value, &mut text);
    let head = format!(r#"{{"blake3":"{}","content":"#, blake3::hash(text.as_bytes()).to_hex());
    Some([head.as_bytes(), content, b"}"].concat())
}

fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&json!(key).to_string());
                text.push(':');
                canonical(&fields[key], text);
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
