//! `ragtune eval`.

use crate::support::*;

/// Scores as the run's own last evaluation has them.
#[test]
fn a_run_evaluates_to_the_scores_it_ended_with() {
    let folder = folder();
    let index = index_copy(folder.path());
    for (strategy, words) in [
        ("joint", &["--train-passages", "true"][..]),
        ("joint", &[]),
        ("generator", &["--lora-rank", "4"]),
        ("generator", &["--lora-rank", "4", "--generator-dtype", "f16", "--gradient-checkpointing"]),
        ("joint", &["--lora-rank", "4", "--generator-dtype", "bf16"]),
        ("generator", &["--reader", "concat"]),
        ("generator", &["--reader", "concat", "--eval-order", "both-ends"]),
        ("generator", &["--eval-reader", "concat", "--beams", "2", "--length-penalty", "0.5"]),
        ("frozen", &[]),
    ] {
        let out = folder.path().join(format!("{strategy}{}", words.concat()));
        train(strategy, &index, &out)
            .and(&["--steps", "2", "--lr-generator", "1e-2", "--lr-encoder", "1e-3"])
            .and(words)
            .run()
            .done();
        let scores = folder.path().join("scores.jsonl");
        let evaluated = ragtune(&["eval", "--limit", "4", "--json"])
            .with("--run", &out)
            .with("--questions", fixture("tiny/dev.jsonl"))
            .with("--scores", &scores)
            .run()
            .json();
        assert_eq!(lines(&scores), lines(&out.join("scores-final.jsonl")), "{strategy} {words:?}");
        let record = json(&out.join("record.json"));
        let last = record["evaluations"].as_array().unwrap().last().unwrap();
        assert_eq!(last["name"], "final");
        for key in ["em", "f1", "recall", "answer_recall", "mrr10", "ndcg10", "reader_mode", "n", "generation"] {
            assert_eq!(evaluated["summary"][key], last[key], "{strategy} {words:?}: {key}");
        }
        assert_eq!(record["reader_mode"], last["reader_mode"], "{strategy} {words:?}");
    }
}

#[test]
fn scores_of_single_questions_and_their_means_agree() {
    let folder = folder();
    let scores = folder.path().join("scores.jsonl");
    let evaluated = ragtune(&["eval", "--json", "--top-k", "1"])
        .with("--index", base_index())
        .with("--generator", fixture("models/qa-llama"))
        .with("--questions", fixture("tiny/dev.jsonl"))
        .with("--scores", &scores)
        .run()
        .json();
    let scores = lines(&scores);
    let questions = lines(&fixture("tiny/dev.jsonl"));
    assert_eq!(scores.len(), questions.len());
    let summary = &evaluated["summary"];
    let mean = |of: &dyn Fn(&serde_json::Value) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
    for key in ["em", "f1", "mrr10", "ndcg10"] {
        let expected = mean(&|line| line[key].as_f64().unwrap());
        assert!((summary[key].as_f64().unwrap() - expected).abs() < 1e-6, "{key}");
    }
    // Recall again, from ids alone.
    for k in [1usize, 5, 10, 20] {
        let found = scores.iter().zip(&questions).filter(|(score, question)| {
            let gold = &question["gold_passages"][0];
            score["retrieved"].as_array().unwrap().iter().take(k).any(|id| id == gold)
        });
        let expected = found.count() as f64 / questions.len() as f64;
        assert!((summary["recall"][k.to_string()].as_f64().unwrap() - expected).abs() < 1e-6, "recall@{k}");
    }
    // The fixtures are worth something: the encoder finds, and the generator answers from what it found.
    assert!(summary["recall"]["5"].as_f64().unwrap() >= 0.8, "{summary:#}");
    assert!(summary["f1"].as_f64().unwrap() > 0.1, "{summary:#}");
    assert_eq!(summary["reader_mode"], "mixture");

    // Closed book: the same questions without any passage.
    let closed = ragtune(&["eval", "--json", "--top-k", "0"])
        .with("--index", base_index())
        .with("--generator", fixture("models/qa-llama"))
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .json();
    assert_eq!(closed["top_k"], 0);
    assert_eq!(closed["summary"]["n"], 20);
    assert_eq!(closed["summary"]["recall"], summary["recall"], "retrieval is measured all the same");
    assert!(closed["summary"]["f1"].as_f64().unwrap() + 0.1 < summary["f1"].as_f64().unwrap(), "passages help");
}

#[test]
fn exact_search_concat_and_text_output() {
    let evaluate = |words: &[&str]| {
        ragtune(&["eval", "--limit", "6"])
            .with("--index", base_index())
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .and(words)
            .run()
            .done()
    };
    let graph: serde_json::Value = serde_json::from_str(&evaluate(&["--json"]).stdout).unwrap();
    let exact: serde_json::Value = serde_json::from_str(&evaluate(&["--json", "--exact"]).stdout).unwrap();
    assert_eq!(graph["summary"], exact["summary"]);
    let text = evaluate(&["--reader", "concat", "--top-k", "2"]).stdout;
    for part in ["exact match", "token F1", "answer recall", "MRR@10", "concat, top 2"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let share = graph["ledger"]["unattributed"]["seconds"].as_f64().unwrap()
        / graph["ledger"]["wall_seconds"].as_f64().unwrap();
    assert!(share < 0.2, "{share}: a run of a fraction of a second, so only gross leaks show");
}

/// A selector chooses what is read: a model folder nobody trained for it does so badly, but what it chooses is served, measured
/// beside the retriever's own order, and charged.
#[test]
fn a_selector_is_served_and_measured() {
    let folder = folder();
    let scores = folder.path().join("scores.jsonl");
    let top = |k: &str, words: &[&str]| {
        ragtune(&["eval", "--limit", "6", "--top-k", k])
            .with("--index", base_index())
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .with("--scores", &scores)
            .and(words)
            .run()
    };
    let evaluate = |words: &[&str]| top("3", words);
    let selector = fixture("models/qa-llama").display().to_string();
    let evaluated = evaluate(&["--selector", &selector, "--candidates", "6", "--json"]).json();
    let summary = &evaluated["summary"];
    assert_eq!(summary["reader_mode"], "concat");
    let selection = &summary["selection"];
    assert_eq!(selection["candidates"], 6);
    let questions = lines(&fixture("tiny/dev.jsonl"));
    let lines = lines(&scores);
    let (mut found, mut first) = (0, 0);
    for (score, question) in lines.iter().zip(&questions) {
        let ids = |value: &serde_json::Value| -> Vec<String> {
            value.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
        };
        let (selected, retrieved) = (ids(&score["selection"]["selected"]), ids(&score["retrieved"]));
        assert_eq!(selected.len(), 3);
        assert!(selected.iter().all(|id| retrieved[..6].contains(id)), "{selected:?} {retrieved:?}");
        let gold = question["gold_passages"][0].as_str().unwrap();
        found += usize::from(selected.iter().any(|id| id == gold));
        first += usize::from(retrieved[..3].iter().any(|id| id == gold));
    }
    for (name, count) in [("recall", found), ("retriever_recall", first)] {
        let expected = count as f64 / lines.len() as f64;
        assert!((selection[name]["3"].as_f64().unwrap() - expected).abs() < 1e-6, "{name}: {selection}");
    }
    assert!(selection["recall"].get("5").is_none(), "three passages say nothing about a depth of five");
    let entries = evaluated["ledger"]["entries"].as_array().unwrap();
    let select = entries.iter().find(|entry| entry["phase"] == "select").expect("charged to a phase of its own");
    assert!(select["tokens"].as_u64().unwrap() > 0 && select["flops"].as_f64().unwrap() > 0.0, "{select}");

    // Without a selector nothing is said about one.
    let plain = evaluate(&["--reader", "concat", "--json"]).json();
    assert!(plain["summary"].get("selection").is_none());
    assert_eq!(plain["summary"]["recall"], summary["recall"], "the retriever's own recall stays as it is");
    let text = evaluate(&["--selector", &selector, "--candidates", "6"]).done().stdout;
    assert!(text.contains("selected") && text.contains("from 6 candidates"), "{text}");

    evaluate(&["--selector", &selector, "--reader", "mixture"]).refused(&["`mixture`", "--reader concat"]);
    top("0", &["--selector", &selector]).refused(&["`--top-k 0`"]);
    evaluate(&["--selector", &selector, "--candidates", "0"]).refused(&["`0` candidates"]);
    evaluate(&["--candidates", "6"]).refused(&["`--candidates`", "`--selector`"]);
    evaluate(&["--selector", &selector, "--selector-base", &selector]).refused(&["whole model"]);
}

/// Every way of reading an answer off runs, is named, and costs what it reads.
#[test]
fn every_reader_and_search() {
    let evaluate_at = |k: &str, words: &[&str]| {
        ragtune(&["eval", "--limit", "5", "--top-k", k, "--json"])
            .with("--index", base_index())
            .with("--generator", fixture("models/qa-llama"))
            .with("--questions", fixture("tiny/dev.jsonl"))
            .and(words)
            .run()
            .json()
    };
    let evaluate = |words: &[&str]| evaluate_at("3", words);
    let tokens = |evaluated: &serde_json::Value| {
        let entries = evaluated["ledger"]["entries"].as_array().unwrap();
        let generate = entries.iter().find(|entry| entry["phase"] == "generate").unwrap();
        generate["tokens"].as_u64().unwrap()
    };
    let mut read = std::collections::BTreeMap::new();
    for (words, label) in [
        (&["--reader", "mixture"][..], "mixture"),
        (&["--reader", "mixture", "--beams", "3"], "mixture beam 3"),
        (&["--reader", "concat", "--beams", "3", "--length-penalty", "-0.5"], "concat beam 3 penalty -0.5"),
        (&["--reader", "sequence-fast"], "sequence-fast"),
        (&["--reader", "sequence-thorough"], "sequence-thorough"),
        (&["--reader", "sequence-fast", "--beams", "3"], "sequence-fast beam 3"),
        (&["--reader", "sequence-thorough", "--beams", "3"], "sequence-thorough beam 3"),
    ] {
        let evaluated = evaluate(words);
        assert_eq!(evaluated["summary"]["reader_mode"], label);
        assert_eq!(evaluated, {
            let mut again = evaluate(words);
            again["ledger"] = evaluated["ledger"].clone();
            again
        });
        read.insert(label, tokens(&evaluated));
    }
    assert!(read["mixture"] < read["mixture beam 3"], "{read:?}");
    assert!(read["sequence-fast"] < read["sequence-thorough"], "{read:?}");
    assert!(read["sequence-fast beam 3"] < read["sequence-thorough beam 3"], "{read:?}");
    assert_eq!(evaluate(&[])["summary"], evaluate(&["--reader", "mixture", "--beams", "1"])["summary"]);
    // One passage leaves nothing to mix or to weigh; none at all is read closed book.
    for k in ["0", "1"] {
        let all: Vec<serde_json::Value> = ["mixture", "concat", "sequence-thorough", "sequence-fast"]
            .iter()
            .map(|reader| {
                let mut summary = evaluate_at(k, &["--reader", reader, "--beams", "2"])["summary"].clone();
                summary["reader_mode"] = "".into();
                summary
            })
            .collect();
        assert!(all.iter().all(|summary| summary == &all[0]), "--top-k {k}: {all:#?}");
    }
}

#[test]
fn searches_that_cannot_be_followed_are_refused() {
    for (words, parts) in [
        (&["--reader", "both"][..], &["`both`", "sequence-thorough"][..]),
        (&["--beams", "0"], &["--beams 0"]),
        (&["--length-penalty", "1"], &["--length-penalty 1", "--beams 4"]),
        (&["--reader", "concat", "--order", "worst-first"], &["`worst-first`", "both-ends"]),
        (&["--reader", "mixture", "--order", "both-ends"], &["`both-ends`", "`mixture`", "concat"]),
    ] {
        ragtune(&["eval"])
            .with("--index", base_index())
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .and(words)
            .run()
            .refused(parts);
    }
}

/// A generator that reads otherwise than it was trained is another system: every report names both.
#[test]
fn how_it_was_trained_and_how_it_is_read_are_both_named() {
    let folder = folder();
    let index = index_copy(folder.path());
    let run = folder.path().join("run");
    let trained = train("generator", &index, &run).and(&["--steps", "1", "--eval-reader", "concat"]).run().done();
    let pair = "concat (trained: mixture)";
    assert!(trained.stdout.contains(pair), "{}", trained.stdout);
    let record = json(&run.join("record.json"));
    assert_eq!((&record["training_reader"], &record["reader_mode"]), (&"mixture".into(), &"concat".into()));
    let compared = ragtune(&["compare", "--resamples", "50"]).and(&[run.to_str().unwrap()]).run().done().stdout;
    assert!(compared.contains(pair), "{compared}");
    let evaluated = ragtune(&["eval", "--limit", "2"])
        .with("--run", &run)
        .with("--questions", fixture("tiny/dev.jsonl"))
        .and(&["--reader", "sequence-fast", "--beams", "2"])
        .run()
        .done()
        .stdout;
    assert!(evaluated.contains("sequence-fast beam 2 (trained: mixture)"), "{evaluated}");
}

/// Who learns to read the best passages at both ends is read so; anyone else is where that is asked for.
#[test]
fn passages_are_read_in_the_order_that_was_learnt() {
    let folder = folder();
    let out = folder.path().join("run");
    let of_run = |words: &[&str]| {
        let scores = folder.path().join("scores.jsonl");
        let evaluated = ragtune(&["eval", "--json", "--limit", "8"])
            .with("--run", &out)
            .with("--questions", fixture("tiny/dev.jsonl"))
            .with("--scores", &scores)
            .and(words)
            .run()
            .json();
        let answers: Vec<serde_json::Value> = lines(&scores).iter().map(|line| line["prediction"].clone()).collect();
        assert!(answers.iter().all(serde_json::Value::is_string), "{answers:?}");
        (evaluated["summary"]["reader_mode"].as_str().unwrap().to_owned(), answers)
    };
    ragtune(&["train", "--strategy", "noisy-context", "--steps", "1", "--batch-size", "2", "--top-k", "4"])
        .and(&["--eval-limit", "4", "--max-answer-tokens", "8"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", fixture("models/qa-llama"))
        .with("--out", &out)
        .run()
        .done();
    let record = json(&out.join("record.json"));
    assert_eq!((&record["reader_mode"], &record["training_reader"]), (&"concat both-ends".into(), &"concat".into()));
    let (mode, ends) = of_run(&[]);
    assert_eq!(mode, "concat both-ends");
    let (mode, first) = of_run(&["--order", "best-first"]);
    assert_eq!(mode, "concat");
    assert_ne!(ends, first, "another order is another prompt");
    assert_eq!(of_run(&["--reader", "mixture"]).0, "mixture");
    // Of two passages the best comes first either way.
    assert_eq!(of_run(&["--top-k", "2"]).1, of_run(&["--top-k", "2", "--order", "best-first"]).1);
    // No training is needed.
    let untrained = |order: &str| {
        let evaluated = ragtune(&["eval", "--json", "--limit", "4", "--reader", "concat", "--order", order])
            .with("--index", base_index())
            .with("--generator", small_generator())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .run()
            .json();
        evaluated["summary"]["reader_mode"].as_str().unwrap().to_owned()
    };
    assert_eq!([untrained("both-ends"), untrained("best-first")], ["concat both-ends", "concat"]);
}
