//! The negatives that ANCE mines: a file that says how they were found, checked before a run goes on with it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

fn ance(index: &Path, out: &Path) -> Ragtune {
    train("ance", index, out)
        .and(&["--train-passages", "true", "--refresh-every", "2", "--steps", "6", "--checkpoint-every", "1"])
        .and(&["--hard-negatives", "2", "--lr-encoder", "1e-3"])
}

/// Every file of negatives in a run folder, by name. Numbers of generations are left out: a killed refresh uses one up.
fn negatives(out: &Path) -> BTreeMap<String, Value> {
    let names = files(out).into_iter().map(|file| file.display().to_string());
    let read = |name: String| {
        let mut found = json(&out.join(&name));
        found.as_object_mut().unwrap().remove("generation");
        (name, found)
    };
    names.filter(|name| name.starts_with("negatives-")).map(read).collect()
}

#[test]
fn negatives_are_kept_with_how_they_were_found() {
    let folder = folder();
    let out = folder.path().join("run");
    ance(&index_copy(folder.path()), &out).run().done();
    // Once at the beginning and after each refresh but the last, which nothing trains after.
    let kept = ["negatives-00000000.json", "negatives-00000002.json", "negatives-00000004.json"];
    assert_eq!(negatives(&out).into_keys().collect::<Vec<_>>(), kept);
    let found: Vec<Value> = kept.iter().map(|name| json(&out.join(name))).collect();
    let record = json(&out.join("record.json"));
    let ids: Vec<Value> = lines(&fixture("tiny/corpus.jsonl")).iter().map(|passage| passage["id"].clone()).collect();
    for (found, step) in found.iter().zip([0, 2, 4]) {
        assert_eq!((&found["step"], &found["seed"]), (&step.into(), &0.into()));
        assert_eq!(found["questions"], record["data"]["questions"]["hash"]);
        assert_eq!(found["settings"], serde_json::json!({"depth": 200, "negatives": 2}));
        for question in lines(&fixture("tiny/train.jsonl")) {
            let id = question["id"].as_str().unwrap();
            let named = found["negatives"][id].as_array().unwrap();
            assert!(named.len() == 2 && named[0] != named[1], "{id}: {named:?}");
            let gold = question["gold_passages"].as_array().unwrap();
            assert!(!named.iter().any(|one| gold.contains(one)), "{id}: {named:?} of {gold:?}");
            let ordinals = found["ordinals"][id].as_array().unwrap().iter();
            let same: Vec<Value> = ordinals.map(|one| ids[one.as_u64().unwrap() as usize].clone()).collect();
            assert_eq!(named, &same, "{id}");
        }
    }
    // Each time of another index, and drawn anew.
    assert_eq!(found[0]["generation"], record["index"]["base_generation"]);
    assert!(found[0]["vectors"] != found[1]["vectors"] && found[1]["vectors"] != found[2]["vectors"]);
    assert_ne!(found[0]["negatives"], found[1]["negatives"]);
    // What is trained on is counted: two of each question.
    assert!(lines(&out.join("metrics.jsonl")).iter().all(|line| line["extra"]["hard_negatives"] == 2.0));
}

/// Nothing is mined again when a run goes on: it has the file, and refuses one that is not what it was.
#[test]
fn a_killed_run_goes_on_against_the_negatives_it_had() {
    let folder = folder();
    let straight = folder.path().join("straight");
    ance(&index_copy(&folder.path().join("one")), &straight).run().done();
    let index = index_copy(&folder.path().join("other"));
    let out = folder.path().join("killed");
    let mut running = ance(&index, &out).start();
    let steps = || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    assert!(running.until(|| steps() >= 4), "the run ended before the moment came");
    running.kill();
    assert!(!out.join("scores-final.jsonl").exists(), "it was already over");

    let checkpoint =
        std::fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mined = json(&checkpoint.join("state.json"))["mined"].clone();
    let file = out.join(mined["file"].as_str().unwrap());
    assert_eq!(mined["hash"], digest(&file));
    let resume = || ragtune(&["train"]).with("--resume", &out).run();
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    let last = damaged.len() - 3;
    damaged[last] ^= 1;
    std::fs::write(&file, damaged).unwrap();
    resume().refused(&["mined negatives", mined["file"].as_str().unwrap(), "their hash is", "put the file back"]);
    std::fs::remove_file(&file).unwrap();
    resume().refused(&["mined negatives", "cannot be read"]);
    std::fs::write(&file, whole).unwrap();
    resume().done();

    assert_eq!(negatives(&out), negatives(&straight));
    for file in ["encoder/model.safetensors", "metrics.jsonl", "scores-final.jsonl"] {
        assert_eq!(digest(&out.join(file)), digest(&straight.join(file)), "{file}");
    }
}
