//! Two writers on one index: the second learns who the first is; readers are not disturbed.

use std::path::Path;

use ragtune_index::Corpus;

use crate::support::*;

fn steps(out: &Path) -> usize {
    std::fs::read_to_string(out.join("metrics.jsonl")).map_or(0, |text| text.lines().count())
}

#[test]
fn two_trainers_on_one_index() {
    let folder = folder();
    let index = index_copy(folder.path());
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let passages = |out: &Path| train("joint", &index, out).and(&["--train-passages", "true", "--steps", "400"]);
    let mut first = passages(&one).start();
    assert!(first.until(|| steps(&one) >= 1));
    let owner = format!("ragtune train --out {}", one.display());
    passages(&two).run().refused(&[&owner, &first.id().to_string()]);
    assert!(!two.exists());
    // A build is a writer too.
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &index).refused(&[&owner, &first.id().to_string()]);
    // Training that leaves the passages alone, searches and checks only read.
    train("joint", &index, &two).and(&["--steps", "1"]).run().done();
    assert_eq!(search(&index, "red bull", 3, &[]), search(base_index(), "red bull", 3, &[]));
    let before = steps(&one);
    assert!(first.until(|| steps(&one) > before), "the first goes on undisturbed");
    // The lock dies with its owner, however it dies.
    first.kill();
    passages(&folder.path().join("three")).and(&["--lr-encoder", "1e-4"]).with("--schedule", "constant").start().kill();
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &index).done();
    assert!(is_clean(&index));
}

#[test]
fn a_build_names_the_owner_of_the_index() {
    let folder = folder();
    let index = index_copy(folder.path());
    let corpus = Corpus::open(&index).unwrap();
    let lock = corpus.lock("the integration tests").unwrap();
    let says = ["`the integration tests`", &std::process::id().to_string()];
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &index).refused(&says);
    ragtune(&["index", "check", "--mend"]).with("--index", &index).run().refused(&says);
    drop(lock);
    build(&fixture("tiny/corpus.jsonl"), &encoder(), &index).done();
}

/// Whoever comes second either waits for nothing and is refused, or finds the work done.
#[test]
fn two_builds_at_once() {
    for _round in 0..3 {
        let folder = folder();
        let out = folder.path().join("index");
        let start = || build_command(&fixture("tiny/corpus.jsonl"), &encoder(), &out).start();
        let both = [start(), start()];
        let ended = both.map(Running::end);
        assert!(ended.iter().any(|ran| ran.code == Some(0)), "{ended:#?}");
        for ran in ended {
            if ran.code != Some(0) {
                ran.refused(&[&out.display().to_string()]);
            }
        }
        build(&fixture("tiny/corpus.jsonl"), &encoder(), &out).done();
        assert!(is_clean(&out));
        assert_eq!(search(&out, "red bull", 3, &[]), search(base_index(), "red bull", 3, &[]));
    }
}
