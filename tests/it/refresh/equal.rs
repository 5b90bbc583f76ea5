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
    // What was embedded at a point is embedded once: neither to measure nor in the step that follows again.
    let out = folder.path().join("rows");
    let renewed = json(&out.join("record.json"))["refreshes"][0].clone();
    assert_eq!((&renewed["action"], &renewed["step"], &renewed["passages"]), (&"rows".into(), &2.into(), &60.into()));
    let steps = metrics(&out);
    let of = |step: usize, key: &str| steps[step]["extra"][key].as_f64().unwrap();
    assert_eq!((of(2, "candidates_embedded"), of(2, "candidates_known")), (0.0, 60.0));
    assert_eq!((of(3, "candidates_embedded"), of(3, "candidates_known")), (60.0, 0.0));
    // A stale index alone is not the same: the comparison can fail.
    assert_ne!(run("never", "never", &[]), full);
}

#[test]
fn passages_ranked_live_that_are_outside_of_the_sample_are_part_of_the_truth() {
    let folder = folder();
    let index = index_copy(folder.path());
    let out = folder.path().join("rows");
    // Every passage is a candidate, so that nothing can be missed, whatever the sample is.
    let settings = ["--refresh-every", "2", "--refresh-depth", "60", "--refresh-rows", "10", "--refresh-sample", "16"];
    six_steps("rows", &settings, &index, &out).and(&["--exact"]).run().done();
    let record = json(&out.join("record.json"));
    for renewed in &record["refreshes"].as_array().unwrap()[..2] {
        assert_eq!(
            (&renewed["recall_reranked"], &renewed["recall_reranked_after"]),
            (&1.0.into(), &1.0.into()),
            "{renewed}"
        );
        // Ten of them are embedded for the overlay, the others to measure.
        assert_eq!(renewed["passages"], 60, "{renewed}");
    }
}

#[test]
fn candidates_ranked_by_old_vectors_are_measured_as_they_rank() {
    let folder = folder();
    let index = index_copy(folder.path());
    let reranked = |policy: &str, age: &str, more: &[&str]| {
        let out = folder.path().join(format!("{policy}-{age}"));
        let settings = ["--refresh-depth", "60", "--refresh-age", age];
        six_steps(policy, &settings, &index, &out).and(more).and(&["--exact"]).run().done();
        let refreshes = json(&out.join("record.json"))["refreshes"].clone();
        let all = refreshes.as_array().unwrap().iter().map(|it| it["recall_reranked"].as_f64().unwrap());
        all.collect::<Vec<f64>>()
    };
    // Every passage is a candidate: what is missed is missed by its age.
    assert_eq!(reranked("lazy", "0", &[]), [1.0]);
    let aged = reranked("lazy", "9", &[]);
    assert!(aged.len() == 1 && aged[0] < 1.0, "{aged:?}");
    let every = ["--refresh-every", "3"];
    assert_eq!(reranked("rows", "0", &every), [1.0, 1.0]);
    let aged = reranked("rows", "9", &every);
    assert!(aged.len() == 2 && aged.iter().all(|one| *one < 1.0), "{aged:?}");
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
