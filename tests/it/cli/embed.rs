//! `ragtune embed`.

use std::path::Path;

use serde_json::Value;

use crate::support::*;

fn embed(file: &Path, role: &str) -> Ragtune {
    ragtune(&["embed"]).with("--encoder", encoder()).with("--file", file).with("--role", role)
}

fn vector(line: &Value) -> Vec<f32> {
    line["vector"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn vectors_are_those_of_the_index_in_every_form() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    let corpus = fixture("tiny/corpus.jsonl");
    let done = embed(&corpus, "passage").with("--out", at("v.jsonl")).and(&["--json"]).run().json();
    assert_eq!((&done["texts"], &done["dimension"], &done["role"]), (&60.into(), &160.into(), &"passage".into()));
    let vectors = lines(&at("v.jsonl"));
    let ids: Vec<&str> = vectors.iter().map(|line| line["id"].as_str().unwrap()).collect();
    let passages = lines(&corpus);
    assert_eq!(ids, passages.iter().map(|passage| passage["id"].as_str().unwrap()).collect::<Vec<_>>());

    // The same numbers as array, and printed.
    embed(&corpus, "passage").with("--out", at("v.npy")).run().done();
    let bytes = std::fs::read(at("v.npy")).unwrap();
    let numbers = &bytes[bytes.len() - 60 * 160 * 4..];
    let array: Vec<f32> = numbers.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    assert_eq!(array, vectors.iter().flat_map(vector).collect::<Vec<_>>());
    assert!(String::from_utf8_lossy(&bytes[..128]).contains("(60, 160)"));
    let printed = embed(&corpus, "passage").run().done().stdout;
    assert_eq!(printed, std::fs::read_to_string(at("v.jsonl")).unwrap());

    // A search scores a question against these very vectors.
    std::fs::write(at("q.jsonl"), "{\"id\": \"q\", \"question\": \"red bull\"}\n").unwrap();
    embed(&at("q.jsonl"), "question").with("--out", at("q-out.jsonl")).run().done();
    let question = vector(&lines(&at("q-out.jsonl"))[0]);
    let hits = ragtune(&["index", "search", "--json", "--exact", "--query", "red bull"])
        .with("--index", base_index())
        .run()
        .json();
    for hit in hits.as_array().unwrap() {
        let row = ids.iter().position(|id| hit["id"] == *id).unwrap();
        let product: f32 = vector(&vectors[row]).iter().zip(&question).map(|(a, b)| a * b).sum();
        assert!((product - hit["score"].as_f64().unwrap() as f32).abs() < 1e-5, "{hit}");
    }
    // Batches decide nothing.
    embed(&corpus, "passage").with("--out", at("one.jsonl")).and(&["--batch-tokens", "1"]).run().done();
    for (one, all) in lines(&at("one.jsonl")).iter().zip(&vectors) {
        assert!(vector(one).iter().zip(vector(all)).all(|(a, b)| (a - b).abs() < 1e-6));
    }
}

#[test]
fn long_texts_are_cut_counted_and_told() {
    let folder = folder();
    let file = folder.path().join("texts.jsonl");
    let out = folder.path().join("v.jsonl");
    let long = "word ".repeat(500);
    std::fs::write(&file, format!("\"{long}\"\n\"short\"\n")).unwrap();
    let ran = embed(&file, "passage").with("--out", &out).and(&["--json"]).run().done();
    assert!(ran.stderr.contains("1 of 2 texts were cut to 160 tokens"), "{ran:#?}");
    let done: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&done["truncated"], &done["max_length"]), (&0.5.into(), &160.into()));
    // The rule: the end is lost, so a text that goes on differently has the same vector.
    std::fs::write(&file, format!("\"{long} and more\"\n\"short\"\n")).unwrap();
    let before = lines(&out);
    embed(&file, "passage").with("--out", &out).run().done();
    assert_eq!(lines(&out), before);
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let folder = folder();
    let file = folder.path().join("texts.jsonl");
    std::fs::write(&file, "\"a\"\n{\"txt\": \"b\"}\n").unwrap();
    embed(&file, "passage").run().refused(&["texts.jsonl:2", "`text`"]);
    embed(&fixture("tiny/corpus.jsonl"), "answer").run().refused(&["`answer`", "question"]);
    embed(&fixture("tiny/corpus.jsonl"), "passage").with("--out", folder.path().join("v.txt")).run().refused(&[".npy"]);
    embed(Path::new("nowhere.jsonl"), "passage").run().refused(&["nowhere.jsonl"]);
}
