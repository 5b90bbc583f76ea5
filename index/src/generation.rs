//! A generation that can be searched: all vectors, in memory or mapped, and the graph if it is fit for use. Never changes.
//! `search` is how it is searched.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ragtune_nearest::{Aligned, Allowed, FlatGraph, decode_known, not_of_length_one};

use crate::durable::{name, write_atomic};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::held::{HeldCodes, Holding, hold};
use crate::lexical::Keep;
use crate::manifest::{GRAPH, GraphInfo};
use crate::mapped::Floats;
use crate::survey::Known;
use crate::vectors::{Held, Vectors};

/// How far from 1 the length of a stored vector may be: what rounding to float32 leaves, generously.
pub(crate) const LENGTH_TOLERANCE: f32 = 1e-4;

/// One complete embedding of the corpus. Cheap to clone: clones share the vectors and the graph.
#[derive(Debug, Clone)]
pub struct Generation {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) number: u32,
    pub(crate) dim: usize,
    pub(crate) dataset_version: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) vectors: Floats,
    /// What a walk through the graph goes by instead of the vectors.
    pub(crate) codes: Option<HeldCodes>,
    pub(crate) held: Held,
    /// Over all passages or the first of them: what was appended since is searched exactly.
    pub(crate) graph: Result<Arc<(FlatGraph, GraphInfo)>, String>,
    /// The passages that were not deleted; `None`: all.
    pub(crate) alive: Option<Arc<Allowed>>,
    pub(crate) sidecar: Option<PathBuf>,
    pub(crate) is_view: bool,
}

impl Generation {
    /// Loads a generation: its vectors, which must be whole, and its graph, which may be missing.
    pub(crate) fn load(known: &Known, len: usize) -> Result<Self> {
        Self::assemble(known, load_vectors(known, len)?.into(), graph_of(known))
    }

    /// The same with vectors that are held as asked, in the index of this directory and identity.
    pub(crate) fn open(place: (&Path, &str), known: &Known, vectors: Vectors, keep: Keep<'_>) -> Result<Self> {
        let graph = graph_of(known);
        let holding = hold(place, known, graph.as_deref().ok(), vectors, keep)?;
        Self::assemble(known, holding, graph)
    }

    /// A generation of parts that are known to agree.
    pub(crate) fn assemble(
        known: &Known,
        holding: Holding,
        graph: Result<Arc<(FlatGraph, GraphInfo)>, String>,
    ) -> Result<Self> {
        let deleted = known.table.deleted()?;
        let Holding { floats: vectors, codes, held } = holding;
        let len = vectors.len() / known.dim.max(1);
        let alive = (0..len as u32).filter(|ordinal| deleted.binary_search(ordinal).is_err());
        let alive = if deleted.is_empty() { None } else { Some(Arc::new(Allowed::new(len, alive)?)) };
        let shared = Shared {
            number: known.number,
            dim: known.dim,
            dataset_version: known.table.version(),
            fingerprint: known.fingerprint.clone(),
            vectors,
            codes,
            held,
            graph,
            alive,
            sidecar: known.sidecar.clone(),
            is_view: false,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its number; later generations have higher ones.
    pub fn number(&self) -> u32 {
        self.shared.number
    }

    /// Number of ordinals: passages, deleted ones included until a compaction.
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

    /// How its vectors are held.
    pub fn held(&self) -> &Held {
        &self.shared.held
    }

    /// The graph, if it is fit for use.
    pub fn graph(&self) -> Option<&GraphInfo> {
        self.shared.graph.as_ref().ok().map(|graph| &graph.1)
    }

    /// Why the graph is not used and exact search answers instead; `None` when it is.
    pub fn graph_defect(&self) -> Option<&str> {
        self.shared.graph.as_ref().err().map(String::as_str)
    }

    /// Keeps a note with the generation, replacing an earlier one of that name: letters, digits, `-` and `_`. Durable on
    /// return. Notes go when the generation goes; they are no part of it.
    pub fn record(&self, note: &str, value: &serde_json::Value) -> Result<()> {
        let sidecar = self.shared.sidecar.as_ref().ok_or_else(|| Error::NotThere {
            what: format!("generation {} has no sidecar to keep the note `{note}` in", self.number()),
        })?;
        let path = sidecar.join(note_file(note)?);
        let text = serde_json::to_vec_pretty(value).map_err(Error::storage("writing a note"))?;
        write_atomic(&path, &text)
    }

    /// A note kept earlier, if there is one.
    pub fn recorded(&self, note: &str) -> Result<Option<serde_json::Value>> {
        self.shared.sidecar.as_deref().map_or(Ok(None), |sidecar| read_note(sidecar, note))
    }
}

/// A note in a sidecar, if there is one.
pub(crate) fn read_note(sidecar: &Path, note: &str) -> Result<Option<serde_json::Value>> {
    let path = sidecar.join(note_file(note)?);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("reading", &path)(error)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|error| Error::corrupt(&path, error.to_string()))
}

/// Name of the file that keeps a note.
fn note_file(note: &str) -> Result<String> {
    check_name(note)?;
    Ok(format!("{NOTE_PREFIX}{note}.json"))
}

/// Refuses a name of a note that could be more than a part of a name.
pub(crate) fn check_name(note: &str) -> Result<()> {
    if note.is_empty() || !note.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        let expected = "letters, digits, `-` and `_`";
        return Err(Error::Setting { name: "the name of a note", value: note.into(), expected });
    }
    Ok(())
}

/// How the files that keep notes begin.
pub(crate) const NOTE_PREFIX: &str = "note-";

/// The vectors of a generation, each finite and of length one.
pub(crate) fn load_vectors(known: &Known, len: usize) -> Result<Aligned<f32>> {
    let vectors = Aligned::from(known.table.vectors(len, known.dim)?.as_slice());
    match not_of_length_one(&vectors, known.dim, LENGTH_TOLERANCE) {
        None => Ok(vectors),
        Some(ordinal) => {
            let what = format!("the vector of passage {ordinal} in generation {} is not of length one", known.number);
            Err(Error::corrupt(known.table.data_dir(), what))
        }
    }
}

/// The graph of a state, or why there is none that can be used.
fn graph_of(known: &Known) -> Result<Arc<(FlatGraph, GraphInfo)>, String> {
    match &known.manifest {
        Ok(manifest) => load_graph(known, &manifest.graph_blake3, manifest.len as usize)
            .map(|graph| Arc::new((graph, manifest.graph.clone()))),
        Err(defect) => Err(defect.clone()),
    }
}

fn load_graph(known: &Known, blake3: &str, nodes: usize) -> Result<FlatGraph, String> {
    let Some(sidecar) = &known.sidecar else { return Err("its graph is gone".into()) };
    read_graph(sidecar, nodes, blake3).map_err(|what| format!("`{}/{GRAPH}`: {what}", name(sidecar)))
}

/// The graph of `nodes` passages in a sidecar, verified against the manifest's checksum.
pub(crate) fn read_graph(sidecar: &Path, nodes: usize, blake3: &str) -> Result<FlatGraph, String> {
    let bytes = fs::read(sidecar.join(GRAPH)).map_err(|error| format!("it cannot be read: {error}"))?;
    decode_known(&bytes, nodes, blake3)
}
