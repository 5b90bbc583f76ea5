//! Compacting, collecting, going back: what is kept of the past and what is not.

use std::fs;

use ragtune_index::*;

use crate::changing::{DIM, append, delete, holds, model};
use crate::common::*;

pub fn compact(corpus: &Corpus) -> Compacted {
    let lock = corpus.lock("a test").unwrap();
    corpus.compact(&lock, &params(), &mut |_| {}).unwrap()
}

#[test]
fn a_compaction_drops_deleted_rows_and_keeps_everything_else() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(500, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 320);
    let made = embed(&corpus, &by, DIM, &all[..320 * DIM]);
    made.record("build", &serde_json::json!("kept")).unwrap();
    let mut present = model(0..320, &all);
    for step in 0..4 {
        append(&corpus.reopen().unwrap(), &by, 320 + step * 10..330 + step * 10, &all);
        present.extend(model(320 + step * 10..330 + step * 10, &all));
    }
    let gone: Vec<usize> = (0..360).filter(|at| at % 7 == 3 && !(128..192).contains(at)).collect();
    delete(&corpus.reopen().unwrap(), gone.iter().copied());
    present.retain(|at, _| !gone.contains(at));
    let before = corpus.reopen().unwrap();
    holds(&before, &present, "before compacting");
    let files = |corpus: &Corpus| corpus.fragments().len();
    let compacted = compact(&before);
    let now = before.reopen().unwrap();
    assert_eq!((compacted.passages, compacted.dropped), (present.len(), gone.len()));
    assert_eq!((compacted.fragments_before, compacted.fragments_after), (files(&before), files(&now)));
    assert_eq!((now.len(), now.deleted().len()), (present.len(), 0));
    assert!(now.fragments().len() < before.fragments().len());
    holds(&now, &present, "after compacting");
    // The order stays, and vectors to the bit.
    let (old, new) = (before.current().unwrap().unwrap(), now.current().unwrap().unwrap());
    assert_eq!((old.number(), new.number()), (1, 1));
    let live = (0..before.len() as u32).filter(|ordinal| !before.is_deleted(*ordinal));
    for (ordinal, was) in (0u32..).zip(live) {
        assert_eq!(new.vector(ordinal).unwrap(), old.vector(was).unwrap());
        assert_eq!(now.ids().unwrap()[ordinal as usize], before.ids().unwrap()[was as usize]);
    }
    assert_eq!(new.recorded("build").unwrap(), Some(serde_json::json!("kept")));
    assert!(new.graph().is_some());
    // The earlier reader still reads; a second compaction has nothing to do.
    assert_eq!(before.get(&[3]).unwrap(), [passage(3)]);
    let again = compact(&now);
    assert_eq!((again.dropped, again.dataset_version), (0, compacted.dataset_version));
    // Texts and vectors lie in separate files: a refresh leaves the texts as they are.
    let texts = std::fs::read(dir.path().join("texts.json")).unwrap();
    embed(&now, &encoder("b"), DIM, &vectors(now.len(), DIM, 4));
    assert_eq!(std::fs::read(dir.path().join("texts.json")).unwrap(), texts);
    assert!(check(dir.path()).unwrap().is_empty());
    append(&now.reopen().unwrap(), &encoder("b"), 400..410, &all);
}

#[test]
fn a_collection_frees_what_a_compaction_left_and_says_so_first() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 300);
    embed(&corpus, &by, DIM, &all);
    delete(&corpus, (0..300).filter(|at| at % 2 == 0));
    compact(&corpus.reopen().unwrap());
    let corpus = corpus.reopen().unwrap();
    let before = corpus.stats().unwrap();
    let stale = corpus.reopen().unwrap();
    let lock = corpus.lock("a test").unwrap();
    fs::write(dir.path().join("generations/.tmp-left"), "half").unwrap();
    let planned = corpus.gc(&lock, true).unwrap();
    assert!(planned.dry_run && planned.bytes > 0 && !planned.versions.is_empty(), "{planned:?}");
    assert!(planned.files.iter().any(|file| file.file == "generations/.tmp-left" && file.bytes == 4), "{planned:?}");
    assert!(planned.files.iter().any(|file| file.file.starts_with("corpus.lance/_deletions/")), "{planned:?}");
    assert_eq!(corpus.stats().unwrap().vector_bytes, before.vector_bytes, "looking changes nothing");
    let collected = corpus.gc(&lock, false).unwrap();
    assert_eq!((&collected.files, collected.bytes), (&planned.files, planned.bytes));
    for file in &collected.files {
        assert!(!dir.path().join(&file.file).exists(), "{}", file.file);
    }
    let after = corpus.stats().unwrap();
    assert!(after.total_bytes() + collected.bytes <= before.total_bytes() + 4, "{before:?} {collected:?} {after:?}");
    assert!(after.text_bytes < before.text_bytes && after.vector_bytes < before.vector_bytes);
    let again = corpus.gc(&lock, false).unwrap();
    assert!(again.files.is_empty() && again.versions.is_empty(), "{again:?}");
    drop(lock);
    let mut present = model(0..300, &all);
    present.retain(|at, _| at % 2 == 1);
    holds(&corpus.reopen().unwrap(), &present, "after a collection");
    // A reader from before the collection saw the same rows; one from before the compaction is told.
    assert_eq!(stale.get(&[0]).unwrap(), [passage(1)]);
}

#[test]
fn a_reader_of_collected_texts_is_told_that_the_index_changed() {
    let dir = tempfile::tempdir().unwrap();
    let all = vectors(200, DIM, 1);
    let early = create(dir.path(), 200);
    embed(&early, &encoder("a"), DIM, &all);
    let generation = early.current().unwrap().unwrap();
    delete(&early, [0, 1, 70]);
    let now = early.reopen().unwrap();
    compact(&now);
    assert_eq!(early.get(&[0]).unwrap(), [passage(0)], "the state before stays for its readers");
    let now = now.reopen().unwrap();
    let lock = now.lock("a test").unwrap();
    now.gc(&lock, false).unwrap();
    let question = vectors(1, DIM, 3);
    assert_eq!(generation.search(&question, 5, Search::Exact, Trust::StaleAllowed).unwrap()[0].len(), 5);
    let error = early.get(&[0]).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }) && error.hint().is_some(), "{error:?}");
    assert!(matches!(early.current().unwrap_err(), Error::Changed { .. }));
    let error = early.matching("title LIKE 'Title 2%'").unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error:?}");
}

#[test]
fn a_collection_keeps_what_is_protected_and_what_can_be_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 200);
    for seed in 1..4u64 {
        embed(&corpus, &encoder(&seed.to_string()), DIM, &vectors(200, DIM, seed));
        if seed == 1 {
            let lock = corpus.lock("a test").unwrap();
            corpus.protect(&lock, 1, "base").unwrap();
        }
    }
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder("4"), DIM).unwrap();
    let given = vectors(200, DIM, 4);
    for fragment in &writer.pending()[..2] {
        writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
    }
    drop(writer);
    corpus.gc(&lock, false).unwrap();
    assert_eq!(corpus.generations().unwrap().iter().map(|info| info.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(corpus.begin(&lock, &encoder("4"), DIM).unwrap().pending().len(), 2);
    // Another encoder's work makes the journal one of no use.
    let mut writer = corpus.begin(&lock, &encoder("5"), DIM).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
    }
    writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap();
    let collected = corpus.gc(&lock, false).unwrap();
    assert_eq!(collected.generations, [0u32; 0]);
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn going_back_restores_vectors_and_passages_under_a_new_number() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(300, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 200);
    let first = embed(&corpus, &by, DIM, &all[..200 * DIM]);
    embed(&corpus, &encoder("b"), DIM, &vectors(200, DIM, 2));
    let rollback = |number: u32| {
        let corpus = corpus.reopen().unwrap();
        let lock = corpus.lock("a test").unwrap();
        corpus.rollback(&lock, number)
    };
    // Vectors alone: the rows are the same, and so is the graph.
    assert_eq!(rollback(1).unwrap(), 3);
    let now = corpus.reopen().unwrap();
    holds(&now, &model(0..200, &all), "back at generation 1");
    let back = now.current().unwrap().unwrap();
    assert_eq!((back.number(), back.fingerprint(), back.vectors()), (3, &by, first.vectors()));
    assert_eq!(back.graph(), first.graph());
    assert!(matches!(rollback(3), Err(Error::Newest { number: 3, .. })));
    assert!(matches!(rollback(1), Err(Error::NoGeneration { number: 1, .. })), "it is retired by now");

    // Over an append and a deletion: by version, since all are states of generation 3.
    append(&now, &by, 200..230, &all);
    delete(&now.reopen().unwrap(), [5, 6, 100]);
    let now = now.reopen().unwrap();
    let versions = now.versions().unwrap();
    let said: Vec<_> = versions.iter().map(|info| (info.generation, info.made_by.as_deref().unwrap())).collect();
    assert_eq!(said, [(2, "refresh"), (3, "append"), (3, "delete")]);
    assert_eq!(
        versions.iter().map(|info| (info.passages, info.deleted)).collect::<Vec<_>>(),
        [(200, 0), (230, 0), (227, 3)]
    );
    assert!(versions[2].current && !versions[1].current && versions[2].made_at.len() > 18);
    let lock = now.lock("a test").unwrap();
    let error = now.rollback_to_version(&lock, 9999).unwrap_err();
    assert!(matches!(error, Error::NoVersion { .. }) && error.hint().is_some(), "{error}");
    assert_eq!(now.rollback_to_version(&lock, versions[1].dataset_version).unwrap(), 4);
    drop(lock);
    holds(&now.reopen().unwrap(), &model(0..230, &all), "back before the deletion");

    // To a state with deleted rows, over a compaction.
    let now = now.reopen().unwrap();
    delete(&now, (64..192).chain([3, 200]));
    let mut present = model(0..230, &all);
    present.retain(|at, _| !(64..192).contains(at) && ![3, 200].contains(at));
    compact(&now.reopen().unwrap());
    let now = now.reopen().unwrap();
    holds(&now, &present, "compact");
    append(&now, &by, 240..250, &all);
    let now = now.reopen().unwrap();
    let state = now.versions().unwrap().iter().find(|info| info.made_by.as_deref() == Some("compact")).unwrap().clone();
    let lock = now.lock("a test").unwrap();
    assert_eq!(now.rollback_to_version(&lock, state.dataset_version).unwrap(), 5);
    drop(lock);
    holds(&now.reopen().unwrap(), &present, "back at the compact state");
    delete(&now.reopen().unwrap(), [0, 1]);
    let with_deleted = now.reopen().unwrap().versions().unwrap().pop().unwrap();
    embed(&now.reopen().unwrap(), &encoder("c"), DIM, &vectors(present.len(), DIM, 8));
    append(&now.reopen().unwrap(), &encoder("c"), 260..262, &all);
    let now = now.reopen().unwrap();
    let lock = now.lock("a test").unwrap();
    assert_eq!(now.rollback_to_version(&lock, with_deleted.dataset_version).unwrap(), 7);
    drop(lock);
    present.remove(&0);
    present.remove(&1);
    holds(&now.reopen().unwrap(), &present, "back at a state with deleted rows");
}

#[test]
fn a_writer_at_rest_whose_journal_was_removed_or_written_anew_loses_nothing_of_what_it_writes() {
    for how in ["collecting", "mending", "beginning"] {
        let dir = tempfile::tempdir().unwrap();
        let (corpus, by, given) = (create(dir.path(), 200), encoder("b"), vectors(200, DIM, 2));
        embed(&corpus, &encoder("a"), DIM, &vectors(200, DIM, 1));
        let lock = corpus.lock("a test").unwrap();
        let staging = corpus.begin(&lock, &by, DIM).unwrap().rest();
        match how {
            "collecting" => drop(corpus.gc(&lock, false).unwrap()),
            "mending" => drop(corpus.mend(&lock, &params(), &mut |_| {}).unwrap()),
            _ => drop(corpus.begin(&lock, &by, DIM).unwrap()),
        }
        let mut writer = corpus.go_on(&lock, staging).unwrap();
        let fragments = writer.pending();
        for fragment in &fragments[..2] {
            writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
        }
        drop(writer);
        corpus.gc(&lock, false).unwrap();
        let mut writer = corpus.begin(&lock, &by, DIM).unwrap();
        assert_eq!(writer.pending(), fragments[2..], "{how}");
        for fragment in &fragments[2..] {
            writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
        }
        let made = writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap();
        assert!(same(made.vectors(), &given), "{how}");
        drop(lock);
        assert!(check(dir.path()).unwrap().is_empty(), "{how}: {:?}", check(dir.path()));
    }
}
