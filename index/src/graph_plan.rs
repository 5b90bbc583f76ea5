//! Where a new generation's graph comes from: built, or the edges of an earlier one, if they are still good.
//!
//! `ragtune-nearest`'s `graph` says why edges may outlive the vectors they were found among; this file is the guard.

use std::path::Path;

use ragtune_nearest::{FlatGraph, GraphParams, build, recall, repair};

use crate::error::{Error, Result};
use crate::generation::read_graph;
use crate::manifest::GraphInfo;
use crate::passage::Fragment;
use crate::publish::CommitStage;
use crate::survey::{self, Known};
use crate::table::Table;

/// How the graph of a new generation is made.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum GraphPlan {
    /// From nothing.
    #[default]
    Build,
    /// From the edges of the newest earlier generation that has a graph with the same parameters over the same passages, with
    /// the new vectors. Built where there is none.
    Reuse {
        /// How much recall@10 on the probes may be lost against the graph as it was built, 0 to 1. When more is, links are
        /// added; when more still is, the graph is built anew.
        max_loss: f32,
    },
    /// The same with the edges of this generation, whatever was committed since: what a run does again after a crash has the
    /// edges that it would have had.
    ReuseOf {
        /// Its number.
        generation: u32,
        /// As above.
        max_loss: f32,
    },
}

impl GraphPlan {
    /// Refuses a loss that is none.
    pub fn check(self) -> Result<()> {
        match self {
            GraphPlan::Reuse { max_loss } | GraphPlan::ReuseOf { max_loss, .. } if !(0.0..=1.0).contains(&max_loss) => {
                let expected = "a number from 0 to 1";
                Err(Error::Setting { name: "the recall that may be lost", value: max_loss.to_string(), expected })
            }
            _ => Ok(()),
        }
    }
}

impl GraphPlan {
    /// Whether edges of this generation may be used, and the loss that is allowed them.
    fn allows(self, generation: u32) -> Option<f32> {
        match self {
            GraphPlan::Build => None,
            GraphPlan::Reuse { max_loss } => Some(max_loss),
            GraphPlan::ReuseOf { generation: asked, max_loss } => (asked == generation).then_some(max_loss),
        }
    }
}

/// A graph fit for new vectors, and all there is to say about it.
pub(crate) struct Made {
    pub(crate) graph: FlatGraph,
    /// Without the length of its file.
    pub(crate) info: GraphInfo,
}

/// Edges that can be used again.
pub(crate) struct Source {
    /// The generation they belong to.
    number: u32,
    graph: FlatGraph,
    info: GraphInfo,
}

/// The newest generation before `number` that the plan allows and whose graph is whole, was made and measured by the same parameters, and is over the
/// same passages at the same ordinals: the same rows in the same fragments.
pub(crate) fn source(
    (dir, uuid): (&Path, &str),
    table: &Table,
    number: u32,
    fragments: &[Fragment],
    (params, plan): (&GraphParams, GraphPlan),
) -> Result<Option<Source>> {
    let passages = fragments.iter().map(|fragment| (fragment.id, fragment.rows));
    let len: usize = fragments.iter().map(|fragment| fragment.rows as usize).sum();
    for known in survey::all(dir, uuid, table)?.iter().rev().filter(|known| known.number < number) {
        if plan.allows(known.number).is_none() {
            continue;
        }
        let Known { sidecar: Some(sidecar), manifest: Ok(manifest), .. } = known else { continue };
        let rows = manifest.vectors.iter().map(|vectors| (vectors.fragment, vectors.rows));
        let GraphInfo { links, ef_construction, ef, probes, .. } = manifest.graph;
        let asked = (params.links, params.ef_construction, params.ef, params.probes.clamp(1, len.max(1)));
        if !rows.eq(passages.clone()) || (links, ef_construction, ef, probes) != asked {
            continue;
        }
        if let Ok(graph) = read_graph(sidecar, len, &manifest.graph_blake3) {
            return Ok(Some(Source { number: known.number, graph, info: manifest.graph.clone() }));
        }
    }
    Ok(None)
}

/// The graph of `vectors` (N, D) by a plan; `source` is what it may reuse.
pub(crate) fn make(
    vectors: &[f32],
    dim: usize,
    params: &GraphParams,
    plan: GraphPlan,
    source: Option<Source>,
    observe: &mut dyn FnMut(CommitStage),
) -> Result<Made> {
    let probe = |graph: &FlatGraph, observe: &mut dyn FnMut(CommitStage)| {
        observe(CommitStage::Probe);
        recall(graph, vectors, dim, params.probes, params.ef)
    };
    let info = |origin: String, relinked, (recall_at_10, probes), built_recall_at_10: Option<f32>| GraphInfo {
        recall_at_10,
        probes,
        ef: params.ef,
        links: params.links,
        ef_construction: params.ef_construction,
        built_recall_at_10: Some(built_recall_at_10.unwrap_or(recall_at_10)),
        origin,
        unreachable_relinked: relinked,
        bytes: 0,
    };
    let source = source.and_then(|source| Some((plan.allows(source.number)?, source)));
    if let Some((max_loss, Source { number, graph, info: old })) = source {
        // Measured against the build, however many refreshes ago that was: small losses must not add up unseen.
        let built = old.built_recall_at_10.unwrap_or(old.recall_at_10);
        // What several refreshes without a change share is one origin: the generation that has these edges first.
        let first = match old.origin.strip_prefix("reuse:").and_then(|number| number.parse().ok()) {
            Some(first) => first,
            None => number,
        };
        let kept = probe(&graph, observe);
        if built - kept.0 <= max_loss {
            return Ok(Made {
                info: info(format!("reuse:{first}"), old.unreachable_relinked, kept, Some(built)),
                graph,
            });
        }
        observe(CommitStage::Graph);
        let graph = repair(&graph, vectors, dim, params.links);
        let mended = probe(&graph, observe);
        if mended.0 > kept.0 && built - mended.0 <= max_loss && graph.unreachable() == 0 {
            let info = info(format!("repair:{first}"), old.unreachable_relinked, mended, Some(built));
            return Ok(Made { graph, info });
        }
        observe(CommitStage::Graph);
    }
    let built = build(vectors, dim, params)?;
    let found = probe(&built.graph, observe);
    Ok(Made { graph: built.graph, info: info("build".into(), built.relinked, found, None) })
}
