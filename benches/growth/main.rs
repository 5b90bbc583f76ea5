//! Growth of a whole index: what it takes to create one of N passages, to embed it into a first generation, to open it, to search
//! it and to refresh it, and what it takes of memory and disk. One work (`make`, `open`, `refresh`) of one size a process, so that memory
//! is that work's; one line of JSON. `benches/growth.sh` runs them and fits the exponents.
//!
//! ```text
//! cargo bench --profile release --bench growth -- --vectors FOLDER --corpus CORPUS --passages 100000 --out DIR --work make
//! ```
//!
//! FOLDER holds `passages.f32` and `questions.f32` (little-endian float32, rows of `--dim`, of length one), CORPUS the texts as JSON
//! Lines. Both are repeated until there are N; a repeated vector gets noise of length `--noise`, and the refresh moves every vector
//! by noise of length `--drift`, as an encoder moves that was trained a little. Time of embedding is not in it: this is the index.

mod inputs;
#[path = "../speed/process.rs"]
#[allow(dead_code)]
mod process;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use inputs::{Arguments, Texts, Vectors};
use ragtune_index::{
    CommitStage, Corpus, CreateOptions, Fingerprint, Generation, GraphParams, GraphPlan, Search, Source, Trust,
};

/// Neighbours asked for.
const K: usize = 10;
/// How much recall a refresh may lose before it mends the graph: what `ragtune train` allows.
const MAX_LOSS: f32 = 0.01;

fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let arguments = Arguments::parse()?;
    let threads = process::prepare();
    let mut line = match arguments.work.as_str() {
        "make" => make(&arguments)?,
        "open" => open(&arguments)?,
        "refresh" => refresh(&arguments)?,
        other => return Err(format!("`{other}` is no work: make, open or refresh").into()),
    };
    line["work"] = arguments.work.clone().into();
    line["passages"] = arguments.passages.into();
    line["dim"] = arguments.dim.into();
    line["threads"] = threads.into();
    line["peak_bytes"] = process::peak_bytes().into();
    Ok(line)
}

/// Creates the index and its first generation, whose graph is built.
fn make(arguments: &Arguments) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let (vectors, texts) = (Vectors::read(arguments)?, Texts::read(arguments)?);
    let clock = Clock::start();
    let source = Source { name: "growth.jsonl".into(), blake3: "0".repeat(64) };
    let passages = (0..arguments.passages).map(|at| Ok::<_, ragtune_index::Error>(texts.passage(at)));
    let corpus = Corpus::create(&arguments.out, &source, passages, &CreateOptions::default())?;
    let create = clock.read();
    let (parts, built) = generation(&corpus, &vectors, 0.0, arguments, GraphPlan::Build)?;
    let disk = corpus.stats()?;
    Ok(serde_json::json!({
        "noise": arguments.noise, "create": create, "parts": parts, "graph": built.graph(), "disk": disk,
    }))
}

/// Opens it as a process finds it that begins now - the pages of its files are in memory, since they were just written - and
/// searches it.
fn open(arguments: &Arguments) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let questions = Vectors::read(arguments)?.questions;
    let before = process::resident_bytes();
    let clock = Clock::start();
    let corpus = Corpus::open(&arguments.out)?;
    let current = corpus.current()?.ok_or("the index has no generation")?;
    let open = clock.read();
    let resident = process::resident_bytes().saturating_sub(before);
    let clock = Clock::start();
    let truth = current.search(&questions, K, Search::Exact, Trust::StaleAllowed)?;
    let exact = clock.read();
    let mut searches = Vec::new();
    for ef in [32, 64, 128, 256] {
        let ask = || current.search(&questions, K, Search::Graph { ef }, Trust::StaleAllowed);
        let found = ask()?;
        let clock = Clock::start();
        std::hint::black_box(ask()?);
        let time = clock.read();
        let right =
            found.iter().zip(&truth).map(|(found, truth)| found.iter().filter(|hit| truth.contains(hit)).count());
        let recall = right.sum::<usize>() as f64 / (truth.len() * K) as f64;
        searches.push(serde_json::json!({ "ef": ef, "recall_at_10": recall, "time": time }));
    }
    Ok(serde_json::json!({
        "open": open, "resident_bytes": resident, "questions": truth.len(), "exact": exact, "searches": searches,
    }))
}

/// Refreshes it: all vectors anew, the graph as `ragtune train` takes it over.
fn refresh(arguments: &Arguments) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let vectors = Vectors::read(arguments)?;
    let corpus = Corpus::open(&arguments.out)?;
    let (parts, refreshed) =
        generation(&corpus, &vectors, arguments.drift, arguments, GraphPlan::Reuse { max_loss: MAX_LOSS })?;
    let disk = corpus.stats()?;
    Ok(serde_json::json!({ "drift": arguments.drift, "parts": parts, "graph": refreshed.graph(), "disk": disk }))
}

/// Embeds the corpus, so to speak: seconds of each part, and the generation.
fn generation(
    corpus: &Corpus,
    vectors: &Vectors,
    drift: f32,
    arguments: &Arguments,
    plan: GraphPlan,
) -> Result<(serde_json::Value, Generation), Box<dyn std::error::Error>> {
    let by = Fingerprint::new(BTreeMap::from([("drift".to_string(), drift.to_string())]));
    let lock = corpus.lock("benches/growth")?;
    let mut writer = corpus.begin(&lock, &by, vectors.dim)?;
    let mut parts: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let mut charge = |name: &'static str, clock: &Clock| {
        let (wall, cpu) = clock.elapsed();
        let part = parts.entry(name).or_default();
        *part = (part.0 + wall, part.1 + cpu);
    };
    for fragment in writer.pending() {
        let rows = vectors.rows(fragment.first as usize, fragment.rows as usize, drift);
        let clock = Clock::start();
        writer.write(&fragment, &rows)?;
        charge("write", &clock);
    }
    let mut running = ("commit", Clock::start());
    let params = GraphParams { ef_construction: arguments.ef_construction, ..GraphParams::default() };
    let generation = writer.commit(&params, plan, &mut |stage| {
        let name = match stage {
            CommitStage::Commit => "commit",
            CommitStage::Graph => "graph",
            CommitStage::Probe => "probe",
            CommitStage::Publish => "publish",
        };
        charge(running.0, &running.1);
        running = (name, Clock::start());
    })?;
    charge(running.0, &running.1);
    let parts = parts
        .into_iter()
        .map(|(name, (wall, cpu))| (name.to_string(), serde_json::json!({ "seconds": wall, "cpu_seconds": cpu })));
    Ok((serde_json::Value::Object(parts.collect()), generation))
}

/// The wall's time and the processor's.
struct Clock(Instant, f64);

impl Clock {
    fn start() -> Self {
        Self(Instant::now(), process::cpu_seconds())
    }

    fn elapsed(&self) -> (f64, f64) {
        (self.0.elapsed().as_secs_f64(), process::cpu_seconds() - self.1)
    }

    fn read(&self) -> serde_json::Value {
        let (wall, cpu) = self.elapsed();
        serde_json::json!({ "seconds": wall, "cpu_seconds": cpu })
    }
}
