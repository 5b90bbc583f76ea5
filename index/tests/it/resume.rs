//! A generation that was interrupted goes on from what is staged, or is discarded as a whole.

use ragtune_index::*;

use crate::common::*;

const DIM: usize = 16;

#[test]
fn the_same_encoder_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 300);
    let given = vectors(300, DIM, 1);
    embed(&corpus, &encoder("old"), DIM, &vectors(300, DIM, 9));
    for round in 0..3usize {
        // Another process: everything is opened anew.
        let corpus = Corpus::open(dir.path()).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
        let pending = writer.pending();
        assert_eq!(pending.len(), 5 - round);
        writer.write(&pending[0], rows(&pending[0], DIM, &given)).unwrap();
        assert_eq!(corpus.current().unwrap().unwrap().number(), 1);
        drop(writer);
        let found = check(dir.path()).unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].kind, DefectKind::Leftover);
        assert!(found[0].what.contains(&format!("after {} of 5", round + 1)), "{found:?}");
    }
    {
        let lock = corpus.lock("a test").unwrap();
        corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
        let writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
        assert_eq!(writer.pending().len(), 2, "mending spares what can be taken up again");
    }
    let generation = embed(&corpus, &encoder("a"), DIM, &given);
    assert_eq!(generation.number(), 2);
    assert!(same(generation.vectors(), &given));
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn another_encoder_starts_from_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 200);
    {
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
        let given = vectors(200, DIM, 1);
        for fragment in writer.pending() {
            writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
        }
        drop(writer);
        let writer = corpus.begin(&lock, &encoder("b"), DIM).unwrap();
        assert_eq!(writer.pending().len(), corpus.fragments().len());
    }
    let given = vectors(200, DIM, 2);
    let generation = embed(&corpus, &encoder("b"), DIM, &given);
    assert!(same(generation.vectors(), &given));
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn a_staged_file_that_changed_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 200);
    let given = vectors(200, DIM, 1);
    let texts: Vec<_> =
        std::fs::read_dir(dir.path().join("corpus.lance/data")).unwrap().map(|f| f.unwrap().path()).collect();
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
    for fragment in &writer.pending()[..2] {
        writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
    }
    drop(writer);
    let staged = std::fs::read_dir(dir.path().join("corpus.lance/data"))
        .unwrap()
        .map(|f| f.unwrap().path())
        .find(|path| !texts.contains(path))
        .unwrap();
    let mut bytes = std::fs::read(&staged).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&staged, bytes).unwrap();
    let writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
    assert_eq!(writer.pending().len(), corpus.fragments().len() - 1);
    drop(writer);
    drop(lock);
    assert!(same(embed(&corpus, &encoder("a"), DIM, &given).vectors(), &given));
    assert!(check(dir.path()).unwrap().is_empty(), "the changed file is gone");
}

#[test]
fn a_writer_that_was_laid_aside_goes_on_without_reading_what_it_staged() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 300);
    let given = vectors(300, DIM, 1);
    let data = || std::fs::read_dir(dir.path().join("corpus.lance/data")).unwrap().map(|file| file.unwrap().path());
    let texts: Vec<_> = data().collect();
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
    let fragments = writer.pending();
    writer.write(&fragments[0], rows(&fragments[0], DIM, &given)).unwrap();
    // A file that is gone is not missed before it is read; it is when the work is taken up by another.
    let staged = data().find(|path| !texts.contains(path)).unwrap();
    let bytes = std::fs::read(&staged).unwrap();
    std::fs::remove_file(&staged).unwrap();
    let mut writer = corpus.go_on(&lock, writer.rest()).unwrap();
    assert_eq!(writer.pending(), fragments[1..]);
    writer.write(&fragments[1], rows(&fragments[1], DIM, &given)).unwrap();
    let staging = writer.rest();
    assert_eq!(corpus.begin(&lock, &encoder("a"), DIM).unwrap().pending().len(), fragments.len() - 1);
    std::fs::write(&staged, bytes).unwrap();
    let mut writer = corpus.go_on(&lock, staging).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
    }
    let generation = writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap();
    assert!(same(generation.vectors(), &given));
    drop(lock);
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn a_writer_that_was_laid_aside_begins_again_after_another_commit() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 200);
    let given = vectors(200, DIM, 1);
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
    let fragments = writer.pending();
    writer.write(&fragments[0], rows(&fragments[0], DIM, &given)).unwrap();
    let staging = writer.rest();
    let mut other = corpus.begin(&lock, &encoder("b"), DIM).unwrap();
    for fragment in other.pending() {
        other.write(&fragment, rows(&fragment, DIM, &vectors(200, DIM, 2))).unwrap();
    }
    other.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap();
    let writer = corpus.go_on(&lock, staging).unwrap();
    assert_eq!((writer.number(), writer.pending()), (2, fragments));
}

/// Files that were staged so long ago that Lance's own cleanup takes them for abandoned.
fn age(files: &[std::path::PathBuf]) {
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60 * 24 * 3600);
    for file in files {
        std::fs::File::options().write(true).open(file).unwrap().set_modified(long_ago).unwrap();
    }
}

#[test]
fn work_that_was_interrupted_long_ago_outlives_collecting_mending_and_a_compaction_of_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (all, by) = (vectors(256, DIM, 1), encoder("a"));
    let corpus = create(dir.path(), 192);
    embed(&corpus, &encoder("before"), DIM, &vectors(192, DIM, 9));
    embed(&corpus, &by, DIM, &all[..192 * DIM]);
    // A whole fragment more that the graph does not know: compacting builds the graph and commits nothing.
    crate::changing::append(&corpus, &by, 192..256, &all);
    let corpus = corpus.reopen().unwrap();
    let given = vectors(256, DIM, 2);
    {
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("b"), DIM).unwrap();
        for fragment in &writer.pending()[..2] {
            writer.write(fragment, rows(fragment, DIM, &given)).unwrap();
        }
    }
    let left = |after: &str| {
        let lock = corpus.lock("a test").unwrap();
        assert_eq!(corpus.begin(&lock, &encoder("b"), DIM).unwrap().pending().len(), 2, "after {after}");
    };
    age(&all_files(&dir.path().join("corpus.lance/data")));
    let before = corpus.versions().unwrap().len();
    let lock = corpus.lock("a test").unwrap();
    let compacted = corpus.compact(&lock, &params(), &mut |_| {}).unwrap();
    assert_eq!((compacted.fragments_before, compacted.fragments_after), (4, 4));
    assert_eq!(corpus.stats().unwrap().outside_graph, 0, "the graph was built");
    drop(lock);
    left("compacting");
    let lock = corpus.lock("a test").unwrap();
    corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
    drop(lock);
    left("mending");
    let lock = corpus.lock("a test").unwrap();
    let collected = corpus.gc(&lock, false).unwrap();
    assert!(!collected.versions.is_empty() && corpus.versions().unwrap().len() < before, "{collected:?}");
    drop(lock);
    left("collecting");
    assert!(same(embed(&corpus, &encoder("b"), DIM, &given).vectors(), &given));
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn what_is_stated_of_a_generation_is_as_durable_as_its_commit() {
    let dir = tempfile::tempdir().unwrap();
    let given = vectors(200, DIM, 1);
    let plain = create(dir.path(), 200);
    embed(&plain, &encoder("a"), DIM, &given);
    assert_eq!(plain.stated(1, "encoder").unwrap(), None);
    assert!(create(&dir.path().join("other"), 3).stating("a b", "x").is_err());

    // Begun without, taken up with: what is staged stays.
    {
        let lock = plain.lock("a test").unwrap();
        let mut writer = plain.begin(&lock, &encoder("b"), DIM).unwrap();
        let fragment = writer.pending()[0];
        writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
    }
    let corpus = plain.stating("encoder", "/models/b").unwrap();
    {
        let lock = corpus.lock("a test").unwrap();
        assert_eq!(corpus.begin(&lock, &encoder("b"), DIM).unwrap().pending().len(), 3);
    }
    embed(&corpus, &encoder("b"), DIM, &given);
    // As a kill right behind the commit leaves it: without a sidecar, and so without notes.
    for sidecar in crate::generations::sidecars(dir.path()) {
        std::fs::remove_dir_all(sidecar).unwrap();
    }
    let corpus = Corpus::open(dir.path()).unwrap();
    assert_eq!(corpus.stated(2, "encoder").unwrap().as_deref(), Some("/models/b"));
    only_leftovers(dir.path(), "without sidecars");
    assert_eq!(corpus.stated(2, "encoder").unwrap().as_deref(), Some("/models/b"));
    assert_eq!(corpus.stated(1, "encoder").unwrap(), None);

    // It goes with its generation, and comes back with it.
    embed(&corpus, &encoder("c"), DIM, &given);
    {
        let lock = corpus.lock("a test").unwrap();
        assert_eq!(corpus.rollback(&lock, 2).unwrap(), 4);
    }
    assert_eq!(corpus.stated(4, "encoder").unwrap().as_deref(), Some("/models/b"));
    for seed in ["d", "e", "f"] {
        embed(&corpus, &encoder(seed), DIM, &given);
    }
    assert!(matches!(corpus.stated(4, "encoder"), Err(Error::NoGeneration { .. })));
}
