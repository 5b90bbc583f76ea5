//! Tests of reading question sets: every format, every refusal, and the real files where they are.

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

fn read_text(content: &str) -> Result<QuestionSet> {
    let folder = folder(&[("q.jsonl", content)]);
    read(&folder.path().join("q.jsonl"))
}

fn refusal(content: &str) -> String {
    let message = read_text(content).unwrap_err().to_string();
    message.split_once("q.jsonl").unwrap().1.to_owned()
}

#[test]
fn json_lines_are_read_under_every_name() {
    let content = r#"{"id": 7, "question": " who? ", "answers": ["a", "b"], "gold_passages": ["p", 9], "other": 1}
{"_id": "x", "query": "what?", "golden_answers": "c"}
{"id": "y", "text": "where?", "answer": ["d"], "gold_ids": ["p"]}
"#;
    let set = read_text(content).unwrap();
    let question = |id: &str, question: &str, answers: &[&str], gold: &[&str]| Question {
        id: id.to_owned(),
        question: question.to_owned(),
        answers: answers.iter().map(|&text| text.to_owned()).collect(),
        gold_passages: gold.iter().map(|&text| text.to_owned()).collect(),
        ..Question::default()
    };
    let expected = [
        question("7", "who?", &["a", "b"], &["p", "9"]),
        question("x", "what?", &["c"], &[]),
        question("y", "where?", &["d"], &["p"]),
    ];
    assert_eq!(set.questions, expected);
    assert_eq!((set.format, set.split.as_deref()), (Format::Jsonl, None));
    assert_eq!(set.hash, blake3::hash(content.as_bytes()).to_hex().to_string());
    assert_eq!(set.notes, ["1 of 3 questions have no gold passage: recall, MRR and nDCG leave them out"]);
}

#[test]
fn a_corpus_is_not_taken_for_questions() {
    let said = refusal("{\"id\": \"a\", \"title\": \"T\", \"text\": \"x\"}\n");
    assert!(said.contains(":1: ") && said.contains("this looks like a corpus"), "{said}");
    // A text alone may be a question, and a title may be a field of one.
    for line in [r#"{"id": "a", "text": "who"}"#, r#"{"id": "a", "title": "T", "text": "who", "answers": ["x"]}"#] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), line).unwrap();
        assert_eq!(read(file.path()).unwrap().questions[0].question, "who");
    }
}

#[test]
fn damaged_records_are_refused_with_their_line() {
    let good = r#"{"id": "1", "question": "q", "answers": ["a"]}"#;
    assert_eq!(refusal(&format!("{good}\n{good}\n")), ":2: the question id `1` stands already on line 1");
    assert!(refusal(&format!("{good}\n\n{good}\n")).starts_with(":2: the line is blank"));
    assert!(
        refusal(&format!("{good}\n{{\"id\": \"2\"}}\n"))
            .starts_with(":2: no field `question` or `query` or `text`, found `id`")
    );
    assert!(refusal(&format!("{good}\n{{\"question\": \"x\"}}\n")).starts_with(":2: no field `id` or `_id`"));
    assert!(
        refusal(&format!("{good}\n{{\"id\": 2, \"question\": \"  \"}}\n"))
            .starts_with(":2: `question` is an empty string")
    );
    assert!(
        refusal(&format!("{good}\n{{\"id\": 2, \"question\": \"x\", \"answers\": [\"\"]}}\n"))
            .contains(":2: `answers` is an empty string")
    );
    assert!(
        refusal(&format!("{good}\nnonsense\n")).starts_with(":2: column 1: not valid JSON (`nonsense`)")
            || refusal(&format!("{good}\nnonsense\n")).contains("not valid JSON (`nonsense`)")
    );
}

#[test]
fn what_is_in_no_known_format_is_refused_with_what_was_looked_for() {
    for content in [
        "[{\"id\": 1}]\n",
        "[\n",
        "id,question\n1,x\n",
        "{\"version\": 1,\n\"x\": 2}\n",
        "{\"id\": \"1\", \"question\n",
        "17\n",
    ] {
        let error = read_text(content).unwrap_err();
        assert!(error.to_string().contains("looked for JSON Lines"), "{content:?}: {error}");
        assert!(error.find_hint().is_some());
    }
    let empty = folder(&[("readme", "x")]);
    assert!(read(empty.path()).unwrap_err().to_string().contains("neither `corpus.jsonl` nor `queries.jsonl`"));
}

const SQUAD: &str = r#"{"version": "v2.0", "data": [
  {"title": "Old_York", "paragraphs": [
    {"context": "York is old.", "qas": [
      {"id": "s1", "question": " How old?", "answers": [{"text": "old", "answer_start": 8}, {"text": "old", "answer_start": 8}], "is_impossible": false},
      {"id": "s2", "question": "How new?", "answers": [], "plausible_answers": [{"text": "old", "answer_start": 8}], "is_impossible": true}]},
    {"context": "York is not New York.", "qas": [{"id": 3, "question": "Is it?", "answers": [{"text": "not", "answer_start": 8}]}]},
    {"context": "York is old.", "qas": []}]}]}"#;

#[test]
fn squad_files_give_questions_and_the_passages_they_were_asked_about() {
    for content in [SQUAD.to_owned(), SQUAD.replace('\n', " ")] {
        let folder = folder(&[("squad", &content)]);
        let path = folder.path().join("squad");
        let set = read(&path).unwrap();
        let passages: Vec<_> = crate::data::corpus::open(&path).unwrap().collect::<Result<_>>().unwrap();
        assert_eq!(set.format, Format::Squad);
        let ids: Vec<&str> = set.questions.iter().map(|question| question.id.as_str()).collect();
        assert_eq!(ids, ["s1", "s2", "3"]);
        assert_eq!(set.questions[0].answers, ["old"]);
        assert_eq!(set.questions[0].question, "How old?");
        assert!(set.questions[1].answers.is_empty());
        assert_eq!(set.notes[0], "1 questions are marked unanswerable and count as having no answer");
        // The paragraph that stands there twice is one passage; its id is the hash of its text.
        assert_eq!(passages.len(), 2);
        assert_eq!(passages[0].id, blake3::hash(b"York is old.").to_hex()[..16]);
        assert_eq!(passages[0].title, "Old York");
        validate_gold(&set, |id| passages.iter().any(|passage| passage.id == id)).unwrap();
        assert_eq!(set.questions[2].gold_passages, [passages[1].id.clone()]);
    }
}

#[test]
fn squad_files_of_another_shape_are_refused() {
    let message = |content: &str| read_text(content).unwrap_err().to_string();
    assert!(message(r#"{"data": [{"paragraphs": [{"qas": []}]}]}"#).contains("not SQuAD JSON"));
    assert!(message(&SQUAD.replace(r#""id": 3"#, r#""id": "s1""#)).contains("the question id `s1` occurs twice"));
    assert!(message(&SQUAD.replace(r#""id": 3"#, r#""id": null"#)).contains("the question `Is it?` has the id `null`"));
    assert!(message(r#"{"data": []}"#).contains("(SQuAD JSON) holds no question"));
}

const QUERIES: &str = "{\"_id\": \"q1\", \"text\": \"who?\"}\n{\"_id\": \"q2\", \"text\": \"what?\"}\n{\"_id\": \"q3\", \"text\": \"where?\"}\n";
const TEST: &str = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t2\nq2\td1\t0\nq3\td3\t1\r\n";

#[test]
fn a_beir_folder_gives_the_questions_of_a_split() {
    let one = folder(&[("queries.jsonl", QUERIES), ("qrels/test.tsv", TEST)]);
    let set = read(one.path()).unwrap();
    let gold: Vec<(&str, Vec<&str>)> = set
        .questions
        .iter()
        .map(|question| (question.id.as_str(), question.gold_passages.iter().map(String::as_str).collect()))
        .collect();
    assert_eq!(gold, [("q1", vec!["d1", "d2"]), ("q3", vec!["d3"])]);
    assert_eq!((set.format, set.split.as_deref()), (Format::Beir, Some("test")));
    assert!(
        set.notes.iter().any(|note| note.starts_with("1 questions of `queries.jsonl` are not in the split `test`"))
    );
    assert!(set.notes.iter().any(|note| note.starts_with("1 rows with a score of 0")));
    assert!(set.notes.iter().any(|note| note.starts_with("1 rows have a score other than 1")));

    let two = folder(&[
        ("queries.jsonl", QUERIES),
        ("qrels/test.tsv", TEST),
        ("qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq2\td1\t1\n"),
    ]);
    let error = read(two.path()).unwrap_err();
    assert!(error.to_string().contains("holds 2 splits (`dev` and `test`), expected one"), "{error}");
    assert!(error.find_hint().unwrap().contains("qrels/test.tsv"));
    let dev = read(&two.path().join("qrels/dev.tsv")).unwrap();
    assert_eq!(dev.questions[0].id, "q2");
    assert_eq!(read(&two.path().join("qrels/test.tsv")).unwrap().hash, set.hash);
    assert_ne!(dev.hash, set.hash);
}

#[test]
fn damaged_beir_folders_are_refused() {
    let with = |test: &str| {
        read(folder(&[("queries.jsonl", QUERIES), ("qrels/test.tsv", test)]).path()).unwrap_err().to_string()
    };
    assert!(with("q1\td1\t1\n").contains("test.tsv:1: expected a header row, found `q1"));
    assert!(with("query-id\tcorpus-id\tscore\nq1\td1\n").contains("test.tsv:2: 2 tab-separated columns"));
    assert!(with("query-id\tcorpus-id\tscore\nq1\td1\tyes\n").contains("test.tsv:2: the score is `yes`"));
    assert!(
        with("query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t1\n")
            .contains("passage `d1` is judged twice for question `q1`")
    );
    assert!(with("query-id\tcorpus-id\tscore\nq9\td1\t1\n").contains("judges question `q9`"));
    assert!(with("query-id\tcorpus-id\tscore\n").contains("holds no question"));
    let none = folder(&[("queries.jsonl", QUERIES), ("qrels/notes.txt", "x")]);
    assert!(read(none.path()).unwrap_err().to_string().contains("holds no split"));
    let twice = folder(&[("queries.jsonl", &format!("{QUERIES}{QUERIES}")), ("qrels/test.tsv", TEST)]);
    assert!(
        read(twice.path())
            .unwrap_err()
            .to_string()
            .contains("queries.jsonl:4: the question id `q1` stands already on line 1")
    );
}

#[test]
fn gold_that_is_not_in_the_corpus_is_named_and_counted() {
    let content = r#"{"id": "1", "question": "q", "gold_passages": ["a", "b"]}
{"id": "2", "question": "q", "gold_passages": ["c"]}
"#;
    let set = read_text(content).unwrap();
    validate_gold(&set, |_| true).unwrap();
    let error = validate_gold(&set, |id| id == "a").unwrap_err();
    let message = error.to_string();
    assert!(message.starts_with("gold passage `b` of question `1` in `"), "{message}");
    assert!(message.ends_with("is not in the corpus (2 of 3 gold passages are missing)"), "{message}");
    assert!(error.find_hint().is_some());
}

#[test]
fn hard_negatives_and_teacher_scores_are_read_and_looked_up() {
    let set = read_text(concat!(
        r#"{"id": "1", "question": "q", "gold_passages": "a", "hard_negatives": ["b", "c"], "teacher_scores": {"c": -1, "a": 2.5}}"#,
        "\n",
        r#"{"id": "2", "question": "q"}"#,
        "\n"
    ))
    .unwrap();
    assert_eq!(set.questions[0].hard_negatives, ["b", "c"]);
    assert_eq!(set.questions[0].teacher_scores, [("a".to_owned(), 2.5), ("c".to_owned(), -1.0)]);
    assert!(set.questions[1].hard_negatives.is_empty() && set.questions[1].teacher_scores.is_empty());
    assert!(set.notes.contains(&"1 of 2 questions have hard negatives".to_owned()), "{:?}", set.notes);
    let message = |known: &'static str| validate_gold(&set, |id| known.contains(id)).unwrap_err().to_string();
    validate_gold(&set, |_| true).unwrap();
    assert!(message("ac").starts_with("hard negative `b` of question `1`"));
    assert!(message("ac").ends_with("(1 of 2 hard negatives are missing)"));
    let only_teacher = QuestionSet {
        questions: vec![Question { hard_negatives: Vec::new(), ..set.questions[0].clone() }],
        ..set.clone()
    };
    let message = validate_gold(&only_teacher, |id| id == "a").unwrap_err().to_string();
    assert!(message.ends_with("(1 of 2 passages scored by a teacher are missing)"), "{message}");
    // Bad values are named with their line.
    let line = |second: &str| {
        let first = r#"{"id": "1", "question": "q"}"#;
        read_text(&format!("{first}\n{second}\n")).unwrap_err().to_string()
    };
    let both = line(r#"{"id": "2", "question": "q", "gold_passages": ["a"], "hard_negatives": ["b", "a"]}"#);
    assert!(both.ends_with(":2: passage `a` is both a gold passage and a hard negative"), "{both}");
    let text = line(r#"{"id": "2", "question": "q", "teacher_scores": {"a": null}}"#);
    assert!(text.contains(":2: `teacher_scores` of passage `a` is `null`, expected a number"), "{text}");
}

#[test]
fn the_real_sets_are_read_whole_and_their_gold_is_in_their_corpora() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data");
    if !root.is_dir() {
        eprintln!("skipped: {} is not there", root.display());
        return;
    }
    for (name, file, questions, passages) in [
        ("nq-qed", "questions_train.jsonl", 7147, 8100),
        ("nq-qed", "questions_dev.jsonl", 1359, 8100),
        ("hotpotqa", "questions_train.jsonl", 1102, 16_948),
        ("hotpotqa", "questions_dev.jsonl", 654, 16_948),
        ("popqa", "questions.jsonl", 1000, 1475),
        ("xquad-en", "questions.jsonl", 1190, 240),
    ] {
        let set = read(&root.join(name).join(file)).unwrap();
        assert_eq!(set.questions.len(), questions, "{name}");
        let mut ids = std::collections::HashSet::new();
        for passage in crate::data::corpus::open(&root.join(name).join("corpus.jsonl")).unwrap() {
            assert!(ids.insert(passage.unwrap().id));
        }
        assert_eq!(ids.len(), passages, "{name}");
        validate_gold(&set, |id| ids.contains(id)).unwrap();
        if name == "hotpotqa" {
            assert!(set.questions.iter().all(|question| question.gold_passages.len() == 2));
        }
    }
    let packed = root.join("wiki50k/corpus.jsonl.gz");
    let error = crate::data::corpus::open(&packed).unwrap_err();
    assert_eq!(error.find_hint().unwrap(), format!("gunzip --keep {}", packed.display()));
}
