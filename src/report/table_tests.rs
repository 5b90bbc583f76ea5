//! Tests of the written comparison: text, Markdown and HTML say the same numbers.

use super::*;
use crate::report::compare::tests::{patterns, run};
use crate::report::record::{Remembered, StageCharge};
use crate::report::{CompareOptions, compare, html};

fn comparison() -> Comparison {
    let (a, b) = patterns();
    let mut joint = run("joint", 1, &b, 50.0, 20.0);
    joint.0.label = "joint <b>|every 50".to_owned();
    joint.0.ledger.unattributed.seconds = 5.0;
    let runs = vec![run("frozen", 1, &a, 10.0, 0.0), joint];
    compare(runs, &CompareOptions { resamples: 500, ..CompareOptions::default() }).unwrap()
}

/// The cells of the first line that begins with `name`.
fn cells(text: &str, name: &str) -> Vec<String> {
    let line =
        text.lines().find(|line| line.trim_start().starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
    line.trim().split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect()
}

#[test]
fn text_has_quality_differences_refresh_on_its_own_line_and_warnings() {
    let text = text(&comparison());
    assert!(text.starts_with("60 questions of `dev.jsonl` (blake3 0123456789ab), evaluation `final`"), "{text}");
    assert_eq!(cells(&text, "refresh"), ["refresh", "-", "20.0 s (40.0 %)"]);
    assert_eq!(cells(&text, "total"), ["total", "10.0 s", "50.0 s"]);
    assert_eq!(cells(&text, "ratio to `frozen`"), ["ratio to `frozen`", "1.00", "5.00"]);
    assert_eq!(cells(&text, "unattributed"), ["unattributed", "0 s (0.0 %)", "5.00 s (10.0 %)"]);
    let quality = cells(&text, "EM");
    assert!(quality[1].starts_with("33.3 ± ") && quality[2].starts_with("50.0 ± "), "{quality:?}");
    assert!(text.contains("difference to `frozen` in points"));
    assert!(text.contains("+16.7 [+"), "{text}");
    assert!(
        text.trim_end().ends_with("warning: 10.0 % of the time of `joint <b>|every 50` is charged to nothing"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "no colours");
}

#[test]
fn settings_of_equations_savings_and_the_index_are_shown() {
    let (a, b) = patterns();
    let mut replug = run("replug", 1, &b, 50.0, 20.0);
    replug.0.reader_mode = "concat".to_owned();
    let settings = [("beta", "0.1"), ("gamma", "0.05"), ("length normalisation", "sum")];
    replug.0.stages = vec![StageCharge {
        name: "replug".to_owned(),
        equation: "KL(a || b)".to_owned(),
        settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        steps: 3,
        steps_asked: 10,
        ..StageCharge::default()
    }];
    replug.0.remembered = Remembered { prompts: 40, computed: 2, tokens: 9, flops: 2e9 };
    (replug.0.index.vector_bytes, replug.0.index.graph_bytes) = (2048, 1024);
    replug.0.ledger.entries[0].amounts.counts.searches = 70;
    let runs = vec![run("frozen", 1, &a, 10.0, 0.0), replug];
    let found = compare(runs, &CompareOptions { resamples: 50, ..CompareOptions::default() }).unwrap();
    let text = text(&found);
    let trained = "beta 0.1, gamma 0.05, length normalisation sum";
    let after = text.split("training and evaluation").nth(1).unwrap();
    assert_eq!(cells(after, "replug"), ["replug", "replug", "concat", trained, "KL(a || b)"]);
    // A row of one stage of its own shows what early stopping saved.
    let stages = text.split("\nstages\n").nth(1).unwrap();
    assert_eq!(cells(stages, "replug")[2], "3 (7 saved)");
    assert_eq!(cells(&text, "steps saved by early stopping"), ["steps saved by early stopping", "0", "7"]);
    assert_eq!(cells(&text, "prompts remembered"), ["prompts remembered", "0", "40"]);
    assert_eq!(cells(&text, "FLOPs that saved")[2], "2.00 GFLOP");
    assert_eq!(cells(&text, "searches"), ["searches", "0", "70"]);
    assert_eq!(cells(&text, "index (vectors, graph)")[2], "3.00 KiB");
    assert!(html(&found).contains(trained) && html(&found).contains("training and evaluation"));
}

#[test]
fn markdown_escapes_what_would_break_its_tables() {
    let markdown = markdown(&comparison());
    assert!(markdown.contains("joint <b>\\|every 50"), "{markdown}");
    for line in markdown.lines().filter(|line| line.starts_with('|')) {
        assert!(line.ends_with('|'));
    }
    assert!(markdown.contains("**summary**"));
}

#[test]
fn html_is_whole_and_escapes_everything() {
    let page = html(&comparison());
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(page.contains("joint &lt;b&gt;|every 50") && !page.contains("<b>"));
    assert_eq!(page.matches("<table>").count(), page.matches("</table>").count());
    assert!(page.contains("<td>20.0 s (40.0 %)</td>"));
    assert!(!page.contains("http"), "the page fetches nothing");
}

#[test]
fn many_runs_are_split_over_tables() {
    let (a, b) = patterns();
    let runs: Vec<_> = (0..8).map(|seed| run("joint", seed, if seed % 2 == 0 { &a } else { &b }, 1.0, 0.0)).collect();
    let found = compare(runs, &CompareOptions { resamples: 50, ..CompareOptions::default() }).unwrap();
    let titles: Vec<String> = grids(&found).into_iter().map(|grid| grid.title).collect();
    assert_eq!(titles.iter().filter(|title| *title == "quality").count(), 2);
    let widest = grids(&found).into_iter().skip(1).map(|grid| grid.header.len()).max();
    assert_eq!(widest, Some(COLUMNS + 1));
    let alone =
        compare(vec![run("joint", 1, &a, 1.0, 0.0)], &CompareOptions { resamples: 50, ..CompareOptions::default() })
            .unwrap();
    assert!(!text(&alone).contains("difference to"));
}
