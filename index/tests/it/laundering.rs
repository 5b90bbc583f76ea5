//! Damage stays known: whoever writes passages or vectors again does not give wrong ones a right checksum.

use std::fs;
use std::path::{Path, PathBuf};

use ragtune_index::*;

use crate::changing::{DIM, append, delete};
use crate::common::*;

/// Passages: full fragments.
const N: usize = 192;

/// Files of the dataset that were not there before.
fn new_files(dir: &Path, before: &[PathBuf]) -> Vec<PathBuf> {
    all_files(&dir.join("corpus.lance/data")).into_iter().filter(|file| !before.contains(file)).collect()
}

/// An index of three fragments; its text files and its vector files, in whatever order.
fn index(dir: &Path) -> (Corpus, Vec<PathBuf>, Vec<PathBuf>) {
    let corpus = create(dir, N);
    let texts = new_files(dir, &[]);
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    let vectors = new_files(dir, &texts);
    assert_eq!((texts.len(), vectors.len()), (3, 3));
    (corpus, texts, vectors)
}

/// Flips the lowest bit of a byte that changes what is read, so that nobody but `check` notices.
fn rot(dir: &Path, file: &Path) {
    let truth = try_seen(dir).unwrap();
    let good = fs::read(file).unwrap();
    // From the middle, where texts and vectors lie.
    for at in (0..good.len()).map(|at| (at + good.len() / 2) % good.len()) {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(file, &bytes).unwrap();
        let changed =
            |now: &Seen| now.ids == truth.ids && (now.passages != truth.passages || now.generation != truth.generation);
        if try_seen(dir).is_ok_and(|now| changed(&now)) {
            return;
        }
    }
    panic!("no bit of `{}` can change unseen", file.display());
}

/// Asserts that the damage of a file is known.
#[track_caller]
fn known(dir: &Path, file: &Path) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let found = check(dir).unwrap();
    // What keeps the dataset from being read at all is a defect of the dataset, which names the file.
    let names = |defect: &Defect| defect.file.ends_with(name) || defect.what.contains(name);
    let named = found.iter().any(|defect| defect.kind == DefectKind::Damage && names(defect));
    assert!(named, "{name}: {found:?}");
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T>, file: &Path) {
    let error = outcome.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { file: named, .. } if Path::new(named) == file), "{error:?}");
    assert!(error.hint().is_some());
}

#[test]
fn a_compaction_refuses_texts_vectors_and_deletions_that_are_not_what_was_written() {
    for kind in ["texts", "vectors", "deletions"] {
        let dir = tempfile::tempdir().unwrap();
        let (corpus, texts, vectors) = index(dir.path());
        delete(&corpus, [3]);
        let deletions = all_files(&dir.path().join("corpus.lance/_deletions"));
        let file = match kind {
            "texts" => &texts[1],
            "vectors" => &vectors[1],
            _ => &deletions[0],
        };
        let file = file.canonicalize().unwrap();
        match kind {
            // Whole, and of another row: that of an index where another passage is deleted.
            "deletions" => {
                let other = tempfile::tempdir().unwrap();
                delete(&index(other.path()).0, [2]);
                let theirs = all_files(&other.path().join("corpus.lance/_deletions")).remove(0);
                fs::copy(theirs, &file).unwrap();
            }
            _ => rot(dir.path(), &file),
        }
        known(dir.path(), &file);
        // In every fragment, so that every file is to be written again.
        let ids = [10, 90, 150].map(|at| passage(at).id);
        if kind == "deletions" {
            // Whoever opened the index before.
            let lock = corpus.lock("a test").unwrap();
            refused(corpus.delete(&lock, &ids), &file);
            refused(corpus.compact(&lock, &params(), &mut |_| {}), &file);
            drop(lock);
            refused(Corpus::open(dir.path()).map(drop), &file);
            known(dir.path(), &file);
            continue;
        }
        let corpus = Corpus::open(dir.path()).unwrap();
        let lock = corpus.lock("a test").unwrap();
        corpus.delete(&lock, &ids).unwrap();
        let versions = corpus.versions().unwrap();
        refused(corpus.compact(&lock, &params(), &mut |_| {}), &file);
        assert_eq!(corpus.versions().unwrap(), versions, "{kind}: nothing was committed");
        corpus.gc(&lock, false).unwrap();
        known(dir.path(), &file);
    }
}

#[test]
fn a_graph_that_is_built_again_does_not_make_wrong_vectors_right() {
    for how in ["folding", "mending", "appending"] {
        let dir = tempfile::tempdir().unwrap();
        let (corpus, _, files) = index(dir.path());
        if how == "folding" {
            append(&corpus, &encoder("a"), N..N + 1, &vectors(N + 1, DIM, 1));
        }
        rot(dir.path(), &files[0]);
        known(dir.path(), &files[0]);
        let corpus = corpus.reopen().unwrap();
        let graph = || {
            let newest = fs::read_to_string(dir.path().join("generations/CURRENT")).unwrap();
            dir.path().join("generations").join(newest.trim()).join("graph.bin")
        };
        match how {
            "folding" => {
                // The fragment of one passage has no neighbour to be merged with.
                let lock = corpus.lock("a test").unwrap();
                corpus.compact(&lock, &params(), &mut |_| {}).unwrap();
            }
            "mending" => {
                fs::write(graph(), "rt").unwrap();
                let lock = corpus.lock("a test").unwrap();
                corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
            }
            _ => {
                fs::remove_file(graph()).unwrap();
                assert!(append(&corpus, &encoder("a"), N..N + 9, &vectors(N + 9, DIM, 1)).graph_built);
            }
        }
        let corpus = corpus.reopen().unwrap();
        let generation = corpus.current().unwrap().unwrap();
        assert_eq!(generation.graph_defect(), None, "{how}");
        known(dir.path(), &files[0]);
    }
}

#[test]
fn a_rollback_refuses_vectors_and_texts_that_are_not_what_was_written() {
    for kind in ["vectors", "texts"] {
        let dir = tempfile::tempdir().unwrap();
        let (corpus, texts, files) = index(dir.path());
        if kind == "texts" {
            // Of every fragment, so that each is written again.
            delete(&corpus, [3, 70, 130]);
        }
        let corpus = corpus.reopen().unwrap();
        let wanted = corpus.current().unwrap().unwrap().dataset_version();
        let file = if kind == "texts" { &texts[1] } else { &files[1] };
        let file = file.canonicalize().unwrap();
        rot(dir.path(), &file);
        embed(&corpus, &encoder("b"), DIM, &vectors(N, DIM, 2));
        if kind == "texts" {
            delete(&corpus.reopen().unwrap(), [1]);
        }
        let corpus = corpus.reopen().unwrap();
        let before = corpus.versions().unwrap();
        refused(corpus.rollback_to_version(&corpus.lock("a test").unwrap(), wanted), &file);
        assert_eq!(corpus.versions().unwrap(), before, "{kind}: nothing was committed");
        known(dir.path(), &file);
    }
}

#[test]
fn mending_notes_the_texts_that_are_missing_and_leaves_what_was_noted() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, texts, _) = index(dir.path());
    // As an older program leaves it that knows nothing of a new text file: without the last entry, by the checksums of before.
    let noted = fs::read(dir.path().join("texts.json")).unwrap();
    let by = encoder("a");
    append(&corpus, &by, N..N + 5, &vectors(N + 5, DIM, 1));
    fs::write(dir.path().join("texts.json"), noted).unwrap();
    rot(dir.path(), &texts[0]);
    let corpus = corpus.reopen().unwrap();
    let done = corpus.mend(&corpus.lock("a test").unwrap(), &params(), &mut |_| {}).unwrap();
    assert!(done.iter().any(|line| line.contains("texts.json")), "{done:?}");
    known(dir.path(), &texts[0]);
    let found = check(dir.path()).unwrap();
    assert!(found.iter().all(|defect| defect.file != "texts.json"), "{found:?}");
}

/// Their reader would take some bits for a length, and end the process over the memory it asks for.
#[test]
fn a_deletion_file_is_not_read_before_it_is_known_to_be_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let (corpus, ..) = index(scratch.path());
    delete(&corpus, [3, 5, 70]);
    let deletions = all_files(&scratch.path().join("corpus.lance/_deletions"));
    assert_eq!(deletions.len(), 2);
    for file in deletions {
        let good = fs::read(&file).unwrap();
        for bit in (0..8 * good.len()).step_by(7) {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, bytes).unwrap();
            refused(Corpus::open(scratch.path()).map(drop), &file);
        }
        fs::write(&file, good).unwrap();
    }
    Corpus::open(scratch.path()).unwrap();
}

#[test]
fn what_rots_between_staging_and_the_commit_gets_no_right_checksum() {
    let (mut committed, given) = (0, vectors(N, DIM, 1));
    // Bits of every worth: not each leaves vectors that are still of length one.
    for at in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let corpus = create(dir.path(), N);
        let texts = new_files(dir.path(), &[]);
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("a"), DIM).unwrap();
        for fragment in writer.pending() {
            writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
        }
        let staged = new_files(dir.path(), &texts).remove(0);
        let mut bytes = fs::read(&staged).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle + at] ^= 1;
        fs::write(&staged, bytes).unwrap();
        if writer.commit(&params(), GraphPlan::Build, &mut |_| {}).is_ok() {
            committed += 1;
            known(dir.path(), &staged);
        }
    }
    assert!(committed > 0);
}

#[test]
fn a_text_that_a_kept_version_lost_does_not_keep_the_others_from_being_noted() {
    let dir = tempfile::tempdir().unwrap();
    let by = encoder("a");
    let corpus = create(dir.path(), ROWS);
    let text = new_files(dir.path(), &[]).remove(0);
    embed(&corpus, &by, DIM, &vectors(ROWS, DIM, 1));
    corpus.protect(&corpus.lock("a test").unwrap(), 1, "run").unwrap();
    delete(&corpus, [3]);
    crate::past::compact(&corpus.reopen().unwrap());
    let list = dir.path().join("texts.json");
    let noted = fs::read(&list).unwrap();
    append(&corpus.reopen().unwrap(), &by, ROWS..ROWS + 5, &vectors(ROWS + 5, DIM, 1));
    fs::remove_file(&text).unwrap();
    // One that does not tell of what was appended, and one that is damaged.
    for content in [noted.as_slice(), b"{"] {
        fs::write(&list, content).unwrap();
        let corpus = Corpus::open(dir.path()).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let done = corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
        assert!(done.iter().any(|line| line.contains("texts.json")), "{done:?}");
        let again = corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
        assert!(again.is_empty(), "{again:?}");
        drop(lock);
        known(dir.path(), &text);
        let found = check(dir.path()).unwrap();
        assert!(found.iter().all(|defect| defect.kind == DefectKind::Damage), "{found:?}");
    }
}
