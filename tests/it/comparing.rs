//! `ragtune compare --config`: stages run once and are charged to each, learning rates searched on questions that are not
//! reported, killed comparisons that go on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::*;

mod contents;
mod searching;

/// A comparison of these strategies on the small fixture; `more` goes at the top, `search` may be empty.
fn comparison(folder: &Path, strategies: &[&str], more: &str, search: &str) -> PathBuf {
    let (index, out) = (folder.join("index"), folder.join("out"));
    if !index.exists() {
        copy(base_index(), &index);
    }
    // Selection questions are the second half of the training set, which trains no more.
    let (train, selection) = (folder.join("train.jsonl"), folder.join("selection.jsonl"));
    let all: Vec<String> =
        std::fs::read_to_string(fixture("tiny/train.jsonl")).unwrap().lines().map(str::to_owned).collect();
    std::fs::write(&train, all[..all.len() - 4].join("\n") + "\n").unwrap();
    std::fs::write(&selection, all[all.len() - 4..].join("\n") + "\n").unwrap();
    let rows: String = strategies.iter().map(|row| format!("\n[[strategies]]\n{row}\n")).collect();
    let text = format!(
        "out = {out:?}\n{more}\n[settings]\nindex = {index:?}\nquestions = {train:?}\nselection-questions = {selection:?}\n\
         eval-questions = {:?}\ngenerator = {:?}\nsteps = 2\nbatch-size = 2\ntop-k = 2\neval-limit = 4\nmax-answer-tokens = 8\n\
         lr-encoder = 1e-3\nlr-generator = 1e-3\n{search}{rows}",
        fixture("tiny/dev.jsonl"),
        small_generator(),
    );
    let file = folder.join("compare.toml");
    std::fs::write(&file, text).unwrap();
    file
}

fn compare(file: &Path) -> Ragtune {
    ragtune(&["compare", "--resamples", "200", "--json"]).with("--config", file)
}

fn record(folder: &Path, run: &str) -> Value {
    json(&folder.join("out/runs").join(run).join("record.json"))
}

fn stage_ids(record: &Value) -> Vec<String> {
    record["stages"].as_array().unwrap().iter().map(|stage| stage["id"].as_str().unwrap().to_owned()).collect()
}

fn seconds(ledger: &Value) -> f64 {
    ledger["wall_seconds"].as_f64().unwrap()
}

/// STRATEGIES oracles 15, 16 and 23.
#[test]
fn a_stage_is_trained_once_and_charged_to_every_strategy_that_contains_it() {
    let folder = folder();
    let strategies = ["frozen", "embedder", "generator", "independent", "two-phase"];
    let rows = strategies.map(|name| format!("strategy = \"{name}\""));
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let file = comparison(folder.path(), &rows, "seeds = [3]", "");
    let value = compare(&file).run().json();
    let of = |name: &str| record(folder.path(), &format!("{name}-seed3"));
    let [frozen, embedder, generator, independent, two_phase] = strategies.map(of);

    // Two-phase and independent begin with the generator's stage; independent ends with the embedder's.
    assert_eq!(stage_ids(&independent), [stage_ids(&generator), stage_ids(&embedder)].concat());
    assert_eq!(stage_ids(&two_phase)[0], stage_ids(&generator)[0]);
    let trained = std::fs::read_dir(folder.path().join("out/stages")).unwrap().count();
    let distinct: BTreeSet<String> =
        [&embedder, &generator, &independent, &two_phase].into_iter().flat_map(stage_ids).collect();
    assert_eq!((trained, distinct.len()), (3, 3));
    let reused = |record: &Value| -> Vec<bool> {
        record["stages"].as_array().unwrap().iter().map(|stage| stage["reused"].as_bool().unwrap()).collect()
    };
    assert_eq!(reused(&generator), [false]);
    assert_eq!(reused(&independent), [true, true]);
    assert_eq!(reused(&two_phase), [true, false]);

    // Everything that was spent is spent once, and what a strategy costs by itself is its own time and what it took over.
    let own: f64 =
        [&frozen, &embedder, &generator, &independent, &two_phase].map(|one| seconds(&one["ledger"])).iter().sum();
    let spent = &value["spent"];
    assert!((spent["seconds"].as_f64().unwrap() - own).abs() < 1e-6 * own, "{spent}");
    let generator_stage = seconds(&generator["stages"][0]["ledger"]);
    assert!(generator_stage > 0.0 && generator_stage < seconds(&generator["ledger"]));
    let row = |name: &str| {
        value["rows"].as_array().unwrap().iter().find(|row| row["label"] == name).unwrap()["cost"]["seconds"]["mean"]
            .as_f64()
            .unwrap()
    };
    assert!((row("two-phase") - seconds(&two_phase["ledger"]) - generator_stage).abs() < 1e-6);
    let alone: f64 = strategies.iter().map(|name| row(name)).sum();
    assert!((spent["alone_seconds"].as_f64().unwrap() - alone).abs() < 1e-6 * alone);
    assert!(alone > own);

    // Put together without further training: the generator's answers come from the generator's stage, the passages from the
    // embedder's; a frozen retriever finds what it found.
    let retrieved = |record: &Value| -> Vec<Value> {
        let run = folder.path().join("out/runs").join(format!("{}-seed3", record["label"].as_str().unwrap()));
        lines(&run.join("scores-final.jsonl")).into_iter().map(|score| score["retrieved"].clone()).collect()
    };
    assert_eq!(retrieved(&generator), retrieved(&frozen));
    assert_eq!(retrieved(&independent), retrieved(&embedder));
    let digest = |record: &Value, role: &str| {
        let models = record["models"].as_array().unwrap();
        models.iter().find(|model| model["role"] == role).unwrap()["final_fingerprint"].clone()
    };
    assert_eq!(digest(&independent, "generator"), digest(&generator, "generator"));
    assert_eq!(digest(&independent, "encoder"), digest(&embedder, "encoder"));
    assert_eq!(digest(&two_phase, "generator"), digest(&generator, "generator"));
    assert_ne!(digest(&two_phase, "encoder"), digest(&embedder, "encoder"));
    // The reused stage's curve is the run's, its steps counted on.
    let steps: Vec<u64> = lines(&folder.path().join("out/runs/two-phase-seed3/metrics.jsonl"))
        .iter()
        .map(|point| point["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [1, 2, 3, 4]);

    // The same command again trains nothing and says the same.
    let again = compare(&file).run().json();
    assert_eq!(again, value);
    // A run that names the same folder of stages takes them too.
    let ran =
        ragtune(&["train", "--strategy", "generator", "--steps", "2", "--batch-size", "2", "--top-k", "2", "--json"])
            .and(&["--seed", "3", "--max-answer-tokens", "8", "--eval-limit", "1", "--lr-generator", "1e-3"])
            .with("--index", folder.path().join("index"))
            .with("--questions", folder.path().join("train.jsonl"))
            .with("--eval-questions", fixture("tiny/dev.jsonl"))
            .with("--generator", small_generator())
            .with("--stages", folder.path().join("out/stages"))
            .with("--out", folder.path().join("single"))
            .run()
            .json();
    assert_eq!(ran["stages"][0]["reused"], true);
    assert_eq!(ran["stages"][0]["id"], generator["stages"][0]["id"]);
}

#[test]
fn learning_rates_are_chosen_on_the_selection_questions_and_every_point_is_charged() {
    let folder = folder();
    let search = "\n[search]\nlr-encoder = [1e-4, 1e-3]\nlr-generator = [1e-3, 1e30]\n";
    let rows = ["strategy = \"generator\"", "strategy = \"two-phase\"", "strategy = \"joint\"\nborrow = \"two-phase\""];
    let file = comparison(folder.path(), &rows, "seeds = [0, 1]", search);
    let value = compare(&file).run().json();
    let two_phase = record(folder.path(), "two-phase-seed1");
    let points = two_phase["search"].as_array().unwrap();
    assert_eq!(points.len(), 4, "{points:#?}");
    assert_eq!(points.iter().filter(|point| point["chosen"] == true).count(), 2);
    // A rate that diverges has no score, is not chosen, and is on the bill all the same.
    let diverged = points.iter().find(|point| point["learning_rates"]["generator"] == 1e30).unwrap();
    assert!(diverged["score"].is_null() && diverged["chosen"] == false, "{diverged}");
    assert!(seconds(&diverged["ledger"]) > 0.0);
    // The generator's own search is the same four runs less the encoder's two: nothing is searched twice.
    let generator = record(folder.path(), "generator-seed0");
    assert_eq!(generator["search"].as_array().unwrap().len(), 2);
    assert_eq!(generator["search"][0]["run"], points[0]["run"]);
    assert_eq!(std::fs::read_dir(folder.path().join("out/search")).unwrap().count(), 4);
    // The points were scored on the selection questions, and the final runs on the others.
    let point = json(&Path::new(points[0]["run"].as_str().unwrap()).join("record.json"));
    assert_eq!(point["data"]["eval_questions"]["count"], 4);
    assert_eq!(two_phase["data"]["eval_questions"]["count"], 20);
    // Joint borrows, and says so.
    let joint = record(folder.path(), "joint-seed0");
    assert!(joint["notes"].to_string().contains("found for `two-phase`"), "{}", joint["notes"]);
    assert_eq!(joint["config"]["lr-generator"], two_phase["config"]["lr-generator"]);
    // The chosen rate is one of two, so it is at the edge.
    assert!(value["warnings"].to_string().contains("edge of those tried"));
    let searched = value["rows"][0]["cost"]["search_seconds"].as_f64().unwrap();
    let all: f64 = generator["search"].as_array().unwrap().iter().map(|point| seconds(&point["ledger"])).sum();
    // The chosen point's training is on the bill of the first seed's run, and not counted twice.
    let chosen = seconds(&generator["stages"][0]["ledger"]);
    assert!((searched - (all - chosen)).abs() < 1e-6 * all, "{searched}, {all} less {chosen}");
    // Every second of every run and every point, each once.
    let runs =
        ["generator", "two-phase", "joint"].into_iter().flat_map(|row| [0, 1].map(|seed| format!("{row}-seed{seed}")));
    let own: f64 = runs.map(|run| seconds(&record(folder.path(), &run)["ledger"])).sum();
    let tried: f64 = points.iter().map(|point| seconds(&point["ledger"])).sum();
    assert!((value["spent"]["seconds"].as_f64().unwrap() - own - tried).abs() < 1e-6 * own, "{}", value["spent"]);
}

#[test]
fn a_point_whose_stage_another_run_trained_is_charged_for_it() {
    let folder = folder();
    let rows = [
        "strategy = \"generator\"\nlabel = \"given\"\nlr-generator = 1e-3",
        "strategy = \"generator\"\nlabel = \"searched\"",
    ];
    let file = comparison(folder.path(), &rows, "seeds = [0]", "\n[search]\nlr-generator = [1e-3, 1e-4]\n");
    let value = compare(&file).run().json();
    let (given, searched) = (record(folder.path(), "given-seed0"), record(folder.path(), "searched-seed0"));
    let points = searched["search"].as_array().unwrap();
    assert!(given["search"].as_array().is_none_or(Vec::is_empty));
    // The run with the given rate had trained the first point's stage; the second point trained its own.
    let stage = |point: usize| points[point]["stages"][0].clone();
    assert_eq!((&stage(0)["reused"], &stage(0)["ledger"]), (&true.into(), &given["stages"][0]["ledger"]));
    assert_eq!(stage(1)["reused"], false, "{}", points[1]);
    assert!(seconds(&points[0]["ledger"]) > 0.0 && seconds(&stage(0)["ledger"]) > 0.0);
    // What both trained and evaluated, less the training of the chosen one, which is on the run's own bill.
    let whole: f64 = points.iter().map(|point| seconds(&point["ledger"])).sum::<f64>() + seconds(&stage(0)["ledger"]);
    let chosen = seconds(&searched["stages"][0]["ledger"]);
    let charged = value["rows"][1]["cost"]["search_seconds"].as_f64().unwrap();
    assert!((charged - (whole - chosen)).abs() < 1e-6 * whole, "{charged} of {whole} less {chosen}");
    // It was spent once.
    let own = seconds(&given["ledger"])
        + seconds(&searched["ledger"])
        + points.iter().map(|point| seconds(&point["ledger"])).sum::<f64>();
    assert!((value["spent"]["seconds"].as_f64().unwrap() - own).abs() < 1e-6 * own, "{}", value["spent"]);
}

#[test]
fn a_killed_comparison_goes_on_and_ends_as_if_it_had_not_been() {
    let folder = folder();
    let rows = [
        "strategy = \"generator\"\nsteps = 6",
        "strategy = \"two-phase\"\nsteps = 6\ntrain-passages = true\ncheckpoint-every = 1",
    ];
    let scores = |folder: &Path| {
        ["generator-seed0", "two-phase-seed0"]
            .map(|run| std::fs::read_to_string(folder.join("out/runs").join(run).join("scores-final.jsonl")).unwrap())
    };
    let straight = {
        let folder = crate::support::folder();
        compare(&comparison(folder.path(), &rows, "seeds = [0]", "")).run().done();
        scores(folder.path())
    };
    let file = comparison(folder.path(), &rows, "seeds = [0]", "");
    // In the middle of the second strategy's second stage, after a checkpoint of it.
    let checkpoint = folder.path().join("out/runs/two-phase-seed0/checkpoints/step-01-00000002");
    let mut running = compare(&file).start();
    assert!(running.until(|| checkpoint.is_dir()), "it ended before the moment came");
    running.kill();
    compare(&file).run().done();
    assert_eq!(scores(folder.path()), straight);
    let two_phase = record(folder.path(), "two-phase-seed0");
    assert_eq!(two_phase["stages"][0]["reused"], true, "the first strategy's stage was taken over");
    assert_eq!(two_phase["ledger"]["sessions"], 2, "the interrupted stage went on from its checkpoint");
    assert!(is_clean(&folder.path().join("index")));

    // Other settings do not silently go on in the same folder.
    let text = std::fs::read_to_string(&file).unwrap().replace("top-k = 2", "top-k = 3");
    std::fs::write(&file, text).unwrap();
    compare(&file).run().refused(&["other settings", "another `out`"]);
}

#[test]
fn early_stopping_keeps_the_best_weights_and_says_what_it_saved() {
    let folder = folder();
    // A learning rate so large that the first look is the best one.
    let row =
        "strategy = \"embedder\"\nsteps = 8\neval-every = 1\nearly-stop = 2\nselect-by = \"mrr\"\nlr-encoder = 0.5";
    let file = comparison(folder.path(), &[row], "seeds = [0]", "");
    compare(&file).run().done();
    let stage = record(folder.path(), "embedder-seed0")["stages"][0].clone();
    let (steps, best) = (stage["steps"].as_u64().unwrap(), stage["best_step"].as_u64().unwrap());
    assert_eq!(stage["steps_asked"], 8);
    assert!(best + 2 == steps && steps < 8, "{stage}");
    // The kept weights are those of the best step: a run that trains no longer than that leaves the same.
    let digest = |record: &Value| record["models"][0]["final_fingerprint"].clone();
    let other = crate::support::folder();
    // A constant schedule does not depend on the number of steps.
    let row = |more: &str| format!("strategy = \"embedder\"\nschedule = \"constant\"\nlr-encoder = 0.5\n{more}");
    let early = row("steps = 8\neval-every = 1\nearly-stop = 2\nselect-by = \"mrr\"");
    compare(&comparison(other.path(), &[&early], "seeds = [0]", "")).run().done();
    let early = record(other.path(), "embedder-seed0");
    let best = early["stages"][0]["best_step"].as_u64().unwrap();
    let third = crate::support::folder();
    compare(&comparison(third.path(), &[&row(&format!("steps = {best}"))], "seeds = [0]", "")).run().done();
    assert_eq!(digest(&early), digest(&record(third.path(), "embedder-seed0")));
}

#[test]
fn selection_questions_that_are_trained_on_or_reported_are_refused() {
    let folder = folder();
    let row = "strategy = \"embedder\"\neval-every = 1\nearly-stop = 1\nselect-by = \"mrr\"";
    let file = comparison(folder.path(), &[row], "seeds = [0]", "");
    let text = std::fs::read_to_string(&file).unwrap();
    let selection = folder.path().join("selection.jsonl");
    std::fs::copy(fixture("tiny/dev.jsonl"), &selection).unwrap();
    // Said after the name of the run it happened in.
    let refused = |says: &str| {
        let ran = compare(&file).run();
        assert!(ran.code == Some(2) && ran.stderr.contains(says) && ran.stderr.contains("hint: "), "{ran:#?}");
    };
    refused("selection questions are also evaluation questions");
    std::fs::copy(folder.path().join("train.jsonl"), &selection).unwrap();
    refused("selection questions are also training questions");
    std::fs::write(&file, text.replace("selection-questions", "#")).unwrap();
    compare(&file).run().refused(&["--selection-questions"]);
    std::fs::write(&file, text.replace("strategy = ", "startegy = ")).unwrap();
    compare(&file).run().refused(&["startegy"]);
    compare(&folder.path().join("nowhere.toml")).run().refused(&["nowhere.toml"]);
}
