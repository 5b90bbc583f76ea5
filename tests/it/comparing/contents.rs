//! Work that is done is taken by what it was made of, not by the name of a file: passages, questions and models that change in place
//! make other stages, and runs that are done are not put beside new ones.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{compare, comparison, record, seconds, stage_ids};
use crate::support::*;

/// Trains with a shared folder of stages; the record.
fn trained(folder: &Path, strategy: &str, out: &str, generator: &Path, more: &[&str]) -> Value {
    train_with(generator, strategy, &folder.join("index"), &folder.join(out))
        .and(&["--steps", "2", "--json"])
        .with("--stages", folder.join("stages"))
        .and(more)
        .run()
        .json()
}

fn reused(record: &Value) -> Vec<bool> {
    record["stages"].as_array().unwrap().iter().map(|stage| stage["reused"].as_bool().unwrap()).collect()
}

#[test]
fn a_stage_over_other_passages_is_another_stage() {
    let folder = folder();
    index_copy(folder.path());
    let index = |words: &[&str]| ragtune(&[&["index"], words].concat()).with("--index", folder.path().join("index"));
    let run = |out: &str| trained(folder.path(), "generator", out, &small_generator(), &[]);
    let mut seen = vec![run("first")];
    assert_eq!(reused(&run("second")), [true]);
    // A passage more.
    let more = folder.path().join("more.jsonl");
    std::fs::write(&more, "{\"id\": \"new\", \"title\": \"Rain\", \"text\": \"Rain falls on the plain.\"}\n").unwrap();
    index(&["append"]).with("--corpus", &more).run().done();
    seen.push(run("appended"));
    // The same passage with another text.
    index(&["delete", "--id", "new"]).run().done();
    std::fs::write(&more, "{\"id\": \"new\", \"title\": \"Rain\", \"text\": \"Rain falls in Spain.\"}\n").unwrap();
    index(&["append"]).with("--corpus", &more).run().done();
    seen.push(run("replaced"));
    // Without it the index holds what it held at first, and the first stage is the one.
    index(&["delete", "--id", "new"]).run().done();
    let restored = run("restored");
    assert_eq!((reused(&restored), stage_ids(&restored)), (vec![true], stage_ids(&seen[0])));
    // A passage less, which no question needs.
    let asked =
        ["tiny/train.jsonl", "tiny/dev.jsonl"].map(|file| std::fs::read_to_string(fixture(file)).unwrap()).concat();
    let corpus = lines(&fixture("tiny/corpus.jsonl"));
    let mut ids = corpus.iter().map(|passage| passage["id"].as_str().unwrap());
    let spare = ids.find(|id: &&str| !asked.contains(&format!("\"{id}\"")));
    if let Some(spare) = spare {
        index(&["delete", "--id", spare]).run().done();
        seen.push(run("deleted"));
        assert_eq!(reused(&run("again")), [true]);
    }
    for (at, record) in seen.iter().enumerate() {
        assert_eq!(reused(record), [false], "{at}");
        assert!(seen[..at].iter().all(|earlier| stage_ids(earlier) != stage_ids(record)), "{at}");
    }
    // Whoever compares them is told that these are not the same passages.
    let told = |one: &str, other: &str| {
        let ran = ragtune(&["compare"])
            .and(&[one, other].map(|run| folder.path().join(run)).each_ref().map(|run| run.to_str().unwrap()))
            .run()
            .done();
        ran.stdout.contains("searched another corpus")
    };
    assert!(told("first", "appended") && told("appended", "replaced") && !told("first", "restored"));
}

#[test]
fn a_run_does_not_go_on_over_other_passages() {
    let folder = folder();
    let (index, out) = (index_copy(folder.path()), folder.path().join("run"));
    let mut running = train("generator", &index, &out).and(&["--steps", "400", "--checkpoint-every", "1"]).start();
    assert!(running.until(|| out.join("checkpoints").is_dir()));
    running.terminate();
    assert_eq!(running.end().code, Some(130));
    let id = lines(&fixture("tiny/corpus.jsonl"))[0]["id"].as_str().unwrap().to_owned();
    let gold =
        |file: &str| lines(&fixture(file)).iter().any(|question| question["gold_passages"].to_string().contains(&id));
    let id = match gold("tiny/train.jsonl") || gold("tiny/dev.jsonl") {
        false => id,
        true => {
            let more = folder.path().join("more.jsonl");
            std::fs::write(&more, "{\"id\": \"new\", \"title\": \"\", \"text\": \"Rain falls.\"}\n").unwrap();
            ragtune(&["index", "append"]).with("--index", &index).with("--corpus", &more).run().done();
            String::new()
        }
    };
    if !id.is_empty() {
        ragtune(&["index", "delete", "--id", &id]).with("--index", &index).run().done();
    }
    ragtune(&["train"])
        .with("--resume", &out)
        .run()
        .refused(&["the corpus changed since the run began", "another `--out`"]);
}

/// The small generator with one file of its folder changed.
fn changed(folder: &Path, name: &str, file: &str, change: impl Fn(&mut Value)) -> PathBuf {
    let to = folder.join(name);
    copy(&small_generator(), &to);
    let mut value = json(&to.join(file));
    change(&mut value);
    std::fs::write(to.join(file), value.to_string()).unwrap();
    to
}

#[test]
fn a_generator_with_the_same_weights_and_another_configuration_makes_other_stages() {
    let folder = folder();
    index_copy(folder.path());
    let at = folder.path();
    let generators = [
        changed(at, "same", "config.json", |_| {}),
        changed(at, "rope", "config.json", |config| config["rope_theta"] = 20000.0.into()),
        changed(at, "eps", "config.json", |config| config["rms_norm_eps"] = 1e-3.into()),
        changed(at, "tokenizer", "tokenizer_config.json", |config| config["chat_template"] = "{{ messages }}".into()),
    ];
    let ids: Vec<Vec<String>> = generators
        .iter()
        .enumerate()
        .map(|(at, generator)| {
            let record = trained(folder.path(), "generator", &format!("run{at}"), generator, &[]);
            assert_eq!(reused(&record), [false], "{at}");
            stage_ids(&record)
        })
        .collect();
    for (at, id) in ids.iter().enumerate() {
        assert!(!ids[..at].contains(id), "{at}");
    }
    // The folder's name is nothing.
    let same = changed(at, "elsewhere", "config.json", |_| {});
    assert_eq!(reused(&trained(at, "generator", "last", &same, &[])), [true]);
}

/// What a stage saved and what it warns of belongs to it, whoever trained it.
#[test]
fn a_stage_that_is_taken_over_brings_what_was_noticed_when_it_trained() {
    let folder = folder();
    index_copy(folder.path());
    let run = |out: &str| {
        train_with(&small_generator(), "two-phase", &folder.path().join("index"), &folder.path().join(out))
            .and(&["--json", "--max-prompt-tokens", "64", "--temperature", "0.5", "--config"])
            .and(&[folder.path().join("settings.toml").to_str().unwrap()])
            .with("--stages", folder.path().join("stages"))
            .run()
            .json()
    };
    std::fs::write(folder.path().join("settings.toml"), "steps = 6\n").unwrap();
    let (first, second) = (run("first"), run("second"));
    assert_eq!((reused(&first), reused(&second)), (vec![false, false], vec![true, true]));
    assert!(first["truncated"]["training prompts"].as_f64().unwrap() > 0.0, "{}", first["truncated"]);
    assert_eq!((&first["remembered"], &first["truncated"]), (&second["remembered"], &second["truncated"]));
    assert!(first["remembered"]["computed"].as_u64().unwrap() > 0, "{}", first["remembered"]);
    // What the equation was told is on the bill of both.
    for record in [&first, &second] {
        assert_eq!(record["stages"][1]["settings"]["temperature"], "0.5");
    }
    assert!(
        first["index"]["vector_bytes"].as_u64().unwrap() > 0 && first["index"]["graph_bytes"].as_u64().unwrap() > 0
    );
    let searches = |record: &Value| -> u64 {
        record["ledger"]["entries"].as_array().unwrap().iter().map(|entry| entry["searches"].as_u64().unwrap()).sum()
    };
    // Two questions a step in two stages, and four in the evaluation; the second run evaluated only.
    assert_eq!((searches(&first), searches(&second)), (2 * 2 * 6 + 4, 4));
}

#[test]
fn a_run_that_is_done_is_not_put_beside_runs_over_what_changed_in_place() {
    let folder = folder();
    let generator = changed(folder.path(), "generator", "config.json", |_| {});
    let file = comparison(
        folder.path(),
        &["strategy = \"generator\""],
        "seeds = [0]",
        "\n[search]\nlr-generator = [1e-3, 1e-4]\n",
    );
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(small_generator().to_str().unwrap(), generator.to_str().unwrap())).unwrap();
    let done = compare(&file).run().json();
    assert_eq!(compare(&file).run().json(), done);
    let again = |path: &Path, text: &str, says: &[&str]| {
        let before = std::fs::read_to_string(path).unwrap();
        std::fs::write(path, text).unwrap();
        compare(&file).run().refused(&[says, &["changed since the run", "another `out`", "rm -r"]].concat());
        std::fs::write(path, before).unwrap();
    };
    let at = |name: &str| folder.path().join(name);
    for name in ["train.jsonl", "selection.jsonl"] {
        let text = std::fs::read_to_string(at(name)).unwrap();
        let fewer = text.lines().skip(1).map(|line| format!("{line}\n")).collect::<String>();
        again(
            &at(name),
            &fewer,
            &[name, if name == "train.jsonl" { "training questions" } else { "evaluation questions" }],
        );
    }
    let config = std::fs::read_to_string(generator.join("config.json")).unwrap();
    again(&generator.join("config.json"), &config.replace("10000.0", "20000.0"), &["the generator"]);
    let weights = std::fs::read(generator.join("model.safetensors")).unwrap();
    let mut others = weights.clone();
    *others.last_mut().unwrap() ^= 1;
    std::fs::write(generator.join("model.safetensors"), &others).unwrap();
    compare(&file).run().refused(&["the generator", "changed since the run"]);
    std::fs::write(generator.join("model.safetensors"), &weights).unwrap();
    // Everything is as it was.
    assert_eq!(compare(&file).run().json(), done);
    let more = at("more.jsonl");
    std::fs::write(&more, "{\"id\": \"new\", \"title\": \"\", \"text\": \"Rain falls.\"}\n").unwrap();
    ragtune(&["index", "append"]).with("--index", at("index")).with("--corpus", &more).run().done();
    compare(&file).run().refused(&["the index", "changed since the run"]);
}

/// STRATEGIES oracle 23: the sum of ledgers is the total, stages that an earlier call paid for included.
#[test]
fn what_earlier_runs_paid_for_is_in_what_was_spent() {
    let folder = folder();
    let rows = ["strategy = \"generator\"", "strategy = \"two-phase\""];
    let file = comparison(folder.path(), &rows, "seeds = [0]", "");
    assert_eq!(compare(&file).run().json()["spent"]["taken_over_seconds"], 0.0);
    // As the refusal of other settings recommends: the runs go, the stages stay.
    std::fs::remove_dir_all(folder.path().join("out/runs")).unwrap();
    let value = compare(&file).run().json();
    let runs = ["generator-seed0", "two-phase-seed0"].map(|run| record(folder.path(), run));
    assert_eq!(runs.each_ref().map(reused), [vec![true], vec![true, true]]);
    let stages: f64 = runs[1]["stages"].as_array().unwrap().iter().map(|stage| seconds(&stage["ledger"])).sum();
    let own: f64 = runs.iter().map(|run| seconds(&run["ledger"])).sum();
    let close = |found: &Value, expected: f64| {
        assert!((found.as_f64().unwrap() - expected).abs() < 1e-6 * expected, "{found} and {expected}")
    };
    close(&value["spent"]["taken_over_seconds"], stages);
    close(&value["spent"]["seconds"], own + stages);
    assert!(compare(&file).run().done().stdout.contains("taken_over_seconds"));
}

#[test]
fn a_run_that_diverges_is_noted_and_the_others_go_on_in_every_call() {
    let folder = folder();
    let rows = ["strategy = \"generator\"\nlabel = \"wild\"\nlr-generator = 1e30", "strategy = \"generator\""];
    let file = comparison(folder.path(), &rows, "seeds = [0]", "");
    let first = compare(&file).run();
    assert_eq!(first.code, Some(1), "{first:#?}");
    assert!(first.stderr.contains("diverged: training stopped"), "{first:#?}");
    assert_eq!(record(folder.path(), "generator-seed0")["status"], "finished");
    let value: Value = serde_json::from_str(&first.stdout).unwrap();
    assert_eq!((&value["rows"][0]["scored"], &value["rows"][1]["scored"]), (&0.into(), &1.into()));
    assert!(value["warnings"].to_string().contains("diverged"), "{}", value["warnings"]);
    let second = compare(&file).run();
    assert_eq!((second.code, &second.stdout), (Some(1), &first.stdout));
}
