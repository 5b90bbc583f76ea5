//! An interrupted run goes on as if it had not been interrupted: killed, terminated, at whatever moment, the same bits.

use std::path::{Path, PathBuf};

use crate::support::*;

/// Six steps of everything at once: both models, trained passages, a refresh every other step.
pub fn six_steps(index: &Path, out: &Path, checkpoint_every: &str) -> Ragtune {
    train("joint", index, out)
        .and(&["--train-passages", "true", "--refresh-every", "2", "--steps", "6"])
        .and(&["--lr-encoder", "1e-3", "--lr-generator", "1e-3"])
        .with("--checkpoint-every", checkpoint_every)
}

pub fn resume(out: &Path) -> Ragtune {
    ragtune(&["train"]).with("--resume", out)
}

/// What a run leaves that must not depend on interruptions.
#[derive(Debug, PartialEq)]
pub struct Left {
    encoder: String,
    generator: String,
    metrics: String,
    scores: String,
    refreshes: Vec<(u64, String)>,
}

pub fn left(out: &Path) -> Left {
    let record = json(&out.join("record.json"));
    assert_eq!(record["status"], "finished");
    assert_eq!(record["steps_done"], 6);
    let refreshes = record["refreshes"].as_array().unwrap().iter();
    Left {
        encoder: digest(&out.join("encoder/model.safetensors")),
        generator: digest(&out.join("generator/model.safetensors")),
        metrics: std::fs::read_to_string(out.join("metrics.jsonl")).unwrap(),
        scores: std::fs::read_to_string(out.join("scores-final.jsonl")).unwrap(),
        // Numbers of generations and seconds may differ; what was measured may not.
        refreshes: refreshes
            .map(|refresh| {
                let measured = ["passages", "recall_before", "recall_after"].map(|key| refresh[key].to_string());
                (refresh["step"].as_u64().unwrap(), measured.join(" "))
            })
            .collect(),
    }
}

/// The same run without interruption, made once.
pub fn straight() -> &'static Left {
    static LEFT: std::sync::OnceLock<Left> = std::sync::OnceLock::new();
    LEFT.get_or_init(|| {
        let folder = folder();
        let out = folder.path().join("run");
        six_steps(&index_copy(folder.path()), &out, "1").run().done();
        let left = left(&out);
        assert_eq!(left.refreshes.iter().map(|refresh| refresh.0).collect::<Vec<_>>(), [2, 4, 6]);
        assert_eq!(left.metrics.lines().count(), 6);
        left
    })
}

fn steps(out: &Path) -> usize {
    std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

/// A folder, an index and a run in it that was stopped when `moment` came.
fn stopped(moment: impl Fn(&Path, &Path) -> bool) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = folder();
    let (index, out) = (index_copy(folder.path()), folder.path().join("run"));
    let mut running = six_steps(&index, &out, "1").start();
    assert!(running.until(|| moment(&index, &out)), "the run ended before the moment came");
    running.kill();
    assert!(!out.join("scores-final.jsonl").exists(), "it was already over");
    (folder, index, out)
}

#[test]
fn killed_after_any_step_and_resumed_gives_the_same_bits() {
    for step in [1, 3, 4, 6] {
        let (_folder, index, out) = stopped(|_, out| steps(out) >= step);
        resume(&out).run().done();
        assert_eq!(&left(&out), straight(), "killed after step {step}");
        assert!(is_clean(&index), "killed after step {step}");
    }
}

#[test]
fn killed_during_a_refresh_and_resumed_gives_the_same_bits() {
    let (_folder, index, out) =
        stopped(|index, out| steps(out) >= 2 && index.join("generations/journal.jsonl").exists());
    // The killed refresh counts for nothing: what the index was built with still answers.
    assert_eq!(
        search(&index, "red bull united states", 1, &[]),
        search(base_index(), "red bull united states", 1, &[])
    );
    resume(&out).run().done();
    assert_eq!(&left(&out), straight());
    assert!(is_clean(&index));
}

#[test]
fn killed_twice_once_before_anything_was_written_gives_the_same_bits() {
    let (_folder, _index, out) = stopped(|_, out| out.join("config.toml").exists());
    let mut running = resume(&out).start();
    assert!(running.until(|| steps(&out) >= 5));
    running.kill();
    resume(&out).run().done();
    assert_eq!(&left(&out), straight());
    let record = json(&out.join("record.json"));
    assert_eq!(record["ledger"]["sessions"], 2, "the sessions that left a checkpoint");
}

/// The generation of another run, which its owner let go: three refreshes would push it out, and with it what the run starts from.
#[test]
fn a_run_from_a_generation_that_nobody_keeps_goes_on() {
    let folder = folder();
    let (index, earlier) = (index_copy(folder.path()), folder.path().join("earlier"));
    six_steps(&index, &earlier, "6").run().done();
    let versions = ragtune(&["index", "versions", "--json"]).with("--index", &index).run().json();
    let owner = versions.as_array().unwrap().last().unwrap()["protected_by"][0].as_str().unwrap().to_owned();
    ragtune(&["index", "release"]).with("--index", &index).with("--owner", owner).run().done();
    let again = folder.path().join("again");
    copy(&index, &again);

    let from_there = |index: &Path, out: &Path| six_steps(index, out, "1").with("--encoder", earlier.join("encoder"));
    let (straight, out) = (folder.path().join("straight"), folder.path().join("killed"));
    from_there(&again, &straight).run().done();
    let mut running = from_there(&index, &out).start();
    assert!(running.until(|| steps(&out) >= 5), "the run ended before the moment came");
    running.kill();
    ragtune(&["index", "gc"]).with("--index", &index).run().done();
    resume(&out).run().done();
    assert_eq!(left(&out), left(&straight));
    assert!(is_clean(&index));
}

#[test]
fn a_term_signal_writes_a_checkpoint_and_a_resumed_run_gives_the_same_bits() {
    let folder = folder();
    let (index, out) = (index_copy(folder.path()), folder.path().join("run"));
    // No checkpoint but the one the signal causes.
    let mut running = six_steps(&index, &out, "0").start();
    assert!(running.until(|| steps(&out) >= 1));
    running.terminate();
    let ran = running.end();
    assert_eq!(ran.code, Some(130), "{ran:#?}");
    assert!(ran.stderr.contains(&format!("ragtune train --resume {}", out.display())), "{ran:#?}");
    let record = json(&out.join("record.json"));
    assert_eq!(record["status"], "interrupted");
    let done = record["steps_done"].as_u64().unwrap();
    assert!((1..6).contains(&done), "{done}");
    assert_eq!(steps(&out) as u64, done);
    assert_eq!(std::fs::read_dir(out.join("checkpoints")).unwrap().count(), 1);
    // What is not finished is not evaluated as if it were.
    let questions = fixture("tiny/dev.jsonl");
    ragtune(&["eval"]).with("--run", &out).with("--questions", questions).run().refused(&["interrupted", "--resume"]);

    let spent = record["ledger"]["wall_seconds"].as_f64().unwrap();
    resume(&out).run().done();
    assert_eq!(&left(&out), straight());
    let ledger = json(&out.join("record.json"))["ledger"].clone();
    assert_eq!(ledger["sessions"], 2);
    assert!(ledger["wall_seconds"].as_f64().unwrap() > spent, "the first session's cost is kept");
}

/// Masks follow from seed and step alone: no state of them is kept, and none is missing.
#[test]
fn a_run_with_dropout_goes_on_with_the_same_bits() {
    let folder = folder();
    let dropping = |name: &str, dropout: &str| {
        train("joint", base_index(), &folder.path().join(name))
            .and(&["--steps", "6", "--checkpoint-every", "1", "--lr-encoder", "1e-3", "--lr-generator", "1e-3"])
            .and(&["--lora-rank", "2", "--lora-dropout", "0.1", "--gradient-checkpointing"])
            .with("--dropout", dropout)
    };
    let bits = |name: &str| {
        let out = folder.path().join(name);
        let record = json(&out.join("record.json"));
        assert_eq!((&record["status"], &record["config"]["dropout"]), (&"finished".into(), &0.2.into()));
        let weights = ["encoder/model.safetensors", "adapter/adapter_model.safetensors"];
        let digests = weights.map(|file| digest(&out.join(file)));
        (digests, std::fs::read_to_string(out.join("metrics.jsonl")).unwrap())
    };
    dropping("straight", "0.2").run().done();
    let out = folder.path().join("killed");
    let mut running = dropping("killed", "0.2").start();
    assert!(running.until(|| steps(&out) >= 3), "the run ended before the moment came");
    running.kill();
    assert!(!out.join("scores-final.jsonl").exists(), "it was already over");
    resume(&out).run().done();
    assert_eq!(bits("killed"), bits("straight"));
    assert_eq!(json(&out.join("adapter/adapter_config.json"))["lora_dropout"], 0.1);
    // Without dropout it is another run.
    dropping("none", "off").run().done();
    let losses = |name: &str| lines(&folder.path().join(name).join("metrics.jsonl"))[0]["loss"].clone();
    assert_ne!(losses("none"), losses("straight"));
}

#[test]
fn a_finished_run_is_not_resumed() {
    let folder = folder();
    let out = folder.path().join("run");
    train("frozen", base_index(), &out).run().done();
    let before = files(&out).iter().map(|file| digest(&out.join(file))).collect::<Vec<_>>();
    resume(&out).run().refused(&["finished", "ragtune compare"]);
    let after = files(&out).iter().map(|file| digest(&out.join(file))).collect::<Vec<_>>();
    let lock = files(&out).iter().position(|file| file == Path::new("LOCK")).unwrap();
    for (number, (before, after)) in before.iter().zip(&after).enumerate() {
        assert!(before == after || number == lock, "{:?}", files(&out)[number]);
    }
    // Nor is its folder used for another run.
    train("frozen", base_index(), &out).run().refused(&["exists and is not empty", "--resume"]);
}

#[test]
fn a_run_whose_generator_changed_is_not_resumed() {
    let folder = folder();
    let generator = folder.path().join("generator");
    copy(&small_generator(), &generator);
    let out = folder.path().join("run");
    let mut running = train_with(&generator, "generator", base_index(), &out)
        .and(&["--steps", "40", "--checkpoint-every", "1"])
        .start();
    assert!(running.until(|| steps(&out) >= 2));
    running.kill();
    edit_tensors(&generator.join("model.safetensors"), |name, tensor| {
        if name == "lm_head.weight" {
            tensor.values[0] += 1.0;
        }
    });
    let was = json(&out.join("record.json"))["models"][1]["fingerprint"].as_str().unwrap().to_owned();
    let ran = resume(&out).run().refused(&["the generator changed", &was]);
    let digests: Vec<&str> = ran.stderr.split('`').filter(|part| part.len() == 64).collect();
    assert!(digests.len() == 2 && digests[0] == was && digests[1] != was, "both digests are named: {ran:#?}");
    // With the old one back it goes on.
    copy(&small_generator(), &generator);
    resume(&out).run().done();
}

#[test]
fn a_run_whose_questions_changed_is_not_resumed() {
    let folder = folder();
    let questions = folder.path().join("train.jsonl");
    std::fs::copy(fixture("tiny/train.jsonl"), &questions).unwrap();
    let out = folder.path().join("run");
    let mut running =
        ragtune(&["train", "--strategy", "generator", "--steps", "40", "--batch-size", "2", "--top-k", "2"])
            .with("--index", base_index())
            .with("--questions", &questions)
            .with("--eval-questions", fixture("tiny/dev.jsonl"))
            .with("--generator", small_generator())
            .with("--out", &out)
            .start();
    assert!(running.until(|| steps(&out) >= 1));
    running.terminate();
    assert_eq!(running.end().code, Some(130));
    first_lines(&fixture("tiny/train.jsonl"), 39, &questions);
    resume(&out).run().refused(&["training questions", "changed"]);
}

#[test]
fn a_run_folder_in_use_names_the_process() {
    let folder = folder();
    let out = folder.path().join("run");
    let mut running = train("generator", base_index(), &out).and(&["--steps", "400"]).start();
    assert!(running.until(|| steps(&out) >= 1));
    resume(&out).run().refused(&[&format!("in use by process {}", running.id())]);
    train("generator", base_index(), &out).run().refused(&["exists and is not empty"]);
    let before = steps(&out);
    assert!(running.until(|| steps(&out) > before), "the owner was not disturbed");
}
