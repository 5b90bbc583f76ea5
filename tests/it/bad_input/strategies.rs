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
    dro("sample=2").run().refused(&["sample"]);
    dro("candidates=61").run().refused(&["`--dro candidates=61`", "60 passages", "candidates=60"]);
    dro("candidates").run().refused(&["name=value"]);
    assert!(!out.exists());
    let ran = dro("gold-injection=true").run().done();
    assert!(ran.stderr.contains("warning: gold passages are put among the candidates"), "{ran:#?}");
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
