//! A generation that can be searched: all vectors in memory, and the graph if it is fit for use. Never changes.
//!
//! B questions, N passages, D dimension.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ragtune_nearest::{FlatGraph, Hit, decode, dot, search};
use rayon::prelude::*;

use crate::durable::{name, write_atomic};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::manifest::{GRAPH, GraphInfo};
use crate::survey::Known;

/// How far from 1 the length of a stored vector may be: what rounding to float32 leaves, generously.
const LENGTH_TOLERANCE: f32 = 1e-4;

/// How to look for the nearest passages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Through the graph, with a beam of `ef` (at least k is used): fast, finds nearly all. Exact where there is no usable
    /// graph, see [`Generation::graph_defect`].
    Graph {
        /// Width of the beam; more is slower and finds more.
        ef: usize,
    },
    /// Every passage is scored: the oracle.
    Exact,
}

/// What the caller knows of the encoder that made the questions' vectors.
#[derive(Debug, Clone, Copy)]
pub enum Trust<'a> {
    /// They were made by this encoder, which must be the one that embedded the generation.
    Same(&'a Fingerprint),
    /// They may be newer than the passages, and the caller declares that in its records: training between two refreshes.
    StaleAllowed,
}

/// One complete embedding of the corpus. Cheap to clone: clones share the vectors and the graph.
#[derive(Debug, Clone)]
pub struct Generation {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    number: u32,
    dim: usize,
    dataset_version: u64,
    fingerprint: Fingerprint,
    vectors: Vec<f32>,
    /// Ordinals of deleted passages, ascending.
    deleted: Vec<u32>,
    graph: Result<(FlatGraph, GraphInfo), String>,
    sidecar: Option<PathBuf>,
}

impl Generation {
    /// Loads a generation: its vectors, which must be whole, and its graph, which may be missing.
    pub(crate) fn load(known: &Known, len: usize) -> Result<Self> {
        let vectors = load_vectors(known, len)?;
        let graph = match &known.manifest {
            Ok(manifest) => load_graph(known, manifest.graph_len(), &manifest.graph_blake3)
                .map(|graph| (graph, manifest.graph.clone())),
            Err(defect) => Err(defect.clone()),
        };
        Self::assemble(known, vectors, graph)
    }

    /// A generation of parts that are already in memory and known to agree.
    pub(crate) fn assemble(
        known: &Known,
        vectors: Vec<f32>,
        graph: Result<(FlatGraph, GraphInfo), String>,
    ) -> Result<Self> {
        let shared = Shared {
            number: known.number,
            dim: known.dim,
            dataset_version: known.table.version(),
            fingerprint: known.fingerprint.clone(),
            vectors,
            deleted: known.table.deleted()?,
            graph,
            sidecar: known.sidecar.clone(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its number; later generations have higher ones.
    pub fn number(&self) -> u32 {
        self.shared.number
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        self.shared.vectors.len() / self.shared.dim
    }

    /// Never true: an index of nothing cannot be created.
    pub fn is_empty(&self) -> bool {
        self.shared.vectors.is_empty()
    }

    /// Length of the vectors.
    pub fn dim(&self) -> usize {
        self.shared.dim
    }

    /// What embedded it.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.shared.fingerprint
    }

    /// The version of the Lance dataset that it is.
    pub fn dataset_version(&self) -> u64 {
        self.shared.dataset_version
    }

    /// All vectors, row-major (N, D), float32, of length one.
    pub fn vectors(&self) -> &[f32] {
        &self.shared.vectors
    }

    /// The vector of one passage, if there is such a passage.
    pub fn vector(&self, ordinal: u32) -> Result<&[f32]> {
        let start = ordinal as usize * self.shared.dim;
        self.shared.vectors.get(start..start + self.shared.dim).ok_or_else(|| Error::NotThere {
            what: format!("there is no passage `{ordinal}`, the corpus holds {}", self.len()),
        })
    }

    /// The graph, if it is fit for use.
    pub fn graph(&self) -> Option<&GraphInfo> {
        self.shared.graph.as_ref().ok().map(|(_, info)| info)
    }

    /// Why the graph is not used and exact search answers instead; `None` when it is.
    pub fn graph_defect(&self) -> Option<&str> {
        self.shared.graph.as_ref().err().map(String::as_str)
    }

    /// The `k` nearest passages for each question: `questions` (B, D) row-major. For each question its hits, higher inner
    /// product first, ties by ordinal. Questions need not have length one, but must be finite.
    ///
    /// Runs on all threads of rayon's pool; the result does not depend on their number.
    pub fn search(&self, questions: &[f32], k: usize, how: Search, trust: Trust<'_>) -> Result<Vec<Vec<Hit>>> {
        let Shared { number, dim, fingerprint, vectors, deleted, graph, .. } = &*self.shared;
        if let Trust::Same(asked) = trust
            && asked != fingerprint
        {
            return Err(Error::WrongEncoder {
                asked: asked.id(),
                stored: fingerprint.id(),
                number: *number,
                differences: asked.differences(fingerprint),
            });
        }
        if k > self.len() - deleted.len() {
            return Err(Error::TooMany { k, len: self.len() - deleted.len() });
        }
        if !questions.len().is_multiple_of(*dim) {
            let what = format!("the questions' vectors are not whole rows of {dim} values");
            return Err(Error::Dimension {
                what,
                given: questions.len(),
                expected: questions.len().next_multiple_of(*dim),
            });
        }
        if let Some(at) = questions.iter().position(|value| !value.is_finite()) {
            let what =
                format!("the vector of question {} holds `{}`, a finite number was expected", at / dim, questions[at]);
            return Err(Error::BadVector { what });
        }
        if !deleted.is_empty() || graph.as_ref().is_ok_and(|(graph, _)| graph.nodes() < self.len()) {
            let found = search(vectors, *dim, questions, k + deleted.len()).into_iter().map(|mut hits| {
                hits.retain(|hit| deleted.binary_search(&hit.ordinal).is_err());
                hits.truncate(k);
                hits
            });
            return Ok(found.collect());
        }
        let (Ok((graph, _)), Search::Graph { ef }) = (graph, how) else {
            return Ok(search(vectors, *dim, questions, k));
        };
        let found = questions.par_chunks_exact(*dim).map(|question| {
            let hits = graph.search(vectors, *dim, question, k, ef);
            // Every passage can be reached, so a beam of at least k finds k. Should it not, exact search still does.
            if hits.len() < k { search(vectors, *dim, question, k).remove(0) } else { hits }
        });
        Ok(found.collect())
    }

    /// Keeps a note with the generation, replacing an earlier one of that name: letters, digits, `-` and `_`. Durable on
    /// return. Notes go when the generation goes; they are no part of it.
    pub fn record(&self, note: &str, value: &serde_json::Value) -> Result<()> {
        let path = self.note(note)?.ok_or_else(|| Error::NotThere {
            what: format!("generation {} has no sidecar to keep the note `{note}` in", self.number()),
        })?;
        let text = serde_json::to_vec_pretty(value).map_err(Error::storage("writing a note"))?;
        write_atomic(&path, &text)
    }

    /// A note kept earlier, if there is one.
    pub fn recorded(&self, note: &str) -> Result<Option<serde_json::Value>> {
        let Some(path) = self.note(note)? else { return Ok(None) };
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|error| Error::corrupt(&path, error.to_string()))
    }

    fn note(&self, note: &str) -> Result<Option<PathBuf>> {
        if note.is_empty() || !note.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            let expected = "letters, digits, `-` and `_`";
            return Err(Error::Setting { name: "the name of a note", value: note.into(), expected });
        }
        Ok(self.shared.sidecar.as_ref().map(|sidecar| sidecar.join(note_file(note))))
    }
}

/// Name of the file that keeps a note.
fn note_file(note: &str) -> String {
    format!("{NOTE_PREFIX}{note}.json")
}

/// How the files that keep notes begin.
pub(crate) const NOTE_PREFIX: &str = "note-";

/// The vectors of a generation, each finite and of length one.
pub(crate) fn load_vectors(known: &Known, len: usize) -> Result<Vec<f32>> {
    let vectors = known.table.vectors(len, known.dim)?;
    let bad = vectors.par_chunks_exact(known.dim).position_first(|vector| {
        let squared = dot(vector, vector);
        !squared.is_finite() || (squared - 1.0).abs() > 2.0 * LENGTH_TOLERANCE
    });
    match bad {
        None => Ok(vectors),
        Some(ordinal) => {
            let what = format!("the vector of passage {ordinal} in generation {} is not of length one", known.number);
            Err(Error::corrupt(known.table.data_dir(), what))
        }
    }
}

fn load_graph(known: &Known, len: usize, blake3: &str) -> Result<FlatGraph, String> {
    let Some(sidecar) = &known.sidecar else { return Err("its graph is gone".into()) };
    read_graph(sidecar, len, blake3).map_err(|what| format!("`{}/{GRAPH}`: {what}", name(sidecar)))
}

/// The graph in a sidecar, verified against the manifest's checksum.
pub(crate) fn read_graph(sidecar: &Path, len: usize, blake3: &str) -> Result<FlatGraph, String> {
    let bytes = fs::read(sidecar.join(GRAPH)).map_err(|error| format!("it cannot be read: {error}"))?;
    let graph = decode(&bytes, len)?;
    if blake3::hash(&bytes).to_hex().as_str() != blake3 {
        return Err("it is another graph than the manifest describes".into());
    }
    Ok(graph)
}
