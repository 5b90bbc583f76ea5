//! How much of the truth a graph finds, measured on the vectors it was built over.

use rayon::prelude::*;

use crate::adjacency::FlatGraph;
use crate::codes::Codes;
use crate::exact::{self, Hit};

/// Neighbours that the recall is measured on.
const AT: usize = 10;

/// Share of the 10 nearest other passages (all others where there are fewer) that the graph finds with a beam of `ef`, mean
/// over `probes` stored vectors (N, D) taken at equal distances in their order; and how many probes those were, at most N.
/// A passage as near as the last of the exact ones counts as found. 1 where there are no others.
pub fn recall(graph: &FlatGraph, vectors: &[f32], dim: usize, probes: usize, ef: usize) -> (f32, usize) {
    recall_with(vectors, dim, probes, |question, k| graph.search(vectors, dim, question, k, ef))
}

/// The same of a walk by codes whose hits are scored again.
pub fn recall_of_codes(
    graph: &FlatGraph,
    codes: &Codes<'_>,
    vectors: &[f32],
    dim: usize,
    probes: usize,
    ef: usize,
) -> (f32, usize) {
    let known = &vectors[..graph.nodes() * dim];
    recall_with(known, dim, probes, |question, k| graph.search_codes_where(codes, known, question, k, ef, |_| true).0)
}

/// The same of any search for the `k` nearest of a question.
fn recall_with(
    vectors: &[f32],
    dim: usize,
    probes: usize,
    search: impl Fn(&[f32], usize) -> Vec<Hit> + Sync,
) -> (f32, usize) {
    let n = vectors.len().checked_div(dim).unwrap_or(0);
    let probes = probes.clamp(1, n.max(1));
    // The probe itself is its own nearest: one more is asked for, and it is not counted.
    let k = (AT + 1).min(n);
    if k < 2 {
        return (1.0, probes);
    }
    let ordinals: Vec<usize> = (0..probes).map(|probe| probe * n / probes).collect();
    let questions: Vec<f32> = ordinals.iter().flat_map(|at| &vectors[at * dim..(at + 1) * dim]).copied().collect();
    let truths = exact::search(vectors, dim, &questions, k);
    let shares: Vec<f64> = ordinals
        .par_iter()
        .zip(questions.par_chunks_exact(dim))
        .zip(truths)
        .map(|((ordinal, question), truth)| {
            let others = |hits: Vec<Hit>| {
                let mut hits: Vec<_> = hits.into_iter().filter(|hit| hit.ordinal as usize != *ordinal).collect();
                hits.truncate(k - 1);
                hits
            };
            let truth = others(truth);
            let found = others(search(question, k));
            let worst = truth.last().map_or(f32::NEG_INFINITY, |hit| hit.score);
            found.iter().filter(|hit| hit.score >= worst).count() as f64 / truth.len() as f64
        })
        .collect();
    // Summed in order, so that the number does not depend on the number of threads.
    ((shares.iter().sum::<f64>() / probes as f64) as f32, probes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjacency::Lists;
    use crate::graph::{GraphParams, build};

    fn circle(n: usize) -> Vec<f32> {
        (0..n)
            .flat_map(|at| {
                let angle = at as f32 / n as f32 * std::f32::consts::TAU;
                [angle.cos(), angle.sin()]
            })
            .collect()
    }

    #[test]
    fn a_good_graph_scores_high_and_one_cut_in_two_scores_low() {
        let vectors = circle(400);
        let graph = build(&vectors, 2, &GraphParams::default()).unwrap().graph;
        let (good, probes) = recall(&graph, &vectors, 2, 50, 64);
        assert!(good > 0.99 && probes == 50, "{good} on {probes}");
        // No link leads into the second half any more: about half of the probes find nothing of theirs.
        let lists: Vec<Vec<u32>> =
            graph.base.lists().map(|list| list.iter().map(|link| link % 200).collect()).collect();
        let lists = Lists::flatten(lists.iter().map(Vec::as_slice)).unwrap();
        let cut = FlatGraph::new(0, &lists, Vec::new()).unwrap();
        let (bad, _) = recall(&cut, &vectors, 2, 50, 64);
        assert!((0.3..0.7).contains(&bad), "{bad}");
    }

    #[test]
    fn few_passages_are_no_reason_to_fail() {
        for n in [1, 2, 5] {
            let vectors = circle(n);
            let graph = build(&vectors, 2, &GraphParams::default()).unwrap().graph;
            assert_eq!(recall(&graph, &vectors, 2, 200, 64), (1.0, n));
        }
    }
}
