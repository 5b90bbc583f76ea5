//! Every policy by which the index follows a moving encoder: finite, charged, recorded, decided by the seed, and gone on with to
//! the bit; and what the policies have in common where they must come to the same.

mod equal;

use std::path::Path;

use ragtune_index::{Corpus, GraphParams, GraphPlan};
use serde_json::Value;

use crate::support::*;

/// The policies that act while passages train, with their settings.
const POLICIES: [(&str, &[&str]); 8] = [
    ("full", &["--refresh-every", "2"]),
    ("full-reuse", &["--refresh-schedule", "0-4:2,4-9:1"]),
    ("background", &["--refresh-every", "2", "--refresh-lag", "1"]),
    ("rows", &["--refresh-every", "2", "--refresh-depth", "16", "--refresh-rows", "10", "--refresh-sample", "40"]),
    ("lazy", &["--refresh-every", "4", "--refresh-depth", "16", "--refresh-age", "2"]),
    ("adapter", &["--refresh-every", "2", "--refresh-sample", "48"]),
    ("drift", &["--refresh-every", "1", "--refresh-sample", "40", "--refresh-target", "0.99"]),
    ("never", &[]),
];

/// Six steps of both models with trained passages.
fn six_steps(policy: &str, settings: &[&str], index: &Path, out: &Path) -> Ragtune {
    train("joint", index, out)
        .and(&["--train-passages", "true", "--steps", "6", "--checkpoint-every", "1"])
        .and(&["--lr-encoder", "1e-3", "--lr-generator", "1e-3", "--schedule", "constant"])
        .with("--refresh", policy)
        .and(settings)
}

/// What a run leaves that must not depend on interruptions, nor on the machine.
#[derive(Debug, PartialEq)]
struct Left {
    encoder: String,
    generator: String,
    metrics: String,
    scores: String,
    refreshes: Vec<String>,
}

fn left(out: &Path) -> Left {
    let record = json(&out.join("record.json"));
    assert_eq!((&record["status"], &record["steps_done"]), (&"finished".into(), &6.into()));
    let keys = [
        "step",
        "policy",
        "action",
        "recall_before",
        "recall_after",
        "recall_reranked",
        "recall_reranked_after",
        "estimate",
        "overlap",
        "distinct",
        "age",
        "between",
        "measured",
    ];
    let of = |refresh: &Value| keys.map(|key| refresh[key].to_string()).join(" ");
    Left {
        encoder: digest(&out.join("encoder/model.safetensors")),
        generator: digest(&out.join("generator/model.safetensors")),
        metrics: std::fs::read_to_string(out.join("metrics.jsonl")).unwrap(),
        scores: std::fs::read_to_string(out.join("scores-final.jsonl")).unwrap(),
        refreshes: record["refreshes"].as_array().unwrap().iter().map(of).collect(),
    }
}

/// Runs it to its end and once more, stopped after the third step and resumed.
fn twice(policy: &str, settings: &[&str]) -> Value {
    let folder = folder();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let index = index_copy(folder.path());
    six_steps(policy, settings, &index, &first).run().done();
    // On the index that the first run has been through.
    let mut running = six_steps(policy, settings, &index, &second).start();
    let steps = || std::fs::read_to_string(second.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
    assert!(running.until(|| steps() >= 3), "{policy}: the run ended before the moment came");
    running.kill();
    assert!(!second.join("scores-final.jsonl").exists(), "{policy}: it was already over");
    ragtune(&["train"]).with("--resume", &second).run().done();
    assert_eq!(left(&second), left(&first), "{policy}");
    assert!(is_clean(&index), "{policy}");
    json(&first.join("record.json"))
}

/// What a ledger charged to refreshes in one phase.
fn charged(ledger: &Value, phase: &str, key: &str) -> f64 {
    let entries = ledger["entries"].as_array().unwrap();
    let of = |entry: &&Value| entry["activity"] == "refresh" && entry["phase"] == phase;
    entries.iter().find(of).map_or(0.0, |entry| entry[key].as_f64().unwrap())
}

#[test]
fn every_policy_trains_records_and_goes_on_with_the_same_bits() {
    for (policy, settings) in POLICIES {
        let record = twice(policy, settings);
        let refreshes = record["refreshes"].as_array().unwrap();
        for refresh in refreshes {
            assert_eq!(refresh["policy"], policy);
            assert!(refresh["cpu_seconds"].as_f64().unwrap() > 0.0, "{policy}: {refresh}");
            assert!(refresh["passages"].as_u64().unwrap() > 0, "{policy}: {refresh}");
            assert!(refresh["distinct"].as_u64().unwrap() > 0, "{policy}: {refresh}");
            assert!(!refresh["measured"].as_str().unwrap().is_empty(), "{policy}: {refresh}");
            for key in ["recall_before", "recall_after", "overlap"] {
                assert!((0.0..=1.0).contains(&refresh[key].as_f64().unwrap()), "{policy}: {refresh}");
            }
        }
        let steps: Vec<u64> = refreshes.iter().map(|refresh| refresh["step"].as_u64().unwrap()).collect();
        let actions: Vec<&str> = refreshes.iter().map(|refresh| refresh["action"].as_str().unwrap()).collect();
        let ages: Vec<u64> = refreshes.iter().map(|refresh| refresh["age"].as_u64().unwrap()).collect();
        let graphs: Vec<&str> = refreshes.iter().map(|refresh| refresh["graph"].as_str().unwrap()).collect();
        let last = refreshes.last().unwrap();
        assert_eq!((last["step"].as_u64(), &last["action"]), (Some(6), &"embedded".into()), "{policy}");
        assert_eq!(last["passages"], 60, "{policy}: everything before the final evaluation");
        assert!(last["recall_after"].as_f64().unwrap() > 0.95, "{policy}: {last}");
        match policy {
            "full" => {
                assert_eq!((steps, ages), (vec![2, 4, 6], vec![2, 2, 2]));
                assert!(graphs.iter().all(|graph| *graph == "build"), "{graphs:?}");
            }
            "full-reuse" => {
                assert_eq!(steps, [2, 4, 5, 6]);
                assert!(graphs.iter().all(|graph| *graph != "build"), "{graphs:?}");
            }
            "background" => {
                assert_eq!((steps, ages), (vec![3, 5, 6], vec![3, 3, 2]));
                assert_eq!(actions, ["swapped", "swapped", "embedded"]);
                // A snapshot's vectors are no truth: passages are embedded with the live encoder to measure them.
                for swapped in &refreshes[..2] {
                    assert_eq!((&swapped["passages"], &swapped["taken_over"]), (&120.into(), &0.into()), "{swapped}");
                    assert!(
                        swapped["measured"].as_str().unwrap().starts_with("all passages embedded anew"),
                        "{swapped}"
                    );
                }
            }
            "rows" => {
                assert_eq!((steps, actions), (vec![2, 4, 6], vec!["rows", "rows", "embedded"]));
                assert!(refreshes[0]["passages"].as_u64().unwrap() <= 70, "{refreshes:?}");
                for renewed in &refreshes[..2] {
                    for (raw, ranked) in
                        [("recall_before", "recall_reranked"), ("recall_after", "recall_reranked_after")]
                    {
                        assert!(renewed[ranked].as_f64().unwrap() >= renewed[raw].as_f64().unwrap(), "{renewed}");
                    }
                }
                assert!(refreshes[0]["measured"].as_str().unwrap().contains("upper bound"), "{refreshes:?}");
            }
            "lazy" => {
                assert_eq!(steps, [4, 6]);
                assert!(refreshes[0]["between"].as_u64().unwrap() > 0, "{refreshes:?}");
                let (raw, ranked) = (&refreshes[0]["recall_before"], &refreshes[0]["recall_reranked"]);
                // By vectors up to two steps old, which may cost a passage, not what ranking gains.
                assert!(ranked.as_f64().unwrap() >= raw.as_f64().unwrap() - 0.02, "{refreshes:?}");
            }
            "adapter" => {
                assert_eq!(steps, [2, 4, 6]);
                for refresh in &refreshes[..2] {
                    let (before, after) = (refresh["recall_before"].as_f64(), refresh["recall_after"].as_f64());
                    assert_eq!(refresh["action"] == "adapter", after > before, "{refresh}");
                }
            }
            "drift" => {
                assert_eq!(steps, [1, 2, 3, 4, 5, 6]);
                for refresh in &refreshes[..5] {
                    let found =
                        if refresh["action"] == "kept" { &refresh["recall_before"] } else { &refresh["estimate"] };
                    assert_eq!(refresh["action"] == "kept", found.as_f64().unwrap() >= 0.99, "{refresh}");
                }
            }
            _ => assert_eq!(steps, [6]),
        }
        for phase in ["embed", "write", "graph", "swap", "retrieve"] {
            assert!(charged(&record["ledger"], phase, "seconds") > 0.0, "{policy}: nothing was charged to `{phase}`");
        }
        assert!(charged(&record["ledger"], "retrieve", "searches") > 0.0, "{policy}: probes search too");
    }
}

#[test]
fn a_snapshot_survives_a_kill_while_it_is_embedded() {
    let settings = ["--refresh-every", "2", "--refresh-lag", "2", "--refresh-threads", "2"];
    let folder = folder();
    let straight = folder.path().join("straight");
    let index = index_copy(folder.path());
    six_steps("background", &settings, &index, &straight).run().done();
    for steps in [2, 3, 4] {
        let out = folder.path().join(format!("killed-{steps}"));
        let mut running = six_steps("background", &settings, &index, &out).start();
        let done = || std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count());
        assert!(running.until(|| done() >= steps), "the run ended before the moment came");
        running.kill();
        ragtune(&["train"]).with("--resume", &out).run().done();
        assert_eq!(left(&out), left(&straight), "killed after step {steps}");
    }
}

#[test]
fn a_snapshot_that_was_staged_in_part_is_taken_over_with_what_it_took() {
    // A snapshot before the second step, put to use before the sixth; the index has eight fragments.
    let settings = ["--refresh-schedule", "1-9:4", "--refresh-lag", "4"];
    let folder = folder();
    let index = folder.path().join("index");
    copy(crate::crash::embedded_index(), &index);
    let (straight, killed) = (folder.path().join("straight"), folder.path().join("killed"));
    six_steps("background", &settings, &index, &straight).run().done();
    let mut running = six_steps("background", &settings, &index, &killed).start();
    let journal = index.join("generations/journal.jsonl");
    let staged = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count().saturating_sub(1));
    let checkpoint = killed.join("checkpoints/step-00-00000004");
    assert!(running.until(|| staged() >= 4 && checkpoint.exists()), "the run ended before the moment came");
    running.kill();
    // As if the moment had come when three fragments were staged: of a journal, any beginning holds.
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text.split_inclusive('\n').take(4).collect::<String>()).unwrap();
    let billed = charged(&json(&checkpoint.join("state.json"))["ledger"], "write", "bytes");
    ragtune(&["train"]).with("--resume", &killed).run().done();
    assert_eq!(left(&killed), left(&straight));
    let swapped = |out: &Path| {
        let record = json(&out.join("record.json"));
        let found = record["refreshes"].as_array().unwrap().iter().find(|refresh| refresh["action"] == "swapped");
        found.unwrap().clone()
    };
    let (straight, resumed) = (swapped(&straight), swapped(&killed));
    let three = 3 * crate::crash::ROWS as u64;
    assert_eq!((&straight["taken_over"], &resumed["taken_over"]), (&0.into(), &three.into()));
    assert_eq!(straight["passages"], resumed["passages"]);
    // What the checkpoint had on its bill, and all that was not taken over.
    let dim = json(&encoder().join("config.json"))["hidden_size"].as_u64().unwrap();
    let written = straight["bytes"].as_f64().unwrap() - (4 * dim * three) as f64;
    assert!(billed > 0.0);
    assert_eq!(resumed["bytes"].as_f64().unwrap(), billed + written, "{resumed}");
}

#[test]
fn a_snapshot_that_training_ends_before_is_paid_for_and_on_record() {
    let folder = folder();
    let out = folder.path().join("run");
    let index = index_copy(folder.path());
    let text = std::fs::read_to_string(fixture("tiny/train.jsonl")).unwrap();
    let selection = folder.path().join("selection.jsonl");
    let all: Vec<&str> = text.lines().collect();
    std::fs::write(&selection, all[all.len() - 4..].join("\n") + "\n").unwrap();
    let questions = folder.path().join("questions.jsonl");
    std::fs::write(&questions, all[..all.len() - 4].join("\n") + "\n").unwrap();
    // Steps too small to change a score: the fifth look is the fourth in vain, and the snapshot of step 4 waits for
    // step 8.
    let mut running = ragtune(&["train", "--batch-size", "2", "--top-k", "2", "--max-answer-tokens", "8"])
        .and(&["--strategy", "joint", "--train-passages", "true", "--steps", "9", "--select-by", "mrr"])
        .and(&["--refresh", "background", "--refresh-every", "4", "--refresh-lag", "4"])
        .and(&["--early-stop", "4", "--eval-every", "1", "--lr-encoder", "1e-12", "--lr-generator", "1e-12"])
        .with("--index", &index)
        .with("--questions", &questions)
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--selection-questions", &selection)
        .with("--generator", small_generator())
        .with("--out", &out)
        .start();
    // What goes on from the last checkpoint does not begin the snapshot again.
    let last = out.join("checkpoints/step-00-00000005/state.json");
    assert!(running.until(|| last.exists()), "the run ended before the moment came");
    running.kill();
    assert!(json(&last)["pending"].is_null());
    ragtune(&["train"]).with("--resume", &out).run().done();
    let record = json(&out.join("record.json"));
    assert_eq!(record["steps_done"], 5);
    let refreshes = record["refreshes"].as_array().unwrap();
    let actions: Vec<&str> = refreshes.iter().map(|refresh| refresh["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["dropped", "embedded"]);
    assert!(refreshes[0]["cpu_seconds"].as_f64().unwrap() > 0.0, "{refreshes:?}");
    assert!(refreshes[0]["recall_before"].is_null(), "{refreshes:?}");
    // What steps read is counted for the refresh that took place.
    assert_eq!(refreshes[0]["distinct"], refreshes[1]["distinct"]);
    let embedded = |refresh: &Value| refresh["passages"].as_f64().unwrap() - refresh["taken_over"].as_f64().unwrap();
    let said: f64 = refreshes.iter().map(embedded).sum();
    assert_eq!(charged(&record["ledger"], "embed", "passages"), said, "{refreshes:?}");
    assert!(is_clean(&index));
}

#[test]
fn what_a_policy_does_not_know_is_refused() {
    let folder = folder();
    let refused = |words: &[&str], says: &[&str]| {
        let out = folder.path().join("run");
        train("joint", base_index(), &out).and(&["--train-passages", "true"]).and(words).run().refused(says);
        assert!(!out.exists(), "{words:?}");
    };
    refused(&["--refresh", "hourly"], &["hourly", "full-reuse"]);
    refused(&["--refresh", "question"], &["--refresh question", "passages"]);
    refused(&["--refresh", "rows"], &["--refresh rows", "was not told when", "--refresh-every"]);
    refused(&["--refresh-schedule", "10-5:2"], &["10-5:2", "descends", "FROM-TO:EVERY"]);
    refused(&["--refresh-schedule", "0-9:2", "--refresh-every", "3"], &["--refresh-schedule", "--refresh-every 3"]);
    refused(&["--refresh-depth", "9"], &["--refresh-depth 9", "--refresh lazy", "full-reuse"]);
    let threads = ["--refresh", "background", "--refresh-every", "2", "--refresh-threads", "100000"];
    refused(&threads, &["--refresh-threads 100000", "1024", "cores"]);
    refused(&["--refresh-target", "0.9"], &["--refresh-target 0.9", "--refresh drift"]);
    // No step of these finds its passages in the index.
    for strategy in ["embedder", "ance"] {
        let out = folder.path().join("run");
        let run = train(strategy, base_index(), &out).and(&["--train-passages", "true", "--refresh", "lazy"]).run();
        run.refused(&["--refresh lazy", &format!("--strategy {strategy}"), "full-reuse"]);
        assert!(!out.exists(), "{strategy}");
    }
}

#[test]
fn a_dry_run_counts_the_passages_of_a_policy() {
    let folder = folder();
    for (policy, settings, says) in [
        (
            "background",
            &["--refresh-every", "4"][..],
            "at most 2 refreshes of 60 passages, and at most 60 passages for `--refresh background` besides: at most 180",
        ),
        ("lazy", &[], "at most 1 refreshes of 60 passages, and at most 360 passages for `--refresh lazy` besides"),
        ("adapter", &["--refresh-every", "5"], "at most 1 refreshes of 60 passages, and at most 60 passages"),
    ] {
        let out = folder.path().join(policy);
        let ran = train("joint", base_index(), &out)
            .and(&["--train-passages", "true", "--steps", "10", "--dry-run", "--refresh", policy])
            .and(settings)
            .run()
            .done();
        assert!(ran.stdout.contains(says), "{policy}: {ran:#?}");
    }
}

#[test]
fn a_depth_that_no_number_holds_a_batch_of_is_counted_as_all_there_are() {
    let folder = folder();
    let ran = ragtune(&["train", "--strategy", "joint", "--train-passages", "true", "--steps", "10", "--dry-run"])
        .and(&["--refresh", "lazy", "--refresh-depth", "4611686018427387904", "--batch-size", "4", "--top-k", "2"])
        .with("--index", base_index())
        .with("--questions", fixture("tiny/train.jsonl"))
        .with("--eval-questions", fixture("tiny/dev.jsonl"))
        .with("--generator", small_generator())
        .with("--out", folder.path().join("run"))
        .run()
        .done();
    let says = "at most 1 refreshes of 60 passages, and at most 540 passages for `--refresh lazy` besides";
    assert!(ran.stdout.contains(says), "{ran:#?}");
}

#[test]
fn an_index_that_was_built_with_another_beam_and_fewer_probes_keeps_its_edges() {
    let folder = folder();
    let (index, out) = (folder.path().join("index"), folder.path().join("run"));
    copy(crate::crash::bare_index(), &index);
    let embedded = Corpus::open(base_index()).unwrap().current().unwrap().unwrap();
    {
        let corpus = Corpus::open(&index).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let dim = embedded.dim();
        let mut writer = corpus.begin(&lock, embedded.fingerprint(), dim).unwrap();
        for fragment in writer.pending() {
            let rows = fragment.first as usize * dim..(fragment.first + fragment.rows) as usize * dim;
            writer.write(&fragment, &embedded.vectors()[rows]).unwrap();
        }
        let params = GraphParams { ef: 48, probes: 20, ..GraphParams::default() };
        writer.commit(&params, GraphPlan::Build, &mut |_| {}).unwrap();
    }
    let settings = ["--refresh-every", "3"];
    six_steps("full-reuse", &settings, &index, &out).with("--encoder", encoder()).run().done();
    let record = json(&out.join("record.json"));
    let refreshes = record["refreshes"].as_array().unwrap();
    let graphs: Vec<&str> = refreshes.iter().map(|refresh| refresh["graph"].as_str().unwrap()).collect();
    assert!(graphs.len() == 2 && graphs.iter().all(|graph| *graph != "build"), "{graphs:?}");
}
