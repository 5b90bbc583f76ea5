//! Policies that must come to the same: everything ranked live is everything embedded anew; a snapshot put to use at once is
//! no snapshot.

use super::*;

fn metrics(out: &Path) -> Vec<Value> {
    lines(&out.join("metrics.jsonl"))
}

/// Losses and what was retrieved, step by step.
fn seen(out: &Path) -> Vec<(String, String)> {
    let of = |point: &Value| (point["loss"].to_string(), point["extra"]["distinct_passages"].to_string());
    metrics(out).iter().map(of).collect()
}

#[test]
fn ranking_every_passage_live_is_refreshing_at_every_step() {
    let folder = folder();
    let index = index_copy(folder.path());
    let run = |name: &str, policy: &str, settings: &[&str]| {
        let out = folder.path().join(name);
        six_steps(policy, settings, &index, &out).and(&["--exact"]).run().done();
        (seen(&out), digest(&out.join("encoder/model.safetensors")))
    };
    let full = run("full", "full", &["--refresh-every", "1"]);
    assert_eq!(run("lazy", "lazy", &["--refresh-depth", "60", "--refresh-age", "0"]), full);
    let rows = ["--refresh-every", "2", "--refresh-depth", "60", "--refresh-rows", "60"];
    assert_eq!(run("rows", "rows", &rows), full);
    // A stale index alone is not the same: the comparison can fail.
    assert_ne!(run("never", "never", &[]), full);
}

#[test]
fn a_snapshot_put_to_use_at_once_is_a_refresh() {
    let folder = folder();
    let index = index_copy(folder.path());
    let run = |name: &str, policy: &str, settings: &[&str]| {
        let out = folder.path().join(name);
        six_steps(policy, settings, &index, &out).and(&["--refresh-every", "2"]).run().done();
        (seen(&out), digest(&out.join("encoder/model.safetensors")), digest(&out.join("scores-final.jsonl")))
    };
    let full = run("reuse", "full-reuse", &[]);
    assert_eq!(run("background", "background", &["--refresh-lag", "0"]), full);
    assert_ne!(run("late", "background", &["--refresh-lag", "2"]), full);
}

#[test]
fn a_map_that_does_not_help_is_not_searched() {
    let folder = folder();
    let index = index_copy(folder.path());
    let run = |name: &str, policy: &str, settings: &[&str]| {
        let out = folder.path().join(name);
        // Steps too small to change any order: nothing is there to be mended.
        train("joint", &index, &out)
            .and(&["--train-passages", "true", "--steps", "3", "--lr-encoder", "1e-12", "--lr-generator", "1e-4"])
            .with("--refresh", policy)
            .and(settings)
            .run()
            .done();
        (seen(&out), json(&out.join("record.json")))
    };
    let (never, _) = run("never", "never", &[]);
    let (adapter, record) = run("adapter", "adapter", &["--refresh-every", "1", "--refresh-sample", "60"]);
    assert_eq!(adapter, never);
    let refreshes = record["refreshes"].as_array().unwrap();
    let actions: Vec<&str> = refreshes.iter().map(|refresh| refresh["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["kept", "kept", "embedded"]);
    assert_eq!(refreshes[0]["recall_before"], 1.0);
}
