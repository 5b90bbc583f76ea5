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
