//! STRATEGIES oracle 23: modelled operations are additive and linear in what they are counted over: passages of the index, passages
//! of a prompt, epochs, refreshes.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::*;

/// Modelled operations of an activity in a run's ledger.
fn flops(record: &Value, activity: &str) -> f64 {
    let entries = record["ledger"]["entries"].as_array().unwrap().iter();
    entries.filter(|entry| entry["activity"] == activity).map(|entry| entry["flops"].as_f64().unwrap()).sum()
}

fn same(found: f64, expected: f64) {
    assert!(found > 0.0 && (found - expected).abs() <= 1e-9 * expected, "{found} and {expected}");
}

/// An index over the tiny corpus as `change` makes it.
fn index(folder: &Path, name: &str, change: impl Fn(Vec<Value>) -> Vec<Value>) -> PathBuf {
    let (corpus, out) = (folder.join(format!("{name}.jsonl")), folder.join(name));
    let text: String = change(lines(&fixture("tiny/corpus.jsonl"))).iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(&corpus, text).unwrap();
    build(&corpus, &encoder(), &out).done();
    out
}

#[test]
fn training_is_linear_in_passages_of_a_prompt_and_in_epochs() {
    let folder = folder();
    // Passages of one length, so that K of them are K times one.
    let at = index(folder.path(), "equal", |mut passages| {
        passages
            .iter_mut()
            .for_each(|one| (one["title"], one["text"]) = ("Rain".into(), "Rain falls on the plain.".into()));
        passages
    });
    let questions = folder.path().join("four.jsonl");
    first_lines(&fixture("tiny/train.jsonl"), 4, &questions);
    let run = |strategy: &str, top_k: usize, steps: u64| {
        let record =
            ragtune(&["train", "--batch-size", "2", "--eval-limit", "1", "--max-answer-tokens", "8", "--json"])
                .with("--strategy", strategy)
                .with("--top-k", top_k.to_string())
                .with("--steps", steps.to_string())
                .with("--index", &at)
                .with("--questions", &questions)
                .with("--eval-questions", fixture("tiny/dev.jsonl"))
                .with("--generator", small_generator())
                .with("--out", folder.path().join(format!("{strategy}-{top_k}-{steps}")))
                .run()
                .json();
        let entries = record["ledger"]["entries"].as_array().unwrap().clone();
        let phase = |phase: &str| -> f64 {
            let of = |entry: &&Value| entry["activity"] == "train" && entry["phase"] == phase;
            entries.iter().filter(of).map(|entry| entry["flops"].as_f64().unwrap()).sum()
        };
        (phase("score"), phase("backward"), phase("embed"))
    };
    let (score, backward, embed) = run("generator", 1, 2);
    for top_k in [2, 4] {
        let (wider, back, questions) = run("generator", top_k, 2);
        same(wider, top_k as f64 * score);
        same(back, top_k as f64 * backward);
        same(questions, embed);
    }
    // Two steps of two questions are an epoch over four.
    for epochs in [2, 3] {
        let (longer, back, questions) = run("generator", 1, 2 * epochs);
        same(longer, epochs as f64 * score);
        same(back, epochs as f64 * backward);
        same(questions, epochs as f64 * embed);
    }
}

/// Refresh cost = refreshes x (passages x cost of a passage + what measuring them takes).
#[test]
fn refreshing_is_linear_in_refreshes_and_in_passages() {
    let folder = folder();
    let times = |count: usize| {
        index(folder.path(), &format!("times{count}"), move |passages| {
            let copied = |number: usize| {
                let passages = passages.clone();
                passages.into_iter().map(move |mut one| {
                    if number > 0 {
                        one["id"] = json!(format!("{}-{number}", one["id"].as_str().unwrap()));
                    }
                    one
                })
            };
            (0..count).flat_map(copied).collect()
        })
    };
    let run = |index: &Path, every: &str| {
        let name = format!("{}-{every}", index.file_name().unwrap().to_str().unwrap());
        let record = train("embedder", index, &folder.path().join(name))
            .and(&["--train-passages", "true", "--steps", "4", "--refresh", "full", "--json", "--refresh-every", every])
            .run()
            .json();
        (record["refreshes"].as_array().unwrap().len() as f64, flops(&record, "refresh"))
    };
    let [one, two, three] = [1, 2, 3].map(times);
    let (count, once) = run(&one, "0");
    assert_eq!(count, 1.0);
    for (every, refreshes) in [("2", 2.0), ("1", 4.0)] {
        let (count, more) = run(&one, every);
        assert_eq!(count, refreshes);
        same(more, refreshes * once);
    }
    let (doubled, tripled) = (run(&two, "0").1, run(&three, "0").1);
    same(tripled - doubled, doubled - once);
    assert!(doubled > 1.5 * once, "embedding is most of it: {once}, {doubled}");
}
