//! Every file of an index cut short at every 4 KiB and with bits flipped at random places: a clear error, a rebuild or a
//! fallback that is stated; never a panic, never an answer that is wrong and that `check` does not know of.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use ragtune_index::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::*;

const DIM: usize = 32;
const N: usize = 260;

/// Two generations, one protected, a third begun; texts of several blocks.
fn rich_index(dir: &Path) {
    index(dir, false);
}

/// The same with every kind of file that an index can have: passages appended and deleted too.
fn richest_index(dir: &Path) {
    index(dir, true);
    let files: Vec<String> =
        all_files(dir).iter().map(|path| path.strip_prefix(dir).unwrap().display().to_string()).collect();
    let kinds = [
        "_deletions/",
        "_versions/",
        "_transactions/",
        "_refs/tags/",
        "/data/",
        "vectors.bin",
        "vectors-f16.bin",
        "vectors-int8.bin",
        "graph.bin",
        "MANIFEST.json",
        "note-build.json",
        "CURRENT",
        "journal.jsonl",
        "texts.json",
        "manifests.json",
        "lexical.bin",
        "LOCK",
    ];
    for kind in kinds {
        assert!(files.iter().any(|file| file.contains(kind)), "no `{kind}` among {files:?}");
    }
}

fn index(dir: &Path, changed: bool) {
    let passages = (0..N).map(|at| {
        let mut rng = ChaCha8Rng::seed_from_u64(at as u64);
        let letters = (0..rng.random_range(20..300)).map(|_| char::from(rng.random_range(b'a'..=b'z')));
        Ok::<_, Error>(Passage { text: letters.collect(), ..passage(at) })
    });
    let options = CreateOptions { rows_per_fragment: 130 };
    let corpus = Corpus::create(dir, &source(), passages, &options).unwrap();
    embed(&corpus, &encoder("first"), DIM, &vectors(N, DIM, 1));
    embed(&corpus, &encoder("second"), DIM, &vectors(N, DIM, 2)).record("build", &serde_json::json!(1.5)).unwrap();
    let lock = corpus.lock("a test").unwrap();
    corpus.protect(&lock, 1, "base").unwrap();
    if changed {
        let more = (N..N + 20).map(|at| Ok::<_, Error>(passage(at)));
        let mut given = |run: &[Passage]| Ok(vectors(run.len(), DIM, 9));
        corpus.append(&lock, &encoder("second"), DIM, more, &mut given).unwrap();
        let ids = [3, 140, N + 2].map(|at| passage(at).id);
        corpus.reopen().unwrap().delete(&lock, &ids).unwrap();
    }
    let corpus = corpus.reopen().unwrap();
    corpus.lexical(Keep::Under(&lock)).unwrap();
    for derived in if changed { &[Vectors::F16, Vectors::Int8][..] } else { &[Vectors::Int8] } {
        corpus.derive(&lock, *derived).unwrap();
    }
    let mut writer = corpus.begin(&lock, &encoder("third"), DIM).unwrap();
    let fragment = writer.pending()[0];
    writer.write(&fragment, rows(&fragment, DIM, &vectors(N, DIM, 3))).unwrap();
}

/// What became of one damage.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    refused: usize,
    reported: usize,
    harmless: usize,
}

struct Rotten {
    dir: tempfile::TempDir,
    truth: Seen,
    /// Which generations are retained, and for whom.
    retained: Vec<(u32, Vec<String>)>,
    sound: Vec<Defect>,
    manifests: Vec<u8>,
    outcomes: Outcomes,
}

impl Rotten {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        richest_index(dir.path());
        let (truth, sound) = (seen(dir.path()).unwrap(), check(dir.path()).unwrap());
        let retained = retained(&Corpus::open(dir.path()).unwrap()).unwrap();
        assert!(sound.iter().all(|defect| defect.what.contains("was interrupted after")), "{sound:?}");
        let manifests = fs::read(dir.path().join("manifests.json")).unwrap();
        Self { dir, truth, retained, sound, manifests, outcomes: Outcomes::default() }
    }

    /// Looks at the index as it is now, then puts the file back.
    fn look(&mut self, file: &Path, good: &[u8], context: &str) {
        let dir = self.dir.path();
        let quietly = |what: &str, error: Error| {
            assert!(!error.to_string().is_empty() && error.hint().is_some(), "{context}: {what}: {error:?}");
        };
        let looked = catch_unwind(AssertUnwindSafe(|| {
            let answers = try_seen(dir);
            let corpus = Corpus::open(dir);
            let (mut notices, mut kept) = (false, None);
            if let Ok(corpus) = corpus {
                notices = !corpus.notices().is_empty();
                kept = retained(&corpus).map_err(|error| quietly("the list of generations", error)).ok();
                for outcome in [corpus.generation(1).map(drop), corpus.stats().map(drop)] {
                    if let Err(error) = outcome {
                        quietly("a part", error);
                    }
                }
            }
            (answers, notices, kept, check(dir))
        }));
        let (answers, notices, kept, found) = looked.unwrap_or_else(|_| panic!("{context}: a panic came through"));
        let reported = match found {
            Ok(found) => notices || found != self.sound,
            Err(error) => {
                quietly("the check", error);
                true
            }
        };
        // That somebody keeps a generation is written in one file; once it is gone, nobody can know.
        let unknowable = context.contains("_refs/tags") && context.ends_with("gone");
        assert!(
            reported || unknowable || kept.is_none_or(|kept| kept == self.retained),
            "{context}: `check` does not see that something else is retained"
        );
        // Who keeps what was looked at just now; notes have no checksum.
        let known = |answers: Seen| Seen { kept: self.truth.kept.clone(), notes: self.truth.notes.clone(), ..answers };
        match answers.map(known) {
            Err(error) => {
                quietly("opening", error);
                assert!(reported, "{context}: refused, and `check` finds nothing");
                self.outcomes.refused += 1;
            }
            Ok(answers) if answers != self.truth => {
                assert!(
                    reported,
                    "{context}: a wrong answer that `check` does not see: {}",
                    answers.differs_from(&self.truth)
                );
                self.outcomes.reported += 1;
            }
            Ok(_) if reported => self.outcomes.reported += 1,
            Ok(_) => self.outcomes.harmless += 1,
        }
        fs::write(file, good).unwrap();
        let _ = fs::remove_dir_all(dir.join("damaged"));
        // A manifest that was set aside was forgotten there.
        fs::write(dir.join("manifests.json"), &self.manifests).unwrap();
    }
}

/// More on demand: RAGTUNE_ROT_FLIPS=500.
#[test]
fn rot_anywhere_is_refused_reported_or_harmless() {
    let mut rotten = Rotten::new();
    let flips = wanted("RAGTUNE_ROT_FLIPS", 6);
    let seed = wanted("RAGTUNE_SEED", 1);
    let root = rotten.dir.path().to_path_buf();
    for file in all_files(&root) {
        let good = fs::read(&file).unwrap();
        let name = file.strip_prefix(&root).unwrap().display().to_string();
        let before = std::mem::take(&mut rotten.outcomes);
        let cuts = (0..good.len()).step_by(4096).chain(good.len().checked_sub(1).filter(|last| last % 4096 != 0));
        for length in cuts {
            fs::write(&file, &good[..length]).unwrap();
            rotten.look(&file, &good, &format!("`{name}` of {} bytes cut to {length}", good.len()));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..if good.is_empty() { 0 } else { flips } {
            let bit = rng.random_range(0..good.len() * 8);
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&file, &bytes).unwrap();
            rotten.look(&file, &good, &format!("`{name}` with bit {bit} flipped (seed {seed})"));
        }
        fs::remove_file(&file).unwrap();
        rotten.look(&file, &good, &format!("`{name}` gone"));
        eprintln!("{name}: {:?}", rotten.outcomes);
        let own = std::mem::replace(&mut rotten.outcomes, before);
        rotten.outcomes.refused += own.refused;
        rotten.outcomes.reported += own.reported;
        rotten.outcomes.harmless += own.harmless;
    }
    eprintln!("in all: {:?}", rotten.outcomes);
    assert_eq!(seen(&root), Some(rotten.truth));
}

fn retained(corpus: &Corpus) -> Result<Vec<(u32, Vec<String>)>> {
    Ok(corpus.generations()?.into_iter().map(|info| (info.number, info.protected_by)).collect())
}

#[test]
fn a_damaged_protection_keeps_its_generation_once_it_is_mended() {
    // The last has a version and a date that is none, which Lance does not read.
    let dated = r#"{"branch":null,"version":3,"createdAt":"2026-1x-28T15:30:00Z","manifestSize":7}"#;
    for damage in ["", "{", r#"{"branch":null,"version":1,"manifestSize":7}"#, r#"{"version":"6"}"#, dated] {
        let dir = tempfile::tempdir().unwrap();
        rich_index(dir.path());
        let tag = dir.path().join("corpus.lance/_refs/tags/keep-base-g1.json");
        assert!(tag.exists());
        fs::write(&tag, damage).unwrap();
        let found = check(dir.path()).unwrap();
        let named = |defect: &&Defect| defect.file.ends_with("keep-base-g1.json") && defect.kind == DefectKind::Derived;
        assert_eq!(found.iter().filter(named).count(), 1, "{damage}: {found:?}");
        only_leftovers(dir.path(), damage);
        let corpus = Corpus::open(dir.path()).unwrap();
        embed(&corpus, &encoder("fourth"), DIM, &vectors(N, DIM, 4));
        embed(&corpus, &encoder("fifth"), DIM, &vectors(N, DIM, 5));
        assert_eq!(retained(&corpus).unwrap(), [(1, vec!["base".to_string()]), (3, vec![]), (4, vec![])], "{damage}");
        assert!(same(corpus.generation(1).unwrap().vectors(), &vectors(N, DIM, 1)));
    }
}

/// Every passage that is there with its vector by its bits, and what embedded it.
type Content = (Fingerprint, BTreeMap<String, (Passage, Vec<u32>)>);

fn content(dir: &Path) -> Result<Content> {
    let corpus = Corpus::open(dir)?;
    let none = || Error::NoVectors { dir: dir.into() };
    let generation = corpus.current()?.ok_or_else(none)?;
    let live: Vec<u32> = (0..corpus.len() as u32).filter(|ordinal| !corpus.is_deleted(*ordinal)).collect();
    let passages = live.iter().zip(corpus.get(&live)?).map(|(ordinal, passage)| {
        let bits = generation.vector(*ordinal)?.iter().map(|value| value.to_bits()).collect();
        Ok((passage.id.clone(), (passage, bits)))
    });
    Ok((generation.fingerprint().clone(), passages.collect::<Result<_>>()?))
}

/// What changes an index, and what it makes of the content.
const WRITERS: [&str; 4] = ["append", "delete", "compact", "mend"];
const NEW: std::ops::Range<usize> = N + 20..N + 25;
const GONE: [usize; 2] = [4, 141];

fn write(writer: &str, dir: &Path) -> Result<()> {
    let corpus = Corpus::open(dir)?;
    let lock = corpus.lock("a test")?;
    match writer {
        "append" => {
            let more = NEW.map(|at| Ok::<_, Error>(passage(at)));
            let mut given = |run: &[Passage]| Ok(vectors(run.len(), DIM, 11));
            corpus.append(&lock, &encoder("second"), DIM, more, &mut given).map(drop)
        }
        "delete" => corpus.delete(&lock, &GONE.map(|at| passage(at).id)).map(drop),
        "compact" => corpus.compact(&lock, &params(), &mut |_| {}).map(drop),
        _ => corpus.mend_alike(&lock, &mut |_| {}).map(drop),
    }
}

/// Each file of an index flipped or cut, then changed by each writer in turn: a clear error or a sound result, and wrong content
/// never passes `check`. More on demand: RAGTUNE_ROT_FLIPS=500.
#[test]
fn writers_on_a_rotten_index_refuse_or_leave_the_damage_known() {
    let scratch = tempfile::tempdir().unwrap();
    let base = scratch.path().join("base");
    richest_index(&base);
    let truth = content(&base).unwrap();
    let after = WRITERS.map(|writer| {
        let dir = scratch.path().join("sound");
        copy(&base, &dir);
        write(writer, &dir).unwrap();
        let after = content(&dir).unwrap();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(writer == "append" || writer == "delete", after != truth, "{writer}");
        after
    });
    let flips = (wanted("RAGTUNE_ROT_FLIPS", 6) / 3).max(1);
    let mut rng = ChaCha8Rng::seed_from_u64(wanted("RAGTUNE_SEED", 1));
    let (mut refused, mut known, mut sound, mut turn) = (0, 0, 0, 0);
    for file in all_files(&base) {
        let name = file.strip_prefix(&base).unwrap();
        let good = fs::read(&file).unwrap();
        for damage in 0..if good.is_empty() { 0 } else { flips + 1 } {
            turn += 1;
            let (writer, after) = (WRITERS[turn % 4], &after[turn % 4]);
            let mut bytes = good.clone();
            let how = if damage < flips {
                let bit = rng.random_range(0..good.len() * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                format!("bit {bit} flipped")
            } else {
                bytes.truncate(rng.random_range(0..good.len()));
                format!("cut to {}", bytes.len())
            };
            let context = format!("{writer} on `{}` with {how}", name.display());
            let dir = scratch.path().join("rotten");
            copy(&base, &dir);
            fs::write(dir.join(name), bytes).unwrap();
            let written = catch_unwind(AssertUnwindSafe(|| write(writer, &dir)));
            let written = written.unwrap_or_else(|_| panic!("{context}: a panic came through"));
            if let Err(error) = &written {
                assert!(error.hint().is_some(), "{context}: {error:?}");
                refused += 1;
            }
            let found = check(&dir).unwrap();
            let clean = found.iter().all(|defect| defect.kind < DefectKind::Damage);
            let now = content(&dir);
            match now {
                Ok(now) if now == *after => sound += 1,
                Ok(now) if now == truth && written.is_err() => sound += 1,
                now => {
                    let now = now.map(|now| now.1.len());
                    assert!(!clean, "{context}: {written:?}, then {now:?} passages, and `check` says {found:?}");
                    known += 1;
                }
            }
            fs::remove_dir_all(&dir).unwrap();
        }
    }
    eprintln!("{turn} times: {refused} refused; {sound} sound in the end, {known} with damage that is known");
    assert!(refused > 0 && sound > 0 && known > 0);
}

/// Lance reads such a manifest without an error: only its checksum tells.
#[test]
fn a_changed_letter_in_an_old_manifest_does_not_stop_mending() {
    let dir = tempfile::tempdir().unwrap();
    let corpus = create(dir.path(), 100);
    let first = embed(&corpus, &encoder("a"), DIM, &vectors(100, DIM, 1)).dataset_version();
    embed(&corpus, &encoder("b"), DIM, &vectors(100, DIM, 2));
    let before = seen(dir.path());
    let old = dir.path().join(format!("corpus.lance/_versions/{:020}.manifest", u64::MAX - first));
    let mut bytes = fs::read(&old).unwrap();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(b"ragtune.generation.1")).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at] ^= 1;
    }
    fs::write(&old, bytes).unwrap();
    let corpus = Corpus::open(dir.path()).unwrap();
    let lock = corpus.lock("a test").unwrap();
    let error = corpus.begin(&lock, &encoder("c"), DIM).unwrap_err();
    assert!(error.hint().is_some(), "{error:?}");
    let done = corpus.mend_alike(&lock, &mut |_| {}).unwrap();
    assert!(done.iter().any(|line| line.starts_with("dropped version")), "{done:?}");
    drop(lock);
    assert!(!old.exists());
    assert_eq!(seen(dir.path()), before);
    assert!(check(dir.path()).unwrap().is_empty(), "{:?}", check(dir.path()));
    embed(&corpus, &encoder("c"), DIM, &vectors(100, DIM, 3));
}
