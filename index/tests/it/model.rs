//! Random operations on an index and on plain maps in memory: whatever is done, in whatever order, both hold the same.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;

use ragtune_index::*;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::common::{encoder, passage, source, wanted};

const DIM: usize = 8;
const PARAMS: GraphParams = GraphParams { links: 8, ef_construction: 40, probes: 10, ef: 64 };
/// Passages are appended while there are fewer, deleted while there are more.
const FEW: usize = 20;
const MANY: usize = 140;
/// So narrow a beam that with most numbers of passages the graph is walked: where there are not more than 20 for each place in it,
/// search is exact.
const BEAM: usize = 3;

/// What an index is to hold: passages by their number, and what embedded them.
#[derive(Debug, Clone, PartialEq)]
struct State {
    passages: BTreeMap<usize, Vec<f32>>,
    encoder: u64,
    number: u32,
}

/// The vector that an encoder gives to a passage.
fn vector(of: usize, encoder: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(encoder << 32 | of as u64);
    let row: Vec<f32> = (0..DIM).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    row.into_iter().map(|value| value / length).collect()
}

fn number_of(id: &str) -> usize {
    id[1..].parse().unwrap()
}

/// An index, opened, and the state it was opened in.
struct Reader {
    corpus: Corpus,
    generation: Generation,
    state: State,
}

struct World {
    dir: tempfile::TempDir,
    rng: ChaCha8Rng,
    now: State,
    /// What each version of the dataset holds, from the first that does.
    versions: BTreeMap<u64, State>,
    reader: Reader,
    /// One that was opened some time ago.
    old: Option<Reader>,
    /// What was protected, by number and owner.
    kept: BTreeMap<(u32, &'static str), State>,
    next: usize,
    next_encoder: u64,
    /// How many passages searches by the graph found of those that they should, and how many those were.
    walked: (usize, usize),
    log: Log,
}

/// The last operations, told when a test fails.
struct Log {
    seed: u64,
    done: u64,
    last: VecDeque<String>,
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}, operation {}; the last ones:", self.seed, self.done);
            self.last.iter().for_each(|line| eprintln!("  {line}"));
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        // In memory where there is such a place: syncing a disk would take most of the time.
        let memory = Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() };
        let options = CreateOptions { rows_per_fragment: 16 };
        let passages = (0..50).map(|at| Ok::<_, Error>(passage(at)));
        let corpus = Corpus::create(dir.path(), &source(), passages, &options).unwrap();
        let state = State { passages: (0..50).map(|at| (at, vector(at, 1))).collect(), encoder: 1, number: 1 };
        let generation = refresh(&corpus, 1, GraphPlan::Build, usize::MAX).unwrap();
        let versions = BTreeMap::from([(generation.dataset_version(), state.clone())]);
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: state.clone(),
            versions,
            reader: Reader { corpus, generation, state },
            old: None,
            kept: BTreeMap::new(),
            next: 50,
            next_encoder: 2,
            walked: (0, 0),
            log: Log { seed, done: 0, last: VecDeque::new() },
            dir,
        }
    }

    fn say(&mut self, what: String) {
        self.log.done += 1;
        self.log.last.push_back(format!("{}: {what}", self.log.done));
        if self.log.last.len() > 40 {
            self.log.last.pop_front();
        }
    }

    /// A change is done: the index is opened anew, and its newest version is known.
    fn changed(&mut self, now: State) {
        let corpus = Corpus::open(self.dir.path()).unwrap();
        let generation = corpus.current().unwrap().unwrap();
        assert_eq!(generation.number(), now.number);
        self.versions.insert(generation.dataset_version(), now.clone());
        self.now = now.clone();
        self.reader = Reader { corpus, generation, state: now };
    }

    /// What somebody keeps is there, as it was when it was protected.
    fn protected(&self) {
        let corpus = &self.reader.corpus;
        let versions = corpus.versions().unwrap();
        for ((number, owner), state) in &self.kept {
            let keeps =
                |info: &&VersionInfo| info.generation == *number && info.protected_by.iter().any(|by| by == owner);
            let kept = versions.iter().find(keeps);
            let kept =
                kept.unwrap_or_else(|| panic!("generation {number}, which {owner} keeps, is gone: {versions:?}"));
            assert_eq!((self.state_at(kept.dataset_version), kept.passages), (state.clone(), state.passages.len()));
            let by = encoder(&state.encoder.to_string());
            let (corpus, generation) = corpus.with_generation_for(&by).unwrap().unwrap();
            let state = self.state_at(generation.dataset_version());
            whole(&Reader { corpus, generation, state });
        }
    }

    fn step(&mut self) {
        let lock_of = |corpus: &Corpus| corpus.lock("a model").unwrap();
        // Searches are many and cheap; everything else opens the index anew.
        if self.rng.random_bool(0.85) {
            let how = match self.rng.random_bool(0.5) {
                true => Search::Exact,
                false => Search::Graph { ef: self.rng.random_range(1..=BEAM) },
            };
            self.say(format!("search {how:?}"));
            return search(&self.reader, how, &mut self.rng, &mut self.walked);
        }
        let here = Corpus::open(self.dir.path()).unwrap();
        match self.rng.random_range(60..100) {
            60..68 => {
                self.say("reopen".into());
                self.changed(self.now.clone());
                whole(&self.reader);
            }
            68..73 if self.now.passages.len() < MANY => {
                let new = self.rng.random_range(1..12);
                let numbers = self.fresh_numbers(new);
                self.say(format!("append {numbers:?}"));
                append(&here, &numbers, self.now.encoder, None).unwrap();
                let mut now = self.now.clone();
                now.passages.extend(numbers.iter().map(|at| (*at, vector(*at, now.encoder))));
                self.changed(now);
            }
            73..78 if self.now.passages.len() > FEW => {
                let all: Vec<usize> = self.now.passages.keys().copied().collect();
                let count = self.rng.random_range(1..8);
                let going: Vec<usize> = all.sample(&mut self.rng, count).copied().collect();
                self.say(format!("delete {going:?}"));
                let ids: Vec<String> = going.iter().map(|at| passage(*at).id).collect();
                here.delete(&lock_of(&here), &ids).unwrap();
                let mut now = self.now.clone();
                now.passages.retain(|at, _| !going.contains(at));
                self.changed(now);
            }
            78..81 => {
                let (encoder, plan) = (self.next_encoder, self.plan());
                self.next_encoder += 1;
                self.say(format!("refresh by {encoder}, {plan:?}"));
                let made = refresh(&here, encoder, plan, usize::MAX).unwrap();
                let passages = self.now.passages.keys().map(|at| (*at, vector(*at, encoder))).collect();
                self.changed(State { passages, encoder, number: made.number() });
                self.protected();
            }
            81..84 => {
                // Sometimes by the encoder of the next refresh, which then takes it up.
                let encoder = self.next_encoder + self.rng.random_range(0..2);
                let fragments = self.rng.random_range(0..4);
                self.say(format!("refresh by {encoder} given up after {fragments} fragments"));
                assert!(refresh(&here, encoder, GraphPlan::Build, fragments).is_none());
                self.changed(self.now.clone());
            }
            84..86 => {
                let (numbers, after) = (self.fresh_numbers(20), self.rng.random_range(0..20));
                self.say(format!("append given up after {after}"));
                append(&here, &numbers, self.now.encoder, Some(after)).unwrap_err();
                self.changed(self.now.clone());
            }
            86..88 => {
                self.say("delete an id that is not there".into());
                let ids = [passage(*self.now.passages.keys().next().unwrap()).id, "nobody".into()];
                assert!(matches!(here.delete(&lock_of(&here), &ids), Err(Error::UnknownIds { .. })));
                self.changed(self.now.clone());
            }
            88..90 => {
                self.say("compact".into());
                let done = here.compact(&lock_of(&here), &PARAMS, &mut |_| {}).unwrap();
                assert_eq!(done.passages, self.now.passages.len());
                self.changed(self.now.clone());
                assert_eq!(self.reader.corpus.len(), self.now.passages.len());
                self.protected();
            }
            90..92 => {
                let dry = self.rng.random_bool(0.5);
                self.say(format!("gc, dry {dry}"));
                here.gc(&lock_of(&here), dry).unwrap();
                self.changed(self.now.clone());
                self.protected();
            }
            92..94 => self.roll_back(&here),
            94..96 => {
                let infos = here.generations().unwrap();
                let info = infos.choose(&mut self.rng).unwrap();
                let (number, owner) = (info.number, ["a", "b"][self.rng.random_range(0..2)]);
                let keep = self.rng.random_bool(0.4);
                self.say(format!("protect {number} for {owner}: {keep}"));
                match keep {
                    true => {
                        here.protect(&lock_of(&here), number, owner).unwrap();
                        // Repeating it changes nothing.
                        let state = self.state_at(info.dataset_version);
                        self.kept.entry((number, owner)).or_insert(state);
                    }
                    false => {
                        here.unprotect(&lock_of(&here), number, owner).unwrap();
                        self.kept.remove(&(number, owner));
                    }
                }
            }
            96..97 => {
                self.say("mend".into());
                here.mend(&lock_of(&here), &PARAMS, &mut |_| {}).unwrap();
                self.changed(self.now.clone());
            }
            97..98 => {
                self.say("look at a retained generation".into());
                let infos = here.generations().unwrap();
                let info = infos.choose(&mut self.rng).unwrap();
                let (corpus, generation) = here.with_generation_for(&info.fingerprint).unwrap().unwrap();
                let state = self.state_at(generation.dataset_version());
                whole(&Reader { corpus, generation, state });
            }
            98..99 => {
                self.say("a reader stays".into());
                let corpus = here;
                let generation = corpus.current().unwrap().unwrap();
                self.old = Some(Reader { corpus, generation, state: self.now.clone() });
            }
            _ => {
                self.say("the reader that stayed".into());
                if let Some(old) = &self.old {
                    let number = first(&old.state);
                    let ordinal = old.corpus.ordinal(&passage(number).id);
                    match ordinal.and_then(|ordinal| old.corpus.get(&[ordinal.unwrap()])) {
                        Ok(found) => {
                            assert_eq!(found, [passage(number)]);
                            search(old, Search::Graph { ef: BEAM }, &mut self.rng, &mut self.walked);
                        }
                        Err(error) => assert!(matches!(error, Error::Changed { .. }), "{error:?}"),
                    }
                }
            }
        }
    }

    fn roll_back(&mut self, here: &Corpus) {
        let versions = here.versions().unwrap();
        let wanted = versions.choose(&mut self.rng).unwrap();
        let lock = here.lock("a model").unwrap();
        self.say(format!("roll back to version {} of generation {}", wanted.dataset_version, wanted.generation));
        if wanted.current {
            let error = here.rollback_to_version(&lock, wanted.dataset_version).unwrap_err();
            assert!(matches!(error, Error::Newest { .. }), "{error:?}");
            return;
        }
        let highest = versions.iter().map(|info| info.generation).max().unwrap();
        let number = here.rollback_to_version(&lock, wanted.dataset_version).unwrap();
        assert!(number > highest, "{number} after {highest}");
        drop(lock);
        self.changed(State { number, ..self.state_at(wanted.dataset_version) });
        whole(&self.reader);
    }

    /// Settings have versions of their own, which hold what the version before held.
    fn state_at(&self, version: u64) -> State {
        self.versions.range(..=version).next_back().unwrap().1.clone()
    }

    fn plan(&mut self) -> GraphPlan {
        match self.rng.random_bool(0.5) {
            true => GraphPlan::Build,
            false => GraphPlan::Reuse { max_loss: 0.1 },
        }
    }

    /// Numbers of passages that are not there: new ones, and some that were deleted.
    fn fresh_numbers(&mut self, count: usize) -> Vec<usize> {
        let mut gone: Vec<usize> = (0..self.next).filter(|at| !self.now.passages.contains_key(at)).collect();
        let numbers = (0..count).map(|_| {
            if !gone.is_empty() && self.rng.random_bool(0.3) {
                return gone.swap_remove(self.rng.random_range(0..gone.len()));
            }
            self.next += 1;
            self.next - 1
        });
        numbers.collect()
    }

    fn check(&self) {
        let found = check(self.dir.path()).unwrap();
        assert!(found.iter().all(|defect| defect.kind < DefectKind::Damage), "{found:?}");
        let corpus = Corpus::open(self.dir.path()).unwrap();
        {
            let lock = corpus.lock("a model").unwrap();
            corpus.mend(&lock, &PARAMS, &mut |_| {}).unwrap();
        }
        let mut left = check(self.dir.path()).unwrap();
        left.retain(|defect| !defect.what.contains("was interrupted after"));
        assert!(left.is_empty(), "{left:?}");
        whole(&self.reader);
    }
}

fn first(state: &State) -> usize {
    *state.passages.keys().next().unwrap()
}

/// A refresh that gives up after so many fragments, if there are more.
fn refresh(corpus: &Corpus, by: u64, plan: GraphPlan, fragments: usize) -> Option<Generation> {
    let ids = corpus.ids().unwrap();
    let lock = corpus.lock("a model").unwrap();
    let mut writer = corpus.begin(&lock, &encoder(&by.to_string()), DIM).unwrap();
    for fragment in writer.pending().into_iter().take(fragments) {
        let rows = fragment.first..fragment.first + fragment.rows;
        // The row of a deleted passage needs some vector.
        let number = |row: u32| ids[row as usize].get(1..).map_or(0, |_| number_of(&ids[row as usize]));
        let vectors: Vec<f32> = rows.flat_map(|row| vector(number(row), by)).collect();
        writer.write(&fragment, &vectors).unwrap();
    }
    match fragments {
        usize::MAX => Some(writer.commit(&PARAMS, plan, &mut |_| {}).unwrap()),
        _ => None,
    }
}

/// An append whose passages end with an error after so many.
fn append(corpus: &Corpus, numbers: &[usize], by: u64, broken_after: Option<usize>) -> Result<Appended> {
    let lock = corpus.lock("a model").unwrap();
    let passages = numbers.iter().enumerate().map(|(at, number)| match broken_after {
        Some(after) if at >= after => Err(Error::Passages("the file ends here".into())),
        _ => Ok(passage(*number)),
    });
    let mut embed = |run: &[Passage]| Ok(run.iter().flat_map(|passage| vector(number_of(&passage.id), by)).collect());
    corpus.append(&lock, &encoder(&by.to_string()), DIM, passages, &mut embed)
}

/// The scores of an exact search must be those of a plain scan, and each hit a passage that has its score; a walk through the graph
/// may miss some, which are counted.
fn search(reader: &Reader, how: Search, rng: &mut ChaCha8Rng, walked: &mut (usize, usize)) {
    let Reader { corpus, generation, state } = reader;
    let question = vector(rng.random_range(0..1000), rng.random_range(1000..2000));
    let most = if how == Search::Exact { 10 } else { BEAM };
    let k = rng.random_range(1..=most.min(state.passages.len()));
    let hits = generation.search(&question, k, how, Trust::StaleAllowed).unwrap().remove(0);
    let score = |vector: &[f32]| question.iter().zip(vector).map(|(a, b)| a * b).sum::<f32>();
    let mut expected: Vec<f32> = state.passages.values().map(|vector| score(vector)).collect();
    expected.sort_by(|a, b| b.total_cmp(a));
    assert_eq!(hits.len(), k);
    let ids = corpus.ids().unwrap();
    let mut met = std::collections::BTreeSet::new();
    assert!(hits.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "{hits:?}");
    for (hit, expected) in hits.iter().zip(&expected) {
        match how {
            Search::Exact => assert!((hit.score - expected).abs() < 1e-5, "{hit:?} instead of {expected}"),
            Search::Graph { .. } => assert!(hit.score < expected + 1e-5, "{hit:?} is better than the best, {expected}"),
        }
        let number = number_of(&ids[hit.ordinal as usize]);
        assert!((score(&state.passages[&number]) - hit.score).abs() < 1e-5, "{hit:?} is not passage {number}");
        assert!(met.insert(number), "{number} twice");
    }
    if how != Search::Exact {
        let worst = expected[k - 1] - 1e-5;
        walked.0 += hits.iter().filter(|hit| hit.score >= worst).count();
        walked.1 += k;
    }
}

/// Every passage with its text and vector, and nothing else.
fn whole(reader: &Reader) {
    let Reader { corpus, generation, state } = reader;
    assert_eq!(*generation.fingerprint(), encoder(&state.encoder.to_string()));
    let live: Vec<u32> = (0..corpus.len() as u32).filter(|ordinal| !corpus.is_deleted(*ordinal)).collect();
    let texts = corpus.get(&live).unwrap();
    let ids = corpus.ids().unwrap();
    assert_eq!((live.len(), corpus.passages()), (state.passages.len(), state.passages.len()));
    for (ordinal, text) in live.into_iter().zip(texts) {
        let number = number_of(&text.id);
        assert_eq!((&text, &ids[ordinal as usize]), (&passage(number), &text.id));
        assert_eq!(corpus.ordinal(&text.id).unwrap(), Some(ordinal));
        let stored = generation.vector(ordinal).unwrap();
        assert!(stored.iter().zip(&state.passages[&number]).all(|(a, b)| (a - b).abs() < 1e-6), "vector of {number}");
    }
}

/// Longer on demand: RAGTUNE_MODEL_STEPS=100000, other operations: RAGTUNE_SEED=7.
#[test]
fn whatever_is_done_an_index_holds_what_plain_maps_hold() {
    let seed = wanted("RAGTUNE_SEED", 1);
    let mut world = World::new(seed);
    let steps = wanted("RAGTUNE_MODEL_STEPS", 10_000);
    for step in 1..=steps {
        world.step();
        if step % 500 == 0 {
            world.check();
        }
    }
    world.check();
    let share = world.walked.0 as f64 / world.walked.1.max(1) as f64;
    assert!(world.walked.1 == 0 || share > 0.7, "the graphs find {share} of what exact search does");
    eprintln!("{steps} operations over {} states, the newest generation is {}", world.versions.len(), world.now.number);
}
