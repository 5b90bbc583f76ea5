//! Vectors held in every way: the same scores, files that are made once, made anew where they do not fit, and never trusted
//! where they are damaged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ragtune_index::*;

use crate::changing::{DIM, append, delete};
use crate::common::*;
use crate::generations::sidecars;

/// So many that a beam of 20 is used: exact search answers below 20 for each place in it.
const N: usize = 900;
const EF: usize = 20;
const K: usize = 5;
const FILES: [(&str, Vectors); 3] =
    [("vectors.bin", Vectors::Mapped), ("vectors-f16.bin", Vectors::F16), ("vectors-int8.bin", Vectors::Int8)];

fn index(dir: &Path) -> Corpus {
    let corpus = create(dir, N);
    embed(&corpus, &encoder("a"), DIM, &vectors(N, DIM, 1));
    corpus
}

fn open(dir: &Path, vectors: Vectors) -> Generation {
    Corpus::open(dir).unwrap().holding(vectors).current().unwrap().unwrap()
}

fn questions() -> Vec<f32> {
    vectors(40, DIM, 9)
}

fn ask(generation: &Generation, how: Search) -> Vec<Vec<Hit>> {
    generation.search(&questions(), K, how, Trust::StaleAllowed).unwrap()
}

/// Asserts that each hit has the score that exact search gives its passage, to the bit, that exact search is the same, and that
/// nearly all is found.
fn agrees(found: &Generation, memory: &Generation, allowed: Option<&Allowed>, context: &str) {
    assert_eq!(found.len(), memory.len(), "{context}");
    assert!(found.vectors().iter().zip(memory.vectors()).all(|(a, b)| a.to_bits() == b.to_bits()), "{context}");
    let look = |generation: &Generation, k: usize, how: Search| match allowed {
        None => generation.search(&questions(), k, how, Trust::StaleAllowed).unwrap(),
        Some(allowed) => generation.search_among(&questions(), k, how, Trust::StaleAllowed, allowed).unwrap(),
    };
    assert_eq!(look(found, K, Search::Exact), look(memory, K, Search::Exact), "{context}");
    let every = Allowed::new(memory.len(), 0..memory.len() as u32).unwrap();
    let scores: Vec<BTreeMap<u32, u32>> = memory
        .search_among(&questions(), memory.len(), Search::Exact, Trust::StaleAllowed, &every)
        .unwrap()
        .iter()
        .map(|hits| hits.iter().map(|hit| (hit.ordinal, hit.score.to_bits())).collect())
        .collect();
    let truth = look(memory, K, Search::Exact);
    let (mut right, mut asked) = (0, 0);
    for ((hits, scores), truth) in look(found, K, Search::Graph { ef: EF }).iter().zip(scores).zip(truth) {
        assert_eq!(hits.len(), K, "{context}");
        assert!(hits.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "{context}");
        for hit in hits {
            assert_eq!(scores.get(&hit.ordinal), Some(&hit.score.to_bits()), "{context}");
        }
        right += hits.iter().filter(|hit| truth.contains(hit)).count();
        asked += K;
    }
    assert!(right * 100 >= asked * 90, "{context}: {right} of {asked}");
}

/// The file of a holding in the only, or the newest, sidecar.
fn file(dir: &Path, vectors: Vectors) -> PathBuf {
    let name = FILES.iter().find(|(_, of)| *of == vectors).unwrap().0;
    let current = fs::read_to_string(dir.join("generations/CURRENT")).unwrap();
    dir.join("generations").join(current.trim()).join(name)
}

#[test]
fn every_holding_gives_the_scores_of_the_vectors_and_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = index(dir.path());
    let memory = open(dir.path(), Vectors::Memory);
    assert_eq!((memory.held().vectors, memory.held().codes), (Vectors::Memory, None));
    assert!(corpus.derived().unwrap().is_empty());
    for (name, held) in FILES {
        let made = open(dir.path(), held);
        // The codes need the vectors too, which are there from the first on.
        assert_eq!(made.held().made, ["there was none"], "{name}");
        assert_eq!((made.held().vectors, made.held().not_kept.as_deref()), (held, None));
        let bytes = fs::read(file(dir.path(), held)).unwrap();
        let read = open(dir.path(), held);
        assert!(read.held().made.is_empty() && read.held().not_kept.is_none(), "{:?}", read.held());
        assert_eq!(read.held().codes, made.held().codes);
        for generation in [&made, &read] {
            agrees(generation, &memory, None, name);
        }
        assert_eq!(ask(&made, Search::Graph { ef: EF }), ask(&read, Search::Graph { ef: EF }));
        if let Some(codes) = read.held().codes {
            assert!(codes.recall_at_10 > 0.95 && codes.probes == 20 && codes.ef == 64, "{codes:?}");
            let row = if held == Vectors::Int8 { 64 + 4 } else { 64 };
            assert_eq!(codes.code_bytes, (N * row) as u64);
        }
        // The same vectors give the same bytes.
        fs::remove_file(file(dir.path(), held)).unwrap();
        open(dir.path(), held);
        assert!(fs::read(file(dir.path(), held)).unwrap() == bytes, "{name}");
    }
    let derived = corpus.derived().unwrap();
    assert_eq!(derived.iter().map(|one| (one.file.as_str(), one.vectors)).collect::<Vec<_>>(), FILES);
    assert_eq!(corpus.stats().unwrap().derived_bytes, derived.iter().map(|one| one.bytes).sum::<u64>());
    assert!(check(dir.path()).unwrap().is_empty());
    // What holds them as they are does not know codes, and a view has vectors of its own.
    let mapped = open(dir.path(), Vectors::Mapped);
    assert_eq!(ask(&mapped, Search::Graph { ef: EF }), ask(&memory, Search::Graph { ef: EF }));
    let view = open(dir.path(), Vectors::Int8).with_vectors(vectors(N, DIM, 1)).unwrap();
    assert_eq!(*view.held(), Held::default());
}

#[test]
fn what_was_appended_and_deleted_is_held_too() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = index(dir.path());
    let all = vectors(N + 60, DIM, 1);
    for (_, held) in FILES {
        open(dir.path(), held);
    }
    append(&corpus, &encoder("a"), N..N + 60, &all);
    for (name, held) in FILES {
        // Another state: its files are its own.
        let made = open(dir.path(), held);
        assert_eq!(made.held().made, ["there was none"], "{name}");
        agrees(&made, &open(dir.path(), Vectors::Memory), None, &format!("{name}, appended"));
    }
    delete(&Corpus::open(dir.path()).unwrap(), (0..N + 60).filter(|at| at % 11 == 3));
    for (name, held) in FILES {
        // The vectors are those of before: so are the files.
        let read = open(dir.path(), held);
        assert!(read.held().made.is_empty(), "{name}: {:?}", read.held());
        let memory = open(dir.path(), Vectors::Memory);
        let found = ask(&read, Search::Graph { ef: EF });
        assert!(found.iter().flatten().all(|hit| hit.ordinal % 11 != 3), "{name}");
        let some = Allowed::new(N + 60, (0..(N + 60) as u32).filter(|at| at % 6 != 0)).unwrap();
        agrees(&read, &memory, Some(&some), &format!("{name}, deleted and some"));
    }
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn a_refresh_leaves_the_files_to_the_generation_they_belong_to() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = index(dir.path());
    let first = open(dir.path(), Vectors::Int8);
    let before = ask(&first, Search::Graph { ef: EF });
    embed(&corpus, &encoder("b"), DIM, &vectors(N, DIM, 2));
    let second = open(dir.path(), Vectors::Int8);
    assert_eq!(second.held().made.len(), 2);
    agrees(&second, &open(dir.path(), Vectors::Memory), None, "the second");
    let again = Corpus::open(dir.path()).unwrap().holding(Vectors::Int8).generation(1).unwrap();
    assert!(again.held().made.is_empty());
    assert_eq!(ask(&again, Search::Graph { ef: EF }), before);
    let expected = ask(&second, Search::Graph { ef: EF });
    // A file of other vectors is not taken.
    let sidecars = sidecars(dir.path());
    let [old, new] = [&sidecars[0], &sidecars[1]].map(|sidecar| sidecar.join("vectors-int8.bin"));
    // Not in place: the second generation has it mapped.
    fs::remove_file(&new).unwrap();
    fs::copy(&old, &new).unwrap();
    let found = check(dir.path()).unwrap();
    assert!(found.len() == 1 && found[0].what.contains("other vectors"), "{found:?}");
    let made = open(dir.path(), Vectors::Int8);
    assert_eq!(made.held().made, ["`vectors-int8.bin`: it belongs to other vectors"]);
    assert_eq!(ask(&made, Search::Graph { ef: EF }), expected);
    assert_eq!(ask(&second, Search::Graph { ef: EF }), expected);
    assert!(check(dir.path()).unwrap().is_empty());
    // Retired with its sidecar; what is mapped stays what it was.
    embed(&corpus, &encoder("c"), DIM, &vectors(N, DIM, 3));
    assert!(!old.exists());
    assert_eq!(ask(&first, Search::Graph { ef: EF }), before);
    assert!(open(dir.path(), Vectors::Memory).number() == 3 && check(dir.path()).unwrap().is_empty());
}

#[test]
fn damaged_files_are_said_by_check_mended_and_never_searched() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = index(dir.path());
    let memory = open(dir.path(), Vectors::Memory);
    for (name, held) in FILES {
        open(dir.path(), held);
        let path = file(dir.path(), held);
        let good = fs::read(&path).unwrap();
        let truth = ask(&open(dir.path(), held), Search::Graph { ef: EF });
        let flip = |at: usize, bit: u8| {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            bytes
        };
        let mut damaged: Vec<(String, Vec<u8>)> = (0..good.len())
            .step_by(4096)
            .chain([1, 255, 256, 257, good.len() - 1])
            .map(|length| (format!("cut to {length}"), good[..length].to_vec()))
            .collect();
        damaged.push(("longer".into(), [&good[..], &[0; 4096]].concat()));
        damaged.extend((0..good.len()).step_by(good.len() / 15).map(|at| (format!("byte {at}"), flip(at, 6))));
        damaged.extend((0..256).step_by(23).map(|at| (format!("byte {at} of the header"), flip(at, 0))));
        for (what, bytes) in damaged {
            fs::write(&path, &bytes).unwrap();
            let context = format!("{name}, {what}");
            let found = check(dir.path()).unwrap();
            assert!(found.len() == 1 && found[0].kind == DefectKind::Derived, "{context}: {found:?}");
            assert!(found[0].file.ends_with(name), "{context}: {found:?}");
            let generation = open(dir.path(), held);
            // Of float32 a low bit of a number, or one beyond the file's end in the header, is found by `check` alone.
            let seen = !generation.held().made.is_empty();
            assert!(seen || held == Vectors::Mapped && what.starts_with("byte"), "{context}");
            if seen {
                assert!(fs::read(&path).unwrap() == good, "{context}: it is made anew");
                assert_eq!(ask(&generation, Search::Graph { ef: EF }), truth, "{context}");
            }
            fs::write(&path, &bytes).unwrap();
            let lock = corpus.lock("a test").unwrap();
            let done = corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
            assert!(done.len() == 1 && done[0].contains(name), "{context}: {done:?}");
            drop(lock);
            assert!(fs::read(&path).unwrap() == good, "{context}: it is mended");
        }
    }
    assert!(check(dir.path()).unwrap().is_empty());
    agrees(&open(dir.path(), Vectors::Int8), &memory, None, "mended");
}

#[test]
fn a_number_that_is_none_in_the_mapped_vectors_is_not_searched() {
    let dir = tempfile::tempdir().unwrap();
    index(dir.path());
    open(dir.path(), Vectors::Int8);
    let path = file(dir.path(), Vectors::Mapped);
    let good = fs::read(&path).unwrap();
    for value in [f32::NAN, f32::INFINITY, 2.0] {
        let mut bytes = good.clone();
        bytes[256 + 7 * DIM * 4..][..4].copy_from_slice(&value.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let made = open(dir.path(), Vectors::Int8);
        assert_eq!(made.held().made, ["`vectors.bin`: the vector of passage 7 is not of length one"]);
        assert!(fs::read(&path).unwrap() == good);
    }
}

#[test]
fn where_nothing_can_be_written_they_are_held_in_memory_and_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = index(dir.path());
    let memory = open(dir.path(), Vectors::Memory);
    let lock = corpus.lock("another command").unwrap();
    for (name, held) in FILES {
        let generation = open(dir.path(), held);
        assert!(generation.held().not_kept.as_ref().unwrap().contains("`another command`"), "{:?}", generation.held());
        agrees(&generation, &memory, None, name);
        assert!(!file(dir.path(), held).exists());
    }
    // Under the lock they are made, or that is an error.
    let made = corpus.derive(&lock, Vectors::Int8).unwrap().unwrap();
    assert!(made.not_kept.is_none() && made.made.len() == 2 && made.codes.is_some());
    assert!(corpus.derive(&lock, Vectors::Int8).unwrap().unwrap().made.is_empty());
    drop(lock);
    let other = tempfile::tempdir().unwrap();
    let other = create(other.path(), N);
    let wrong = other.lock("elsewhere").unwrap();
    assert!(matches!(corpus.derive(&wrong, Vectors::F16), Err(Error::WrongLock { .. })));
    assert_eq!(other.derive(&wrong, Vectors::F16).unwrap(), None);
    // What stands in the way is said.
    fs::create_dir(file(dir.path(), Vectors::F16)).unwrap();
    let generation = open(dir.path(), Vectors::F16);
    assert!(generation.held().not_kept.is_some(), "{:?}", generation.held());
    agrees(&generation, &memory, None, "a directory in the way");
    let lock = corpus.lock("a test").unwrap();
    assert!(corpus.derive(&lock, Vectors::F16).is_err());
}

#[test]
fn without_a_graph_every_passage_is_compared_and_no_codes_are_held() {
    let dir = tempfile::tempdir().unwrap();
    index(dir.path());
    let truth = ask(&open(dir.path(), Vectors::Memory), Search::Exact);
    open(dir.path(), Vectors::Int8);
    let sidecar = sidecars(dir.path()).remove(0);
    fs::remove_file(sidecar.join("graph.bin")).unwrap();
    let generation = open(dir.path(), Vectors::Int8);
    assert!(generation.graph_defect().is_some() && generation.held().codes.is_none());
    assert_eq!(ask(&generation, Search::Graph { ef: EF }), truth);
    fs::remove_dir_all(&sidecar).unwrap();
    let generation = open(dir.path(), Vectors::Int8);
    assert!(generation.held().not_kept.as_ref().unwrap().contains("no sidecar"), "{:?}", generation.held());
    assert_eq!(ask(&generation, Search::Graph { ef: EF }), truth);
    let corpus = Corpus::open(dir.path()).unwrap();
    let lock = corpus.lock("mending").unwrap();
    corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
    assert!(corpus.derive(&lock, Vectors::Int8).unwrap().unwrap().codes.is_some());
    drop(lock);
    assert!(check(dir.path()).unwrap().is_empty());
}

#[test]
fn what_a_killed_process_was_writing_is_cleared_away() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = index(dir.path());
    open(dir.path(), Vectors::Int8);
    let torn = file(dir.path(), Vectors::Int8).with_file_name(".tmp-vectors-f16.bin");
    for mend in [true, false] {
        fs::write(&torn, "rtvec").unwrap();
        let found = check(dir.path()).unwrap();
        assert!(found.len() == 1 && found[0].kind == DefectKind::Leftover, "{found:?}");
        let lock = corpus.lock("a test").unwrap();
        match mend {
            true => drop(corpus.mend(&lock, &params(), &mut |_| {}).unwrap()),
            false => drop(corpus.gc(&lock, false).unwrap()),
        }
        assert!(!torn.exists() && file(dir.path(), Vectors::Int8).exists());
        assert!(check(dir.path()).unwrap().is_empty());
    }
}
