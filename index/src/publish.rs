//! Deriving the graph of a committed generation.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ragtune_nearest::{GraphParams, encode};

use crate::digests::Digests;
use crate::durable::{entries, name, sync_tree, write_synced};
use crate::error::{Error, Result};
use crate::generation::{Generation, NOTE_PREFIX, load_vectors};
use crate::graph_plan::{self, GraphPlan, Made};
use crate::manifest::{GRAPH, MANIFEST, Manifest};
use crate::rollback::ROLLBACK_OF;
use crate::sealed;
use crate::sidecar;
use crate::staged::Staged;
use crate::survey::{self, Known};
use crate::writer::stated;

/// What a commit is about to do; told to the caller so that it can charge the time to the right account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommitStage {
    /// Making the staged vectors the dataset's newest version: the commit point is in here.
    Commit,
    /// Reading the vectors back and building the graph, or repairing one that is used again.
    Graph,
    /// Measuring the graph's recall against exact search. One that is found wanting is followed by [`Graph`](Self::Graph) again.
    Probe,
    /// Writing the sidecar and retiring older generations.
    Publish,
}

/// Makes the graph of a committed generation by a plan and publishes its sidecar, replacing a damaged one and keeping its
/// notes. Durable on return; a crash before leaves the generation without a graph, which `mend` repairs. `staged` are
/// files of vectors that this commit brought.
pub(crate) fn publish(
    dir: &Path,
    uuid: &str,
    known: &Known,
    staged: &[Staged],
    (params, plan): (&GraphParams, GraphPlan),
    observe: &mut dyn FnMut(CommitStage),
) -> Result<Generation> {
    observe(CommitStage::Graph);
    let len = known.rows.len();
    let vectors = load_vectors(known, len)?;
    let source = match plan {
        GraphPlan::Build => None,
        GraphPlan::Reuse { .. } | GraphPlan::ReuseOf { .. } => {
            let fragments = &known.rows.fragments;
            graph_plan::source((dir, uuid), &known.table.latest()?, known.number, fragments, (params, plan))?
        }
    };
    let Made { graph, mut info } = graph_plan::make(&vectors, known.dim, params, plan, source, observe)?;
    observe(CommitStage::Publish);

    let salvaged = sidecar::salvage(dir, uuid, known)?;
    let known = Known { sidecar: salvaged.or_else(|| known.sidecar.clone()), ..known.clone() };
    let unfinished = sidecar::begin(dir, &known)?;
    let bytes = encode(&graph);
    write_synced(&unfinished.join(GRAPH), &bytes)?;
    info.bytes = bytes.len() as u64;
    let manifest = Manifest {
        uuid: uuid.into(),
        number: known.number,
        dataset_version: known.table.version(),
        len: len as u32,
        dim: known.dim as u32,
        metric: "inner product".into(),
        fingerprint: known.fingerprint.clone(),
        vectors: Digests::of_vectors(dir, uuid)?.and(staged).vector_files(&known)?,
        graph: info.clone(),
        graph_blake3: blake3::hash(&bytes).to_hex().to_string(),
    };
    if let Some(old) = notes_of(dir, uuid, &known)? {
        keep_notes(&old, &unfinished)?;
    }
    sealed::write_new(&unfinished.join(MANIFEST), &manifest)?;
    sync_tree(&unfinished)?;
    let sidecar = sidecar::put(dir, &known)?;
    let known = Known { sidecar: Some(sidecar), manifest: Ok(manifest), ..known };
    Generation::assemble(&known, vectors.into(), Ok(Arc::new((graph, info))))
}

/// The sidecar whose notes are a state's: its own or, where what made the state was killed before that, the one of the newest earlier
/// state of the same generation, or of the one that was gone back to.
fn notes_of(dir: &Path, uuid: &str, known: &Known) -> Result<Option<PathBuf>> {
    if known.sidecar.is_some() {
        return Ok(known.sidecar.clone());
    }
    let all = survey::all(dir, uuid, &known.table.latest()?)?;
    let newest_of = |number: u32| {
        let before = |other: &&Known| other.number == number && other.table.version() < known.table.version();
        all.iter().rev().filter(before).find_map(|other| other.sidecar.clone())
    };
    let back_to = stated(&known.table, known.number).get(ROLLBACK_OF).and_then(|number| number.parse().ok());
    Ok(newest_of(known.number).or_else(|| newest_of(back_to?)))
}

/// Carries the caller's notes over from one sidecar to another.
pub(crate) fn keep_notes(from: &Path, to: &Path) -> Result<()> {
    for note in entries(from)?.iter().filter(|path| name(path).starts_with(NOTE_PREFIX)) {
        std::fs::copy(note, to.join(name(note))).map_err(Error::io("copying", note))?;
    }
    Ok(())
}
