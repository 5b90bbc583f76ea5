//! Bytes on disk by kind.

use std::collections::BTreeSet;
use std::path::Path;

use crate::corpus::Corpus;
use crate::durable::{entries, name};
use crate::error::{Error, Result};
use crate::held::is_derived;
use crate::manifest::{GRAPH, sidecars};
use crate::retained::numbers;

/// What an index holds and what it takes on disk. Bytes are lengths of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Stats {
    /// Number of passages that are there.
    pub passages: usize,
    /// Number of deleted passages that a compaction would drop.
    pub deleted: usize,
    /// Number of fragments.
    pub fragments: usize,
    /// How many passages at the end the newest graph does not know; they are searched one by one.
    pub outside_graph: usize,
    /// Length of the vectors; `None` before the first generation.
    pub dim: Option<usize>,
    /// Number of retained generations.
    pub generations: usize,
    /// Ids, titles and texts of all retained generations.
    pub text_bytes: u64,
    /// Vectors of all retained generations, and staged ones.
    pub vector_bytes: u64,
    /// Graphs of all retained generations.
    pub graph_bytes: u64,
    /// Vectors once more, to be mapped: as they are and as codes.
    pub derived_bytes: u64,
    /// Everything else: manifests, settings, journal.
    pub other_bytes: u64,
}

impl Stats {
    /// All bytes together.
    pub fn total_bytes(&self) -> u64 {
        self.text_bytes + self.vector_bytes + self.graph_bytes + self.derived_bytes + self.other_bytes
    }
}

pub(crate) fn stats(corpus: &Corpus) -> Result<Stats> {
    let known = corpus.survey()?;
    let newest = corpus.table().latest()?;
    let mut texts: BTreeSet<String> = newest.text_files()?.into_iter().collect();
    texts.extend(known.iter().flat_map(|known| known.rows.texts.iter().cloned()));
    let (mut text_bytes, mut vector_bytes, mut graph_bytes, mut derived_bytes) = (0, 0, 0, 0);
    for file in entries(&corpus.table().data_dir())? {
        let bytes = bytes(&file)?;
        if texts.contains(name(&file)) { text_bytes += bytes } else { vector_bytes += bytes }
    }
    for sidecar in sidecars(corpus.dir())? {
        let graph = sidecar.join(GRAPH);
        if graph.exists() {
            graph_bytes += bytes(&graph)?;
        }
        for file in entries(&sidecar)?.iter().filter(|path| is_derived(path)) {
            derived_bytes += bytes(file)?;
        }
    }
    // A writer may have removed files between the two looks.
    let other_bytes = bytes(corpus.dir())?.saturating_sub(text_bytes + vector_bytes + graph_bytes + derived_bytes);
    let last = known.last();
    let outside_graph = last.and_then(|known| Some(known.rows.len() - known.manifest.as_ref().ok()?.len as usize));
    let deleted = newest.deleted()?.len();
    let rows = newest.rows()?;
    Ok(Stats {
        passages: rows.len() - deleted,
        deleted,
        fragments: rows.fragments.len(),
        outside_graph: outside_graph.unwrap_or(0),
        dim: last.map(|known| known.dim),
        generations: numbers(&known).len(),
        text_bytes,
        vector_bytes,
        graph_bytes,
        derived_bytes,
        other_bytes,
    })
}

/// Length of a file, or of all files below a directory; nothing of one that a writer removed since it was listed.
pub(crate) fn bytes(path: &Path) -> Result<u64> {
    if path.is_dir() {
        return entries(path)?.iter().map(|entry| bytes(entry)).sum();
    }
    match path.metadata() {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("looking at", path)(error)),
    }
}
