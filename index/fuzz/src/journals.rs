//! `journal.jsonl`: what is believed of it is a beginning of what was written, and says the same when it is written again.

use std::path::Path;

use serde_json::{Value, json};

use crate::bend::bend;
use crate::fingerprint::Fingerprint;
use crate::input::{Input, flipped};
use crate::journal::{Entries, Header, entries, intact, text};
use crate::passage::Fragment;
use crate::staged::Staged;

/// Whether the input is a whole journal; panics where one is not what it should be.
pub fn check(data: &[u8]) -> bool {
    let mut input = Input::of(data);
    let bytes = match input.byte() % 3 {
        0 => input.rest().to_vec(),
        1 => bent(&mut input),
        _ => with_right_checksums(input.rest()),
    };
    let said = entries(&bytes);
    let lines = bytes.split_inclusive(|byte| *byte == b'\n').count();
    let believed = usize::from(said.header.is_some()) + said.staged.len();
    match said.torn {
        true => assert!(believed < lines.max(1)),
        false => assert!(believed == lines && said.header.is_some()),
    }
    assert!(said.header.is_some() || said.staged.is_empty());
    for staged in &said.staged {
        assert!(!intact(staged, Path::new("/nonexistent/ragtune")), "{staged:?}");
    }
    cut(&bytes, &said);
    if let Some(header) = &said.header {
        let written = text(header, &said.staged).expect("what was read can be written");
        let again = entries(written.as_bytes());
        assert_eq!((again.header.as_ref(), &again.staged, again.torn), (Some(header), &said.staged, false));
    }
    if !said.torn {
        for bad in flipped(&bytes, 4) {
            let bad = entries(&bad);
            assert!(bad.torn, "a flipped bit");
            is_beginning(&bad, &said);
        }
    }
    !said.torn
}

/// Journals of a header and of two files, whole and without their checksums.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![1, 0, 0, 0, 0, 3, 4]];
    for files in [0, 2] {
        let whole = journal(files);
        let bare = bare(&whole).join("\n");
        seeds.extend([[b"\0", whole.as_bytes()].concat(), [b"\x02", bare.as_bytes()].concat()]);
    }
    seeds
}

/// A journal of so many files.
fn journal(files: u64) -> String {
    let fingerprint = Fingerprint::new([("weights".to_string(), "x".to_string())].into());
    let header = Header { format: 1, uuid: "u".into(), number: 2, read_version: 7, dim: 4, fingerprint };
    let staged = |id: u64| Staged {
        fragment: Fragment { id, first: 4 * id as u32, rows: 4 },
        file: format!("{id}.lance"),
        bytes: 3,
        blake3: "ab".into(),
        lance: json!({ "path": "a.lance", "fields": [3, -1, 0.5], "base": null }),
    };
    text(&header, &(0..files).map(staged).collect::<Vec<_>>()).expect("a journal can be written")
}

/// Its lines without their checksums.
fn bare(journal: &str) -> Vec<&str> {
    journal.lines().filter_map(|line| line.split_once(' ')).map(|line| line.1).collect()
}

/// A journal with other values in some of its lines.
fn bent(input: &mut Input<'_>) -> Vec<u8> {
    let whole = journal(2);
    let mut lines: Vec<Value> = bare(&whole).into_iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    for _ in 0..1 + input.below(2) {
        let at = input.below(lines.len());
        bend(&mut lines[at], input);
    }
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    with_right_checksums(lines.join("\n").as_bytes())
}

/// A journal that ends early says a part of what it said.
fn cut(bytes: &[u8], whole: &Entries) {
    let length = usize::from(blake3::hash(bytes).as_bytes()[31]) * bytes.len() / 256;
    let part = entries(&bytes[..length]);
    is_beginning(&part, whole);
    let whole_lines = bytes[..length].iter().filter(|byte| **byte == b'\n').count();
    assert!(part.staged.len() + usize::from(part.header.is_some()) <= whole_lines);
}

fn is_beginning(part: &Entries, whole: &Entries) {
    assert!(part.header.is_none() || part.header == whole.header);
    assert!(whole.staged.starts_with(&part.staged), "{part:?} of {whole:?}");
}

/// Every line with its checksum in front.
fn with_right_checksums(lines: &[u8]) -> Vec<u8> {
    let mut journal = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        journal.extend_from_slice(blake3::hash(line).to_hex().as_bytes());
        journal.push(b' ');
        journal.extend_from_slice(line);
        journal.push(b'\n');
    }
    journal
}
