//! Corpora and vectors that are a pure function of their arguments.

use std::collections::BTreeMap;
use std::path::Path;

use ragtune_index::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Small fragments, so that a small corpus has several.
pub const ROWS: usize = 64;
pub const OPTIONS: CreateOptions = CreateOptions { rows_per_fragment: ROWS };

pub fn passages(n: usize) -> impl Iterator<Item = Result<Passage>> + Send + 'static {
    (0..n).map(|at| Ok(passage(at)))
}

pub fn passage(at: usize) -> Passage {
    Passage {
        id: format!("p{at}"),
        title: format!("Title {}", at / 3),
        text: format!("Text of passage {at}, ünïcode."),
    }
}

pub fn source() -> Source {
    Source { name: "corpus.jsonl".into(), blake3: "00ff".into() }
}

pub fn create(dir: &Path, n: usize) -> Corpus {
    Corpus::create(dir, &source(), passages(n), &OPTIONS).unwrap()
}

pub fn encoder(name: &str) -> Fingerprint {
    Fingerprint::new(BTreeMap::from([
        ("pooling".to_string(), "mean".to_string()),
        ("weights".to_string(), name.to_string()),
    ]))
}

/// `n` unit vectors around `n / 25 + 2` centres.
pub fn vectors(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let centres = n / 25 + 2;
    let centre: Vec<f32> = (0..centres * dim).map(|_| rng.random_range(-1.0f32..1.0)).collect();
    let mut vectors = Vec::with_capacity(n * dim);
    for _ in 0..n {
        let from = rng.random_range(0..centres) * dim;
        let row: Vec<f32> =
            centre[from..from + dim].iter().map(|value| value + rng.random_range(-0.7f32..0.7)).collect();
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        vectors.extend(row.iter().map(|value| value / length));
    }
    vectors
}

/// Quick to build, so that the tests are.
pub fn params() -> GraphParams {
    GraphParams { links: 8, ef_construction: 60, probes: 20, ef: 64 }
}

/// Embeds the whole corpus with these vectors.
pub fn embed(corpus: &Corpus, by: &Fingerprint, dim: usize, vectors: &[f32]) -> Generation {
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, by, dim).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, rows(&fragment, dim, vectors)).unwrap();
    }
    writer.commit(&params(), GraphPlan::Build, &mut |_| {}).unwrap()
}

/// The part of all vectors that belongs to a fragment.
pub fn rows<'a>(fragment: &Fragment, dim: usize, vectors: &'a [f32]) -> &'a [f32] {
    &vectors[fragment.first as usize * dim..(fragment.first + fragment.rows) as usize * dim]
}

/// Whether two sets of vectors are the same but for the renormalisation on writing.
pub fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6)
}

/// Asserts that nothing is wrong with an index but what `mend` clears away, then that mending leaves nothing.
pub fn only_leftovers(dir: &Path, context: &str) {
    let found = check(dir).unwrap();
    assert!(found.iter().all(|defect| defect.kind < DefectKind::Damage), "{context}: {found:?}");
    let corpus = Corpus::open(dir).unwrap();
    let lock = corpus.lock("mending").unwrap();
    let done = corpus.mend(&lock, &params(), &mut |_| {}).unwrap();
    let left: Vec<Defect> =
        check(dir).unwrap().into_iter().filter(|defect| !defect.what.contains("was interrupted after")).collect();
    assert!(left.is_empty(), "{context}: {left:?} after {done:?}");
}

/// Everything an index answers: what must be wholly old or wholly new after whatever happened.
#[derive(Debug, Clone)]
pub struct Seen {
    pub ids: Vec<String>,
    pub passages: Vec<Passage>,
    /// Number and encoder of the newest generation, and its vectors by their bits.
    pub generation: Option<(u32, Fingerprint, Vec<u32>)>,
    /// What a few questions find by exact search.
    pub hits: Vec<Vec<Hit>>,
    /// What they find on a walk through the graph with a narrow beam, where there is a graph to walk.
    pub walk: Option<Vec<Vec<Hit>>>,
    /// What a few words find.
    pub words: Vec<Ranked>,
    /// Who keeps which generations.
    pub kept: Vec<(u32, Vec<String>)>,
    /// The notes of the newest generation and of those that are kept: number, name, content.
    pub notes: Vec<(u32, &'static str, serde_json::Value)>,
}

/// What the notes are called that these tests keep.
const NOTES: [&str; 2] = ["build", "note"];

/// Without a graph search is exact until it is built again; where both have one, they find the same, since the same vectors give
/// the same graph. Notes lie beside the graph, and are there again when it is.
impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let (here, there) = (&self.walk, &other.walk);
        self.ids == other.ids
            && self.passages == other.passages
            && self.generation == other.generation
            && self.hits == other.hits
            && (here.is_none() || there.is_none() || (here == there && self.notes == other.notes))
            && self.words == other.words
            && self.kept == other.kept
    }
}

impl Seen {
    /// For the message of a failed assertion: the whole would be too long.
    pub fn differs_from(&self, other: &Seen) -> String {
        let about = |seen: &Seen| {
            let generation = seen.generation.as_ref().map(|(number, by, _)| (*number, by.properties().clone()));
            format!("{} passages, generation {generation:?}", seen.passages.len())
        };
        let same = |same: bool| if same { "same" } else { "other" };
        format!(
            "{} against {}: {} ids, {} texts, {} vectors, {} hits, {} walk, kept {:?} against {:?}, noted {:?} against {:?}",
            about(self),
            about(other),
            same(self.ids == other.ids),
            same(self.passages == other.passages),
            same(self.generation == other.generation),
            same(self.hits == other.hits),
            same(self.walk == other.walk),
            self.kept,
            other.kept,
            self.notes,
            other.notes
        )
    }
}

/// What an index answers, or the first error in its way.
pub fn try_seen(dir: &Path) -> Result<Seen> {
    let corpus = Corpus::open(dir)?;
    let all: Vec<u32> = (0..corpus.len() as u32).filter(|ordinal| !corpus.is_deleted(*ordinal)).collect();
    let passages = corpus.get(&all)?;
    let ids = corpus.ids()?.to_vec();
    let (mut newest, mut hits, mut walk) = (None, Vec::new(), None);
    if let Some(generation) = corpus.current()? {
        let questions = vectors(QUESTIONS, generation.dim(), 77);
        let k = BEAM.min(corpus.passages());
        hits = generation.search(&questions, k, Search::Exact, Trust::StaleAllowed)?;
        if generation.graph().is_some() {
            walk = Some(generation.search(&questions, k, Search::Graph { ef: BEAM }, Trust::StaleAllowed)?);
        }
        let bits = generation.vectors().iter().map(|value| value.to_bits()).collect();
        newest = Some((generation.number(), generation.fingerprint().clone(), bits));
    }
    let words = corpus.lexical(Keep::No)?.search(&["passage 7", "ünïcode title 3"], 5.min(corpus.passages()), &[])?;
    let infos = corpus.generations()?;
    let noted = infos.iter().filter(|info| info.current || !info.protected_by.is_empty()).map(|info| info.number);
    let noted = noted.flat_map(|number| NOTES.map(|name| (number, name)));
    // One that cannot be read is another.
    let read = |number, name| corpus.recorded(number, name).unwrap_or_else(|error| Some(error.to_string().into()));
    let notes = noted.filter_map(|(number, name)| Some((number, name, read(number, name)?))).collect();
    let kept = infos.into_iter().map(|info| (info.number, info.protected_by));
    let kept = kept.filter(|(_, owners)| !owners.is_empty()).collect();
    Ok(Seen { ids, passages, generation: newest, hits, walk, words, kept, notes })
}

/// Questions asked of an index that is looked at.
const QUESTIONS: usize = 32;
/// The width of the beam for them, and how many passages each is to find: exact search is taken where there are not more than 20
/// passages for each place in the beam, and what is to be looked at here is the graph.
const BEAM: usize = 3;

/// The share of the exact hits that a walk found, each of whose hits must be in order and have the score of its passage.
pub fn recall_of(walk: &[Vec<Hit>], exact: &[Vec<Hit>], score: impl Fn(usize, u32) -> f32) -> f64 {
    let (mut found, mut wanted) = (0, 0);
    for (at, (walk, exact)) in walk.iter().zip(exact).enumerate() {
        assert_eq!(walk.len(), exact.len(), "question {at}");
        assert!(walk.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "question {at}: {walk:?}");
        assert!(walk.iter().all(|hit| (score(at, hit.ordinal) - hit.score).abs() < 1e-5), "question {at}: {walk:?}");
        found += walk.iter().filter(|hit| exact.contains(hit)).count();
        wanted += exact.len();
    }
    if wanted == 0 { 1.0 } else { found as f64 / wanted as f64 }
}

/// What an index answers; nothing where there is none. Ids must agree, and a graph must find most of what exact search finds.
pub fn seen(dir: &Path) -> Option<Seen> {
    match try_seen(dir) {
        Err(Error::NoIndex { .. }) => None,
        other => {
            let seen = other.unwrap();
            let alive = seen.ids.iter().filter(|id| !id.is_empty());
            assert!(alive.eq(seen.passages.iter().map(|passage| &passage.id)));
            if let (Some(walk), Some((_, _, bits))) = (&seen.walk, &seen.generation) {
                let dim = bits.len() / seen.ids.len();
                let questions = vectors(QUESTIONS, dim, 77);
                let recall = recall_of(walk, &seen.hits, |question, ordinal| {
                    let row = &bits[ordinal as usize * dim..][..dim];
                    questions[question * dim..].iter().zip(row).map(|(a, b)| a * f32::from_bits(*b)).sum()
                });
                assert!(recall >= 0.5, "the graph finds {recall} of {} passages' nearest", seen.passages.len());
            }
            Some(seen)
        }
    }
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Every file below a directory, in order.
pub fn all_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        match path.is_dir() {
            true => found.extend(all_files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Says that this machine does not permit a test; a failure where RAGTUNE_NO_SKIP=1 says that it must.
pub fn skipped(why: &str) {
    let must = std::env::var("RAGTUNE_NO_SKIP").is_ok_and(|value| !matches!(value.as_str(), "" | "0"));
    assert!(!must, "RAGTUNE_NO_SKIP is set, and {why}");
    eprintln!("skipped: {why}");
}

/// A number from the environment: how long the long forms of the tests are, and from which seed.
pub fn wanted(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
