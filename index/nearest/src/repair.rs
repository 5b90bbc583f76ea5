//! Repair of a graph whose vectors have moved: new links in front of the old ones, none taken away. N passages, D dimension.
//!
//! Why it only adds: lists filled anew with the nearest of a local search lost the long links between distant parts and with
//! them most of the graph (nearly all passages unreachable on clustered data, where the old links had lost a point of recall).

use rayon::prelude::*;

use crate::adjacency::{Base, FlatGraph};
use crate::shape::{leads_elsewhere, nearest_first};

/// The graph with up to `links` more links at every passage of the lowest layer: those that lead into different directions (see
/// `shape`) among the nearest passages one and two steps away, by `vectors` (N, D). They come first, the old ones follow in
/// their order. A list grows to `3 * links` at most, whatever number of repairs: what is full stays as it is.
///
/// The result does not depend on the number of threads: each list is a function of the old graph.
pub fn repair(graph: &FlatGraph, vectors: &[f32], dim: usize, links: usize) -> FlatGraph {
    let lists: Vec<Vec<u32>> =
        (0..graph.nodes() as u32).into_par_iter().map(|node| mended(graph, vectors, dim, node, links)).collect();
    let base = Base::new(lists.len(), |node| &lists[node]).unwrap_or_else(|| graph.base.clone());
    FlatGraph { entry: graph.entry, base, upper: graph.upper.clone() }
}

fn mended(graph: &FlatGraph, vectors: &[f32], dim: usize, node: u32, links: usize) -> Vec<u32> {
    let own = graph.base.of(node);
    let room = (3 * links).saturating_sub(own.len());
    let two_steps = own.iter().flat_map(|next| graph.base.of(*next)).chain(own);
    let near = nearest_first(vectors, dim, node, two_steps);
    let mut chosen: Vec<u32> = Vec::with_capacity(links);
    let mut new = 0;
    for hit in near {
        if chosen.len() == links {
            break;
        }
        let known = own.contains(&hit.ordinal);
        if (known || new < room) && leads_elsewhere(vectors, dim, &chosen, &hit) {
            new += usize::from(!known);
            chosen.push(hit.ordinal);
        }
    }
    let kept: Vec<u32> = own.iter().filter(|old| !chosen.contains(old)).copied().collect();
    chosen.extend(kept);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::dot;
    use crate::graph::{GraphParams, build, tests::unit_vectors};
    use crate::recall;

    #[test]
    fn nothing_is_taken_away_and_lists_stay_bounded() {
        let (n, dim) = (600, 24);
        let built =
            build(&unit_vectors(n, dim, 20, 1), dim, &GraphParams { links: 8, ..GraphParams::default() }).unwrap();
        let moved = unit_vectors(n, dim, 20, 2);
        let mut graph = built.graph;
        for _ in 0..4 {
            let next = repair(&graph, &moved, dim, 8);
            assert_eq!(next, repair(&graph, &moved, dim, 8));
            for (old, new) in graph.base.lists().zip(next.base.lists()) {
                assert!(old.iter().all(|link| new.contains(link)) && new.len() <= 24, "{old:?} {new:?}");
                let mut sorted = new.to_vec();
                sorted.sort_unstable();
                sorted.dedup();
                assert_eq!(sorted.len(), new.len(), "no link twice");
            }
            assert_eq!(next.unreachable(), 0);
            graph = next;
        }
    }

    #[test]
    fn passages_that_changed_places_with_others_near_by_are_found_again() {
        let (n, dim) = (2000, 24);
        let vectors = unit_vectors(n, dim, 40, 3);
        let graph = build(&vectors, dim, &GraphParams { links: 8, ..GraphParams::default() }).unwrap().graph;
        // Every passage takes the place of the one 40 further on: one of its own cluster.
        let mut moved = vectors.clone();
        moved.rotate_left(40 * dim);
        for (row, noise) in moved.chunks_mut(dim).zip(unit_vectors(n, dim, 500, 4).chunks(dim)) {
            row.iter_mut().zip(noise).for_each(|(value, noise)| *value += 0.6 * noise);
            let length = dot(row, row).sqrt();
            row.iter_mut().for_each(|value| *value /= length);
        }
        let at = |graph: &FlatGraph| recall(graph, &moved, dim, 200, 14).0;
        let (kept, mended) = (at(&graph), at(&repair(&graph, &moved, dim, 8)));
        assert!(mended > kept + 0.02, "{kept} became {mended}");
    }
}
