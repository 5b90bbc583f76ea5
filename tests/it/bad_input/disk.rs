//! A disk that is full: a clear error, earlier state intact, and the same command works once there is room.

use crate::support::*;

#[test]
fn a_build_on_a_full_disk() {
    let Some(disk) = Tmpfs::mount(16) else { return };
    let out = disk.path().join("index");
    for kibibytes in [16, 64, 100, 140] {
        disk.resize(kibibytes);
        let ran = build(&fixture("tiny/corpus.jsonl"), &encoder(), &out);
        // How much an index takes is its own affair; what does not fit is refused.
        if ran.code == Some(0) {
            assert!(kibibytes > 100, "60 passages of 160 numbers do not fit into {kibibytes} KiB");
            break;
        }
        ran.refused(&["full"]);
    }
    disk.resize(4096);
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &out).done();
    assert!(is_clean(&out));
    assert_eq!(search(&out, "red bull", 3, &[]), search(base_index(), "red bull", 3, &[]));
}

#[test]
fn a_checkpoint_on_a_full_disk() {
    let Some(disk) = Tmpfs::mount(64 * 1024) else { return };
    let folder = folder();
    let train_to = |out: &std::path::Path| {
        train("embedder", base_index(), out).and(&["--steps", "4", "--checkpoint-every", "1", "--lr-encoder", "1e-3"])
    };
    let whole = folder.path().join("run");
    train_to(&whole).run().done();
    // Weights and two moments of 2 M numbers are 24 MB: the first checkpoint fits, the second does not.
    disk.resize(36 * 1024);
    let out = disk.path().join("run");
    train_to(&out).run().refused(&["checkpoint", "full", &format!("ragtune train --resume {}", out.display())]);
    assert_eq!(json(&out.join("record.json"))["status"], "interrupted");
    let kept: Vec<_> =
        std::fs::read_dir(out.join("checkpoints")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(kept, ["step-00-00000001"], "the earlier checkpoint is kept, of the later nothing");
    disk.resize(128 * 1024);
    ragtune(&["train"]).with("--resume", &out).run().done();
    for file in ["encoder/model.safetensors", "metrics.jsonl", "scores-final.jsonl"] {
        assert_eq!(digest(&out.join(file)), digest(&whole.join(file)), "{file}");
    }
}

#[test]
fn a_refresh_on_a_full_disk() {
    let Some(disk) = Tmpfs::mount(8 * 1024) else { return };
    let folder = folder();
    let index = disk.path().join("index");
    copy(base_index(), &index);
    let before = search(&index, "red bull", 5, &[]);
    disk.resize(disk.used() as usize / 1024 + 40);
    let out = folder.path().join("run");
    let ran = train("joint", &index, &out)
        .and(&["--train-passages", "true", "--refresh-every", "1", "--steps", "2", "--checkpoint-every", "1"])
        .run();
    ran.refused(&["full"]);
    assert_eq!(search(&index, "red bull", 5, &[]), before);
    disk.resize(8 * 1024);
    let check = ragtune(&["index", "check", "--json"]).with("--index", &index).run();
    let defects: Vec<serde_json::Value> = serde_json::from_str(&check.stdout).unwrap();
    assert!(defects.iter().all(|defect| defect["kind"] == "leftover"), "{check:#?}");
    ragtune(&["train"]).with("--resume", &out).run().done();
    assert!(is_clean(&index));
}
