//! Questions and settings that a strategy cannot learn from.

use crate::support::*;

/// The fixture's training questions, each changed.
fn changed(to: &std::path::Path, change: impl Fn(usize, &mut serde_json::Value)) {
    let mut all = lines(&fixture("tiny/train.jsonl"));
    all.iter_mut().enumerate().for_each(|(at, question)| change(at, question));
    let text: Vec<String> = all.iter().map(ToString::to_string).collect();
    std::fs::write(to, text.join("\n") + "\n").unwrap();
}

fn train_on(strategy: &str, questions: &std::path::Path, out: &std::path::Path) -> Ragtune {
    ragtune(&["train", "--batch-size", "2", "--steps", "1", "--eval-limit", "2", "--max-answer-tokens", "8"])
        .with("--strategy", strategy)
        .with("--index", base_index())
        .with("--questions", questions)
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", small_generator())
        .with("--out", out)
}

#[test]
fn a_label_that_is_missing_is_named_with_the_strategies_that_do_without() {
    let folder = folder();
    let (questions, out) = (folder.path().join("questions.jsonl"), folder.path().join("run"));
    changed(&questions, |at, question| {
        if at > 0 {
            question.as_object_mut().unwrap().remove("gold_passages");
        }
    });
    for strategy in ["embedder", "independent", "cl-rag"] {
        let ran = train_on(strategy, &questions, &out).run().refused(&["gold passage", "39 of 40", strategy]);
        let hint = ran.stderr.split("hint: ").nth(1).unwrap();
        for possible in ["generator", "two-phase", "joint", "replug", "ra-dit", "dro"] {
            assert!(hint.contains(possible), "{possible}: {hint}");
        }
        for impossible in ["embedder", "independent", "distil"] {
            assert!(!hint.contains(&format!("{impossible},")) && !hint.contains(&format!(" {impossible}\n")), "{hint}");
        }
    }
    train_on("distil", &questions, &out).run().refused(&["teacher scores", "40 of 40"]);
    changed(&questions, |_, question| question["answers"] = serde_json::json!([]));
    train_on("joint", &questions, &out).run().refused(&["answer", "40 of 40", "embedder"]);
    assert!(!out.exists());
}

#[test]
fn an_answer_that_the_generator_cannot_read_is_refused_before_training() {
    let folder = folder();
    let (questions, out) = (folder.path().join("questions.jsonl"), folder.path().join("run"));
    changed(&questions, |at, question| {
        if at == 7 {
            question["answers"] = serde_json::json!([vec!["word"; 600].join(" ")]);
        }
    });
    let id = lines(&fixture("tiny/train.jsonl"))[7]["id"].as_str().unwrap().to_owned();
    train_on("generator", &questions, &out).run().refused(&["the answer of question", &id, "more positions"]);
    assert!(!out.exists());
}

#[test]
fn one_passage_leaves_a_retriever_without_a_gradient_and_is_said() {
    let folder = folder();
    let out = folder.path().join("run");
    let ran = train_on("joint", &fixture("tiny/train.jsonl"), &out).and(&["--top-k", "1"]).run().done();
    assert!(ran.stderr.contains("warning: with `--top-k 1`"), "{ran:#?}");
    assert!(json(&out.join("record.json"))["notes"].to_string().contains("gradient is zero"));
}

#[test]
fn one_drawn_list_and_gold_among_the_candidates_are_refused_and_said() {
    let folder = folder();
    let out = folder.path().join("run");
    let dro = |setting: &str| {
        let folder = out.clone();
        train_on("dro", &fixture("tiny/train.jsonl"), &folder).and(&[
            "--top-k",
            "2",
            "--dro",
            "candidates=4",
            "--dro",
            "warm-up=none",
            "--dro",
            setting,
        ])
    };
    dro("samples=1").run().refused(&["`1` list", "expected at least 2"]);
    dro("samples=0").and(&["--dro", "mode=generator"]).run().refused(&["`0` lists"]);
    dro("sample=2").run().refused(&["sample"]);
    dro("candidates=61").run().refused(&["`--dro candidates=61`", "60 passages", "candidates=60"]);
    dro("candidates").run().refused(&["name=value"]);
    assert!(!out.exists());
    let ran = dro("gold-injection=true").run().done();
    assert!(ran.stderr.contains("warning: gold passages are put among the candidates"), "{ran:#?}");
}

/// A generator alone learns from one list: only a selector needs others to compare it with.
#[test]
fn one_drawn_list_is_enough_where_no_selector_trains() {
    let folder = folder();
    let out = folder.path().join("run");
    train_on("dro", &fixture("tiny/train.jsonl"), &out)
        .and(&["--top-k", "2", "--dro", "candidates=4", "--dro", "warm-up=none", "--dro", "mode=generator"])
        .and(&["--dro", "samples=1"])
        .run()
        .done();
    let models = json(&out.join("record.json"))["models"].clone();
    let moved = |role: &str| {
        let model = models.as_array().unwrap().iter().find(|model| model["role"] == role).unwrap();
        model["fingerprint"] != model["final_fingerprint"]
    };
    assert!(moved("generator") && !moved("selector"), "{models:#}");
}

/// An objective that leaves out one passage at a time needs two, and says so before there is a run.
#[test]
fn leaving_the_only_passage_out_is_refused_before_any_work() {
    let folder = folder();
    let out = folder.path().join("run");
    train_on("joint", &fixture("tiny/train.jsonl"), &out)
        .and(&["--objective", "loop", "--top-k", "1"])
        .run()
        .refused(&["`--top-k 1`", "`loop`", "--top-k 2"]);
    assert!(!out.exists());
}

#[test]
fn hard_negatives_that_nobody_has_are_refused_and_few_are_said() {
    let folder = folder();
    let (questions, out) = (folder.path().join("questions.jsonl"), folder.path().join("run"));
    let (asked, plain) = (["--hard-negatives", "2"], fixture("tiny/train.jsonl"));
    for (strategy, words) in [("embedder", &[][..]), ("preference", &["--preferred", "gold"])] {
        train_on(strategy, &plain, &out).and(&asked).and(words).run().refused(&[
            "`--hard-negatives 2`",
            "none of the 40",
            "--strategy ance",
        ]);
        assert!(!out.exists());
    }
    let gold: Vec<serde_json::Value> = lines(&plain).iter().map(|one| one["gold_passages"][0].clone()).collect();
    changed(&questions, |at, question| {
        if at < 30 {
            question["hard_negatives"] = serde_json::json!([gold[(at + 1) % 40], gold[(at + 2) % 40]]);
        }
    });
    let ran = train_on("embedder", &questions, &out).and(&asked).run().done();
    assert!(ran.stderr.contains("warning: stage `embedder` was to read hard negatives, and 10 of 40"), "{ran:#?}");
    let with = lines(&out.join("metrics.jsonl"))[0]["extra"]["hard_negatives"].as_f64().unwrap();
    assert!((1.0..=2.0).contains(&with), "{with} of one or two questions that have some");
    // Mined ones are another matter.
    let index = index_copy(folder.path());
    let mining = train("ance", &index, &folder.path().join("mined"));
    let ran = mining.and(&["--train-passages", "true", "--steps", "1"]).and(&asked).run().done();
    assert!(!ran.stderr.contains("hard negatives"), "{ran:#?}");
}

/// A target that says nothing is said, however many likelihoods beside it differ, and in every run that takes the stage over.
#[test]
fn targets_without_a_signal_are_said_by_stage() {
    let folder = folder();
    let (questions, stages) = (fixture("tiny/train.jsonl"), folder.path().join("stages"));
    let notes = |name: &str, strategy: &str, words: &[&str]| {
        let out = folder.path().join(name);
        let ran = train_on(strategy, &questions, &out).and(&["--top-k", "3"]).and(words).run().done();
        let notes = json(&out.join("record.json"))["notes"].to_string();
        assert_eq!(ran.stderr.contains("nothing to learn"), notes.contains("nothing to learn"), "{ran:#?}");
        notes
    };
    let stored = ["--stages", stages.to_str().unwrap()];
    // Probabilities of unlikely answers are all next to 0; their logarithms are not.
    for name in ["flat", "taken"] {
        let said = notes(name, "replug", &stored);
        assert!(
            said.contains("in stage `retriever` the target gave all passages the same weight for 2 of the 2"),
            "{said}"
        );
        assert!(!said.contains("whichever passage"), "{said}");
    }
    assert_eq!(json(&folder.path().join("taken/record.json"))["stages"][0]["reused"], true);
    let said = notes("told", "replug", &["--target", "log-probability"]);
    assert!(!said.contains("nothing to learn"), "{said}");
    // Of two stages the one that it is about is named.
    let said = notes("apart", "ra-dit", &[]);
    assert!(said.contains("in stage `r-ft` the target") && !said.contains("lm-ft"), "{said}");
}

/// What is typed for another strategy is not passed over in silence.
#[test]
fn a_flag_that_the_strategy_does_not_read_is_refused() {
    let folder = folder();
    let out = folder.path().join("run");
    for (strategy, words, reader) in [
        ("ra-dit", ["--direction", "target-to-prior"], "replug"),
        ("generator", ["--objective", "pdist"], "joint"),
        ("distil", ["--target-temperature", "2"], "replug"),
    ] {
        let ran = train_on(strategy, &fixture("tiny/train.jsonl"), &out).and(&words).run();
        ran.refused(&[words[0], &format!("`--strategy {strategy}`"), "read by", reader]);
        assert!(!out.exists());
    }
}

/// At a learning rate far too high every question gets one vector, and so the same passages.
#[test]
fn a_retriever_that_collapsed_in_training_is_said() {
    let folder = folder();
    let out = folder.path().join("run");
    let ran =
        ragtune(&["train", "--strategy", "embedder", "--batch-size", "8", "--top-k", "2", "--max-answer-tokens", "2"])
            .and(&["--steps", "12", "--lr-encoder", "1", "--warmup", "0"])
            .with("--index", base_index())
            .with("--questions", fixture("tiny/dev.jsonl"))
            .with("--eval-questions", fixture("tiny/train.jsonl"))
            .with("--generator", small_generator())
            .with("--out", &out)
            .run()
            .done();
    assert!(ran.stderr.contains("retrieval collapsed: "), "{ran:#?}");
    let record = json(&out.join("record.json"));
    assert!(
        record["notes"].to_string().contains("distinct passages per 1000 questions, of 1500"),
        "{}",
        record["notes"]
    );
    // The same run at a rate that suits it finds many.
    let healthy = folder.path().join("healthy");
    let ran = train_on("embedder", &fixture("tiny/train.jsonl"), &healthy).run().done();
    assert!(!ran.stderr.contains("collapsed"), "{ran:#?}");
}
