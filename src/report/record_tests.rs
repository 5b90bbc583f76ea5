//! Tests of run records: they survive the disk, and other versions and damage are refused.

use super::*;
use std::fs;

fn score(id: &str, em: Option<f32>, recall: f32) -> QuestionScore {
    QuestionScore {
        id: id.to_owned(),
        em,
        f1: em,
        recall: BTreeMap::from([(5, recall)]),
        mrr10: Some(recall),
        ..QuestionScore::default()
    }
}

fn record() -> RunRecord {
    let mut record = RunRecord::new("joint", 3);
    record.config = serde_json::json!({"top_k": 5, "lr": 1e-4});
    record.curve.push(CurvePoint { step: 1, loss: 2.5, ..CurvePoint::default() });
    record.truncated.insert("passages".to_owned(), 0.25);
    record.evaluations.push(EvaluationSummary {
        scores_file: "scores-final.jsonl".to_owned(),
        ..EvaluationSummary::of("final", &[score("a", Some(1.0), 1.0), score("b", None, 0.0)])
    });
    record
}

#[test]
fn a_record_comes_back_from_the_disk_as_it_was() {
    let run = tempfile::tempdir().unwrap();
    let mut record = record();
    record.save(run.path()).unwrap();
    record.status = Status::Finished;
    record.save(run.path()).unwrap();
    assert_eq!(RunRecord::load(run.path()).unwrap(), record);
    assert_eq!((record.schema, record.name()), (SCHEMA, "joint"));
    assert!(record.started.ends_with('Z'));
}

#[test]
fn summaries_are_means_over_what_could_be_scored() {
    let record = record();
    let summary = record.evaluation("final").unwrap();
    assert_eq!((summary.n, summary.answered, summary.with_gold), (2, 1, 2));
    assert_eq!((summary.em, summary.recall[&5], summary.mrr10, summary.ndcg10), (Some(1.0), 0.5, Some(0.5), None));
    assert!(summary.answer_recall.is_empty());
    assert_eq!(EvaluationSummary::of("x", &[]).em, None);
}

#[test]
fn scores_are_found_through_the_record() {
    let run = tempfile::tempdir().unwrap();
    record().save(run.path()).unwrap();
    let scores = [score("a", Some(1.0), 1.0), score("b", None, 0.0)];
    files::write_lines(&run.path().join("scores-final.jsonl"), &scores).unwrap();
    let (_, read) = RunRecord::load_with_scores(run.path(), "final").unwrap();
    assert_eq!(read, scores);
    let (running, none) = RunRecord::load_with_scores(run.path(), "before").unwrap();
    assert_eq!((running.status, none.len()), (Status::Running, 0));
    RunRecord { status: Status::Finished, ..record() }.save(run.path()).unwrap();
    let error = RunRecord::load_with_scores(run.path(), "before").unwrap_err();
    assert!(error.to_string().contains("has no evaluation `before`, found `final`"), "{error}");
    assert!(error.find_hint().is_some());
}

#[test]
fn other_schemas_damage_and_strange_folders_are_refused() {
    let run = tempfile::tempdir().unwrap();
    let error = RunRecord::load(run.path()).unwrap_err();
    assert!(error.to_string().contains("is no run"), "{error}");
    assert!(error.find_hint().is_some());

    record().save(run.path()).unwrap();
    let path = run.path().join(RECORD_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"schema\": 1", "\"schema\": 2", 1)).unwrap();
    let error = RunRecord::load(run.path()).unwrap_err();
    assert!(error.to_string().ends_with("has the schema `2`, expected `1`"), "{error}");
    for damaged in [&text[..text.len() / 2], "{\"schema\": 1}", "[]"] {
        fs::write(&path, damaged).unwrap();
        assert!(RunRecord::load(run.path()).is_err(), "{damaged:.20}");
    }
}

#[test]
fn a_reading_names_training_and_evaluation_where_they_differ() {
    for (trained, read, named) in [
        ("", "mixture", "mixture"),
        ("mixture", "mixture beam 4", "mixture beam 4"),
        ("mixture", "sequence-thorough beam 4", "sequence-thorough beam 4 (trained: mixture)"),
        ("mixture", "concat", "concat (trained: mixture)"),
        ("concat", "concat beam 2 penalty 1", "concat beam 2 penalty 1"),
    ] {
        let (training_reader, reader_mode) = (trained.to_owned(), read.to_owned());
        assert_eq!(RunRecord { training_reader, reader_mode, ..RunRecord::default() }.reading(), named);
    }
}
