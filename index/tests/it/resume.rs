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
