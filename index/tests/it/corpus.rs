//! Passages in, passages out.

use std::fs;
use std::path::Path;

use ragtune_index::*;

use crate::common::*;

#[test]
fn passages_come_back_in_any_order_and_by_fragment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a dir with spaces, ünïcode and 100%");
    drop(create(&path, 200));
    let corpus = Corpus::open(&path).unwrap();
    assert_eq!(corpus.len(), 200);
    assert_eq!(corpus.source(), &source());
    assert_eq!(corpus.uuid().len(), 32);
    assert!(corpus.notices().is_empty());
    let asked = [199, 0, 64, 63, 0, 128];
    let got = corpus.get(&asked).unwrap();
    assert_eq!(got, asked.map(|at| passage(at as usize)));
    assert!(corpus.get(&[]).unwrap().is_empty());
    let fragments = corpus.fragments();
    assert_eq!(
        fragments.iter().map(|f| (f.first, f.rows)).collect::<Vec<_>>(),
        [(0, 64), (64, 64), (128, 64), (192, 8)]
    );
    let mut all = Vec::new();
    for fragment in &fragments {
        all.extend(corpus.read(fragment, 0..fragment.rows).unwrap());
    }
    assert_eq!(all, (0..200).map(passage).collect::<Vec<_>>());
    assert_eq!(corpus.read(&fragments[1], 3..5).unwrap(), [passage(67), passage(68)]);
    assert!(corpus.read(&fragments[1], 5..5).unwrap().is_empty());
    assert_eq!(corpus.ids().unwrap()[77], "p77");
    assert_eq!(corpus.ordinal("p123").unwrap(), Some(123));
    assert_eq!(corpus.ordinal("nobody").unwrap(), None);
    assert!(corpus.current().unwrap().is_none());
    assert!(corpus.generations().unwrap().is_empty());
    assert!(check(&path).unwrap().is_empty());
}

#[test]
fn passages_and_ranges_that_are_not_there_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 10);
    let message = corpus.get(&[3, 10]).unwrap_err().to_string();
    assert!(message.contains("`10`") && message.contains("holds 10"), "{message}");
    let fragment = corpus.fragments()[0];
    assert!(corpus.read(&fragment, 5..11).is_err());
    assert!(corpus.read(&Fragment { id: 7, ..fragment }, 0..1).is_err());
}

#[test]
fn a_long_passage_and_empty_texts_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let long = "word ".repeat(100_000);
    let all = vec![
        Passage { id: "empty".into(), title: String::new(), text: String::new() },
        Passage { id: "long".into(), title: "Long".into(), text: long.clone() },
    ];
    let corpus = Corpus::create(dir.path(), &source(), all.clone().into_iter().map(Ok::<_, Error>), &OPTIONS).unwrap();
    assert_eq!(corpus.get(&[0, 1]).unwrap(), all);
}

#[test]
fn creation_streams_and_ends_at_the_first_bad_passage() {
    let cases: [(&str, usize, Passage); 2] = [
        ("has the id `p7`, which an earlier passage has too", 3000, passage(7)),
        ("has an empty id", 2500, Passage { id: " ".into(), ..passage(0) }),
    ];
    for (expected, at, bad) in cases {
        let dir = tempfile::tempdir().unwrap();
        let pulled = std::cell::Cell::new(0);
        let stream = (0..100_000).map(|now| {
            pulled.set(now);
            Ok::<_, Error>(if now == at { bad.clone() } else { passage(now) })
        });
        let error = Corpus::create(dir.path(), &source(), stream, &OPTIONS).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.to_string().contains(&format!("passage {}", at + 1)), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(pulled.get(), at, "nothing is pulled after the first error");
        nothing_counts(dir.path());
    }
}

#[test]
fn an_error_of_the_reader_is_the_cause() {
    let dir = tempfile::tempdir().unwrap();
    let stream = (0..5).map(|at| if at < 4 { Ok(passage(at)) } else { Err(std::io::Error::other("line 5 is torn")) });
    let error = Corpus::create(dir.path(), &source(), stream, &OPTIONS).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "line 5 is torn");
    nothing_counts(dir.path());
}

#[test]
fn an_empty_corpus_and_a_second_creation_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = Corpus::create(dir.path(), &source(), passages(0), &OPTIONS).unwrap_err();
    assert!(error.to_string().contains("`corpus.jsonl` holds no passage"), "{error}");
    nothing_counts(dir.path());
    drop(create(dir.path(), 3));
    let error = Corpus::create(dir.path(), &source(), passages(5), &OPTIONS).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(Corpus::open(dir.path()).unwrap().len(), 3);
}

#[test]
fn what_an_interrupted_creation_left_is_removed_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(".creating-1/corpus.lance/data")).unwrap();
    fs::write(dir.path().join(".creating-1/corpus.lance/data/x.lance"), "half").unwrap();
    assert!(matches!(Corpus::open(dir.path()), Err(Error::NoIndex { .. })));
    drop(create(dir.path(), 3));
    assert!(!dir.path().join(".creating-1").exists());
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn a_directory_that_is_no_index_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("missing"), dir.path().to_path_buf()] {
        let error = Corpus::open(&path).unwrap_err();
        assert!(matches!(error, Error::NoIndex { .. }), "{error}");
        assert!(error.hint().unwrap().contains("ragtune index build"));
        assert!(check(&path).is_err());
    }
    fs::create_dir(dir.path().join("corpus.lance")).unwrap();
    let error = Corpus::open(dir.path()).unwrap_err();
    assert!(error.hint().is_some(), "{error}");
}

#[test]
fn two_creations_give_two_identities() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (create(&dir.path().join("1"), 3), create(&dir.path().join("2"), 3));
    assert_ne!(one.uuid(), two.uuid());
}

fn nothing_counts(dir: &Path) {
    assert!(matches!(Corpus::open(dir), Err(Error::NoIndex { .. })));
    let left: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "LOCK"), "{left:?}");
}
