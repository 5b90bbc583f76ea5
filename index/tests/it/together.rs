//! Several processes on one index, and files that a wrong clock dated.

use std::path::Path;
use std::time::{Duration, SystemTime};

use ragtune_index::*;

use crate::common::*;
use crate::crash::start;

const DIM: usize = 16;
const N: usize = 300;

/// The vectors of a generation are those of its encoder, all of them.
fn is_whole(generation: &Generation) -> u64 {
    let seed = generation.fingerprint().get("weights").unwrap().parse().unwrap();
    assert!(same(generation.vectors(), &vectors(N, DIM, seed)), "generation {}", generation.number());
    seed
}

#[test]
fn a_reader_beside_a_busy_writer_sees_whole_generations_only() {
    const REFRESHES: u64 = 25;
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("index");
    let first = create(&dir, N);
    embed(&first, &encoder("1"), DIM, &vectors(N, DIM, 1));
    let held = first.current().unwrap().unwrap();
    let mut writer = start(&format!("embeds {REFRESHES}"), &dir);
    let (mut newest, mut looks, mut met) = (1, 0, std::collections::BTreeSet::new());
    loop {
        let ended = writer.try_wait().unwrap();
        // Opened anew and long open: both see what is newest.
        for corpus in [&Corpus::open(&dir).unwrap(), &first] {
            let generation = corpus.current().unwrap().unwrap();
            assert!(generation.number() >= newest, "{} after {newest}", generation.number());
            newest = generation.number();
            met.insert(is_whole(&generation));
            assert_eq!(corpus.get(&[7]).unwrap(), [passage(7)]);
            looks += 1;
        }
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
    }
    assert_eq!(u64::from(newest), REFRESHES + 1);
    assert_eq!(is_whole(&held), 1, "what is loaded stays as it was");
    eprintln!("{looks} looks met {} generations", met.len());
    assert!(met.len() > 2, "the reader never met the writer at work");
    assert!(check(&dir).unwrap().is_empty());
}

#[test]
fn two_who_open_after_a_power_cut_both_succeed() {
    for _round in 0..10 {
        let dir = tempfile::tempdir().unwrap();
        embed(&create(dir.path(), N), &encoder("1"), DIM, &vectors(N, DIM, 1));
        let versions = dir.path().join("corpus.lance/_versions");
        let newest =
            all_files(&versions).into_iter().find(|path| path.extension().is_some_and(|kind| kind == "manifest"));
        let number: u64 = newest.unwrap().file_stem().unwrap().to_str().unwrap().parse().unwrap();
        std::fs::write(versions.join(format!("{:020}.manifest", number - 1)), "").unwrap();
        let notices: usize = std::thread::scope(|scope| {
            let open = || Corpus::open(dir.path()).unwrap().notices().len();
            let both: Vec<_> = (0..4).map(|_| scope.spawn(open)).collect();
            both.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(notices, 1, "one of them set it aside and says so");
    }
}

#[test]
fn what_a_wrong_clock_dated_makes_no_difference() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), N);
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    let dates = [now + 400 * day, SystemTime::UNIX_EPOCH + day, now - 8 * day, now + 9000 * day];
    for (seed, date) in (1..).zip(dates) {
        embed(&corpus, &encoder(&seed.to_string()), DIM, &vectors(N, DIM, seed));
        // Half a generation, as a killed writer leaves it.
        let lock = corpus.lock("a test").unwrap();
        let mut writer = corpus.begin(&lock, &encoder("unfinished"), DIM).unwrap();
        let fragment = writer.pending()[0];
        writer.write(&fragment, rows(&fragment, DIM, &vectors(N, DIM, 99))).unwrap();
        drop(writer);
        drop(lock);
        date_all(dir.path(), date);
        let lock = corpus.lock("a test").unwrap();
        assert_eq!(
            corpus.begin(&lock, &encoder("unfinished"), DIM).unwrap().pending().len(),
            corpus.fragments().len() - 1
        );
    }
    embed(&corpus, &encoder("9"), DIM, &vectors(N, DIM, 9));
    let numbers: Vec<u32> = corpus.generations().unwrap().iter().map(|info| info.number).collect();
    assert_eq!(numbers, [4, 5], "retired as ever");
    assert!(check(dir.path()).unwrap().is_empty());
}

fn date_all(dir: &Path, date: SystemTime) {
    for file in all_files(dir) {
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(date).unwrap();
    }
}
