//! Readers beside a writer that changes everything: whole states, or the word that the index was changed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ragtune_index::*;

use crate::changing::{DIM, append, delete};
use crate::common::*;
use crate::past::compact;

#[test]
fn readers_meet_whole_states_while_a_writer_changes_everything() {
    let dir = tempfile::tempdir().unwrap();
    let all = vectors(4000, DIM, 1);
    let by = encoder("a");
    embed(&create(dir.path(), 300), &by, DIM, &all[..300 * DIM]);
    let (done, read, told) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    let changed = |error: Error| match error {
        Error::Changed { .. } => told.fetch_add(1, Ordering::Relaxed),
        other => panic!("{other:?}"),
    };
    // What a reader does: every hit is the passage that has the vector.
    let reader = || {
        while !done.load(Ordering::Relaxed) {
            let corpus = Corpus::open(dir.path()).unwrap();
            let generation = match corpus.current() {
                Ok(generation) => generation.unwrap(),
                Err(error) => {
                    changed(error);
                    continue;
                }
            };
            let questions = vectors(4, DIM, 5);
            // So narrow a beam that the graph is walked.
            let ask = |how| generation.search(&questions, 5, how, Trust::StaleAllowed).unwrap();
            let (hits, exact) = (ask(Search::Graph { ef: 5 }), ask(Search::Exact));
            let recall = recall_of(&hits, &exact, |question, ordinal| {
                let row = generation.vector(ordinal).unwrap();
                questions[question * DIM..].iter().zip(row).map(|(a, b)| a * b).sum()
            });
            assert!(recall >= 0.3, "{recall}");
            for hit in hits.iter().flatten() {
                match corpus.get(&[hit.ordinal]) {
                    Ok(found) => {
                        let at: usize = found[0].id[1..].parse().unwrap();
                        assert!(same(generation.vector(hit.ordinal).unwrap(), &all[at * DIM..(at + 1) * DIM]), "p{at}");
                        read.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        changed(error);
                    }
                }
            }
        }
    };
    // Who only lists, and who looks at every file.
    let lister = || {
        while !done.load(Ordering::Relaxed) {
            let corpus = Corpus::open(dir.path()).unwrap();
            let by = encoder("a");
            let looks: [&dyn Fn() -> Result<()>; 5] = [
                &|| corpus.versions().map(|versions| assert!(!versions.is_empty())),
                &|| corpus.generations().map(|infos| assert!(infos.iter().any(|info| info.current))),
                &|| corpus.stats().map(drop),
                &|| corpus.with_generation_for(&by).map(drop),
                &|| corpus.recorded(1, "build").map(drop),
            ];
            for look in looks {
                if let Err(error) = look() {
                    changed(error);
                }
            }
        }
    };
    let checker = || {
        while !done.load(Ordering::Relaxed) {
            let found = check(dir.path()).unwrap();
            assert!(found.iter().all(|defect| defect.kind < DefectKind::Damage), "{found:?}");
        }
    };
    let writer = || {
        let mut next = 300;
        for round in 0..8 {
            let corpus = || Corpus::open(dir.path()).unwrap();
            append(&corpus(), &by, next..next + 90, &all);
            delete(&corpus(), (next..next + 90).step_by(round + 2));
            next += 90;
            compact(&corpus());
            let corpus = corpus();
            let lock = corpus.lock("a test").unwrap();
            corpus.gc(&lock, false).unwrap();
        }
    };
    std::thread::scope(|scope| {
        let readers = [scope.spawn(reader), scope.spawn(reader), scope.spawn(lister), scope.spawn(checker)];
        let written = scope.spawn(writer).join();
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().unwrap();
        }
        written.unwrap();
    });
    assert!(read.load(Ordering::Relaxed) > 50);
    eprintln!("{read:?} passages read, {told:?} times told that the index was changed");
    assert!(check(dir.path()).unwrap().is_empty());
}
