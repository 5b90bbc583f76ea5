//! `ragtune data check`, and the three formats through the whole program.

use std::path::{Path, PathBuf};

use crate::support::*;

fn check(path: &Path) -> serde_json::Value {
    ragtune(&["data", "check", "--json"]).and(&[path.to_str().unwrap()]).run().json()
}

/// Two passages and two questions as a BEIR folder.
fn beir(folder: &Path) -> PathBuf {
    let dir = folder.join("beir");
    std::fs::create_dir_all(dir.join("qrels")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
    write(
        "corpus.jsonl",
        "{\"_id\": \"d1\", \"title\": \"Rain\", \"text\": \"Rain falls from clouds.\"}\n\
         {\"_id\": \"d2\", \"title\": \"Snow\", \"text\": \"Snow is frozen water.\"}\n",
    );
    write(
        "queries.jsonl",
        "{\"_id\": \"q1\", \"text\": \"what falls from clouds\"}\n{\"_id\": \"q2\", \"text\": \"what is frozen water\"}\n",
    );
    write("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\n");
    dir
}

/// One article of two paragraphs as SQuAD JSON.
fn squad(folder: &Path) -> PathBuf {
    let path = folder.join("squad.json");
    let question = |id: &str, question: &str, answer: &str, start: usize| serde_json::json!({"id": id, "question": question, "answers": [{"text": answer, "answer_start": start}]});
    let value = serde_json::json!({"version": "1.1", "data": [{"title": "Weather", "paragraphs": [
        {"context": "Rain falls from clouds.", "qas": [question("s1", "Where does rain fall from?", "clouds", 16)]},
        {"context": "Snow is frozen water.", "qas": [question("s2", "What is snow?", "frozen water", 8)]},
    ]}]});
    std::fs::write(&path, value.to_string()).unwrap();
    path
}

#[test]
fn what_is_understood_of_the_fixtures() {
    let questions = check(&fixture("tiny/train.jsonl"));
    assert_eq!((&questions["kind"], &questions["format"]), (&"questions".into(), &"jsonl".into()));
    assert_eq!(questions["questions"]["questions"], 40);
    assert_eq!(questions["problems"], serde_json::json!([]));
    let corpus = check(&fixture("tiny/corpus.jsonl"));
    assert_eq!((&corpus["kind"], &corpus["corpus"]["passages"]), (&"corpus".into(), &60.into()));
    assert_eq!(corpus["corpus_hash"], digest(&fixture("tiny/corpus.jsonl")));
    let text = ragtune(&["data", "check", fixture("tiny/dev.jsonl").to_str().unwrap()])
        .with("--corpus", fixture("tiny/corpus.jsonl"))
        .run()
        .done();
    assert!(text.stdout.contains("20") && text.stdout.contains("gold passages"), "{text:#?}");
    assert!(text.stdout.contains("note: all 20 gold passages are among the 60 of"), "{text:#?}");
}

#[test]
fn a_beir_folder_and_a_squad_file_go_through_the_whole_program() {
    for make in [beir, squad] {
        let folder = folder();
        let data = make(folder.path());
        let understood = check(&data);
        assert_eq!(understood["problems"], serde_json::json!([]), "{understood:#}");
        assert_eq!(understood["questions"]["questions"], 2, "{understood:#}");
        assert_eq!(understood["corpus"]["passages"], 2, "{understood:#}");
        let index = folder.path().join("index");
        build(&data, &encoder(), &index).done();
        let evaluated = ragtune(&["eval", "--top-k", "1", "--json"])
            .with("--index", &index)
            .with("--generator", small_generator())
            .with("--questions", &data)
            .run()
            .json();
        assert_eq!(evaluated["summary"]["n"], 2);
        assert_eq!(evaluated["summary"]["with_gold"], 2);
        assert_eq!(evaluated["summary"]["recall"]["1"], 1.0, "{evaluated:#}");
    }
}
