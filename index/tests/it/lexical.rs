//! The words of the passages: read back, made anew where damaged or out of place, never in the way of a generation.

use std::fs;

use ragtune_index::*;

use crate::changing::{DIM, append, delete};
use crate::common::*;

const N: usize = 150;

fn ordinals(ranked: &Ranked) -> Vec<u32> {
    ranked.hits.iter().map(|hit| hit.ordinal).collect()
}

/// Passage `at` holds its number as a word, and the number of its title.
fn finds_by_number(lexical: &Lexical, context: &str) {
    for at in [0usize, 77, N - 1] {
        let found = lexical.search(&[&format!("passage {at}")], 3, &[]).unwrap();
        assert_eq!((found[0].hits.len(), found[0].matched), (3, 3), "{context}");
        assert!(ordinals(&found[0]).contains(&(at as u32)), "{context}: {found:?}");
    }
}

#[test]
fn words_are_made_once_kept_and_read_back_equal() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let made = corpus.lexical(Keep::No).unwrap();
    assert_eq!((made.made(), made.not_kept(), made.len()), (Some("there was none"), None, N));
    assert!(!dir.path().join("lexical.bin").exists(), "nothing is written unless asked");
    finds_by_number(&made, "made");

    let kept = corpus.lexical(Keep::IfFree).unwrap();
    assert!(kept.made().is_some() && kept.not_kept().is_none());
    let bytes = fs::read(dir.path().join("lexical.bin")).unwrap();
    let read = Corpus::open(dir.path()).unwrap().lexical(Keep::No).unwrap();
    assert_eq!(read.made(), None);
    let questions = ["passage 7 text", "title 4", "ünïcode", "the of", ""];
    let all = |lexical: &Lexical| lexical.search(&questions, N, &[vec![0, 5, 149]]).unwrap();
    assert_eq!(all(&read), all(&made));
    // The same passages give the same bytes; only whom they belong to differs from index to index.
    fs::remove_file(dir.path().join("lexical.bin")).unwrap();
    let lock = corpus.lock("a test").unwrap();
    corpus.lexical(Keep::Under(&lock)).unwrap();
    assert_eq!(fs::read(dir.path().join("lexical.bin")).unwrap(), bytes);
    assert!(check(dir.path()).unwrap().is_empty());
    assert!(matches!(read.search(&["x"], N + 1, &[]), Err(Error::TooMany { k, len }) if (k, len) == (N + 1, N)));
}

#[test]
fn a_writer_elsewhere_keeps_words_in_memory_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let lock = corpus.lock("another command").unwrap();
    let words = corpus.lexical(Keep::IfFree).unwrap();
    assert!(words.not_kept().unwrap().contains("`another command`"), "{words:?}");
    finds_by_number(&words, "in memory");
    assert!(!dir.path().join("lexical.bin").exists());
    let other = tempfile::tempdir().unwrap();
    let other = create(other.path(), N);
    assert!(matches!(other.lexical(Keep::Under(&lock)), Err(Error::WrongLock { .. })));
}

#[test]
fn a_refresh_leaves_the_words_as_they_are_and_another_index_does_not_take_them() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    corpus.lexical(Keep::IfFree).unwrap();
    let before = fs::read(dir.path().join("lexical.bin")).unwrap();
    for (name, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        embed(&corpus, &encoder(name), DIM, &vectors(N, DIM, seed));
    }
    assert_eq!(fs::read(dir.path().join("lexical.bin")).unwrap(), before);
    assert_eq!(Corpus::open(dir.path()).unwrap().lexical(Keep::No).unwrap().made(), None);
    assert!(check(dir.path()).unwrap().is_empty());
    // The same passages in another index are other passages: nothing says that they stayed the same.
    let other = tempfile::tempdir().unwrap();
    let copy = create(other.path(), N);
    embed(&copy, &encoder("a"), 16, &vectors(N, 16, 1));
    fs::copy(dir.path().join("lexical.bin"), other.path().join("lexical.bin")).unwrap();
    assert!(copy.lexical(Keep::No).unwrap().made().unwrap().contains("other passages"));
    // No defect: it is whole, and as good as none.
    assert!(check(other.path()).unwrap().is_empty());
    copy.lexical(Keep::IfFree).unwrap();
    assert_eq!(copy.lexical(Keep::No).unwrap().made(), None);
}

#[test]
fn damaged_words_are_said_by_check_mended_and_never_searched() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    embed(&corpus, &encoder("a"), 16, &vectors(N, 16, 1));
    let truth = corpus.lexical(Keep::IfFree).unwrap();
    let path = dir.path().join("lexical.bin");
    let good = fs::read(&path).unwrap();
    let questions = ["passage 7 text", "title 4 9"];
    let mut damaged: Vec<Vec<u8>> = (0..good.len()).step_by(97).map(|length| good[..length].to_vec()).collect();
    damaged.extend((0..good.len()).step_by(97).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        bytes
    }));
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        let words = corpus.lexical(Keep::No).unwrap();
        assert!(words.made().unwrap().starts_with("`lexical.bin`"), "{words:?}");
        assert_eq!(words.search(&questions, 9, &[]).unwrap(), truth.search(&questions, 9, &[]).unwrap());
    }
    let defects = check(dir.path()).unwrap();
    assert_eq!(defects.len(), 1, "{defects:?}");
    assert_eq!((defects[0].kind, defects[0].file.as_str()), (DefectKind::Derived, "lexical.bin"));
    only_leftovers(dir.path(), "damaged");
    assert_eq!(fs::read(&path).unwrap(), good);
    // Killed while writing: the old file stands, what was begun is a leftover.
    fs::write(dir.path().join(".tmp-lexical.bin"), &good[..good.len() / 2]).unwrap();
    assert_eq!(check(dir.path()).unwrap()[0].kind, DefectKind::Leftover);
    assert_eq!(corpus.lexical(Keep::No).unwrap().made(), None);
    only_leftovers(dir.path(), "half-written");
}

#[test]
fn words_follow_appended_and_deleted_passages_and_readers_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let first = create(dir.path(), N);
    let all = vectors(N + 30, DIM, 1);
    embed(&first, &encoder("a"), DIM, &all[..N * DIM]);
    let old = first.lexical(Keep::IfFree).unwrap();
    let only = |words: &Lexical, text: &str| {
        let found = words.search(&[text], 1, &[]).unwrap().remove(0);
        (found.matched == 1).then(|| found.hits[0].ordinal)
    };
    assert_eq!((only(&old, "171"), only(&old, "7")), (None, Some(7)));

    append(&first, &encoder("a"), N..N + 30, &all);
    let appended = first.reopen().unwrap();
    let words = appended.lexical(Keep::IfFree).unwrap();
    assert!(words.made().unwrap().contains("other passages") && words.not_kept().is_none(), "{words:?}");
    assert_eq!((words.len(), only(&words, "171")), (N + 30, Some(171)));
    assert_eq!(appended.lexical(Keep::No).unwrap().made(), None);

    delete(&appended, [7, 171]);
    let left = first.reopen().unwrap();
    assert!(check(dir.path()).unwrap().is_empty(), "words of earlier passages are no defect");
    let words = left.lexical(Keep::IfFree).unwrap();
    assert_eq!((words.len(), left.len()), (N + 28, N + 30));
    // The title of three others is `Title 7`.
    assert_eq!((only(&words, "171"), only(&words, "7"), only(&words, "172")), (None, Some(21), Some(172)));
    // Nobody finds a deleted passage, asked for anything and everything.
    let everything = words.search(&["text of passage title", "zzyzx"], N + 28, &[]).unwrap();
    for found in &everything {
        assert!(ordinals(found).iter().all(|ordinal| ![7, 171].contains(ordinal)));
    }
    // A reader of before keeps what it opened, and its words do not take the place of newer ones.
    let before = first.lexical(Keep::IfFree).unwrap();
    assert!(before.not_kept().unwrap().contains("other passages"), "{before:?}");
    assert_eq!(before.search(&["passage 7"], 9, &[]).unwrap(), old.search(&["passage 7"], 9, &[]).unwrap());
    assert_eq!(left.lexical(Keep::No).unwrap().made(), None);
    // Among some passages: those that fit, in the same order, with the same scores.
    let some = Allowed::new(left.len(), (0..left.len() as u32).filter(|ordinal| ordinal % 3 == 0)).unwrap();
    let among = words.search_among(&["title 4 passage 12"], 5, &[], &some).unwrap().remove(0);
    let all = words.search(&["title 4 passage 12"], N + 28, &[]).unwrap().remove(0);
    let expected: Vec<Hit> = all.hits.into_iter().filter(|hit| some.contains(hit.ordinal)).take(5).collect();
    assert_eq!(among.hits, expected);
    assert!(words.search_among(&["x"], 1, &[], &Allowed::new(3, [0]).unwrap()).is_err());

    let lock = left.lock("a test").unwrap();
    left.compact(&lock, &params(), &mut |_| {}).unwrap();
    drop(lock);
    let compacted = first.reopen().unwrap();
    let words = compacted.lexical(Keep::IfFree).unwrap();
    assert_eq!((words.len(), compacted.len()), (N + 28, N + 28));
    let at = only(&words, "172").unwrap();
    assert_eq!(compacted.get(&[at]).unwrap()[0], passage(172));
    assert!(check(dir.path()).unwrap().is_empty());
}
