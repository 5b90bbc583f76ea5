//! Tests of streaming corpora: formats, refusals, constant memory by construction, a file that changes meanwhile.

use super::*;
use std::fs::{self, OpenOptions};
use std::io::Write;

fn written(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.jsonl");
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// The first error of a corpus, without the folder.
fn refusal(content: &[u8]) -> Error {
    let (_folder, path) = written(content);
    match open(&path) {
        Err(error) => error,
        Ok(reader) => {
            let results: Vec<_> = reader.collect();
            let failures = results.iter().filter(|result| result.is_err()).count();
            assert_eq!(failures, 1, "the stream ends at the first error");
            results.into_iter().next_back().unwrap().unwrap_err()
        }
    }
}

fn message(content: &[u8]) -> String {
    let message = refusal(content).to_string();
    message.split_once("corpus.jsonl").unwrap().1.to_owned()
}

#[test]
fn passages_stream_in_file_order() {
    let content =
        b"{\"id\": \"a\", \"title\": \"T\", \"text\": \"one\"}\n{\"_id\": 7, \"text\": \"two\", \"title\": null}\n";
    let (folder, path) = written(content);
    for place in [path.as_path(), folder.path()] {
        let mut reader = open(place).unwrap();
        assert_eq!(reader.hash(), blake3::hash(content).to_hex().to_string());
        assert_eq!(reader.path(), path);
        let passages: Vec<Passage> = (&mut reader).collect::<Result<_>>().unwrap();
        let expected = |id: &str, title: &str, text: &str| Passage {
            id: id.to_owned(),
            title: title.to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(passages, [expected("a", "T", "one"), expected("7", "", "two")]);
        assert_eq!(reader.passages_read(), 2);
        assert!(reader.next().is_none());
    }
    assert_eq!(open(&path).unwrap().format(), Format::Jsonl);
    assert_eq!(open(folder.path()).unwrap().format(), Format::Beir);
}

#[test]
fn a_passage_of_100_000_words_is_read_whole() {
    let words = vec!["word"; 100_000].join(" ");
    let (_folder, path) =
        written(format!("{{\"id\": 1, \"text\": \"{words}\"}}\n{{\"id\": 2, \"text\": \"x\"}}").as_bytes());
    let passages: Vec<Passage> = open(&path).unwrap().collect::<Result<_>>().unwrap();
    assert_eq!(passages[0].text, words);
    assert_eq!(passages[1].id, "2");
}

#[test]
fn damaged_records_are_refused_with_their_line() {
    let good = "{\"id\": \"1\", \"text\": \"x\"}\n";
    let second = |line: &str| message(format!("{good}{line}\n{good}").as_bytes());
    assert!(second("{\"id\": \"2\"}").starts_with(":2: no field `text`, found `id`"));
    assert!(second("{\"text\": \"x\"}").starts_with(":2: no field `id` or `_id`"));
    assert!(second("{\"id\": \"2\", \"text\": \" \"}").starts_with(":2: `text` is an empty string"));
    assert!(second("{\"id\": \"2\", \"text\": 5}").starts_with(":2: `text` is a number (`5`)"));
    assert!(second("{\"id\": \"2\", \"text\": \"x\", \"title\": [1]}").starts_with(":2: `title` is a list (`[1]`)"));
    assert!(second("[1]").starts_with(":2: expected a JSON object, found a list"));
    assert!(second("{\"id\": \"2\", \"te").contains(":2: column 15: not valid JSON"));
    assert!(second(" ").starts_with(":2: the line is blank"));
    let broken = [good.as_bytes(), b"{\"id\": \"2\", \"text\": \"caf\xe9\"}\n"].concat();
    assert!(message(&broken).starts_with(":2: byte 25 of the line is not UTF-8"), "{}", message(&broken));
}

#[test]
fn missing_and_empty_corpora_are_refused() {
    let error = open(Path::new("/no/such/corpus.jsonl")).unwrap_err();
    assert_eq!(error.to_string(), "there is no file `/no/such/corpus.jsonl`");
    assert!(error.find_hint().is_some());
    let error = refusal(b"");
    assert!(error.to_string().starts_with("nothing is in the file `"));
    assert!(error.find_hint().unwrap().contains("0 bytes"));
    let empty = tempfile::tempdir().unwrap();
    assert!(open(empty.path()).unwrap_err().to_string().contains("neither `corpus.jsonl`"));
}

#[test]
fn a_question_file_is_told_from_a_corpus() {
    let error = refusal(b"{\"id\": \"1\", \"question\": \"x\", \"answers\": []}\n");
    assert!(error.to_string().contains("no field `text`, found `answers`, `id` and `question`"), "{error}");
    assert!(error.find_hint().unwrap().contains("--questions"));
}

#[test]
fn a_corpus_that_changes_while_it_is_read_is_refused() {
    let (_folder, path) = written(b"{\"id\": \"1\", \"text\": \"x\"}\n");
    let reader = open(&path).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"id\": \"2\", \"text\": \"y\"}\n").unwrap();
    let error = reader.last().unwrap().unwrap_err();
    assert!(error.to_string().ends_with("was changed while it was read"), "{error}");
}

#[test]
fn readers_can_be_sent_to_another_thread() {
    fn sendable<T: Send + 'static>(_: &T) {}
    let (_folder, path) = written(b"{\"id\": \"1\", \"text\": \"x\"}\n");
    let reader = open(&path).unwrap();
    sendable(&reader);
    assert_eq!(std::thread::spawn(move || reader.count()).join().unwrap(), 1);
}
