//! A disk that runs full: a clear error, and everything committed is still there. Needs the right to mount a tmpfs: without it
//! these tests say that they are skipped and pass; with RAGTUNE_NO_SKIP=1 they fail.

use std::path::Path;
use std::process::Command;

use ragtune_index::*;

use crate::changing::{holds, model};
use crate::common::*;

const DIM: usize = 64;
const N: usize = 2000;

struct Small(tempfile::TempDir);

impl Small {
    fn mount(megabytes: usize) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => {
                skipped("a tmpfs cannot be mounted here");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn creation_on_a_full_disk_leaves_no_index() {
    let Some(disk) = Small::mount(1) else { return };
    let long = (0..400).map(|at| Ok::<_, Error>(Passage { text: noise(at, 10_000), ..passage(at) }));
    let error = Corpus::create(&disk.path().join("index"), &source(), long, &OPTIONS).unwrap_err();
    assert!(error.hint().unwrap().contains("disk is full"), "{error:?}");
    assert!(matches!(Corpus::open(&disk.path().join("index")), Err(Error::NoIndex { .. })));
    drop(create(&disk.path().join("index"), 10));
}

#[test]
fn refreshing_on_a_full_disk_keeps_the_previous_generation() {
    let Some(disk) = Small::mount(4) else { return };
    let dir = disk.path().join("index");
    let corpus = create(&dir, N);
    let first = vectors(N, DIM, 1);
    embed(&corpus, &encoder("1"), DIM, &first);
    let filler = disk.path().join("filler");
    // Leave less and less room, so that every kind of write meets the wall once.
    for room in [0usize, 16, 64, 200, 400, 560, 620, 700] {
        fill(&filler, room * 1024);
        let corpus = Corpus::open(&dir).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let (by, given) = (encoder(&format!("room {room}")), vectors(N, DIM, 2 + room as u64));
        let before = corpus.current().unwrap().unwrap();
        let outcome = corpus.begin(&lock, &by, DIM).and_then(|mut writer| {
            for fragment in writer.pending() {
                writer.write(&fragment, rows(&fragment, DIM, &given))?;
            }
            writer.commit(&params(), GraphPlan::Build, &mut |_| {})
        });
        std::fs::remove_file(&filler).unwrap();
        let now = corpus.current().unwrap().unwrap();
        match outcome {
            Ok(_) => assert!(same(now.vectors(), &given), "room {room}"),
            Err(error) => {
                assert!(error.hint().is_some_and(|hint| hint.contains("disk is full")), "room {room}: {error:?}");
                // Wholly old, or wholly new where the graph alone found no room.
                let old = same(now.vectors(), before.vectors()) && now.fingerprint() == before.fingerprint();
                let new = same(now.vectors(), &given) && *now.fingerprint() == by;
                assert!(old || new, "room {room}: {error:?}");
            }
        }
        drop(lock);
        only_leftovers(&dir, &format!("room {room}"));
    }
    let given = vectors(N, DIM, 99);
    assert!(same(embed(&corpus, &encoder("last"), DIM, &given).vectors(), &given));
}

#[test]
fn changing_passages_on_a_full_disk_keeps_what_there_was() {
    let Some(disk) = Small::mount(6) else { return };
    let dir = disk.path().join("index");
    const WIDE: usize = crate::changing::DIM;
    let (n, by) = (600, encoder("1"));
    let all = vectors(3000, WIDE, 1);
    let corpus = create(&dir, n);
    embed(&corpus, &by, WIDE, &all[..n * WIDE]);
    let mut present = model(0..n, &all);
    let filler = disk.path().join("filler");
    let mut next = n;
    let (mut refused, mut done) = (0, 0);
    for (round, room) in [0usize, 4, 12, 24, 40, 64, 100, 160, 300, 8, 20, 48, 80, 130, 220, 16].into_iter().enumerate()
    {
        fill(&filler, room * 1024);
        let corpus = Corpus::open(&dir).unwrap();
        let lock = corpus.lock("a test").unwrap();
        let mut after = present.clone();
        let outcome = match round % 4 {
            0 => {
                after.extend(model(next..next + 150, &all));
                let new = (next..next + 150).map(|at| Ok::<_, Error>(passage(at)));
                let mut at = next;
                let mut given = |run: &[Passage]| {
                    at += run.len();
                    Ok(all[(at - run.len()) * WIDE..at * WIDE].to_vec())
                };
                corpus.append(&lock, &by, WIDE, new, &mut given).map(drop)
            }
            1 => {
                let gone: Vec<usize> = present.keys().copied().skip(round).step_by(9).collect();
                after.retain(|at, _| !gone.contains(at));
                let ids: Vec<String> = gone.iter().map(|at| passage(*at).id).collect();
                corpus.delete(&lock, &ids).map(drop)
            }
            2 => corpus.compact(&lock, &params(), &mut |_| {}).map(drop),
            _ => corpus.gc(&lock, false).map(drop),
        };
        std::fs::remove_file(&filler).unwrap();
        drop(lock);
        let context = format!("round {round}, room {room}: {outcome:?}");
        match &outcome {
            Ok(()) => done += 1,
            Err(error) => {
                refused += 1;
                assert!(error.hint().is_some_and(|hint| hint.contains("disk is full")), "{context}");
            }
        }
        only_leftovers(&dir, &context);
        let now = Corpus::open(&dir).unwrap();
        // Wholly before or wholly after; after, also where what follows the commit found no room.
        let changed =
            now.passages() == after.len() && after.keys().all(|at| now.ordinal(&passage(*at).id).unwrap().is_some());
        assert!(changed || outcome.is_err(), "{context}");
        if changed {
            present = after;
        }
        next += 150 * usize::from(round % 4 == 0);
        holds(&now, &present, &context);
    }
    assert!(refused > 2 && done > 2, "{refused} refused, {done} done: the rooms say nothing");
}

#[test]
fn a_read_only_disk_is_searched_and_says_that_it_cannot_be_changed() {
    let Some(disk) = Small::mount(4) else { return };
    let dir = disk.path().join("index");
    let all = vectors(100, DIM, 1);
    embed(&create(&dir, 100), &encoder("1"), DIM, &all);
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(disk.path()).status().unwrap();
        assert!(status.success());
    };
    remount("ro");
    let corpus = Corpus::open(&dir).unwrap();
    let generation = corpus.current().unwrap().unwrap();
    assert_eq!(generation.search(&all[..DIM], 1, Search::Exact, Trust::StaleAllowed).unwrap()[0][0].ordinal, 0);
    assert_eq!(corpus.get(&[7]).unwrap(), [passage(7)]);
    assert!(check(&dir).unwrap().is_empty());
    let error = corpus.lock("a test").unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("may only read")), "{error:?}");
    remount("rw");
    corpus.lock("a test").unwrap();
}

/// Fills the disk but for about `room` bytes.
fn fill(path: &Path, room: usize) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let mut bytes = 0u64;
    while file.write_all(&[7; 4096]).is_ok() {
        bytes += 4096;
    }
    file.set_len(bytes.saturating_sub(room as u64)).unwrap();
}

fn noise(seed: usize, length: usize) -> String {
    let mut state = seed as u64 * 2 + 1;
    let letters = (0..length).map(|_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        char::from(b'a' + (state >> 59) as u8 % 26)
    });
    letters.collect()
}
