//! Real models on real text from `../shared`, where it is there: MiniLM finds, and generators of other makes train.

use std::path::{Path, PathBuf};

use crate::support::*;

/// A path of the shared data; `None`, and a line that says so, where it is absent.
fn shared_data(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: `{}` is not there", path.display());
    None
}

/// The first lines of a JSONL question file whose gold passages are all among these ids.
fn answerable(questions: &Path, ids: &[String], limit: usize) -> String {
    let known = |line: &&str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        let gold = value["gold_passages"].as_array().unwrap();
        !gold.is_empty() && gold.iter().all(|id| ids.iter().any(|known| id == known.as_str()))
    };
    let text = std::fs::read_to_string(questions).unwrap();
    text.lines().filter(known).take(limit).map(|line| format!("{line}\n")).collect()
}

#[test]
fn minilm_finds_passages_of_natural_questions_and_two_generators_train_with_it() {
    let Some(encoder) = shared_data("models/all-MiniLM-L6-v2") else { return };
    let Some(data) = shared_data("data/nq-qed") else { return };
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    first_lines(&data.join("corpus.jsonl"), 200, &at("corpus.jsonl"));
    let ids: Vec<String> =
        lines(&at("corpus.jsonl")).iter().map(|passage| passage["id"].as_str().unwrap().to_owned()).collect();
    let all = answerable(&data.join("questions_dev.jsonl"), &ids, 24);
    let all: Vec<&str> = all.lines().collect();
    assert!(all.len() >= 16, "only {} questions about the first 200 passages", all.len());
    let (train, dev) = all.split_at(8);
    std::fs::write(at("train.jsonl"), train.join("\n") + "\n").unwrap();
    std::fs::write(at("dev.jsonl"), dev.join("\n") + "\n").unwrap();

    let index = at("index");
    build(&at("corpus.jsonl"), &encoder, &index).done();
    let stats = ragtune(&["index", "stats", "--json"]).with("--index", &index).run().json();
    assert_eq!((&stats["passages"], &stats["dimension"]), (&200.into(), &384.into()));
    assert!(stats["graph_recall_at_10"].as_f64().unwrap() >= 0.95, "{stats:#}");
    let question = &lines(&at("dev.jsonl"))[0];
    let found = search(&index, question["question"].as_str().unwrap(), 5, &[]);
    assert_eq!(found, search(&index, question["question"].as_str().unwrap(), 5, &["--exact"]));

    for name in ["stories260k-hf", "tinystories-656k"] {
        let Some(generator) = shared_data(&format!("models/{name}")) else { continue };
        let out = at(name);
        ragtune(&["train", "--strategy", "joint", "--steps", "2", "--batch-size", "2", "--top-k", "2"])
            .and(&["--max-prompt-tokens", "160", "--max-answer-tokens", "8", "--lr-encoder", "1e-5"])
            .with("--index", &index)
            .with("--questions", at("train.jsonl"))
            .with("--eval-questions", at("dev.jsonl"))
            .with("--generator", &generator)
            .with("--out", &out)
            .run()
            .done();
        let record = json(&out.join("record.json"));
        let last = &record["evaluations"][0];
        let recall = last["recall"]["5"].as_f64().unwrap();
        eprintln!("{name}: recall@5 {recall:.2} over {} questions and 200 passages", last["n"]);
        assert!(recall >= 0.8, "{last:#}");
        let metrics = lines(&out.join("metrics.jsonl"));
        assert_eq!(metrics.len(), 2);
        for line in &metrics {
            assert!(line["loss"].as_f64().unwrap() > 0.0, "{line}");
            assert!(
                ["encoder", "generator"].iter().all(|part| line["gradient_norms"][part].as_f64().unwrap() > 0.0),
                "{line}"
            );
        }
        for model in record["models"].as_array().unwrap() {
            assert_ne!(model["fingerprint"], model["final_fingerprint"], "{name}: {}", model["role"]);
        }
    }
}
