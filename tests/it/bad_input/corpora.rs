//! Corpora and question files that cannot be used, and one strange passage that can.

use std::path::{Path, PathBuf};

use crate::support::*;

/// A corpus of its own making, with one good passage in front.
fn corpus(folder: &Path, rest: &[u8]) -> PathBuf {
    let path = folder.join("corpus.jsonl");
    let mut bytes = b"{\"id\": \"good\", \"title\": \"Rain\", \"text\": \"Rain falls.\"}\n".to_vec();
    bytes.extend(rest);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Building over it is refused, leaves no index, and the mended corpus builds into the same place.
#[track_caller]
fn build_is_refused(rest: &[u8], says: &[&str]) {
    let folder = folder();
    let out = folder.path().join("index");
    let bad = corpus(folder.path(), rest);
    build(&bad, &encoder(), &out).refused(says);
    ragtune(&["index", "stats"]).with("--index", &out).run().refused(&["is no index"]);
    build(&corpus(folder.path(), b""), &encoder(), &out).done();
    assert!(is_clean(&out));
}

#[test]
fn a_missing_corpus() {
    let folder = folder();
    let out = folder.path().join("index");
    build(&folder.path().join("nowhere.jsonl"), &encoder(), &out).refused(&["nowhere.jsonl`", "no file"]);
    assert!(!out.exists(), "nothing is made for a corpus that is not there");
    ragtune(&["data", "check"]).and(&["nowhere.jsonl"]).run().refused(&["nowhere.jsonl"]);
}

#[test]
fn an_empty_corpus() {
    let folder = folder();
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    build(&empty, &encoder(), &folder.path().join("index")).refused(&["empty.jsonl", "0 bytes"]);
    assert!(!folder.path().join("index").exists());
}

#[test]
fn duplicate_ids() {
    build_is_refused(
        b"{\"id\": \"b\", \"text\": \"x\"}\n{\"id\": \"good\", \"text\": \"y\"}\n",
        &["`good`", "passage 3"],
    );
    let folder = folder();
    let bad = corpus(folder.path(), b"{\"id\": \"good\", \"text\": \"y\"}\n");
    let ran = ragtune(&["data", "check"]).and(&[bad.to_str().unwrap()]).run();
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("`good`"), "{ran:#?}");
}

#[test]
fn an_id_that_is_empty() {
    build_is_refused(b"{\"id\": \"\", \"text\": \"x\"}\n", &["corpus.jsonl:2", "`id`"]);
}

#[test]
fn invalid_utf8() {
    build_is_refused(b"{\"id\": \"b\", \"text\": \"caf\xe9\"}\n", &["corpus.jsonl:2", "not UTF-8", "iconv"]);
}

#[test]
fn a_blank_line() {
    build_is_refused(b"\n{\"id\": \"b\", \"text\": \"x\"}\n", &["corpus.jsonl:2", "blank", "sed -i"]);
    build_is_refused(b"  \t\n", &["corpus.jsonl:2", "blank"]);
}

#[test]
fn a_record_cut_short_or_without_text() {
    build_is_refused(b"{\"id\": \"b\", \"text\": \"x", &["corpus.jsonl:2", "JSON"]);
    build_is_refused(b"{\"id\": \"b\", \"title\": \"x\"}\n", &["corpus.jsonl:2", "`text`"]);
    build_is_refused(b"{\"id\": \"b\", \"text\": \"   \"}\n", &["corpus.jsonl:2", "`text`"]);
}

#[test]
fn a_question_file_in_place_of_a_corpus() {
    let folder = folder();
    let out = folder.path().join("index");
    build(&fixture("tiny/train.jsonl"), &encoder(), &out).refused(&["train.jsonl", "--questions"]);
}

#[test]
fn another_corpus_for_an_index_that_is_there() {
    let folder = folder();
    let index = index_copy(folder.path());
    build(&corpus(folder.path(), b""), &encoder(), &index).refused(&["another corpus", "corpus.jsonl"]);
    assert!(is_clean(&index));
}

/// 100 000 words are one passage like any other: cut to what the encoder reads, and counted.
#[test]
fn a_passage_of_a_hundred_thousand_words_works() {
    let folder = folder();
    let words: Vec<String> = (0..100_000).map(|at| format!("word{}", at % 977)).collect();
    let long = format!("{{\"id\": \"long\", \"title\": \"Long\", \"text\": \"{}\"}}\n", words.join(" "));
    let out = folder.path().join("index");
    let built = build(&corpus(folder.path(), long.as_bytes()), &encoder(), &out).done();
    assert!(built.stdout.contains("1 of them cut to 160 tokens"), "{built:#?}");
    assert!(is_clean(&out));
    let found = ragtune(&["index", "search", "--json", "--top-k", "2", "--query", "word1 word2 word3"])
        .with("--index", &out)
        .run()
        .json();
    assert_eq!(found[0]["id"], "long");
    assert_eq!(found[0]["text"].as_str().unwrap().split(' ').count(), 100_000, "the whole text is kept");

    // As context of a generator it is shortened to fit, and that is counted too.
    let questions = folder.path().join("questions.jsonl");
    std::fs::write(
        &questions,
        "{\"id\": \"q\", \"question\": \"word5\", \"answers\": [\"word6\"], \"gold_passages\": [\"long\"]}\n",
    )
    .unwrap();
    let evaluated = ragtune(&["eval", "--top-k", "1", "--json"])
        .with("--index", &out)
        .with("--generator", small_generator())
        .with("--questions", &questions)
        .run()
        .json();
    assert_eq!(evaluated["truncated_prompts"], 1.0);
    assert_eq!(evaluated["summary"]["recall"]["1"], 1.0);
}

#[test]
fn a_gold_passage_that_is_not_in_the_corpus() {
    let folder = folder();
    let questions = folder.path().join("questions.jsonl");
    let line = "{\"id\": \"q7\", \"question\": \"who\", \"answers\": [\"x\"], \"gold_passages\": [\"nowhere\"]}\n";
    std::fs::write(&questions, line).unwrap();
    let says = ["`nowhere`", "`q7`", "questions.jsonl"];
    let out = folder.path().join("run");
    for strategy in ["joint", "embedder"] {
        ragtune(&["train", "--strategy", strategy])
            .with("--index", base_index())
            .with("--questions", &questions)
            .with("--eval-questions", fixture("tiny/dev.jsonl"))
            .with("--generator", small_generator())
            .with("--out", &out)
            .run()
            .refused(&says);
        assert!(!out.exists(), "a run that never began leaves nothing in the way of the next");
    }
    ragtune(&["eval"])
        .with("--index", base_index())
        .with("--generator", small_generator())
        .with("--questions", &questions)
        .run()
        .refused(&says);
    let ran =
        ragtune(&["data", "check", questions.to_str().unwrap()]).with("--corpus", fixture("tiny/corpus.jsonl")).run();
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stdout.contains("`nowhere`"), "{ran:#?}");
}

#[test]
fn labels_that_a_strategy_needs() {
    let folder = folder();
    let questions = folder.path().join("questions.jsonl");
    let train = |strategy: &str, line: &str| {
        std::fs::write(&questions, line).unwrap();
        ragtune(&["train", "--strategy", strategy])
            .with("--index", base_index())
            .with("--questions", &questions)
            .with("--eval-questions", fixture("tiny/dev.jsonl"))
            .with("--generator", small_generator())
            .with("--out", folder.path().join("run"))
            .run()
    };
    let without_gold = "{\"id\": \"q1\", \"question\": \"who\", \"answers\": [\"x\"]}\n";
    train("embedder", without_gold).refused(&["--strategy embedder", "gold passage", "1 of 1"]);
    let without_answer =
        "{\"id\": \"q1\", \"question\": \"who\", \"answers\": [], \"gold_passages\": [\"147700365c37\"]}\n";
    train("generator", without_answer).refused(&["--strategy generator", "1 of 1"]);
    train("joint", without_answer).refused(&["--strategy joint", "1 of 1"]);
}

#[test]
fn evaluating_on_training_questions() {
    let folder = folder();
    let out = folder.path().join("run");
    let train = |questions: &Path, eval: &Path| {
        ragtune(&["train", "--strategy", "joint"])
            .with("--index", base_index())
            .with("--questions", questions)
            .with("--eval-questions", eval)
            .with("--generator", small_generator())
            .with("--out", &out)
            .run()
    };
    let dev = fixture("tiny/dev.jsonl");
    train(&dev, &dev).refused(&["--eval-questions", "dev.jsonl", "held-out"]);
    // Nor by another name, nor one of them.
    let one = folder.path().join("one.jsonl");
    first_lines(&dev, 1, &one);
    let id = lines(&one)[0]["id"].as_str().unwrap().to_owned();
    train(&dev, &one).refused(&[&format!("`{id}`"), "held-out"]);
    assert!(!out.exists());
}
