//! Texts longer than a model reads: cut by the rule that is stated, counted, and the share is told.

use crate::support::*;

/// The encoder with a limit of so many tokens.
fn short_encoder(folder: &std::path::Path, limit: u64) -> std::path::PathBuf {
    let to = folder.join("short");
    copy(&encoder(), &to);
    let path = to.join("sentence_bert_config.json");
    let mut settings = json(&path);
    settings["max_seq_length"] = limit.into();
    std::fs::write(path, settings.to_string()).unwrap();
    to
}

#[test]
fn shares_of_what_was_cut_are_in_index_record_and_evaluation() {
    let folder = folder();
    let encoder = short_encoder(folder.path(), 10);
    let index = folder.path().join("index");
    let stats = build_command(&fixture("tiny/corpus.jsonl"), &encoder, &index).and(&["--json"]).run().json();
    assert_eq!(stats["truncated_passages"], 1.0, "no passage fits into 10 tokens");
    let text = ragtune(&["index", "stats"]).with("--index", &index).run().done().stdout;
    assert!(text.contains("100.0 % of passages"), "{text}");

    // By hand: a question's tokens are those of the tokenizer, with two of its own.
    let tokenizer = ragtune::models::text::Text::load(&encoder).unwrap();
    let share = |file: &str, limit: usize| {
        let questions = lines(&fixture(file));
        let questions = questions.iter().take(limit);
        let long = questions
            .clone()
            .filter(|question| tokenizer.encode(question["question"].as_str().unwrap(), true).unwrap().len() > 10);
        long.count() as f64 / questions.count() as f64
    };
    let out = folder.path().join("run");
    train("generator", &index, &out).and(&["--steps", "2", "--max-prompt-tokens", "64"]).run().done();
    let truncated = json(&out.join("record.json"))["truncated"].clone();
    assert_eq!(truncated["passages"], 1.0);
    let (train_share, dev_share) = (share("tiny/train.jsonl", 40), share("tiny/dev.jsonl", 20));
    assert!(train_share > 0.0 && train_share < 1.0, "{train_share}");
    assert_eq!(
        (&truncated["training questions"], &truncated["evaluation questions"]),
        (&train_share.into(), &dev_share.into())
    );
    // `--max-answer-tokens 8`, and prompts that hold no whole passage.
    assert!(truncated["training answers"].as_f64().unwrap() < 1.0, "{truncated}");
    assert!(truncated["training prompts"].as_f64().unwrap() > 0.3, "{truncated}");
    assert!(truncated["evaluation prompts"].as_f64().unwrap() > 0.3, "{truncated}");

    let evaluated = ragtune(&["eval", "--json", "--limit", "5", "--max-prompt-tokens", "64", "--top-k", "2"])
        .with("--index", &index)
        .with("--generator", small_generator())
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .json();
    assert_eq!(evaluated["truncated_questions"], share("tiny/dev.jsonl", 5));
    assert!(evaluated["truncated_prompts"].as_f64().unwrap() > 0.3, "{evaluated:#}");
    // Nothing is cut where everything fits.
    let stats = ragtune(&["index", "stats", "--json"]).with("--index", base_index()).run().json();
    assert!(stats["truncated_passages"].as_f64().unwrap() < 0.5, "{stats:#}");
}

#[test]
fn an_answer_is_cut_to_its_limit_and_counted() {
    let folder = folder();
    let out = folder.path().join("run");
    ragtune(&["train", "--strategy", "generator", "--steps", "1", "--batch-size", "2", "--top-k", "2"])
        .and(&["--max-answer-tokens", "1", "--eval-limit", "2"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", small_generator())
        .with("--out", &out)
        .run()
        .done();
    let share = json(&out.join("record.json"))["truncated"]["training answers"].as_f64().unwrap();
    assert!(share > 0.3, "{share}: most answers have more than one token");
}
