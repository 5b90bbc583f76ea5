//! Passages that no search could find: linking them to their nearest neighbour that it can.

use crate::adjacency::{FlatGraph, reach};
use crate::distance::dot;

/// Width of the beam that looks for a stray's neighbour.
const EF: usize = 64;

/// Links every passage that cannot be reached from the entry point to its nearest reachable one that is found, both ways, in the
/// order of ordinals; how many those were. hnsw_rs can drop a passage's last incoming link, equal passages can close into an
/// island, and so can more passages that resemble each other than the beam was wide when they were inserted.
///
/// `base`: the links of N passages, `graph` the same to be searched, `vectors` (N, D). A list that has `room` links is given
/// another only when all have.
pub(crate) fn link_strays(base: &mut [Vec<u32>], graph: &FlatGraph, vectors: &[f32], dim: usize, room: usize) -> u32 {
    let mut room = room;
    let mut seen = vec![false; base.len()];
    let mut relinked = 0;
    reach(graph.entry, &mut seen, |node| base[node as usize].as_slice());
    for stray in 0..base.len() {
        if seen[stray] {
            continue;
        }
        let question = &vectors[stray * dim..][..dim];
        let fits = |host: u32| seen[host as usize] && base[host as usize].len() < room;
        // A walk, since there may be as many islands as the corpus has kinds of passages, and one exact search for each of them
        // took half an hour among a million.
        let walked = graph.search_where(vectors, dim, question, 1, EF, fits).0.first().map(|hit| hit.ordinal);
        let host = walked.unwrap_or_else(|| {
            loop {
                match nearest_host(question, &seen, base, vectors, room) {
                    Some(host) => break host,
                    None => room += 1,
                }
            }
        });
        base[host as usize].push(stray as u32);
        if base[stray].len() < room && !base[stray].contains(&host) {
            base[stray].push(host);
        }
        relinked += 1;
        reach(stray as u32, &mut seen, |node| base[node as usize].as_slice());
    }
    relinked
}

/// The reachable passage nearest to a stray that has room for another link. Stops early at an equal one: thousands of equal
/// passages would otherwise cost the square of their number.
fn nearest_host(stray: &[f32], seen: &[bool], base: &[Vec<u32>], vectors: &[f32], room: usize) -> Option<u32> {
    let mut best: Option<(f32, u32)> = None;
    for (ordinal, (list, vector)) in base.iter().zip(vectors.chunks_exact(stray.len())).enumerate() {
        if !seen[ordinal] || list.len() >= room {
            continue;
        }
        let score = dot(stray, vector);
        if best.is_none_or(|(found, _)| score > found) {
            best = Some((score, ordinal as u32));
            if score >= 1.0 - 1e-6 {
                break;
            }
        }
    }
    best.map(|(_, ordinal)| ordinal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adjacency::Lists;

    const VECTORS: [f32; 8] = [1.0, 0.0, 0.0, 1.0, 0.1, 0.99, 0.8, 0.6];

    fn link(base: &mut [Vec<u32>], room: usize) -> u32 {
        let lists = Lists::flatten(base.iter().map(Vec::as_slice)).unwrap();
        let graph = FlatGraph::new(0, &lists, Vec::new()).unwrap();
        link_strays(base, &graph, &VECTORS, 2, room)
    }

    #[test]
    fn strays_are_linked_to_the_nearest_that_can_be_reached() {
        let mut base = vec![vec![1], vec![0], vec![], vec![2]];
        assert_eq!(link(&mut base, 4), 2);
        assert_eq!(base[1], [0, 2], "2 is nearest to 1");
        assert!(base[2].contains(&1));
        assert_eq!(base[0], [1, 3], "3 is nearest to 0");
    }

    #[test]
    fn full_lists_are_passed_over_while_another_has_room() {
        let mut base = vec![vec![1], vec![0, 0], vec![], vec![2]];
        assert_eq!(link(&mut base, 2), 2);
        assert_eq!(base, [vec![1, 2], vec![0, 0], vec![0, 3], vec![2]], "2 went to 0, and 3 to 2");
        // Where all are full, one is made longer.
        let mut base = vec![vec![1], vec![0], vec![0], vec![0]];
        assert_eq!(link(&mut base, 1), 2);
        assert_eq!(base, [vec![1, 3], vec![0, 2], vec![0, 1], vec![0]]);
    }
}
