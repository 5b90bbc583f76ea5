//! Tests of `data check`: what is said about each format.

use super::*;
use std::fs;

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

const CORPUS: &str = r#"{"id": "a", "title": "T", "text": "one two three"}
{"id": "b", "text": "one", "url": "x"}
{"id": "c", "title": "", "text": "one two"}
"#;

#[test]
fn a_corpus_is_counted() {
    let folder = folder(&[("c.jsonl", CORPUS)]);
    let found = check(&folder.path().join("c.jsonl")).unwrap();
    assert_eq!((found.kind.as_str(), found.format), ("corpus", Format::Jsonl));
    let corpus = found.corpus.as_ref().unwrap();
    assert_eq!((corpus.passages, corpus.with_title, corpus.longest_passage.as_str()), (3, 1, "a"));
    assert_eq!((corpus.words.total, corpus.words.median, corpus.words.longest), (6, 2, 3));
    assert_eq!(corpus.example, "a: T: one two three");
    assert_eq!(found.fields, [("id", 3), ("text", 3), ("title", 2), ("url", 1)].map(|(n, c)| (n.to_owned(), c)).into());
    assert!(found.is_usable() && found.questions.is_none());
    let text = found.to_string();
    assert!(text.contains("words a passage     median 2, longest 3 (`a`)"), "{text}");
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["corpus"]["words"]["median"], 2);
    assert_eq!(json["format"], "jsonl");
}

#[test]
fn questions_are_counted() {
    let folder = folder(&[(
        "q.jsonl",
        "{\"id\": 1, \"question\": \"who is it\", \"answers\": [\"x y\", \"z\"], \"gold_passages\": [\"a\"]}\n{\"id\": 2, \"question\": \"q\"}\n",
    )]);
    let found = check(&folder.path().join("q.jsonl")).unwrap();
    assert_eq!(found.kind, "questions");
    let questions = found.questions.as_ref().unwrap();
    assert_eq!((questions.questions, questions.without_answers, questions.without_gold), (2, 1, 1));
    assert_eq!((questions.answers, questions.answer_words.longest, questions.words.longest), (2, 2, 3));
    assert_eq!(questions.example, "who is it (x y)");
    assert_eq!(found.notes.len(), 2);
}

#[test]
fn duplicate_ids_are_a_problem_that_is_counted() {
    let folder = folder(&[("c.jsonl", &format!("{CORPUS}{CORPUS}"))]);
    let found = check(&folder.path().join("c.jsonl")).unwrap();
    assert!(!found.is_usable());
    assert_eq!(found.problems, ["3 passage ids occur more than once, the first is `a`"]);
    assert!(found.to_string().contains("problem: 3 passage ids"));
    assert!(found.to_string().contains("note: ids of several passages: `a`, `b`, `c`\n"), "{found}");
}

#[test]
fn a_beir_folder_holds_both() {
    let files = [
        ("corpus.jsonl", CORPUS),
        ("queries.jsonl", "{\"_id\": \"q\", \"text\": \"who\"}\n"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq\ta\t1\n"),
        ("qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq\tb\t1\nq\tc\t1\n"),
    ];
    let folder = folder(&files);
    let found = check(folder.path()).unwrap();
    assert_eq!(
        (found.kind.as_str(), found.splits.as_slice()),
        ("corpus and questions", ["dev".to_owned(), "test".to_owned()].as_slice())
    );
    assert_eq!(found.questions.unwrap().gold_passages, 1);
    assert_eq!(check(&folder.path().join("qrels/dev.tsv")).unwrap().questions.unwrap().gold_passages, 2);
}

#[test]
fn the_real_files_are_understood() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !root.is_dir() {
        eprintln!("skipped: {} is not there", root.display());
        return;
    }
    let found = check(&root.join("xquad-en/corpus.jsonl")).unwrap();
    assert_eq!(found.corpus.as_ref().map(|corpus| (corpus.passages, corpus.with_title)), Some((240, 240)));
    let found = check(&root.join("popqa/questions.jsonl")).unwrap();
    assert_eq!(found.fields["s_pop"], 1000);
    assert_eq!(found.questions.map(|questions| questions.without_gold), Some(0));
}
