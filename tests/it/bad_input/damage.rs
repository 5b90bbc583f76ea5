//! Files that are not what was written: found, named, and survived where something else can answer.

use std::path::{Path, PathBuf};

use crate::support::*;

fn find(dir: &Path, name: &str) -> PathBuf {
    let all = files(dir);
    let found: Vec<&PathBuf> = all.iter().filter(|file| file.to_string_lossy().contains(name)).collect();
    assert_eq!(found.len(), 1, "{name}: {all:?}");
    dir.join(found[0])
}

/// Cuts a file, then flips single bits of it, and looks each time.
fn damage(path: &Path, look: impl Fn(&str)) {
    let whole = std::fs::read(path).unwrap();
    // The very last byte of a text file is a line end, which nobody misses.
    for kept in [0, whole.len() / 2, whole.len() - 2] {
        std::fs::write(path, &whole[..kept]).unwrap();
        look(&format!("cut to {kept} of {} bytes", whole.len()));
    }
    for at in [0, whole.len() / 3, whole.len() - 2] {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        std::fs::write(path, bytes).unwrap();
        look(&format!("bit 2 of byte {at} flipped"));
    }
    std::fs::write(path, whole).unwrap();
}

const QUERY: &str = "when did red bull come to the united states";

#[test]
fn a_damaged_graph_is_announced_and_exact_search_answers() {
    let folder = folder();
    let index = index_copy(folder.path());
    let right = search(&index, QUERY, 5, &["--exact"]);
    let graph = find(&index, "graph.bin");
    let look = |how: &str| {
        let ran = ragtune(&["index", "search", "--json", "--query", QUERY]).with("--index", &index).run().done();
        assert!(ran.stderr.contains("warning: the graph cannot be used"), "{how}: {ran:#?}");
        let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        let ids: Vec<&str> = found.as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect();
        assert_eq!(ids, right, "{how}");
        let check = ragtune(&["index", "check"]).with("--index", &index).run();
        assert_eq!(check.code, Some(1), "{how}: {check:#?}");
        assert!(check.stdout.contains("graph.bin"), "{how}: {check:#?}");
        let stats = ragtune(&["index", "stats", "--json"]).with("--index", &index).run().json();
        assert!(stats["graph_defect"].is_string(), "{how}: {stats:#}");
    };
    damage(&graph, look);
    // Gone altogether, and mended by either command.
    for mend in [&["index", "check", "--mend"][..], &["build"]] {
        std::fs::remove_file(&graph).unwrap();
        look("removed");
        if mend.len() == 1 {
            build(&fixture("tiny/corpus.jsonl"), &encoder(), &index).done();
        } else {
            ragtune(mend).with("--index", &index).run().done();
        }
        assert!(is_clean(&index));
        assert_eq!(search(&index, QUERY, 5, &[]), right);
    }
}

#[test]
fn training_and_evaluation_over_a_damaged_graph_say_so() {
    let folder = folder();
    let index = index_copy(folder.path());
    let graph = find(&index, "graph.bin");
    let bytes = std::fs::read(&graph).unwrap();
    std::fs::write(&graph, &bytes[..bytes.len() / 2]).unwrap();
    let evaluate = ragtune(&["eval", "--limit", "2", "--json"])
        .with("--index", &index)
        .with("--generator", small_generator())
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .done();
    assert!(evaluate.stderr.contains("the graph cannot be used"), "{evaluate:#?}");
    let trained = train("frozen", &index, &folder.path().join("run")).run().done();
    assert!(trained.stderr.contains("the graph cannot be used"), "{trained:#?}");
}

#[test]
fn a_damaged_generation_manifest_is_announced_and_search_is_right() {
    let folder = folder();
    let index = index_copy(folder.path());
    let right = search(&index, QUERY, 5, &["--exact"]);
    damage(&find(&index, "MANIFEST.json"), |how| {
        let ran = ragtune(&["index", "search", "--json", "--query", QUERY]).with("--index", &index).run().done();
        assert!(ran.stderr.contains("warning: "), "{how}: {ran:#?}");
        let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(found[0]["id"], right[0], "{how}");
        let check = ragtune(&["index", "check"]).with("--index", &index).run();
        assert_eq!(check.code, Some(1), "{how}: {check:#?}");
        assert!(check.stdout.contains("MANIFEST.json"), "{how}: {check:#?}");
    });
    assert!(is_clean(&index));
}

/// The dataset's own manifest, and vectors: no wrong answer is ever given.
#[test]
fn a_damaged_dataset_is_refused_or_answers_as_before() {
    let folder = folder();
    let index = index_copy(folder.path());
    let right = search(&index, QUERY, 5, &["--exact"]);
    let all = files(&index);
    let manifests = all.iter().filter(|file| file.extension().is_some_and(|extension| extension == "manifest"));
    let newest = manifests.min().unwrap();
    let data = all.iter().filter(|file| file.extension().is_some_and(|extension| extension == "lance"));
    for file in std::iter::once(newest).chain(data) {
        let check = || ragtune(&["index", "check"]).with("--index", &index).run();
        damage(&index.join(file), |how| {
            let what = format!("{}, {how}", file.display());
            let ran =
                ragtune(&["index", "search", "--exact", "--json", "--query", QUERY]).with("--index", &index).run();
            if ran.code == Some(0) {
                let found: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
                let ids: Vec<&str> = found.as_array().unwrap().iter().map(|hit| hit["id"].as_str().unwrap()).collect();
                assert_eq!(ids, right, "{what}");
            } else {
                ran.refused(&["damaged"]);
            }
            let check = check();
            assert_eq!(check.code, Some(1), "{what}: {check:#?}");
        });
    }
    // Half-written manifests were set aside where they can be looked at; nothing else is left of all this.
    ragtune(&["index", "check", "--mend"]).with("--index", &index).run().done();
    assert!(is_clean(&index));
    assert_eq!(search(&index, QUERY, 5, &["--exact"]), right);
}

/// A run with two checkpoints, stopped.
fn stopped(folder: &Path) -> PathBuf {
    let out = folder.join("run");
    let mut running = train("joint", base_index(), &out)
        .and(&["--steps", "60", "--checkpoint-every", "1", "--lr-generator", "1e-3"])
        .start();
    assert!(running.until(|| std::fs::read_dir(out.join("checkpoints")).is_ok_and(|all| all.count() >= 2)));
    running.terminate();
    assert_eq!(running.end().code, Some(130));
    out
}

fn newest_checkpoint(out: &Path) -> PathBuf {
    let mut all: Vec<PathBuf> =
        std::fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all.pop().unwrap()
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_still_serves() {
    let folder = folder();
    let out = stopped(folder.path());
    let checkpoint = newest_checkpoint(&out);
    let resume = || ragtune(&["train"]).with("--resume", &out).run();
    for file in ["encoder.safetensors", "generator-optimizer.safetensors", "state.json"] {
        damage(&checkpoint.join(file), |how| {
            let ran = resume().refused(&["checkpoint", "damaged", file]);
            assert!(ran.stderr.contains(&format!("rm -r {}", checkpoint.display())), "{file}, {how}: {ran:#?}");
        });
    }
    std::fs::remove_file(checkpoint.join("generator.safetensors")).unwrap();
    resume().refused(&["generator.safetensors"]);
    // The hint is the remedy.
    std::fs::remove_dir_all(&checkpoint).unwrap();
    let before = lines(&out.join("metrics.jsonl")).len();
    resume().done();
    let metrics = lines(&out.join("metrics.jsonl"));
    assert!(before < 60 && metrics.len() == 60, "{before}");
    assert!(metrics.iter().enumerate().all(|(at, line)| line["step"] == at as u64 + 1), "no step twice, none left out");
}

#[test]
fn a_nan_in_a_checkpoint_is_refused_by_tensor_name() {
    let folder = folder();
    let out = stopped(folder.path());
    let checkpoint = newest_checkpoint(&out);
    let weights = checkpoint.join("encoder.safetensors");
    let sound = std::fs::read(&weights).unwrap();
    let name_of = "encoder.layer.0.attention.output.dense.weight";
    edit_tensors(&weights, |name, tensor| {
        if name == name_of {
            tensor.values[11] = f32::NAN;
        }
    });
    let resume = || ragtune(&["train"]).with("--resume", &out).run();
    resume().refused(&["encoder.safetensors", "checksum"]);
    // With a checksum that fits, the value itself is refused.
    let state = checkpoint.join("state.json");
    let text = std::fs::read_to_string(&state).unwrap();
    let fitting = text.replace(blake3::hash(&sound).to_hex().as_str(), &digest(&weights));
    assert_ne!(fitting, text);
    std::fs::write(&state, fitting).unwrap();
    resume().refused(&[name_of, "NaN"]);
    // Nothing was lost: with the sound file back the run finishes.
    std::fs::write(&weights, sound).unwrap();
    std::fs::write(&state, text).unwrap();
    resume().done();
}

#[test]
fn a_damaged_record_or_settings_file_of_a_run() {
    let folder = folder();
    let out = folder.path().join("run");
    train("frozen", base_index(), &out).run().done();
    let record = out.join("record.json");
    let whole = std::fs::read(&record).unwrap();
    std::fs::write(&record, &whole[..whole.len() / 2]).unwrap();
    ragtune(&["compare"]).and(&[out.to_str().unwrap()]).run().refused(&["record.json", "damaged"]);
    std::fs::write(&record, whole).unwrap();
    let scores = out.join("scores-final.jsonl");
    std::fs::write(&scores, "{\"id\": ").unwrap();
    ragtune(&["compare"]).and(&[out.to_str().unwrap()]).run().refused(&["scores-final.jsonl:1"]);
    std::fs::write(out.join("config.toml"), "strategy = 3").unwrap();
    ragtune(&["eval"])
        .with("--run", &out)
        .with("--questions", fixture("tiny/dev.jsonl"))
        .run()
        .refused(&["config.toml"]);
}
