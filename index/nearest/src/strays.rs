//! Passages that no search could find: linking them to their nearest neighbour that it can.

use crate::adjacency::reach;
use crate::distance::dot;

/// Links every passage that cannot be reached from the entry point to its nearest reachable one, both ways, in the order of
/// ordinals; how many those were. hnsw_rs can drop a passage's last incoming link, and equal passages can close into an island.
///
/// `base`: the links of N passages, `vectors` (N, D). A list that has `room` links is given another only when all have.
pub(crate) fn link_strays(base: &mut [Vec<u32>], entry: u32, vectors: &[f32], dim: usize, room: usize) -> u32 {
    let mut room = room;
    let mut seen = vec![false; base.len()];
    let mut relinked = 0;
    reach(entry, &mut seen, |node| base[node as usize].as_slice());
    for stray in 0..base.len() {
        if seen[stray] {
            continue;
        }
        let host = loop {
            match nearest_host(stray, &seen, base, vectors, dim, room) {
                Some(host) => break host,
                None => room += 1,
            }
        };
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
fn nearest_host(
    stray: usize,
    seen: &[bool],
    base: &[Vec<u32>],
    vectors: &[f32],
    dim: usize,
    room: usize,
) -> Option<u32> {
    let row = |ordinal: usize| &vectors[ordinal * dim..(ordinal + 1) * dim];
    let mut best: Option<(f32, u32)> = None;
    for (ordinal, list) in base.iter().enumerate() {
        if !seen[ordinal] || list.len() >= room {
            continue;
        }
        let score = dot(row(stray), row(ordinal));
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

    const VECTORS: [f32; 8] = [1.0, 0.0, 0.0, 1.0, 0.1, 0.99, 0.8, 0.6];

    #[test]
    fn strays_are_linked_to_the_nearest_that_can_be_reached() {
        let mut base = vec![vec![1], vec![0], vec![], vec![2]];
        assert_eq!(link_strays(&mut base, 0, &VECTORS, 2, 4), 2);
        assert_eq!(base[1], [0, 2], "2 is nearest to 1");
        assert!(base[2].contains(&1));
        assert_eq!(base[0], [1, 3], "3 is nearest to 0");
    }

    #[test]
    fn full_lists_are_passed_over_while_another_has_room() {
        let mut base = vec![vec![1], vec![0, 0], vec![], vec![2]];
        assert_eq!(link_strays(&mut base, 0, &VECTORS, 2, 2), 2);
        assert_eq!(base, [vec![1, 2], vec![0, 0], vec![0, 3], vec![2]], "2 went to 0, and 3 to 2");
        // Where all are full, one is made longer.
        let mut base = vec![vec![1], vec![0], vec![0], vec![0]];
        assert_eq!(link_strays(&mut base, 0, &VECTORS, 2, 1), 2);
        assert_eq!(base, [vec![1, 3], vec![0, 2], vec![0, 1], vec![0]]);
    }
}
