//! A sidecar for vectors that a graph already covers: whole, or but for passages appended behind it. The graph is not built
//! again, its file not even copied where the disk knows hard links.

use std::fs;
use std::path::Path;

use ragtune_nearest::GraphParams;

use crate::digests::Digests;
use crate::durable::sync_tree;
use crate::error::{Error, Result};
use crate::graph_plan::GraphPlan;
use crate::manifest::{GRAPH, GraphInfo, MANIFEST, Manifest};
use crate::publish::{CommitStage, keep_notes, publish};
use crate::sealed;
use crate::sidecar;
use crate::staged::Staged;
use crate::survey::{self, Known};
use crate::table::Table;

/// The tail of passages that the graph does not know is searched one by one; beyond this share of all passages, and beyond
/// [`FEW`], that costs more than it saves, and the graph is built anew.
const SHARE: f64 = 0.1;
/// So few passages are always searched faster than a graph is built.
const FEW: usize = 1024;

/// Gives a state without a sidecar of its own one: with the graph of `source`, whose passages are the first of the state's,
/// or, where too many came behind them or `source` has no usable graph, with one that is built now. Says whether it was built.
/// `staged` are files of vectors that this commit brought.
pub(crate) fn complete(
    dir: &Path,
    uuid: &str,
    known: &Known,
    (source, staged): (&Known, &[Staged]),
    params: &GraphParams,
    observe: &mut dyn FnMut(CommitStage),
) -> Result<bool> {
    if let (Ok(manifest), Some(from)) = (&source.manifest, &source.sidecar)
        && from.join(GRAPH).is_file()
        && !outgrown(manifest.len as usize, known.rows.len())
    {
        observe(CommitStage::Publish);
        adopt(dir, uuid, known, (from, manifest), staged)?;
        return Ok(false);
    }
    let known = Known { sidecar: source.sidecar.clone(), ..known.clone() };
    publish(dir, uuid, &known, staged, (params, GraphPlan::Build), observe)?;
    Ok(true)
}

/// Whether so many of `len` passages are not in the graph that it should be built anew.
pub(crate) fn outgrown(graph_len: usize, len: usize) -> bool {
    let tail = len.saturating_sub(graph_len);
    tail > FEW && tail as f64 > SHARE * len as f64
}

/// The parameters that the graph of a state was built with, as its manifest tells.
pub(crate) fn params_of(known: &Known) -> Option<GraphParams> {
    let GraphInfo { links, ef_construction, probes, ef, .. } = known.manifest.as_ref().ok()?.graph;
    Some(GraphParams { links, ef_construction, probes: probes.max(1), ef })
}

/// The same, or, where the manifest cannot be read, those of the retained state whose generation is nearest, later before earlier;
/// the defaults where there is none.
pub(crate) fn params_like(dir: &Path, uuid: &str, table: &Table, known: &Known) -> Result<GraphParams> {
    match params_of(known) {
        Some(params) => Ok(params),
        None => Ok(nearest(&survey::all(dir, uuid, table)?, known.number).unwrap_or_default()),
    }
}

/// The parameters of the graph of the generation nearest to this one, later before earlier.
pub(crate) fn nearest(known: &[Known], number: u32) -> Option<GraphParams> {
    let told = known.iter().filter_map(|other| Some((other.number, params_of(other)?)));
    told.min_by_key(|(other, _)| (other.abs_diff(number), *other < number)).map(|(_, params)| params)
}

fn adopt(dir: &Path, uuid: &str, known: &Known, (from, manifest): (&Path, &Manifest), staged: &[Staged]) -> Result<()> {
    if sidecar::salvage(dir, uuid, known)?.is_some() {
        return Ok(());
    }
    let unfinished = sidecar::begin(dir, known)?;
    let (graph, target) = (from.join(GRAPH), unfinished.join(GRAPH));
    if fs::hard_link(&graph, &target).is_err() {
        fs::copy(&graph, &target).map_err(Error::io("copying", &graph))?;
    }
    let made = Manifest {
        uuid: uuid.into(),
        number: known.number,
        dataset_version: known.table.version(),
        fingerprint: known.fingerprint.clone(),
        vectors: Digests::of_vectors(dir, uuid)?.and(staged).vector_files(known)?,
        ..manifest.clone()
    };
    keep_notes(from, &unfinished)?;
    sealed::write_new(&unfinished.join(MANIFEST), &made)?;
    sync_tree(&unfinished)?;
    sidecar::put(dir, known).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_is_outgrown_by_many_passages_and_by_a_share_of_them() {
        assert!(!outgrown(100, 100 + FEW));
        assert!(outgrown(100, 101 + FEW));
        assert!(!outgrown(90_000, 100_000));
        assert!(outgrown(89_999, 100_000));
    }
}
