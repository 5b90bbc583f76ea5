//! A layered proximity graph in flat arrays, and the search in it.
//!
//! The vectors are not part of the graph: they are read from the corpus and shared with exact search. Search is the one of
//! Malkov and Yashunin (arXiv 1603.09320, algorithms 2 and 5): greedy descent through the upper layers, then a beam of
//! width `ef` on the lowest. N passages, D dimension.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::distance::dot;
use crate::exact::{Hit, Worst, keep};

/// Links of many nodes, one list after the other: node `i` of the list has `links[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) offsets: Vec<u32>,
    pub(crate) links: Vec<u32>,
}

impl Lists {
    /// Lays lists out flat; `None` when there are more links than 32 bits can count.
    pub(crate) fn flatten<'a>(lists: impl Iterator<Item = &'a Vec<u32>>) -> Option<Self> {
        let mut offsets = vec![0];
        let mut links = Vec::new();
        for list in lists {
            links.extend_from_slice(list);
            offsets.push(u32::try_from(links.len()).ok()?);
        }
        Some(Self { offsets, links })
    }

    fn of(&self, node: usize) -> &[u32] {
        &self.links[self.offsets[node] as usize..self.offsets[node + 1] as usize]
    }

    pub(crate) fn nodes(&self) -> usize {
        self.offsets.len() - 1
    }
}

/// One of the sparse layers above the lowest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UpperLayer {
    /// Ordinals of its nodes, ascending.
    pub(crate) nodes: Vec<u32>,
    /// Their links, in the same order.
    pub(crate) lists: Lists,
}

impl UpperLayer {
    fn of(&self, ordinal: u32) -> &[u32] {
        self.nodes.binary_search(&ordinal).map_or(&[], |node| self.lists.of(node))
    }
}

/// A layered proximity graph over passages; their vectors lie elsewhere and are handed to each search. However it was made,
/// by [`build`](crate::build) or [`decode`](crate::decode), no link leads outside its passages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlatGraph {
    /// Ordinal from which every search starts: a node of the topmost layer.
    pub(crate) entry: u32,
    /// The lowest layer, which holds every passage.
    pub(crate) base: Lists,
    /// The layers above it, from the second lowest to the topmost.
    pub(crate) upper: Vec<UpperLayer>,
}

impl FlatGraph {
    /// Number of its passages.
    pub fn nodes(&self) -> usize {
        self.base.nodes()
    }

    /// What makes the graph unsafe to search, if anything: after `None` no search can leave its arrays.
    pub(crate) fn defect(&self) -> Option<String> {
        let n = self.base.nodes();
        if self.entry as usize >= n {
            return Some(format!("the entry point {} is not among {n} passages", self.entry));
        }
        let layers = std::iter::once(&self.base).chain(self.upper.iter().map(|layer| &layer.lists));
        for (layer, lists) in layers.enumerate() {
            if let Some(what) = lists_defect(lists, n) {
                return Some(format!("layer {layer}: {what}"));
            }
        }
        for (layer, upper) in self.upper.iter().enumerate() {
            let ascending = upper.nodes.windows(2).all(|pair| pair[0] < pair[1]);
            let known = upper.nodes.last().is_none_or(|last| (*last as usize) < n);
            if upper.nodes.len() != upper.lists.nodes() || !ascending || !known {
                return Some(format!("layer {}: its list of passages is not in order", layer + 1));
            }
        }
        None
    }

    /// The `k` best passages found with a beam of `ef` (raised to `k`), best first: `vectors` (N, D), `question` (D).
    pub fn search(&self, vectors: &[f32], dim: usize, question: &[f32], k: usize, ef: usize) -> Vec<Hit> {
        thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::default()));
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.begin(self.base.nodes());
            let space = Space { vectors, dim, question };
            let start = self.descend(&space);
            self.beam(&space, start, k.max(ef).max(1), scratch);
            let mut hits: Vec<Hit> = scratch.best.drain().map(|worst| worst.0).collect();
            hits.sort_unstable_by(Hit::rank);
            hits.truncate(k);
            hits
        })
    }

    /// Which passages can be reached from the entry point over the lowest layer.
    #[cfg(test)]
    pub(crate) fn reachable(&self) -> Vec<bool> {
        let mut seen = vec![false; self.base.nodes()];
        reach(self.entry, &mut seen, |node| self.base.of(node as usize));
        seen
    }

    fn descend(&self, space: &Space<'_>) -> Hit {
        let mut here = space.score(self.entry);
        for layer in self.upper.iter().rev() {
            loop {
                let best = layer.of(here.ordinal).iter().map(|node| space.score(*node)).min_by(Hit::rank);
                match best {
                    Some(best) if best.rank(&here).is_lt() => here = best,
                    _ => break,
                }
            }
        }
        here
    }

    fn beam(&self, space: &Space<'_>, start: Hit, ef: usize, scratch: &mut Scratch) {
        scratch.first_visit(start.ordinal);
        scratch.open.push(Reverse(Worst(start)));
        keep(&mut scratch.best, ef, start);
        while let Some(Reverse(Worst(here))) = scratch.open.pop() {
            let full = scratch.best.len() >= ef;
            if full && scratch.best.peek().is_some_and(|worst| worst.0.rank(&here).is_lt()) {
                break;
            }
            for node in self.base.of(here.ordinal as usize) {
                if !scratch.first_visit(*node) {
                    continue;
                }
                let hit = space.score(*node);
                let wanted =
                    scratch.best.len() < ef || scratch.best.peek().is_some_and(|worst| hit.rank(&worst.0).is_lt());
                if wanted {
                    scratch.open.push(Reverse(Worst(hit)));
                    keep(&mut scratch.best, ef, hit);
                }
            }
        }
    }
}

/// Marks everything that can be reached from `start`.
pub(crate) fn reach<'a>(start: u32, seen: &mut [bool], links: impl Fn(u32) -> &'a [u32]) {
    let mut waiting = VecDeque::from([start]);
    seen[start as usize] = true;
    while let Some(node) = waiting.pop_front() {
        for next in links(node) {
            if !std::mem::replace(&mut seen[*next as usize], true) {
                waiting.push_back(*next);
            }
        }
    }
}

fn lists_defect(lists: &Lists, n: usize) -> Option<String> {
    if lists.offsets.first() != Some(&0) || lists.offsets.windows(2).any(|pair| pair[0] > pair[1]) {
        return Some("its offsets do not ascend from 0".into());
    }
    if lists.offsets.last().is_none_or(|last| *last as usize != lists.links.len()) {
        return Some("its offsets do not end with its links".into());
    }
    lists
        .links
        .iter()
        .find(|link| **link as usize >= n)
        .map(|link| format!("a link leads to {link}, there are {n} passages"))
}

struct Space<'a> {
    vectors: &'a [f32],
    dim: usize,
    question: &'a [f32],
}

impl Space<'_> {
    fn score(&self, ordinal: u32) -> Hit {
        let start = ordinal as usize * self.dim;
        Hit { ordinal, score: dot(self.question, &self.vectors[start..start + self.dim]) }
    }
}

/// What a search needs besides the graph; kept by each thread, so that a search allocates only its result.
#[derive(Default)]
struct Scratch {
    /// `visited[i] == epoch`: node `i` was seen in this search. Nothing needs clearing between searches.
    visited: Vec<u32>,
    epoch: u32,
    open: BinaryHeap<Reverse<Worst>>,
    best: BinaryHeap<Worst>,
}

impl Scratch {
    fn begin(&mut self, nodes: usize) {
        self.open.clear();
        self.best.clear();
        if self.epoch == u32::MAX {
            self.visited.fill(0);
            self.epoch = 0;
        }
        self.epoch += 1;
        if self.visited.len() < nodes {
            self.visited.resize(nodes, 0);
        }
    }

    fn first_visit(&mut self, node: u32) -> bool {
        std::mem::replace(&mut self.visited[node as usize], self.epoch) != self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring() -> FlatGraph {
        let lists: Vec<Vec<u32>> = (0..8u32).map(|at| vec![(at + 1) % 8, (at + 7) % 8]).collect();
        FlatGraph { entry: 0, base: Lists::flatten(lists.iter()).unwrap(), upper: Vec::new() }
    }

    #[test]
    fn the_beam_walks_round_a_ring() {
        let vectors: Vec<f32> = (0..8)
            .flat_map(|at| {
                let angle = at as f32 * std::f32::consts::TAU / 8.0;
                [angle.cos(), angle.sin()]
            })
            .collect();
        let hits = ring().search(&vectors, 2, &[-1.0, -0.1], 3, 3);
        assert_eq!(hits.iter().map(|hit| hit.ordinal).collect::<Vec<_>>(), [4, 5, 3]);
    }

    #[test]
    fn every_defect_is_found_before_a_search() {
        assert_eq!(ring().defect(), None);
        let mut entry = ring();
        entry.entry = 8;
        let mut link = ring();
        link.base.links[3] = 8;
        let mut order = ring();
        order.base.offsets[2] = 1;
        let mut end = ring();
        end.base.links.pop();
        let mut upper = ring();
        let lists = Lists::flatten([vec![1u32], vec![1]].iter()).unwrap();
        upper.upper.push(UpperLayer { nodes: vec![3, 1], lists });
        for graph in [entry, link, order, end, upper] {
            assert!(graph.defect().is_some(), "{graph:?}");
        }
    }

    #[test]
    fn reach_follows_links_one_way() {
        let lists = [vec![1u32], vec![], vec![0]];
        let graph = FlatGraph { entry: 0, base: Lists::flatten(lists.iter()).unwrap(), upper: Vec::new() };
        assert_eq!(graph.reachable(), [true, true, false]);
    }
}
