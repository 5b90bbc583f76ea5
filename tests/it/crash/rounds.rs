//! One command killed again and again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use ragtune_index::{Corpus, Defect, DefectKind, GraphParams, check};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::contents::{Contents, brief, contents, noted};
use crate::support::*;

/// A command that changes an index.
pub struct Operation<'a> {
    pub name: &'static str,
    /// How many of 200 rounds are its.
    pub share: u64,
    /// The index it starts from; none for one that makes it.
    pub base: Option<&'a Path>,
    /// The command for an index at this path.
    pub command: &'a dyn Fn(&Path) -> Ragtune,
    /// What may also be there between old and new, told from the new: a step of its own that is whole.
    pub between: Option<&'a dyn Fn(Contents) -> Contents>,
    /// Whether what is searched is another afterwards.
    pub changes: bool,
    /// Whether it ends by protecting the generation it made: a kill before that leaves one that is the newest all the same.
    pub protects: bool,
    /// Whether the same command, done again over what it made, only protects it; else it would make another.
    pub settles: bool,
}

/// How many rounds an operation with this share of 200 gets.
pub fn rounds(share: u64) -> u64 {
    (share * number("RAGTUNE_CRASH_ROUNDS", 200)).div_ceil(200)
}

/// The seed of all random moments.
pub fn seed() -> u64 {
    number("RAGTUNE_SEED", 1)
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}

impl Operation<'_> {
    /// Runs it undisturbed, then kills it as often as it is due.
    pub fn kill(&self) {
        let folder = folder();
        let index = self.fresh(folder.path());
        let old = contents(&index);
        let noted_before = if old.is_some() { noted(&index).1 } else { BTreeSet::new() };
        let mut running = (self.command)(&index).start();
        let id = running.id();
        assert!(running.until(|| writing(&index, id)), "{} takes no lock", self.name);
        let began = Instant::now();
        running.end().done();
        let whole = began.elapsed();
        let new = contents(&index);
        assert_eq!(old != new, self.changes, "{}: {} before, {} after", self.name, brief(&old), brief(&new));
        assert_eq!(check(&index).unwrap(), [], "{} leaves something undone", self.name);
        let between = match self.between {
            Some(between) => Some(between(new.clone().unwrap())),
            None => old.clone(),
        };
        let states = [old, between, new];

        let mut rng = ChaCha8Rng::seed_from_u64(seed());
        let (mut met, mut landed) = ([0; 3], 0);
        // Beside other work a command may take much longer than it did undisturbed; what it takes is learnt on the way.
        let mut likely = whole;
        for round in 0..rounds(self.share) {
            let index = self.fresh(folder.path());
            let wait = likely.mul_f64(rng.random_range(0.0..1.2));
            let context = format!("{}, round {round}, killed {wait:?} after its lock (seed {})", self.name, seed());
            let running = (self.command)(&index).start();
            let id = running.id();
            landed += u32::from(running.kill_when(|| writing(&index, id), wait));

            let found = contents(&index);
            let unprotected = |state: &Option<Contents>| match (state, &states[0]) {
                (Some(state), before) if self.protects => {
                    let kept = before.as_ref().map_or(Vec::new(), |before| before.kept.clone());
                    Some(Contents { kept, ..state.clone() }) == found
                }
                _ => false,
            };
            let state = states.iter().position(|state| *state == found || unprotected(state));
            let state = state.unwrap_or_else(|| {
                let states: Vec<String> = states.iter().map(brief).collect();
                panic!("{context}: {} is none of {states:?}", brief(&found));
            });
            met[state] += 1;
            // It takes at least as long as it was let run; moments of up to 1.8 times that soon find its end.
            if self.changes && state < 2 {
                likely = likely.max(wait.mul_f64(1.5));
            }
            if found.is_some() {
                repaired(&index, round % 8 == 0, &context);
                // Generations come and go; what stays keeps its notes.
                let (now, noted_now) = noted(&index);
                let lost: Vec<&u32> =
                    noted_before.intersection(&now).filter(|number| !noted_now.contains(number)).collect();
                assert!(lost.is_empty(), "{context}: the notes of generations {lost:?} are lost");
                assert_eq!(contents(&index), found, "{context}: mending changed what is there");
            }
            if (round % 2 == 0 && state < 2) || (self.settles && found != states[state]) {
                (self.command)(&index).run().done();
                let again = contents(&index);
                assert!(
                    again == states[2],
                    "{context}, then again: {} instead of {}",
                    brief(&again),
                    brief(&states[2])
                );
                assert_eq!(check(&index).unwrap(), [], "{context}, then again");
            }
        }
        // Nearly every moment is in the middle of it, whatever of it is before the commit.
        assert!(
            landed > 0 || rounds(self.share) < 10,
            "{}: no kill landed in {} rounds",
            self.name,
            rounds(self.share)
        );
        eprintln!(
            "killed {}, {landed} times at work: {} old, {} between, {} new, {whole:?} undisturbed",
            self.name, met[0], met[1], met[2]
        );
        let telling = rounds(self.share) >= 20 && self.changes;
        assert!(!telling || (met[0] + met[1] > 0 && met[2] > 0), "{met:?}: the moments say nothing");
    }

    fn fresh(&self, folder: &Path) -> PathBuf {
        let index = folder.join("index");
        let _ = std::fs::remove_dir_all(&index);
        if let Some(base) = self.base {
            copy(base, &index);
        }
        index
    }
}

/// Whether this process holds the lock of the index, as the lock file tells; looking does not take it.
fn writing(index: &Path, id: u32) -> bool {
    writer_of(index) == Some(id)
}

fn writer_of(index: &Path) -> Option<u32> {
    std::fs::read_to_string(index.join("LOCK")).ok()?.lines().nth(1)?.parse().ok()
}

/// Asserts that nothing is damaged, mends, and asserts that nothing is left but work that can be taken up again.
pub fn repaired(index: &Path, by_command: bool, context: &str) {
    let found = check(index).unwrap();
    assert!(found.iter().all(|defect| defect.kind < DefectKind::Damage), "{context}: {found:?}");
    if by_command {
        let before = ragtune(&["index", "check"]).with("--index", index).run();
        assert_eq!(before.code, Some(i32::from(!found.is_empty())), "{context}: {before:#?}");
        let after = ragtune(&["index", "check", "--mend"]).with("--index", index).run();
        assert!(matches!(after.code, Some(0 | 1)), "{context}: {after:#?}");
    } else {
        let corpus = Corpus::open(index).unwrap();
        let lock = corpus.lock("the integration tests").unwrap();
        corpus.mend(&lock, &GraphParams::default(), &mut |_stage| {}).unwrap();
    }
    let left: Vec<Defect> =
        check(index).unwrap().into_iter().filter(|defect| !defect.what.contains("was interrupted after")).collect();
    assert!(left.is_empty(), "{context}: {left:?} after mending");
}
