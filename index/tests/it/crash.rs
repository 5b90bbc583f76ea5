//! kill -9 at random moments: afterwards everything is wholly old or wholly new, and nothing stands in the way.
//!
//! The child is this test binary itself, started again with the work to do in the environment.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ragtune_index::*;
use rand::{RngExt, SeedableRng};

use crate::changing::{holds, model};
use crate::common::*;

const DIM: usize = 16;
const N: usize = 400;
const MANY: usize = 4000;
const WORK: &str = "RAGTUNE_INDEX_TEST_WORK";
const DIR: &str = "RAGTUNE_INDEX_TEST_DIR";

/// Not a test of its own: what the child does.
#[test]
#[ignore = "run by the tests that kill it"]
fn child() {
    let (Ok(work), Ok(dir)) = (std::env::var(WORK), std::env::var(DIR)) else { return };
    perform(&work, Path::new(&dir));
}

/// The work itself.
pub fn perform(work: &str, dir: &Path) {
    match work.split_once(' ') {
        Some(("create", n)) => drop(create(dir, n.parse().unwrap())),
        Some(("stream", megabytes)) => crate::memory::stream(dir, megabytes.parse().unwrap()),
        Some(("embed", seed)) => {
            let seed: u64 = seed.parse().unwrap();
            let corpus = Corpus::open(dir).unwrap();
            embed(&corpus, &encoder(&seed.to_string()), DIM, &vectors(corpus.len(), DIM, seed));
        }
        Some(("embeds", to)) => (1..=to.parse().unwrap()).for_each(|seed: u64| perform(&format!("embed {seed}"), dir)),
        Some(("more", count)) => {
            let corpus = Corpus::open(dir).unwrap();
            let by = corpus.current().unwrap().unwrap().fingerprint().clone();
            let range = corpus.len()..corpus.len() + count.parse::<usize>().unwrap();
            crate::changing::append(&corpus, &by, range.clone(), &vectors(range.end, DIM, 50));
        }
        Some(("fewer", every)) => {
            let corpus = Corpus::open(dir).unwrap();
            crate::changing::delete(&corpus, (0..corpus.len()).step_by(every.parse().unwrap()));
        }
        Some(("back", number)) => {
            let corpus = Corpus::open(dir).unwrap();
            corpus.rollback(&corpus.lock("a test").unwrap(), number.parse().unwrap()).unwrap();
        }
        Some(("keep", number)) => {
            let corpus = Corpus::open(dir).unwrap();
            corpus.protect(&corpus.lock("a test").unwrap(), number.parse().unwrap(), "a test").unwrap();
        }
        Some(("protect", number)) => {
            let corpus = Corpus::open(dir).unwrap();
            let lock = corpus.lock("a test").unwrap();
            corpus.protect(&lock, number.parse().unwrap(), "a test").unwrap();
            corpus.current().unwrap().unwrap().record("note", &serde_json::json!({ "a": 1 })).unwrap();
            corpus.unprotect(&lock, number.parse().unwrap(), "a test").unwrap();
        }
        Some(("append", range)) => {
            let (from, to) = range.split_once(' ').unwrap();
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            let corpus = Corpus::open(dir).unwrap();
            crate::changing::append(&corpus, &encoder("a"), from..to, &vectors(MANY, DIM, 1));
        }
        Some(("delete", ordinals)) => {
            let ordinals = ordinals.split(' ').map(|at| at.parse::<usize>().unwrap());
            crate::changing::delete(&Corpus::open(dir).unwrap(), ordinals);
        }
        Some(("words", _)) => {
            let corpus = Corpus::open(dir).unwrap();
            corpus.lexical(Keep::Under(&corpus.lock("a test").unwrap())).unwrap();
        }
        Some(("mend", _)) => {
            let corpus = Corpus::open(dir).unwrap();
            corpus.mend(&corpus.lock("a test").unwrap(), &params(), &mut |_| {}).unwrap();
        }
        Some(("open", _)) => drop(Corpus::open(dir).unwrap()),
        Some(("compact", _)) => drop(crate::past::compact(&Corpus::open(dir).unwrap())),
        Some(("derive", name)) => {
            let corpus = Corpus::open(dir).unwrap();
            let vectors = Vectors::ALL.into_iter().find(|vectors| vectors.name() == name).unwrap();
            corpus.derive(&corpus.lock("a test").unwrap(), vectors).unwrap();
        }
        Some(("gc", _)) => {
            let corpus = Corpus::open(dir).unwrap();
            let lock = corpus.lock("a test").unwrap();
            corpus.gc(&lock, false).unwrap();
        }
        Some(("rollback", version)) => {
            let corpus = Corpus::open(dir).unwrap();
            let lock = corpus.lock("a test").unwrap();
            corpus.rollback_to_version(&lock, version.parse().unwrap()).unwrap();
        }
        _ => panic!("unknown work `{work}`"),
    }
}

pub fn start(work: &str, dir: &Path) -> Child {
    command(work, dir).spawn().unwrap()
}

/// This test binary as a process that does the work.
pub fn command(work: &str, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::child", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(WORK, work).env(DIR, dir).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// How long the work takes when nobody kills it.
fn full_time(work: &str, dir: &Path) -> Duration {
    let began = Instant::now();
    assert!(start(work, dir).wait().unwrap().success());
    began.elapsed()
}

/// Starts the work and kills it once `moment` has come and `wait` has passed, or lets it end.
fn kill_when(work: &str, dir: &Path, mut moment: impl FnMut() -> bool, wait: Duration) {
    let mut child = start(work, dir);
    let mut until = None;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success());
            return;
        }
        match until {
            None if moment() => until = Some(Instant::now() + wait),
            Some(until) if Instant::now() >= until => break,
            _ => std::thread::sleep(Duration::from_micros(50)),
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// States that a refresh passes through, seen from outside, so that kills meet each of them however fast the machine is.
fn reached(state: u64, dir: &Path) -> bool {
    let generations = dir.join("generations");
    let lines = || std::fs::read_to_string(generations.join("journal.jsonl")).map_or(0, |text| text.lines().count());
    let names = |dir: &Path| -> Vec<String> {
        let all = std::fs::read_dir(dir).into_iter().flatten().flatten();
        all.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let sidecars = |prefix: &str| names(&generations).iter().filter(|name| name.starts_with(prefix)).count();
    match state {
        0 => true,
        1 => lines() >= 1,
        2 => lines() >= 4,
        3 => lines() >= 8,
        4 => sidecars(".tmp-") > 0,
        _ => sidecars("g-") > 2,
    }
}

#[test]
fn killed_creations_leave_no_index_or_a_whole_one() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = full_time(&format!("create {N}"), &scratch.path().join("timed"));
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let (mut absent, mut present) = (0, 0);
    for round in 0..12 {
        let dir = scratch.path().join(round.to_string());
        // From the beginning, or from when the first files are there.
        let making = || round % 2 == 0 || dir.exists();
        let wait = whole.mul_f64(rng.random_range(0.0..1.0));
        kill_when(&format!("create {N}"), &dir, making, wait);
        match Corpus::open(&dir) {
            Ok(corpus) => {
                present += 1;
                assert_eq!(corpus.len(), N, "round {round}");
                assert_eq!(corpus.ids().unwrap()[N - 1], passage(N - 1).id);
                only_leftovers(&dir, &format!("round {round} after {wait:?}"));
            }
            Err(error) => {
                absent += 1;
                assert!(matches!(error, Error::NoIndex { .. }), "round {round}: {error:?}");
                assert_eq!(create(&dir, N).len(), N);
                assert!(check(&dir).unwrap().is_empty(), "round {round}: the next creation clears away");
            }
        }
    }
    eprintln!("killed creations: {absent} left nothing, {present} a whole index");
}

#[test]
fn killed_refreshes_leave_the_old_generation_or_the_new_one() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("index");
    let corpus = create(&dir, N);
    for seed in [1, 2] {
        assert!(start(&format!("embed {seed}"), &dir).wait().unwrap().success());
    }
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(12);
    let (mut old, mut new, mut resumed, mut without_graph) = (0, 0, 0, 0);
    let mut newest = 2u64;
    // For a long soak: RAGTUNE_INDEX_KILLS=500.
    let rounds = std::env::var("RAGTUNE_INDEX_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(24);
    for round in 0..rounds {
        let seed: u64 = 100 + round;
        let state = round % 6;
        let wait =
            Duration::from_micros(rng.random_range(0..[40_000, 20_000, 10_000, 60_000, 4_000, 8_000][state as usize]));
        let context = format!("round {round}, killed {wait:?} after state {state}");
        kill_when(&format!("embed {seed}"), &dir, || reached(state, &dir), wait);

        let corpus = Corpus::open(&dir).unwrap();
        let generation = corpus.current().unwrap().unwrap();
        let expected = if *generation.fingerprint() == encoder(&seed.to_string()) { seed } else { newest };
        assert_eq!(*generation.fingerprint(), encoder(&expected.to_string()), "{context}");
        assert!(same(generation.vectors(), &vectors(N, DIM, expected)), "{context}");
        without_graph += u32::from(generation.graph_defect().is_some());
        let questions = vectors(20, DIM, 5);
        let ask = |how| generation.search(&questions, 5, how, Trust::StaleAllowed).unwrap();
        let recall = recall_of(&ask(Search::Graph { ef: 10 }), &ask(Search::Exact), |question, ordinal| {
            let row = generation.vector(ordinal).unwrap();
            questions[question * DIM..].iter().zip(row).map(|(a, b)| a * b).sum()
        });
        assert!(recall >= 0.6, "{context}: the graph finds {recall}");
        let found = check(&dir).unwrap();
        assert!(found.iter().all(|defect| defect.kind < DefectKind::Damage), "{context}: {found:?}");

        if expected == seed {
            new += 1;
            newest = seed;
            only_leftovers(&dir, &context);
        } else {
            old += 1;
            if round % 2 == 0 {
                // The same work again takes up what was staged and finishes.
                let lock = corpus.lock("a test").unwrap();
                let mut writer = corpus.begin(&lock, &encoder(&seed.to_string()), DIM).unwrap();
                resumed += corpus.fragments().len() - writer.pending().len();
                let given = vectors(N, DIM, seed);
                for fragment in writer.pending() {
                    writer.write(&fragment, rows(&fragment, DIM, &given)).unwrap();
                }
                let made = writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap();
                assert!(same(made.vectors(), &given), "{context}");
                newest = seed;
            } else {
                only_leftovers(&dir, &context);
            }
        }
        assert_eq!(corpus.get(&[0, 399]).unwrap(), [passage(0), passage(399)], "{context}");
    }
    only_leftovers(&dir, "at the end");
    assert!(corpus.generations().unwrap().len() <= 2);
    assert!(old > 0 && new > 0, "{old} old, {new} new: the moments of the kills say nothing");
    eprintln!(
        "killed refreshes: {old} old, {new} new, {without_graph} without a graph, {resumed} fragments taken up again"
    );
}

#[test]
fn killed_changes_leave_the_state_before_or_the_one_after() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("index");
    let all = vectors(MANY, DIM, 1);
    embed(&create(&dir, N), &encoder("a"), DIM, &all[..N * DIM]);
    let mut present = model(0..N, &all);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(13);
    let (mut before, mut after) = (0, 0);
    let rounds = std::env::var("RAGTUNE_INDEX_KILLS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30);
    let mut earlier: Option<(u64, std::collections::BTreeMap<usize, Vec<f32>>)> = None;
    for round in 0..rounds {
        let next = *present.keys().last().unwrap() + 1;
        let corpus = Corpus::open(&dir).unwrap();
        let version = corpus.versions().unwrap().last().unwrap().dataset_version;
        let mut wanted = present.clone();
        let work = match round % 5 {
            0 => {
                let to = (next + rng.random_range(1..150)).min(MANY);
                wanted.extend(model(next..to, &all));
                format!("append {next} {to}")
            }
            1 => {
                let gone: Vec<usize> = present.keys().copied().filter(|_| rng.random_range(0..8) == 0).collect();
                wanted.retain(|at, _| !gone.contains(at));
                format!("delete {}", gone.iter().map(usize::to_string).collect::<Vec<_>>().join(" "))
            }
            2 => "compact now".to_string(),
            3 => match &earlier {
                Some((version, then))
                    if corpus.versions().unwrap().iter().any(|info| info.dataset_version == *version) =>
                {
                    wanted = then.clone();
                    format!("rollback {version}")
                }
                _ => "compact now".to_string(),
            },
            _ => "gc now".to_string(),
        };
        let wait = Duration::from_micros(rng.random_range(0..120_000));
        let listing = || std::fs::read_dir(dir.join("corpus.lance/data")).map_or(0, |files| files.count());
        let files = listing();
        // From the start, or from when the first file is there.
        let begun = || round % 2 == 0 || listing() != files;
        kill_when(&work, &dir, begun, wait);
        let context = format!("round {round}, `{:.40}` killed after {wait:?}", work);
        let corpus = Corpus::open(&dir).unwrap();
        let found = check(&dir).unwrap();
        assert!(found.iter().all(|defect| defect.kind < DefectKind::Damage), "{context}: {found:?}");
        let changed = corpus.passages() == wanted.len()
            && wanted.keys().all(|at| corpus.ordinal(&passage(*at).id).unwrap().is_some());
        (before, after) = if changed { (before, after + 1) } else { (before + 1, after) };
        if changed && wanted != present {
            earlier = Some((version, std::mem::replace(&mut present, wanted)));
        }
        only_leftovers(&dir, &context);
        holds(&Corpus::open(&dir).unwrap(), &present, &context);
    }
    assert!(before > 0 && after > 0, "{before} before, {after} after: the moments of the kills say nothing");
    eprintln!("killed changes: {before} left the state before, {after} the one after");
}

#[test]
fn a_killed_writer_gives_its_lock_up() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("index");
    let corpus = create(&dir, N);
    let mut child = start("embed 1", &dir);
    let holder = format!("a test\n{}\n", child.id());
    // Looking at the file instead of trying the lock: the child must not meet it taken.
    while std::fs::read_to_string(dir.join("LOCK")).unwrap() != holder {
        assert!(child.try_wait().unwrap().is_none(), "the child ended without the lock");
        std::thread::sleep(Duration::from_micros(100));
    }
    let error = corpus.lock("me").unwrap_err();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(error.to_string().contains(&format!("process {}", child.id())), "{error}");
    corpus.lock("me").unwrap();
}
