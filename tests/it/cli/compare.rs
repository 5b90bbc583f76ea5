//! `ragtune compare`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::support::*;

/// Two finished runs, made once: frozen, and joint with two refreshes.
fn runs() -> &'static [PathBuf; 2] {
    static RUNS: OnceLock<[PathBuf; 2]> = OnceLock::new();
    RUNS.get_or_init(|| {
        let dir = shared().join("runs");
        std::fs::create_dir_all(&dir).unwrap();
        let index = index_copy(&dir);
        let (frozen, joint) = (dir.join("frozen"), dir.join("joint"));
        train("frozen", &index, &frozen).run().done();
        train("joint", &index, &joint)
            .and(&["--train-passages", "true", "--refresh-every", "1", "--steps", "2", "--lr-generator", "1e-2"])
            .run()
            .done();
        [frozen, joint]
    })
}

fn compare(runs: &[&Path]) -> Ragtune {
    let words: Vec<&str> = runs.iter().map(|run| run.to_str().unwrap()).collect();
    ragtune(&["compare", "--resamples", "500"]).and(&words)
}

#[test]
fn a_comparison_in_every_form() {
    let [frozen, joint] = runs();
    let value = compare(&[frozen, joint]).and(&["--json"]).run().json();
    let text = value.to_string();
    for part in ["frozen", "joint", "\"em\"", "\"f1\"", "recall", "refresh", "backward", "unattributed"] {
        assert!(text.contains(part), "{part}: {value:#}");
    }
    let table = compare(&[frozen, joint]).run().done().stdout;
    for part in ["EM", "F1", "recall@5", "time ratio", "refresh", "backward", "frozen", "joint", "±"] {
        assert!(table.contains(part), "{part}: {table}");
    }
    let markdown = compare(&[frozen, joint]).and(&["--markdown"]).run().done().stdout;
    assert!(markdown.lines().any(|line| line.starts_with('|') && line.contains("joint")), "{markdown}");
    let folder = folder();
    let page = folder.path().join("report.html");
    let ran = compare(&[frozen, joint]).with("--html", &page).run().done();
    assert!(ran.stderr.contains("report.html"), "{ran:#?}");
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("<html") && html.contains("joint") && html.contains("</html>"), "{html}");
    // The same numbers every time: the bootstrap is seeded.
    assert_eq!(compare(&[frozen, joint]).and(&["--json"]).run().json(), value);
    compare(&[joint]).run().done();
}

#[test]
fn runs_on_different_questions_are_not_compared() {
    let folder = folder();
    let [frozen, _] = runs();
    let few = folder.path().join("few");
    // The same file, fewer questions of it.
    ragtune(&["train", "--strategy", "frozen", "--eval-limit", "2", "--top-k", "2", "--max-answer-tokens", "4"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", small_generator())
        .with("--out", &few)
        .run()
        .done();
    compare(&[frozen, &few]).run().refused(&["question"]);
    // Another file.
    let other = folder.path().join("other");
    ragtune(&["train", "--strategy", "frozen", "--eval-limit", "4", "--top-k", "2", "--max-answer-tokens", "4"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/dev.jsonl"))
        .with("--eval-questions", fixture("tiny/train.jsonl"))
        .with("--generator", small_generator())
        .with("--out", &other)
        .run()
        .done();
    compare(&[frozen, &other]).run().refused(&["question", "train.jsonl"]);
}

#[test]
fn an_unfinished_run_is_warned_about() {
    let folder = folder();
    let [frozen, _] = runs();
    let out = folder.path().join("run");
    let mut running = train("generator", base_index(), &out).and(&["--steps", "400"]).start();
    assert!(running.until(|| out.join("metrics.jsonl").exists()));
    running.terminate();
    assert_eq!(running.end().code, Some(130));
    let ran = compare(&[frozen, &out]).run();
    assert!(ran.code == Some(0) || ran.code == Some(2), "{ran:#?}");
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("interrupted"), "{ran:#?}");
}
