//! `ragtune index stats`: what an index holds and what it took to make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ragtune_index::{Corpus, DerivedVectors};
use serde::Serialize;

use super::{print_json, print_text};
use crate::cost::units;
use crate::error::{Error, Result};
use crate::pipeline::identity::{BUILD_NOTE, BuildNote};

/// What `index stats` says.
#[derive(Serialize)]
pub struct Stats {
    index: PathBuf,
    passages: u64,
    /// Deleted passages that a compaction would drop.
    deleted: usize,
    fragments: usize,
    /// Appended passages that the graph does not know.
    outside_graph: usize,
    corpus: String,
    corpus_blake3: String,
    dimension: usize,
    generation: u32,
    generations: Vec<u32>,
    encoder: String,
    fingerprint: BTreeMap<String, String>,
    bytes: BTreeMap<String, u64>,
    graph_recall_at_10: Option<f32>,
    graph_probes: Option<usize>,
    graph_links: Option<usize>,
    graph_ef_construction: Option<usize>,
    graph_defect: Option<String>,
    /// Files beside the graph that hold the vectors once more, to be mapped.
    derived_vectors: Vec<DerivedVectors>,
    build_seconds: BTreeMap<String, f64>,
    embedding_passages_per_second: Option<f64>,
    /// Share of the passages embedded by the build that were cut to the encoder's length.
    truncated_passages: Option<f64>,
}

pub fn run(index: &Path, json: bool) -> Result<u8> {
    let stats = gather(index)?;
    if json {
        print_json(&stats)?;
        return Ok(0);
    }
    let mut lines = vec![
        format!("index        {}", stats.index.display()),
        format!(
            "corpus       {} ({} passages in {} fragments, {} deleted, {} outside the graph)",
            stats.corpus, stats.passages, stats.fragments, stats.deleted, stats.outside_graph
        ),
        format!("generation   {} of {:?}, {} dimensions", stats.generation, stats.generations, stats.dimension),
        format!("encoder      {}", stats.encoder),
    ];
    for (property, value) in &stats.fingerprint {
        lines.push(format!("             {property}: {value}"));
    }
    for (kind, bytes) in &stats.bytes {
        lines.push(format!("{kind:<12} {}", units::bytes(*bytes)));
    }
    match (&stats.graph_defect, stats.graph_recall_at_10) {
        (Some(defect), _) => {
            lines.push(format!("graph        unusable: {defect}; searches compare with every passage"))
        }
        (None, Some(recall)) => lines.push(format!(
            "graph        recall@10 {recall:.4} against exact search on {} probes; {} links, ef at construction {}",
            stats.graph_probes.unwrap_or_default(),
            stats.graph_links.unwrap_or_default(),
            stats.graph_ef_construction.unwrap_or_default()
        )),
        (None, None) => {}
    }
    for derived in &stats.derived_vectors {
        let recall = derived.codes.map_or(String::new(), |codes| {
            format!("; recall@10 {:.4} against exact search on {} probes", codes.recall_at_10, codes.probes)
        });
        lines.push(format!("as {:<9} {}{recall}", derived.vectors.name(), units::bytes(derived.bytes)));
    }
    for (phase, seconds) in &stats.build_seconds {
        lines.push(format!("build {phase:<10} {}", units::seconds(*seconds)));
    }
    if let Some(rate) = stats.embedding_passages_per_second {
        lines.push(format!("embedding    {rate:.1} passages/s"));
    }
    if let Some(share) = stats.truncated_passages {
        lines.push(format!("truncated    {} of passages to the encoder's length", units::share(share)));
    }
    print_text(&lines.join("\n"))?;
    Ok(0)
}

/// Gathers the statistics of an index.
pub fn gather(index: &Path) -> Result<Stats> {
    let corpus = Corpus::open(index)?;
    let generation = corpus.current()?.ok_or_else(|| {
        Error::new(format!("`{}` holds passages but no vectors: its build was interrupted", index.display()))
            .hint("run the same `ragtune index build` again; it goes on where it stopped")
    })?;
    let note: Option<BuildNote> = match generation.recorded(BUILD_NOTE)? {
        Some(value) => Some(serde_json::from_value(value)?),
        None => None,
    };
    let graph = generation.graph();
    let bytes = corpus.stats()?;
    let mut build_seconds = BTreeMap::new();
    for entry in note.iter().flat_map(|note| &note.ledger.entries) {
        *build_seconds.entry(entry.phase.name().to_owned()).or_insert(0.0) += entry.amounts.seconds;
    }
    Ok(Stats {
        index: index.to_path_buf(),
        passages: bytes.passages as u64,
        deleted: bytes.deleted,
        fragments: bytes.fragments,
        outside_graph: bytes.outside_graph,
        corpus: corpus.source().name.clone(),
        corpus_blake3: corpus.source().blake3.clone(),
        dimension: generation.dim(),
        generation: generation.number(),
        generations: corpus.generations()?.iter().map(|info| info.number).collect(),
        encoder: generation.fingerprint().id(),
        fingerprint: generation.fingerprint().properties().clone(),
        bytes: BTreeMap::from([
            ("text".to_owned(), bytes.text_bytes),
            ("vectors".to_owned(), bytes.vector_bytes),
            ("graphs".to_owned(), bytes.graph_bytes),
            ("derived".to_owned(), bytes.derived_bytes),
            ("other".to_owned(), bytes.other_bytes),
        ]),
        graph_recall_at_10: graph.map(|graph| graph.recall_at_10),
        graph_probes: graph.map(|graph| graph.probes),
        graph_links: graph.map(|graph| graph.links),
        graph_ef_construction: graph.map(|graph| graph.ef_construction),
        graph_defect: generation.graph_defect().map(str::to_owned),
        derived_vectors: corpus.derived()?,
        build_seconds,
        embedding_passages_per_second: note.as_ref().map(|note| note.passages_per_second).filter(|rate| *rate > 0.0),
        truncated_passages: note
            .filter(|note| note.embedded > 0)
            .map(|note| note.truncated as f64 / note.embedded as f64),
    })
}
