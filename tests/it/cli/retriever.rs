//! `--retriever`: dense, by words, and both, in search, evaluation and training.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::*;

/// Each retriever as it is typed and as reports call it.
const RETRIEVERS: [(&[&str], &str); 4] = [
    (&["--retriever", "dense"], "dense"),
    (&["--retriever", "bm25"], "bm25"),
    (&["--retriever", "hybrid", "--hybrid-depth", "20"], "hybrid rrf depth 20"),
    (&["--retriever", "hybrid", "--hybrid", "weighted", "--hybrid-weight", "0.25"], "hybrid weighted 0.25 depth 100"),
];

#[test]
fn a_rare_word_is_found_by_words_where_the_encoder_misses_it() {
    let folder = folder();
    let index = index_copy(folder.path());
    // The only passage with the word.
    let (word, id) = ("convergent", "d05e391a8e8f");
    assert!(
        !search(&index, word, 5, &[]).contains(&id.to_owned()),
        "the encoder finds it: the test needs another word"
    );
    for words in [&["--retriever", "bm25"][..], &["--retriever", "hybrid"]] {
        let found = search(&index, word, 5, words);
        assert_eq!(found.len(), 5);
        assert_eq!(found[0], id, "{words:?}");
    }
    // One passage shares a word; what follows is the corpus in its order, and that is said.
    let ran = ragtune(&["index", "search", "--json", "--retriever", "bm25", "--top-k", "3", "--query", word])
        .with("--index", &index)
        .run()
        .done();
    assert!(ran.stderr.contains("one passage shares a word"), "{ran:#?}");
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    let corpus = lines(&fixture("tiny/corpus.jsonl"));
    assert_eq!((&found[1]["id"], &found[2]["id"]), (&corpus[0]["id"], &corpus[1]["id"]));
    assert_eq!((&found[1]["score"], &found[2]["score"]), (&json!(0.0), &json!(0.0)));
    for nothing in ["the of", "?!", "🙂", "zzyzx"] {
        let first: Vec<String> = corpus[..4].iter().map(|passage| passage["id"].as_str().unwrap().into()).collect();
        assert_eq!(search(&index, nothing, 4, &["--retriever", "bm25"]), first, "{nothing}");
        // Nothing to add to what the encoder finds.
        let dense = search(&index, nothing, 4, &["--exact"]);
        assert_eq!(search(&index, nothing, 4, &["--exact", "--retriever", "hybrid"]), dense, "{nothing}");
    }
    // Among some passages only.
    let condition = format!("title LIKE '{}'", corpus[3]["title"].as_str().unwrap().replace('\'', "''"));
    for words in [&["--retriever", "bm25"][..], &["--retriever", "hybrid"]] {
        let found = search(&index, word, 1, &[words, &["--where", &condition]].concat());
        assert_eq!(found, [corpus[3]["id"].as_str().unwrap()], "{words:?}");
    }
    assert!(is_clean(&index));
}

#[test]
fn both_ends_of_a_weighted_hybrid_are_its_two_lists() {
    let folder = folder();
    let index = index_copy(folder.path());
    for query in ["when did red bull come to the united states", "who plays the drums", "balance sheet"] {
        let hybrid = |weight: &str| {
            let words = ["--exact", "--retriever", "hybrid", "--hybrid", "weighted", "--hybrid-weight", weight];
            search(&index, query, 3, &words)
        };
        assert_eq!(hybrid("1"), search(&index, query, 3, &["--exact"]), "{query}");
        assert_eq!(hybrid("0"), search(&index, query, 3, &["--retriever", "bm25"]), "{query}");
    }
}

#[test]
fn a_build_collects_words_where_asked_and_finds_them_again() {
    let folder = folder();
    let out = folder.path().join("index");
    let build = || build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).and(&["--lexical"]).run().done();
    assert!(build().stderr.contains("distinct words of 60 passages"));
    let before = digest(&out.join("lexical.bin"));
    assert!(build().stderr.contains("nothing to embed"));
    assert_eq!(digest(&out.join("lexical.bin")), before);
    assert!(is_clean(&out));
    std::fs::write(out.join("lexical.bin"), "torn").unwrap();
    assert!(!is_clean(&out));
    let found = search(&out, "red bull", 3, &["--retriever", "bm25"]);
    assert_eq!(digest(&out.join("lexical.bin")), before, "a search that needs them mends them");
    assert_eq!(found, search(&out, "red bull", 3, &["--retriever", "bm25"]));
    std::fs::write(out.join("lexical.bin"), "torn").unwrap();
    ragtune(&["index", "check", "--mend"]).with("--index", &out).run().done();
    assert_eq!(digest(&out.join("lexical.bin")), before);
}

fn eval(index: &Path, scores: &Path) -> Ragtune {
    ragtune(&["eval", "--json", "--limit", "6", "--max-answer-tokens", "8", "--top-k", "2"])
        .with("--index", index)
        .with("--generator", small_generator())
        .with("--questions", fixture("tiny/dev.jsonl"))
        .with("--scores", scores)
}

/// Tokens that a phase read.
fn tokens(ledger: &Value, phase: &str) -> u64 {
    let entries = ledger["entries"].as_array().unwrap().iter();
    entries.filter(|entry| entry["phase"] == phase).map(|entry| entry["tokens"].as_u64().unwrap_or(0)).sum()
}

#[test]
fn evaluation_reports_the_recall_of_the_retriever_that_was_asked_for() {
    let folder = folder();
    let index = index_copy(folder.path());
    let questions = lines(&fixture("tiny/dev.jsonl"));
    let plain = folder.path().join("plain.jsonl");
    eval(&index, &plain).run().done();
    let mut seen = Vec::new();
    for (number, (words, label)) in RETRIEVERS.into_iter().enumerate() {
        let scores = folder.path().join(format!("{number}.jsonl"));
        let evaluated = eval(&index, &scores).and(words).run().json();
        assert_eq!(evaluated["retriever"], label);
        let scores = lines(&scores);
        assert_eq!(scores.len(), 6);
        for k in [1usize, 5, 20] {
            let found = scores.iter().zip(&questions).filter(|(score, question)| {
                let retrieved = score["retrieved"].as_array().unwrap();
                assert_eq!(retrieved.len(), 20);
                retrieved.iter().take(k).any(|id| *id == question["gold_passages"][0])
            });
            let expected = found.count() as f64 / 6.0;
            let recall = evaluated["summary"]["recall"][k.to_string()].as_f64().unwrap();
            assert!((recall - expected).abs() < 1e-6, "{label} recall@{k}");
        }
        for score in &scores {
            let scores: Vec<f64> = score["scores"].as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect();
            assert!(scores.is_sorted_by(|a, b| a >= b), "{label}: {scores:?}");
        }
        assert!(tokens(&evaluated["ledger"], "embed") > 0, "a mixture is weighed by the encoder, {label}");
        if label == "dense" {
            assert_eq!(scores, lines(&plain), "said or not, dense is dense");
        }
        seen.push(scores.iter().map(|score| score["retrieved"].clone()).collect::<Vec<_>>());
    }
    seen.sort_by_key(|rows| format!("{rows:?}"));
    seen.dedup();
    assert_eq!(seen.len(), RETRIEVERS.len(), "each retriever ranks in its own way");
    // Found by words, read in one prompt: no question is embedded.
    let words = ["--retriever", "bm25", "--reader", "concat"];
    let evaluated = eval(&index, &plain).and(&words).run().json();
    assert_eq!(tokens(&evaluated["ledger"], "embed"), 0);
}

fn four_steps(strategy: &str, index: &Path, out: &Path) -> Ragtune {
    train(strategy, index, out).and(&[
        "--steps",
        "4",
        "--checkpoint-every",
        "1",
        "--lr-encoder",
        "1e-3",
        "--lr-generator",
        "1e-3",
    ])
}

fn stage_id(out: &Path) -> String {
    json(&out.join("record.json"))["stages"][0]["id"].as_str().unwrap().to_owned()
}

#[test]
fn training_is_over_what_the_retriever_finds_and_its_stages_are_told_apart_by_it() {
    let folder = folder();
    let index = index_copy(folder.path());
    let mut ids = Vec::new();
    for strategy in ["joint", "embedder"] {
        let run = |words: &[&str], name: &str| {
            let out = folder.path().join(format!("{strategy}-{name}"));
            four_steps(strategy, &index, &out).and(words).run().done();
            out
        };
        let unsaid = run(&[], "unsaid");
        let mut of = vec![stage_id(&unsaid)];
        for (number, (words, label)) in RETRIEVERS.into_iter().enumerate() {
            let out = run(words, &number.to_string());
            let record = json(&out.join("record.json"));
            assert_eq!(record["retriever"], label);
            assert_eq!(record["steps_done"], 4);
            of.push(stage_id(&out));
            // An evaluation of the run retrieves as the run did.
            let scores = folder.path().join("scores.jsonl");
            let again = ragtune(&["eval", "--limit", "4", "--json"])
                .with("--run", &out)
                .with("--questions", fixture("tiny/dev.jsonl"))
                .with("--scores", &scores)
                .run()
                .json();
            assert_eq!(again["retriever"], label);
            assert_eq!(lines(&scores), lines(&out.join("scores-final.jsonl")), "{strategy} {label}");
        }
        let bytes = |out: &Path, file: &str| digest(&out.join(file));
        let dense = folder.path().join(format!("{strategy}-0"));
        for file in ["encoder/model.safetensors", "metrics.jsonl", "scores-final.jsonl"] {
            assert_eq!(bytes(&unsaid, file), bytes(&dense, file), "{strategy}: said or not, dense is dense");
        }
        ids.push(of);
    }
    let distinct = |ids: &[String]| ids.iter().collect::<std::collections::BTreeSet<_>>().len();
    assert_eq!(ids[0][0], ids[0][1]);
    assert_eq!(distinct(&ids[0]), RETRIEVERS.len(), "joint training reads what is found");
    assert_eq!(distinct(&ids[1]), 1, "the embedder learns from gold passages, whatever finds others");
    // Two retrievers are two settings, shown side by side.
    let (one, other) = (folder.path().join("joint-0"), folder.path().join("joint-1"));
    let compared = ragtune(&["compare", "--json", "--resamples", "100"])
        .and(&[one.to_str().unwrap(), other.to_str().unwrap()])
        .run()
        .json();
    let labels: Vec<&str> =
        compared["rows"].as_array().unwrap().iter().map(|row| row["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["joint retriever=dense", "joint retriever=bm25"]);
}

#[test]
fn a_run_by_words_that_was_killed_goes_on_with_the_same_bits() {
    let folder = folder();
    let (index, straight, killed) =
        (index_copy(folder.path()), folder.path().join("straight"), folder.path().join("killed"));
    let words = ["--train-passages", "true", "--refresh-every", "2", "--retriever", "hybrid"];
    four_steps("joint", &index, &straight).and(&words).run().done();
    let left = |out: &PathBuf| {
        ["encoder/model.safetensors", "metrics.jsonl", "scores-final.jsonl"].map(|f| digest(&out.join(f)))
    };
    let mut running = four_steps("joint", &index, &killed).and(&words).start();
    let steps = || std::fs::read_to_string(killed.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    assert!(running.until(|| steps() >= 2));
    running.kill();
    // What was kept of the words is made again.
    std::fs::remove_file(index.join("lexical.bin")).unwrap();
    ragtune(&["train"]).with("--resume", &killed).run().done();
    assert_eq!(left(&killed), left(&straight));
    assert_eq!(json(&killed.join("record.json"))["retriever"], "hybrid rrf depth 100");
    assert!(is_clean(&index));
}

#[test]
fn settings_of_the_retriever_that_cannot_be_meant_are_refused() {
    let folder = folder();
    let index = index_copy(folder.path());
    for (words, says) in [
        (&["--retriever", "sparse"][..], &["`sparse`", "dense, bm25, hybrid"][..]),
        (&["--hybrid", "rrf"], &["--hybrid rrf", "--retriever dense"]),
        (&["--retriever", "bm25", "--hybrid-depth", "5"], &["--hybrid-depth 5", "bm25"]),
        (&["--retriever", "hybrid", "--hybrid-weight", "0.5"], &["--hybrid-weight 0.5", "rrf"]),
        (&["--retriever", "hybrid", "--hybrid", "weighted", "--hybrid-weight", "1.5"], &["1.5", "0 to 1"]),
        (&["--retriever", "hybrid", "--hybrid", "weighted", "--hybrid-weight", "-0.5"], &["-0.5", "0 to 1"]),
        (&["--retriever", "hybrid", "--hybrid-depth", "0"], &["--hybrid-depth 0"]),
        (&["--retriever", "hybrid", "--hybrid", "sum"], &["`sum`", "rrf"]),
    ] {
        ragtune(&["index", "search", "--query", "rain"]).with("--index", &index).and(words).run().refused(says);
        let out = folder.path().join("run");
        // The settings file names an unknown word's alternatives in its own way.
        let says = if says[0].starts_with('`') { &says[..1] } else { says };
        four_steps("joint", &index, &out).and(words).run().refused(says);
        assert!(!out.exists());
        eval(&index, &folder.path().join("s")).and(words).run().refused(&says[..1]);
    }
    ragtune(&["index", "search", "--query", " ", "--retriever", "bm25"])
        .with("--index", &index)
        .run()
        .refused(&["--query"]);
    ragtune(&["index", "search", "--query", "rain", "--retriever", "bm25", "--top-k", "61"])
        .with("--index", &index)
        .run()
        .refused(&["61", "60"]);
    // As a key of the settings file.
    four_steps("joint", &index, &folder.path().join("run"))
        .and(&["--train-passages", "true", "--refresh", "lazy", "--refresh-every", "2", "--retriever", "hybrid"])
        .run()
        .refused(&["--refresh lazy", "--retriever hybrid"]);
    let file = folder.path().join("settings.toml");
    std::fs::write(&file, "retriever = \"bm25\"\nhybrid-weight = 0.5\n").unwrap();
    four_steps("joint", &index, &folder.path().join("run"))
        .with("--config", &file)
        .run()
        .refused(&["--hybrid-weight 0.5"]);
    std::fs::write(&file, "retriever = \"bm25\"\n").unwrap();
    // A refused search may have kept them.
    let _ = std::fs::remove_file(index.join("lexical.bin"));
    let resolved = four_steps("joint", &index, &folder.path().join("run"))
        .with("--config", &file)
        .and(&["--dry-run", "--json"])
        .run()
        .json();
    assert_eq!(resolved["settings"]["retriever"], "bm25");
    assert!(!index.join("lexical.bin").exists(), "a dry run writes nothing");
}
