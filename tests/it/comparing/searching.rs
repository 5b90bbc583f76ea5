//! Searched learning rates: which questions decide, what every point costs, what is said of rates that were not searched, and that a
//! killed search goes on.

use serde_json::Value;

use super::{compare, comparison, record, seconds};
use crate::support::*;

fn stage_seconds(of: &Value) -> f64 {
    of["stages"].as_array().unwrap().iter().map(|stage| seconds(&stage["ledger"])).sum()
}

fn notes(of: &Value) -> Vec<String> {
    of["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect()
}

/// The selection split is never the reporting one, under whatever name and id its questions come.
#[test]
fn a_search_by_questions_that_are_reported_is_refused_before_it_begins() {
    let folder = folder();
    let file =
        comparison(folder.path(), &["strategy = \"generator\""], "seeds = [0]", "\n[search]\nlr-generator = [1e-3]\n");
    let (selection, dev) = (folder.path().join("selection.jsonl"), fixture("tiny/dev.jsonl"));
    let reported = |number: usize| {
        let mut question = lines(&dev)[number].clone();
        question["id"] = format!("renamed-{number}").into();
        question.to_string()
    };
    let kept = std::fs::read_to_string(&selection).unwrap();
    for (text, count) in [
        (std::fs::read_to_string(&dev).unwrap(), 20),
        // Some of them, under ids of their own.
        (format!("{kept}{}\n{}\n", reported(3), reported(5)), 2),
    ] {
        std::fs::write(&selection, text).unwrap();
        compare(&file)
            .run()
            .refused(&[&format!("{count} selection questions are also evaluation questions"), "split them"]);
    }
    std::fs::copy(folder.path().join("train.jsonl"), &selection).unwrap();
    compare(&file).run().refused(&["selection questions are also training questions"]);
    assert!(!folder.path().join("out").exists(), "nothing was trained before the refusal");
}

/// STRATEGIES oracle 23, with stages before the searched one that are not searched themselves, and more than one seed.
#[test]
fn the_bill_of_a_search_adds_up_to_what_was_spent() {
    let folder = folder();
    let search = "\n[search]\nlr-encoder = [1e-4, 1e-3]\nlr-generator = [1e-3, 1e-4]\n";
    let file = comparison(folder.path(), &["strategy = \"cl-rag\""], "seeds = [0, 1]", search);
    let value = compare(&file).run().json();
    let runs = [0, 1].map(|seed| record(folder.path(), &format!("cl-rag-seed{seed}")));
    let points = runs[0]["search"].as_array().unwrap();
    assert_eq!(points.len(), 4, "{points:#?}");
    // The first point of the retriever's search trained the levels after the first, which are not searched.
    let trained: Vec<usize> = points
        .iter()
        .map(|point| point["stages"].as_array().unwrap().iter().filter(|stage| stage["reused"] == false).count())
        .collect();
    assert_eq!(trained, [1, 1, 3, 1]);
    let own: f64 = runs.iter().map(|run| seconds(&run["ledger"])).sum();
    let of_points: f64 = points.iter().map(|point| seconds(&point["ledger"])).sum();
    let close = |found: &Value, expected: f64| {
        let found = found.as_f64().unwrap();
        assert!((found - expected).abs() < 1e-6 * expected, "{found} and {expected}");
    };
    let spent = &value["spent"];
    close(&spent["seconds"], own + of_points);
    close(&spent["search_seconds"], of_points);
    assert_eq!(spent["taken_over_seconds"], 0.0);
    // One row: had it been run by itself, the same would have been spent.
    close(&spent["alone_seconds"], own + of_points);
    // The first seed's run took all its stages from the points, the second trained its own.
    let cost = &value["rows"][0]["cost"];
    close(&cost["search_seconds"], of_points - stage_seconds(&runs[0]));
    close(&cost["seconds"]["mean"], (own + stage_seconds(&runs[0])) / 2.0);
    assert_eq!(cost["search_points"], 4);
    // What was found for the first level serves the others, and that is said, once for all seeds.
    let said = "`cl-rag`: stage `hard` trains the generator with the learning rate found for stage `easy`";
    let warnings: Vec<Value> = value["warnings"].as_array().unwrap().clone();
    assert!(notes(&runs[1]).iter().any(|note| note.starts_with(&said[10..])), "{:?}", notes(&runs[1]));
    let about = |warning: &&Value| warning.to_string().contains("stage `hard` trains the generator");
    let found: Vec<&Value> = warnings.iter().filter(about).collect();
    assert!(found.len() == 1 && found[0]["run"] == "cl-rag", "{found:?}");
}

#[test]
fn a_selector_is_searched_where_rates_are_listed_and_otherwise_the_comparison_says_so() {
    let folder = folder();
    let row = "strategy = \"dro\"\n[strategies.dro]\ncandidates = 4\nsamples = 2";
    let search = "\n[search]\nlr-generator = [1e-3]\nlr-selector = [1e-3, 1e-4]\n";
    let borrowing = format!(
        "strategy = \"dro\"\nlabel = \"borrowing\"\nborrow = \"generator\"\n{}",
        &row[row.find('\n').unwrap()..]
    );
    let rows = [row, "strategy = \"generator\"", &borrowing];
    compare(&comparison(folder.path(), &rows, "seeds = [0]", search)).run().done();
    let dro = record(folder.path(), "dro-seed0");
    let tried: Vec<&str> =
        dro["search"].as_array().unwrap().iter().map(|point| point["stage"].as_str().unwrap()).collect();
    assert_eq!(tried, ["generator-warm-up", "selector-warm-up", "selector-warm-up"]);
    let chosen = dro["search"].as_array().unwrap().iter().rfind(|point| point["chosen"] == true).unwrap();
    assert_eq!(chosen["learning_rates"]["selector"], dro["config"]["lr-selector"]);
    // Its own stage is searched for neither.
    for part in ["generator", "selector"] {
        let inherited =
            format!("stage `dro` trains the {part} with the learning rate found for stage `{part}-warm-up`");
        assert!(notes(&dro).iter().any(|note| note.starts_with(&inherited)), "{:?}", notes(&dro));
    }
    let said = |of: &Value, what: &str| assert!(notes(of).iter().any(|note| note.contains(what)), "{:?}", notes(of));
    said(
        &record(folder.path(), "borrowing-seed0"),
        "the learning rate of the selector, 1e-4, was not searched: `generator`",
    );

    let other = crate::support::folder();
    let row = format!("strategy = \"dro\"\nlr-generator = 1e-3\n{}", &row[row.find('\n').unwrap()..]);
    compare(&comparison(other.path(), &[&row], "seeds = [0]", "\n[search]\n")).run().done();
    let dro = record(other.path(), "dro-seed0");
    assert!(dro["search"].as_array().is_none_or(Vec::is_empty));
    said(&dro, "the learning rate of the generator is given, 1e-3: it was not searched");
    said(&dro, "the learning rate of the selector, 1e-4, was not searched: [search] lists no `lr-selector`");
}

#[test]
fn successive_halving_shortens_the_searched_stage_and_none_before_it() {
    let folder = folder();
    let search = "\n[search]\nmethod = \"halving\"\neta = 2\nlr-encoder = [1e-5, 1e-4, 3e-4, 1e-3]\n";
    let row = "strategy = \"two-phase\"\nsteps = 4\nlr-generator = 1e-3";
    compare(&comparison(folder.path(), &[row], "seeds = [0]", search)).run().done();
    let two_phase = record(folder.path(), "two-phase-seed0");
    let points = two_phase["search"].as_array().unwrap();
    let steps: Vec<u64> = points.iter().map(|point| point["steps"].as_u64().unwrap()).collect();
    assert_eq!(steps, [2, 2, 2, 2, 4, 4]);
    for point in points {
        let record = json(&std::path::Path::new(point["run"].as_str().unwrap()).join("record.json"));
        let stages = &record["stages"];
        // The generator that the encoder is judged behind is the one it will have.
        assert_eq!(stages[0]["id"], two_phase["stages"][0]["id"]);
        assert_eq!((&stages[0]["steps"], &stages[1]["steps"]), (&4.into(), &point["steps"]));
        assert_eq!((&stages[1]["steps_asked"], &record["status"]), (&point["steps"], &"finished".into()));
        assert_eq!(record["steps_total"], 4 + point["steps"].as_u64().unwrap());
    }
    // The last round trains in full: its stage is the run's.
    let chosen = points.iter().find(|point| point["chosen"] == true).unwrap();
    assert_eq!((&chosen["id"], &two_phase["stages"][1]["reused"]), (&two_phase["stages"][1]["id"], &true.into()));
}

#[test]
fn a_search_that_is_killed_goes_on_and_ends_as_if_it_had_not_been() {
    let rows = ["strategy = \"generator\"\nsteps = 6\ncheckpoint-every = 1"];
    let search = "\n[search]\nlr-generator = [1e-4, 1e-3, 3e-3]\n";
    let found = |folder: &std::path::Path| {
        let run = record(folder, "generator-seed0");
        let points: Vec<Value> = run["search"].as_array().unwrap().clone();
        let scores = std::fs::read_to_string(folder.join("out/runs/generator-seed0/scores-final.jsonl")).unwrap();
        let told = |key: &str| points.iter().map(|point| point[key].clone()).collect::<Vec<_>>();
        (told("id"), told("score"), told("chosen"), scores, points)
    };
    let straight = {
        let folder = folder();
        compare(&comparison(folder.path(), &rows, "seeds = [0]", search)).run().done();
        found(folder.path())
    };
    let folder = folder();
    let file = comparison(folder.path(), &rows, "seeds = [0]", search);
    // In the middle of the second point.
    let second = || {
        let points = std::fs::read_dir(folder.path().join("out/search")).into_iter().flatten().flatten();
        let begun: Vec<_> =
            points.map(|point| point.path().join("metrics.jsonl")).filter(|file| file.is_file()).collect();
        begun.len() == 2
            && begun.iter().any(|file| (2..6).contains(&std::fs::read_to_string(file).unwrap().lines().count()))
    };
    let mut running = compare(&file).start();
    assert!(running.until(second), "it ended before the moment came");
    running.kill();
    compare(&file).run().done();
    let resumed = found(folder.path());
    assert_eq!((&resumed.0, &resumed.1, &resumed.2, &resumed.3), (&straight.0, &straight.1, &straight.2, &straight.3));
    let sessions: Vec<u64> = resumed.4.iter().map(|point| point["ledger"]["sessions"].as_u64().unwrap()).collect();
    assert_eq!(sessions, [1, 2, 1], "the second went on from its checkpoint");
}
