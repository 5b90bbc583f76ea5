//! Sidecars and journals with arbitrary content and right checksums: what no accident writes and a program with a mistake
//! could. Never a panic, and search stays right or says why it is exact.
//!
//! Here the whole index is opened, searched, checked and written to, over Lance, a few hundred times; the mutations know the
//! formats. `index/fuzz` has libFuzzer, led by coverage, read the files alone, some ten thousand times a second: it cannot have
//! Lance, which it would want compiled again with its own instrumentation. There a reader is shown to be safe; here what follows
//! from what it said.

use std::fs;
use std::path::{Path, PathBuf};

use ragtune_index::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::common::*;
use crate::generations::sidecars;

const DIM: usize = 8;
/// More than 20 for each place in the beam that `seen` asks with: the graph is walked.
const N: usize = 70;
const ROWS_EACH: usize = 20;

struct Target {
    dir: tempfile::TempDir,
    truth: Seen,
    rng: ChaCha8Rng,
    seed: u64,
}

impl Target {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = CreateOptions { rows_per_fragment: ROWS_EACH };
        let corpus = Corpus::create(dir.path(), &source(), passages(N), &options).unwrap();
        embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
        let seed = wanted("RAGTUNE_SEED", 1);
        Self { truth: seen(dir.path()).unwrap(), dir, rng: ChaCha8Rng::seed_from_u64(seed), seed }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn sidecar(&self, file: &str) -> PathBuf {
        sidecars(self.path()).remove(0).join(file)
    }

    /// Everything but the graph's own hits must be right; those must be passages that exist, best first.
    fn look(&self, context: &str) {
        let context = format!("{context} (seed {})", self.seed);
        let now = try_seen(self.path()).unwrap_or_else(|error| panic!("{context}: {error:?}"));
        assert_eq!((&now.passages, &now.generation), (&self.truth.passages, &self.truth.generation), "{context}");
        assert_eq!(now.hits, self.truth.hits, "{context}");
        for hits in now.walk.iter().flatten() {
            assert!(hits.iter().all(|hit| (hit.ordinal as usize) < N), "{context}");
            assert!(hits.windows(2).all(|pair| pair[0].score >= pair[1].score), "{context}");
        }
        check(self.path()).unwrap_or_else(|error| panic!("{context}: {error:?}"));
    }
}

/// Longer on demand: RAGTUNE_FUZZ_ROUNDS=20000.
fn rounds(otherwise: u64) -> u64 {
    wanted("RAGTUNE_FUZZ_ROUNDS", otherwise)
}

#[test]
fn graphs_of_any_content_lead_no_search_astray() {
    let mut target = Target::new();
    let (graph, manifest) = (target.sidecar("graph.bin"), target.sidecar("MANIFEST.json"));
    let good = fs::read(&graph).unwrap();
    let described: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    let mut used = 0;
    for round in 0..rounds(200) {
        let mut bytes = good[..good.len() - 32].to_vec();
        let what: Vec<String> = (0..target.rng.random_range(1..4)).map(|_| bend(&mut bytes, &mut target.rng)).collect();
        bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
        fs::write(&graph, &bytes).unwrap();
        let mut content = described["content"].clone();
        content["graph_blake3"] = blake3::hash(&bytes).to_hex().to_string().into();
        fs::write(&manifest, sealed(&content)).unwrap();
        target.look(&format!("round {round}: {what:?}"));
        used += usize::from(Corpus::open(target.path()).unwrap().current().unwrap().unwrap().graph().is_some());
    }
    eprintln!("of the bent graphs {used} were fit for use");
    only_leftovers(target.path(), "after bent graphs");
}

#[test]
fn manifests_of_any_content_cost_at_most_the_graph() {
    let mut target = Target::new();
    let manifest = target.sidecar("MANIFEST.json");
    let good: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(sealed(&good["content"]), serde_json::to_string(&good).unwrap(), "the checksum of FORMAT.md");
    let mut last = good["content"].clone();
    for round in 0..rounds(120) {
        let mut content = good["content"].clone();
        let what: Vec<String> =
            (0..target.rng.random_range(1..3)).map(|_| bend_json(&mut content, &mut target.rng)).collect();
        fs::write(&manifest, sealed(&content)).unwrap();
        last.clone_from(&content);
        // The number of a generation is what its manifest says, as long as it describes these vectors.
        if content["number"] != good["content"]["number"] {
            continue;
        }
        target.look(&format!("round {round}: {what:?}"));
    }
    // One of a newer format would stay: mending does not replace it.
    if last.is_object() {
        last["format"] = json!(1);
    }
    fs::write(&manifest, sealed(&last)).unwrap();
    only_leftovers(target.path(), "after bent manifests");
}

#[test]
fn pointers_and_texts_of_any_content_are_reported() {
    let mut target = Target::new();
    for (file, is_json) in [("generations/CURRENT", false), ("texts.json", true)] {
        let path = target.path().join(file);
        let good = fs::read(&path).unwrap();
        for round in 0..rounds(30) {
            let what = if is_json {
                let mut content = serde_json::from_slice::<Value>(&good).unwrap()["content"].clone();
                let what = bend_json(&mut content, &mut target.rng);
                fs::write(&path, sealed(&content)).unwrap();
                what
            } else {
                let mut bytes = good.clone();
                let what = bend(&mut bytes, &mut target.rng);
                fs::write(&path, bytes).unwrap();
                what
            };
            target.look(&format!("{file}, round {round}: {what}"));
        }
        fs::write(&path, &good).unwrap();
    }
    assert!(check(target.path()).unwrap().is_empty());
}

#[test]
fn journals_of_any_content_are_taken_up_or_discarded() {
    let mut target = Target::new();
    let journal = target.path().join("generations/journal.jsonl");
    let given = vectors(N, DIM, 2);
    let whole = tempfile::tempdir().unwrap();
    {
        let corpus = Corpus::open(target.path()).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("b"), DIM).unwrap();
        for fragment in &writer.pending()[..2] {
            writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
        }
    }
    copy(target.path(), whole.path());
    let lines: Vec<Value> = fs::read_to_string(&journal)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let (mut taken_up, mut discarded) = (0, 0);
    for round in 0..rounds(30) {
        let mut lines = lines.clone();
        let at = target.rng.random_range(0..lines.len());
        let what = match target.rng.random_range(0..4) {
            0 => {
                let line = lines[at].clone();
                lines.insert(target.rng.random_range(0..=3), line);
                format!("line {at} twice")
            }
            1 => {
                lines.remove(at);
                format!("line {at} removed")
            }
            // What Lance wrote about its file is handed back as it is: its own checks are not ours to test.
            _ => bend_json_but(&mut lines[at], "lance", &mut target.rng),
        };
        let text: String = lines
            .iter()
            .map(|line| format!("{} {line}\n", blake3::hash(line.to_string().as_bytes()).to_hex()))
            .collect();
        fs::remove_dir_all(target.path()).unwrap();
        copy(whole.path(), target.path());
        fs::write(&journal, text).unwrap();
        let context = format!("round {round}: {what}");
        target.look(&context);
        let corpus = Corpus::open(target.path()).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("b"), DIM).unwrap();
        match writer.pending().len() {
            3 => discarded += 1,
            _ => taken_up += 1,
        }
        for fragment in writer.pending() {
            writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
        }
        let made = writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap();
        assert!(same(made.vectors(), &given), "{context} (seed {})", target.seed);
        drop(lock);
        only_leftovers(target.path(), &context);
    }
    eprintln!("{taken_up} bent journals were taken up, {discarded} discarded");
    assert!(taken_up > 0 && discarded > 0);
}

/// `{"blake3": .., "content": ..}` with the checksum of FORMAT.md, computed here from its description.
pub(crate) fn sealed(content: &Value) -> String {
    fn canonical(value: &Value, text: &mut String) {
        match value {
            Value::Object(fields) => {
                let mut keys: Vec<&String> = fields.keys().collect();
                keys.sort();
                text.push('{');
                for key in keys {
                    text.push_str(&format!("{}:", json!(key)));
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
    let mut text = String::new();
    canonical(content, &mut text);
    json!({ "blake3": blake3::hash(text.as_bytes()).to_hex().to_string(), "content": content }).to_string()
}

/// Changes bytes in one of the ways that programs with mistakes do; says how.
fn bend(bytes: &mut Vec<u8>, rng: &mut ChaCha8Rng) -> String {
    let at = rng.random_range(0..bytes.len().max(1));
    let word = (at / 4 * 4).min(bytes.len().saturating_sub(4));
    let number = [0, 1, N as u32 - 1, N as u32, N as u32 + 1, 64, 65, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    let number = number[rng.random_range(0..number.len())];
    match rng.random_range(0..7) {
        _ if bytes.len() < 8 => bytes.push(7),
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random_range(0..=255),
        2 => bytes[word..word + 4].copy_from_slice(&number.to_le_bytes()),
        3 => {
            let near = rng.random_range(0..N as u32);
            bytes[word..word + 4].copy_from_slice(&near.to_le_bytes());
        }
        4 => bytes.truncate(at),
        5 => {
            let more = bytes[word..(word + 64).min(bytes.len())].to_vec();
            bytes.splice(word..word, more);
        }
        _ => drop(bytes.drain(word..(word + 8).min(bytes.len()))),
    }
    format!("byte {at}, number {number}")
}

/// Changes one value somewhere in a JSON value; says which.
fn bend_json(value: &mut Value, rng: &mut ChaCha8Rng) -> String {
    bend_json_but(value, "", rng)
}

fn bend_json_but(value: &mut Value, spared: &str, rng: &mut ChaCha8Rng) -> String {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let keys: Vec<String> = fields.keys().filter(|key| *key != spared).cloned().collect();
            let key = &keys[rng.random_range(0..keys.len())];
            if rng.random_bool(0.1) {
                fields.remove(key);
                return format!("{key} removed");
            }
            format!("{key}: {}", bend_json_but(&mut fields[key], spared, rng))
        }
        Value::Array(items) if !items.is_empty() => {
            let at = rng.random_range(0..items.len());
            match rng.random_range(0..10) {
                0 => drop(items.remove(at)),
                1 => items.push(items[at].clone()),
                _ => return format!("[{at}] {}", bend_json_but(&mut items[at], spared, rng)),
            }
            format!("[{at}] gone or twice")
        }
        other => {
            let odd = [
                json!(null),
                json!(true),
                json!(-1),
                json!(0),
                json!(1),
                json!(2),
                json!(u64::MAX),
                json!(u32::MAX),
                json!(1e308),
                json!(0.5),
                json!(""),
                json!("../../etc"),
                json!("x".repeat(300)),
                json!([]),
                json!({}),
                json!("g-1-00000000"),
            ];
            *other = odd[rng.random_range(0..odd.len())].clone();
            format!("= {other}")
        }
    }
}
