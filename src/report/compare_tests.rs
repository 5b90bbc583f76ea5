//! Tests of comparing runs: pairing, grouping by seed, cost, refusals and warnings.

use super::*;
use crate::cost::{Activity, Amounts, LedgerEntry, LedgerRecord, Phase};
use crate::eval::statistics::{mean_interval, paired_bootstrap};
use crate::report::record::{PointStage, SearchPoint, StageCharge};
use crate::report::{DataFile, RefreshRecord};
use serde_json::json;

/// A finished run of `seconds` seconds, of which `refresh` went into one refresh.
pub(crate) fn run(
    strategy: &str,
    seed: u64,
    em: &[f32],
    seconds: f64,
    refresh: f64,
) -> (RunRecord, Vec<QuestionScore>) {
    let entry =
        |activity, phase, seconds| LedgerEntry { activity, phase, amounts: Amounts { seconds, ..Amounts::default() } };
    let mut entries = vec![entry(Activity::Train, Phase::Backward, seconds - refresh)];
    if refresh > 0.0 {
        entries.push(entry(Activity::Refresh, Phase::Embed, 0.75 * refresh));
        entries.push(entry(Activity::Refresh, Phase::Graph, 0.25 * refresh));
    }
    let refreshes = if refresh > 0.0 { vec![RefreshRecord::default()] } else { Vec::new() };
    let mut record = RunRecord {
        config: json!({"strategy": strategy, "seed": seed}),
        status: Status::Finished,
        ledger: LedgerRecord { wall_seconds: seconds, sessions: 1, entries, ..LedgerRecord::default() },
        refreshes,
        ..RunRecord::new(strategy, seed)
    };
    record.data.eval_questions =
        DataFile { path: "dev.jsonl".to_owned(), hash: "0123456789abcdef".to_owned(), count: 0 };
    let scores = em.iter().enumerate().map(|(question, &em)| QuestionScore {
        id: format!("q{question}"),
        em: Some(em),
        f1: Some(em),
        recall: BTreeMap::from([(1, em), (20, 1.0), (5, 1.0)]),
        ..QuestionScore::default()
    });
    (record, scores.collect())
}

/// Every third of 60 questions right, and every second.
pub(crate) fn patterns() -> (Vec<f32>, Vec<f32>) {
    let every = |n: usize| (0..60).map(|at| if at % n == 0 { 1.0 } else { 0.0 }).collect();
    (every(3), every(2))
}

type Scored = (RunRecord, Vec<QuestionScore>);

fn options() -> CompareOptions {
    CompareOptions { resamples: 500, ..CompareOptions::default() }
}

#[test]
fn quality_differences_and_cost_are_told_beside_the_first_run() {
    let (a, b) = patterns();
    let runs = vec![run("frozen", 1, &a, 10.0, 0.0), run("joint", 1, &b, 50.0, 20.0)];
    let found = compare(runs, &options()).unwrap();
    assert_eq!(found.reference, "frozen");
    assert_eq!(found.metrics, ["em", "f1", "recall@1", "recall@5", "recall@20"]);
    assert_eq!(found.questions, 60);
    let [frozen, joint] = found.rows.as_slice() else { panic!("two rows") };
    assert!((frozen.metrics["em"].interval.mean - 1.0 / 3.0).abs() < 1e-9);
    assert!(frozen.differences.is_empty());
    let difference = joint.differences["em"];
    assert!((difference.interval.mean - 1.0 / 6.0).abs() < 1e-9);
    assert!(difference.interval.low < difference.interval.mean && difference.interval.mean < difference.interval.high);
    assert!(!joint.differences["recall@5"].is_clear());

    assert_eq!(joint.cost.ratio.map(|ratio| ratio.mean), Some(5.0));
    assert_eq!((joint.cost.refresh_seconds, joint.cost.refresh_share, joint.cost.refreshes), (20.0, 0.4, 1.0));
    let lines: Vec<_> = joint.cost.lines.iter().map(|line| (line.activity, line.phase, line.amounts.seconds)).collect();
    assert_eq!(
        lines,
        [
            (Activity::Train, None, 30.0),
            (Activity::Train, Some(Phase::Backward), 30.0),
            (Activity::Refresh, None, 20.0),
            (Activity::Refresh, Some(Phase::Embed), 15.0),
            (Activity::Refresh, Some(Phase::Graph), 5.0)
        ]
    );
    assert!(found.warnings.is_empty(), "{:?}", found.warnings);
}

#[test]
fn intervals_are_those_of_the_statistics() {
    let (a, b) = patterns();
    let runs = vec![run("frozen", 1, &a, 1.0, 0.0), run("joint", 1, &b, 1.0, 0.0)];
    let found = compare(runs, &CompareOptions { seed: 9, ..options() }).unwrap();
    let wide = |scores: &[f32]| scores.iter().map(|&score| f64::from(score)).collect::<Vec<f64>>();
    let (a, b) = (wide(&a), wide(&b));
    assert_eq!(found.rows[0].metrics["em"].interval, mean_interval(&a, 500, 9).unwrap());
    assert_eq!(found.rows[1].metrics["em"].interval, mean_interval(&b, 500, 9).unwrap());
    assert_eq!(found.rows[1].differences["em"], paired_bootstrap(&a, &b, 500, 9).unwrap());
}

#[test]
fn scores_are_paired_by_question_and_not_by_place() {
    let (a, b) = patterns();
    let mut shuffled = run("joint", 1, &b, 1.0, 0.0);
    shuffled.1.reverse();
    let straight = compare(vec![run("frozen", 1, &a, 1.0, 0.0), run("joint", 1, &b, 1.0, 0.0)], &options()).unwrap();
    let found = compare(vec![run("frozen", 1, &a, 1.0, 0.0), shuffled], &options()).unwrap();
    assert_eq!(found.rows, straight.rows);
}

#[test]
fn runs_on_different_questions_are_refused_by_name() {
    let (a, _) = patterns();
    let message = |change: &dyn Fn(&mut Scored)| {
        let mut other = run("joint", 2, &a, 1.0, 0.0);
        change(&mut other);
        compare(vec![run("frozen", 1, &a, 1.0, 0.0), other], &options()).unwrap_err().to_string()
    };
    let start = "runs `frozen (seed 1)` and `joint (seed 2)` were evaluated on different questions: ";
    let found = message(&|run| run.0.data.eval_questions.hash = "fedc".to_owned());
    assert_eq!(found, format!("{start}`dev.jsonl` (0123456789ab) and `dev.jsonl` (fedc)"));
    assert_eq!(message(&|run| drop(run.1.pop())), format!("{start}only the first has `q59`"));
    assert_eq!(message(&|run| run.1[4].id = "z".to_owned()), format!("{start}only the second has `z`"));
    assert_eq!(
        message(&|run| run.1[4].id = "q5".to_owned()),
        "run `joint (seed 2)` has scores for question `q5` twice"
    );
    assert!(compare(Vec::new(), &options()).unwrap_err().to_string().starts_with("no run was given"));
}

#[test]
fn runs_that_differ_by_seed_share_a_row_when_asked() {
    let (a, b) = patterns();
    let runs = || {
        vec![
            run("frozen", 1, &a, 10.0, 0.0),
            run("joint", 1, &a, 20.0, 4.0),
            run("frozen", 2, &a, 14.0, 0.0),
            run("joint", 2, &b, 28.0, 8.0),
        ]
    };
    let grouped = compare(runs(), &CompareOptions { group_seeds: true, ..options() }).unwrap();
    assert_eq!(
        grouped.rows.iter().map(|row| (row.label.as_str(), row.seeds.clone())).collect::<Vec<_>>(),
        [("frozen", vec![1, 2]), ("joint", vec![1, 2])]
    );
    let joint = &grouped.rows[1];
    assert!((joint.metrics["em"].interval.mean - (1.0 / 3.0 + 0.5) / 2.0).abs() < 1e-9);
    assert!((joint.metrics["em"].seed_deviation.unwrap() - (1.0 / 6.0) / 2f64.sqrt()).abs() < 1e-9);
    assert!((joint.differences["em"].interval.mean - 1.0 / 12.0).abs() < 1e-9);
    assert_eq!((joint.cost.seconds.mean, joint.cost.refresh_seconds), (24.0, 6.0));
    let ratio = joint.cost.ratio.unwrap();
    assert!((ratio.mean - 2.0).abs() < 1e-12);
    // Deviations 32^0.5 of 24 and 8^0.5 of 12: both relative deviations are 0.2357.
    assert!((ratio.deviation.unwrap() - 2.0 * 0.235_702 * 2f64.sqrt()).abs() < 1e-5);
    assert!(grouped.warnings.is_empty(), "{:?}", grouped.warnings);

    let apart = compare(runs(), &options()).unwrap();
    let labels: Vec<&str> = apart.rows.iter().map(|row| row.label.as_str()).collect();
    assert_eq!(labels, ["frozen seed=1", "joint seed=1", "frozen seed=2", "joint seed=2"]);
    assert_eq!(apart.warnings.iter().filter(|warning| matches!(warning, Warning::OtherSeed { .. })).count(), 2);
}

#[test]
fn a_metric_that_a_run_lacks_is_left_out_of_its_row() {
    let (a, b) = patterns();
    let mut retrieval_only = run("embedder", 1, &b, 1.0, 0.0);
    retrieval_only.1.iter_mut().for_each(|score| (score.em, score.f1) = (None, None));
    let found = compare(vec![run("frozen", 1, &a, 1.0, 0.0), retrieval_only], &options()).unwrap();
    assert!(!found.rows[1].metrics.contains_key("em") && !found.rows[1].differences.contains_key("em"));
    assert!(found.rows[1].differences.contains_key("recall@1"));
    assert!(found.metrics.contains(&"em".to_owned()));
}

#[test]
fn whatever_makes_a_comparison_doubtful_is_said() {
    let (a, _) = patterns();
    let kinds = |change: &dyn Fn(&mut RunRecord)| {
        let mut other = run("joint", 1, &a, 100.0, 10.0);
        change(&mut other.0);
        let found = compare(vec![run("frozen", 1, &a, 1.0, 0.0), other], &options()).unwrap();
        let text: Vec<String> = found.warnings.iter().map(Warning::to_string).collect();
        (found.warnings, text.join("\n"))
    };
    let check = |change: &dyn Fn(&mut RunRecord), expected: &str| {
        let (warnings, text) = kinds(change);
        assert_eq!(warnings.len(), 1, "{text}");
        assert!(text.contains(expected), "{text}");
        let json = serde_json::to_string(&warnings).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Warning>>(&json).unwrap(), warnings);
    };
    check(
        &|run| (run.status, run.steps_done, run.steps_total) = (Status::Interrupted, 3, 9),
        "`joint` is not finished (interrupted, 3 of 9 steps)",
    );
    check(&|run| run.machine.cpu = "abacus".to_owned(), "another machine (cpu `");
    check(&|run| run.seed = 2, "has the seeds [2], the reference [1]");
    check(&|run| run.ledger.unattributed.seconds = 3.0, "3.0 % of the time of `joint` is charged to nothing");
    check(&|run| run.top_k = 7, "the number of passages K is `7`");
    check(&|run| run.reader_mode = "mixture".to_owned(), "the reader mode is `mixture`");
    check(&|run| run.data.corpus.hash = "x".to_owned(), "searched another corpus");
    check(&|run| run.config["steps"] = json!(5), "other settings than the reference: steps 5 instead of -");
    check(&|run| run.commit = Some("abc".to_owned()), "was made by ragtune");
    check(
        &|run| run.truncated = BTreeMap::from([("passages".to_owned(), 0.5)]),
        "50.0 % of the passages of `joint` were cut",
    );
    check(&|run| run.ledger.sessions = 2, "ran in 2 sessions");
    let (warnings, text) = kinds(&|run| run.ledger.unattributed.seconds = 2.9);
    assert!(warnings.is_empty(), "{text}");
}

#[test]
fn a_comparison_survives_json_and_repeats_to_the_bit() {
    let (a, b) = patterns();
    let runs = || vec![run("frozen", 1, &a, 10.0, 0.0), run("joint", 1, &b, 50.0, 20.0)];
    let found = compare(runs(), &options()).unwrap();
    let text = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Comparison>(&text).unwrap(), found);
    assert_eq!(serde_json::to_string(&compare(runs(), &options()).unwrap()).unwrap(), text);
}

#[test]
fn the_published_averages_follow_from_the_published_rows() {
    // Four pipelines stand in for seeds. Two-phase is charged for the stage that it shares with the tuned generator.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/lawton.json");
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for set in golden["sets"].as_array().unwrap() {
        let strategies = set["strategies"].as_array().unwrap();
        let named = |name: &str| strategies.iter().find(|strategy| strategy["strategy"] == name).unwrap();
        let generator = named("Ft. Gen.");
        let mut runs = Vec::new();
        let mut own = 0.0;
        for strategy in strategies {
            for pipeline in 0..4u64 {
                let number =
                    |of: &serde_json::Value, name: &str| of["pipelines"][pipeline as usize][name].as_f64().unwrap();
                let seconds = |of| 3600.0 * number(of, "hours");
                let (mut record, mut scores) =
                    run(strategy["strategy"].as_str().unwrap(), pipeline, &[0.0], seconds(strategy), 0.0);
                let stage = |reused| StageCharge {
                    id: format!("generator {pipeline}"),
                    reused,
                    ledger: run("Ft. Gen.", pipeline, &[], seconds(generator), 0.0).0.ledger,
                    ..StageCharge::default()
                };
                match record.strategy.as_str() {
                    "Ft. Gen." => record.stages.push(stage(false)),
                    "2-Phase" => record.stages.push(stage(true)),
                    _ => {}
                }
                own += seconds(strategy);
                let share = |name| Some((number(strategy, name) / 100.0) as f32);
                (scores[0].em, scores[0].f1) = (share("em"), share("f1"));
                scores[0].recall = BTreeMap::from([(5, share("recall_5").unwrap())]);
                runs.push((record, scores));
            }
        }
        let found = compare(runs, &CompareOptions { group_seeds: true, ..options() }).unwrap();
        assert_eq!(found.rows.len(), 7);
        // The shared stage is paid for once and charged twice.
        assert!((found.spent.seconds - own).abs() < 1e-6 * own && found.spent.taken_over_seconds == 0.0);
        let alone: f64 = found.rows.iter().map(|row| 4.0 * row.cost.seconds.mean).sum();
        assert!((found.spent.alone_seconds - alone).abs() < 1e-6 * alone && alone > own);
        for row in &found.rows {
            let average = &named(&row.strategy)["average"];
            // Rows and averages are rounded to one decimal each.
            let close = |ours: f64, name: &str| {
                let theirs = average[name].as_f64().unwrap();
                assert!(
                    (ours - theirs).abs() < 0.1 + 1e-6,
                    "{} {} {name}: {ours} and {theirs}",
                    set["set"],
                    row.strategy
                );
            };
            close(100.0 * row.metrics["em"].interval.mean, "em");
            close(100.0 * row.metrics["f1"].interval.mean, "f1");
            close(100.0 * row.metrics["recall@5"].interval.mean, "recall_5");
            close(row.cost.seconds.mean / 3600.0, "hours");
        }
    }
}

/// A ledger of so many seconds.
fn spent(seconds: f64) -> LedgerRecord {
    run("", 0, &[], seconds, 0.0).0.ledger
}

/// A finished run that itself spent `own` seconds, with stages `(id, reused, seconds)`.
fn staged(label: &str, seed: u64, own: f64, stages: &[(&str, bool, f64)], search: &[SearchPoint]) -> Scored {
    let (mut record, scores) = run("two-phase", seed, &[1.0, 0.0], own, 0.0);
    record.label = label.to_owned();
    record.stages = stages
        .iter()
        .map(|(id, reused, seconds)| StageCharge {
            id: (*id).to_owned(),
            reused: *reused,
            ledger: spent(*seconds),
            ..StageCharge::default()
        })
        .collect();
    record.search = search.to_vec();
    (record, scores)
}

fn point(run: &str, own: f64, stages: &[(&str, bool, f64)]) -> SearchPoint {
    let stage = |(id, reused, seconds): &(&str, bool, f64)| PointStage {
        id: (*id).to_owned(),
        reused: *reused,
        ledger: spent(*seconds),
    };
    SearchPoint {
        run: run.to_owned(),
        id: stages.last().map(|stage| stage.0.to_owned()).unwrap_or_default(),
        ledger: spent(own),
        stages: stages.iter().map(stage).collect(),
        ..SearchPoint::default()
    }
}

#[test]
fn the_cost_of_a_search_leaves_out_what_the_runs_of_all_seeds_are_charged_for_already() {
    // The first point trains the stage before the searched one, which is not searched itself, and the second takes it; the first
    // seed's run takes both, the second's trains its own.
    let points = [
        point("p1", 20.0, &[("g0", false, 12.0), ("e0", false, 5.0)]),
        point("p2", 9.0, &[("g0", true, 12.0), ("x", false, 6.0)]),
    ];
    let runs = || {
        vec![
            staged("two-phase", 0, 4.0, &[("g0", true, 12.0), ("e0", true, 5.0)], &points),
            staged("two-phase", 1, 22.0, &[("g1", false, 13.0), ("e1", false, 6.0)], &points),
        ]
    };
    let found = compare(runs(), &CompareOptions { group_seeds: true, ..options() }).unwrap();
    let cost = &found.rows[0].cost;
    assert_eq!((cost.seconds.mean, cost.search_points), ((21.0 + 22.0) / 2.0, 2));
    assert_eq!(cost.search_seconds, 29.0 - 17.0);
    assert_eq!((found.spent.seconds, found.spent.search_seconds), (55.0, 29.0));
    // Nothing is shared with any other row: by itself it costs what was spent, in whatever order its seeds are named.
    assert_eq!(found.spent.alone_seconds, 55.0);
    let turned =
        compare(runs().into_iter().rev().collect(), &CompareOptions { group_seeds: true, ..options() }).unwrap();
    assert_eq!((turned.spent, turned.rows[0].cost.search_seconds), (found.spent, 12.0));
}

#[test]
fn stages_that_runs_outside_trained_are_counted_once_and_said() {
    let points = [point("p", 3.0, &[("z", true, 7.0), ("e", false, 2.0)])];
    let runs = vec![
        staged("a", 0, 4.0, &[("z", true, 7.0)], &[]),
        staged("b", 0, 5.0, &[("z", true, 7.0), ("e", true, 2.0)], &points),
    ];
    let found = compare(runs, &options()).unwrap();
    assert_eq!((found.spent.taken_over_seconds, found.spent.seconds), (7.0, 4.0 + 5.0 + 3.0 + 7.0));
    // a: 4 + 7; b: its run 5 + 7 + 2 and its search 3 + 7, less the two stages that its run is charged for.
    assert_eq!(found.spent.alone_seconds, 11.0 + 14.0 + 1.0);
    let text = crate::report::text(&found);
    assert!(text.contains("7.00 s by runs outside of it"), "{text}");
}

#[test]
fn a_point_of_an_earlier_version_is_charged_for_a_training_that_was_taken() {
    let old = SearchPoint { stages: Vec::new(), training: Some(spent(7.0)), ..point("p", 2.0, &[("z", true, 7.0)]) };
    let found = compare(vec![staged("a", 0, 4.0, &[("z", true, 7.0)], &[old])], &options()).unwrap();
    assert_eq!((found.rows[0].cost.search_seconds, found.spent.seconds), (2.0, 4.0 + 2.0 + 7.0));
}

#[test]
fn a_seed_that_diverged_takes_no_part_in_the_means_of_its_row_and_is_named() {
    let (a, _) = patterns();
    let mut diverged = run("joint", 2, &[], 3.0, 0.0);
    (diverged.0.status, diverged.0.steps_total) = (Status::Diverged, 9);
    let runs = vec![run("joint", 1, &a, 5.0, 0.0), diverged];
    let found = compare(runs, &CompareOptions { group_seeds: true, ..options() }).unwrap();
    assert!((found.rows[0].metrics["em"].interval.mean - 1.0 / 3.0).abs() < 1e-9);
    assert_eq!((found.rows[0].scored, found.rows[0].seeds.len(), found.rows[0].cost.seconds.mean), (1, 2, 4.0));
    assert!(found.warnings.iter().any(Warning::is_divergence), "{:?}", found.warnings);
    assert!(crate::report::text(&found).contains("1 of 2"));
}

#[test]
fn what_all_seeds_say_of_themselves_is_said_once() {
    let (a, _) = patterns();
    let noted = |seed, notes: &[&str]| {
        let mut scored = run("joint", seed, &a, 1.0, 0.0);
        scored.0.notes = notes.iter().map(|note| (*note).to_owned()).collect();
        scored
    };
    let runs = vec![noted(1, &["both", "first"]), noted(2, &["both"])];
    let found = compare(runs, &CompareOptions { group_seeds: true, ..options() }).unwrap();
    let said: Vec<String> = found.warnings.iter().map(Warning::to_string).collect();
    assert_eq!(said, ["`joint`: both", "`joint seed=1`: first"]);
}

#[test]
fn another_corpus_is_known_by_its_passages_where_both_records_tell_them() {
    let (a, _) = patterns();
    let searched = |passages: Option<&str>, hash: &str| {
        let mut scored = run("joint", 1, &a, 1.0, 0.0);
        (scored.0.data.passages, scored.0.data.corpus.hash) = (passages.map(str::to_owned), hash.to_owned());
        scored
    };
    let warned = |one, other| !compare(vec![one, other], &options()).unwrap().warnings.is_empty();
    assert!(warned(searched(Some("p"), "file"), searched(Some("q"), "file")));
    assert!(!warned(searched(Some("p"), "file"), searched(Some("p"), "other")));
    assert!(!warned(searched(None, "file"), searched(Some("p"), "file")));
}

#[test]
fn a_run_that_never_came_to_its_evaluation_is_shown_with_its_cost() {
    let (a, b) = patterns();
    let broken = || {
        let (mut record, _) = run("joint", 1, &b, 5.0, 0.0);
        record.status = Status::Interrupted;
        (record, Vec::new())
    };
    let whole = || run("frozen", 1, &a, 10.0, 0.0);
    let found = compare(vec![whole(), broken()], &options()).unwrap();
    assert!(found.rows[1].metrics.is_empty() && found.rows[1].differences.is_empty());
    assert_eq!(found.rows[1].cost.ratio.map(|ratio| ratio.mean), Some(0.5));
    assert!(matches!(found.warnings.as_slice(), [Warning::Unfinished { .. }]), "{:?}", found.warnings);
    let first = compare(vec![broken(), whole()], &options()).unwrap();
    assert_eq!((first.questions, first.rows[1].metrics["em"].n), (60, 60));
    let mut silent = broken();
    silent.0.status = Status::Finished;
    let error = compare(vec![whole(), silent], &options()).unwrap_err();
    assert!(error.to_string().contains("only the first has `q0`"), "{error}");
}
