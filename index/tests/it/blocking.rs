//! Damage in one place does not stand in the way of the others, and is not taken for an older state.

use std::fs;
use std::path::{Path, PathBuf};

use ragtune_index::*;

use crate::changing::{DIM, append, delete};
use crate::common::*;

const N: usize = 100;

/// Manifests, the newest first.
fn manifests(dir: &Path) -> Vec<PathBuf> {
    let mut found = all_files(&dir.join("corpus.lance/_versions"));
    found.retain(|file| file.extension().is_some_and(|kind| kind == "manifest"));
    found
}

fn mend(dir: &Path) -> Result<Vec<String>> {
    let corpus = Corpus::open(dir)?;
    let lock = corpus.lock("a test")?;
    corpus.mend_alike(&lock, &mut |_| {})
}

#[test]
fn one_damaged_generation_does_not_keep_the_others_from_being_mended() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let texts = all_files(&dir.path().join("corpus.lance/data"));
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    let rotten =
        all_files(&dir.path().join("corpus.lance/data")).into_iter().find(|file| !texts.contains(file)).unwrap();
    let newest = embed(&corpus, &encoder("b"), DIM, &vectors(N, DIM, 2));
    assert_eq!(newest.number(), 2);
    fs::write(&rotten, "rotten").unwrap();
    let current = fs::read_to_string(dir.path().join("generations/CURRENT")).unwrap();
    fs::write(dir.path().join("generations").join(current.trim()).join("graph.bin"), "rt").unwrap();
    fs::write(dir.path().join(".tmp-left"), "half").unwrap();
    let done = mend(dir.path()).unwrap();
    assert!(done.iter().any(|line| line.starts_with("left generation 1 of version")), "{done:?}");
    assert!(done.iter().any(|line| line.starts_with("rebuilt the graph of generation 2")), "{done:?}");
    assert!(!dir.path().join(".tmp-left").exists());
    assert_eq!(corpus.current().unwrap().unwrap().graph_defect(), None);
    let found = check(dir.path()).unwrap();
    let name = rotten.file_name().unwrap().to_str().unwrap();
    assert!(found.iter().all(|defect| defect.kind == DefectKind::Damage && defect.file.ends_with(name)), "{found:?}");
    assert_eq!(found.len(), 1);
}

#[test]
fn a_lost_newest_manifest_is_damage_and_not_an_older_state() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    append(&corpus, &encoder("a"), N..N + 5, &vectors(N + 5, DIM, 1));
    let whole = seen(dir.path());
    let newest = manifests(dir.path()).remove(0);
    let (good, listed) = (fs::read(&newest).unwrap(), fs::read(dir.path().join("manifests.json")).unwrap());
    fs::remove_file(&newest).unwrap();
    for torn in [false, true] {
        let half = newest.with_file_name(format!("{:020}.manifest", u64::MAX - 999));
        if torn {
            // What a power cut left of a commit behind it is set aside, and hides nothing.
            fs::write(&half, "half").unwrap();
        }
        let error = Corpus::open(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }) && error.hint().is_some(), "{error:?}");
        assert!(error.to_string().contains(newest.file_name().unwrap().to_str().unwrap()), "{error}");
        let found = check(dir.path()).unwrap();
        assert!(found.iter().any(|defect| defect.kind == DefectKind::Damage), "{found:?}");
        assert!(mend(dir.path()).is_err());
        // Somebody who had it open gives up a lock.
        drop(corpus.lock("a test").unwrap());
        assert_eq!(fs::read(dir.path().join("manifests.json")).unwrap(), listed);
    }
    fs::write(&newest, good).unwrap();
    assert_eq!(seen(dir.path()), whole);
    only_leftovers(dir.path(), "with the manifest put back");
}

#[test]
fn an_index_that_is_created_where_one_was_is_not_held_against_its_manifests() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    for seed in 1..4 {
        embed(&corpus, &encoder(&seed.to_string()), DIM, &vectors(N, DIM, seed));
    }
    fs::remove_dir_all(dir.path().join("corpus.lance")).unwrap();
    let corpus = create(dir.path(), N);
    assert_eq!(corpus.generations().unwrap().len(), 0);
    only_leftovers(dir.path(), "created anew");
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 5));
    assert!(check(dir.path()).unwrap().is_empty(), "{:?}", check(dir.path()));
}

#[test]
fn an_old_version_that_cannot_be_read_stops_a_change_before_its_commit_and_is_dropped_by_mending() {
    let dir = tempfile::tempdir().unwrap();
    let all = vectors(N + 5, DIM, 1);
    let corpus = create(dir.path(), N);
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 3));
    embed(&corpus, &encoder("b"), DIM, &all[..N * DIM]);
    delete(&corpus, [7]);
    let before = seen(dir.path());
    let old = manifests(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&old).unwrap();
    let length = bytes.len();
    bytes[..length - 4].fill(255);
    fs::write(&old, bytes).unwrap();
    let corpus = Corpus::open(dir.path()).unwrap();
    let newest = manifests(dir.path());
    {
        let lock = corpus.lock("a test").unwrap();
        let new = (N..N + 5).map(|at| Ok::<_, Error>(passage(at)));
        let mut given = |_: &[Passage]| Ok(all[N * DIM..].to_vec());
        let outcomes = [
            corpus.append(&lock, &encoder("b"), DIM, new, &mut given).map(drop),
            corpus.delete(&lock, &[passage(1).id]).map(drop),
            corpus.compact(&lock, &params(), &mut |_| {}).map(drop),
            corpus.begin(&lock, &encoder("c"), DIM).map(drop),
        ];
        for outcome in outcomes {
            assert!(outcome.is_err_and(|error| error.hint().is_some()));
        }
    }
    assert_eq!(manifests(dir.path()), newest, "nothing was committed");
    let found = check(dir.path()).unwrap();
    assert!(found.iter().any(|defect| defect.mend.contains("--mend")), "{found:?}");
    let done = mend(dir.path()).unwrap();
    assert!(done.iter().any(|line| line.starts_with("dropped version")), "{done:?}");
    assert!(!old.exists());
    assert_eq!(seen(dir.path()), before);
    assert!(check(dir.path()).unwrap().is_empty(), "{:?}", check(dir.path()));
    append(&corpus, &encoder("b"), N..N + 5, &all);
}

#[test]
fn a_version_that_somebody_keeps_is_not_dropped_however_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let first = embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1)).dataset_version();
    corpus.protect(&corpus.lock("a test").unwrap(), 1, "run").unwrap();
    embed(&corpus, &encoder("b"), DIM, &vectors(N, DIM, 2));
    let kept = dir.path().join(format!("corpus.lance/_versions/{:020}.manifest", u64::MAX - first));
    fs::write(&kept, "rotten").unwrap();
    let error = mend(dir.path()).unwrap_err();
    assert!(error.hint().is_some(), "{error:?}");
    assert!(kept.exists());
    assert!(check(dir.path()).unwrap().iter().any(|defect| defect.kind == DefectKind::Damage));
}

#[test]
fn an_index_begun_small_grows_in_full_fragments() {
    let dir = tempfile::tempdir().unwrap();
    let all = vectors(400, DIM, 1);
    let corpus = Corpus::create(dir.path(), &source(), passages(10), &CreateOptions::default()).unwrap();
    embed(&corpus, &encoder("a"), DIM, &all[..10 * DIM]);
    assert_eq!(append(&corpus, &encoder("a"), 10..390, &all).fragments, 1);
    append(&corpus.reopen().unwrap(), &encoder("a"), 390..400, &all);
    let compacted = crate::past::compact(&corpus.reopen().unwrap());
    assert_eq!((compacted.fragments_before, compacted.fragments_after), (3, 1));
    crate::changing::holds(&corpus.reopen().unwrap(), &crate::changing::model(0..400, &all), "grown");
}
