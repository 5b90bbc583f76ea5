//! A layered proximity graph in flat arrays. N passages.
//!
//! The vectors are not part of the graph: they are read from the corpus and shared with exact search. `beam` searches it.

use std::collections::VecDeque;

use rayon::prelude::*;

use crate::aligned::Aligned;

/// Links of many nodes, one list after the other: node `i` of the list has `links[offsets[i]..offsets[i + 1]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lists {
    pub(crate) offsets: Vec<u32>,
    pub(crate) links: Vec<u32>,
}

impl Lists {
    /// Lays lists out flat; `None` when there are more links than 32 bits can count.
    pub(crate) fn flatten<'a>(lists: impl Iterator<Item = &'a [u32]>) -> Option<Self> {
        let mut offsets = vec![0];
        let mut links = Vec::new();
        for list in lists {
            links.extend_from_slice(list);
            offsets.push(u32::try_from(links.len()).ok()?);
        }
        Some(Self { offsets, links })
    }

    pub(crate) fn of(&self, node: usize) -> &[u32] {
        &self.links[self.offsets[node] as usize..self.offsets[node + 1] as usize]
    }

    pub(crate) fn nodes(&self) -> usize {
        self.offsets.len() - 1
    }

    /// What makes them unsafe to read, if anything, when links lead to `n` passages.
    fn defect(&self, n: usize) -> Option<String> {
        if self.offsets.first() != Some(&0) || self.offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return Some("its offsets do not ascend from 0".into());
        }
        if self.offsets.last().is_none_or(|last| *last as usize != self.links.len()) {
            return Some("its offsets do not end with its links".into());
        }
        // The greatest of many is found with registers, the first that is too great only where there is one.
        let greatest = |links: &[u32]| links.iter().fold(0, |greatest, link| (*link).max(greatest));
        let bad = self.links.par_chunks(1 << 16).find_first(|links| greatest(links) as usize >= n);
        bad.into_iter()
            .flatten()
            .find(|link| **link as usize >= n)
            .map(|link| format!("a link leads to {link}, there are {n} passages"))
    }
}

/// The lowest layer: every node has a row of one width, which begins on a line of the cache. What a list does not fill is the
/// node itself, which a search has always seen already.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Base {
    width: usize,
    rows: Aligned<u32>,
}

/// Links that fill a line of the cache; widths are multiples of it.
const LINE: usize = 16;
/// The most links of a node: what 128 links ask for, and four times as much for repairs and strays.
pub(crate) const MOST_LINKS: usize = 1024;

impl Base {
    /// Lays out lists without links of a node to itself; `None` when they do not fit into memory's addresses or are longer than
    /// any that this program makes.
    pub(crate) fn new<'a>(nodes: usize, list: impl Fn(usize) -> &'a [u32] + Sync) -> Option<Self> {
        let longest = (0..nodes).into_par_iter().map(|node| list(node).len()).max().unwrap_or(0);
        if longest > MOST_LINKS {
            return None;
        }
        let width = longest.next_multiple_of(LINE).max(LINE);
        let mut rows = Aligned::zeros(nodes.checked_mul(width)?);
        rows.par_chunks_exact_mut(width).enumerate().for_each(|(node, row)| {
            let mut end = 0;
            for link in list(node).iter().filter(|link| **link != node as u32) {
                row[end] = *link;
                end += 1;
            }
            row[end..].fill(node as u32);
        });
        Some(Self { width, rows })
    }

    pub(crate) fn nodes(&self) -> usize {
        self.rows.len() / self.width
    }

    /// A node's row: its links, then itself.
    #[inline(always)]
    pub(crate) fn row(&self, node: u32) -> &[u32] {
        &self.rows[node as usize * self.width..][..self.width]
    }

    /// A node's links.
    pub(crate) fn of(&self, node: u32) -> &[u32] {
        let row = self.row(node);
        &row[..row.iter().position(|link| *link == node).unwrap_or(row.len())]
    }

    /// The links of all nodes in order.
    pub(crate) fn lists(&self) -> impl ExactSizeIterator<Item = &[u32]> + Clone {
        (0..self.nodes() as u32).map(|node| self.of(node))
    }

    /// Bytes in memory.
    fn bytes(&self) -> usize {
        self.rows.len() * 4
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
    pub(crate) fn of(&self, ordinal: u32) -> &[u32] {
        self.nodes.binary_search(&ordinal).map_or(&[], |node| self.lists.of(node))
    }
}

/// A layered proximity graph over passages; their vectors lie elsewhere and are handed to each search. However it was made, by
/// [`build`](crate::build), [`repair`](fn@crate::repair) or [`decode`](crate::decode), no link leads outside its passages.
#[derive(Debug, Clone, PartialEq)]
pub struct FlatGraph {
    /// Ordinal from which every search starts: a node of the topmost layer.
    pub(crate) entry: u32,
    /// The lowest layer, which holds every passage.
    pub(crate) base: Base,
    /// The layers above it, from the second lowest to the topmost.
    pub(crate) upper: Vec<UpperLayer>,
}

impl FlatGraph {
    /// A graph of these parts, or what makes them unsafe to search: in one that was made, no search can leave its arrays.
    pub(crate) fn new(entry: u32, base: &Lists, upper: Vec<UpperLayer>) -> Result<Self, String> {
        let n = base.nodes();
        if entry as usize >= n {
            return Err(format!("the entry point {entry} is not among {n} passages"));
        }
        let layers = std::iter::once(base).chain(upper.iter().map(|layer| &layer.lists));
        for (layer, lists) in layers.enumerate() {
            if let Some(what) = lists.defect(n) {
                return Err(format!("layer {layer}: {what}"));
            }
        }
        for (layer, upper) in upper.iter().enumerate() {
            let ascending = upper.nodes.windows(2).all(|pair| pair[0] < pair[1]);
            let known = upper.nodes.last().is_none_or(|last| (*last as usize) < n);
            if upper.nodes.len() != upper.lists.nodes() || !ascending || !known {
                return Err(format!("layer {}: its list of passages is not in order", layer + 1));
            }
        }
        let base = Base::new(n, |node| base.of(node));
        let base = base.ok_or_else(|| format!("layer 0: a passage has more than {MOST_LINKS} links"))?;
        Ok(Self { entry, base, upper })
    }

    /// How many passages it links: the first so many of the corpus.
    pub fn nodes(&self) -> usize {
        self.base.nodes()
    }

    /// Bytes in memory; the vectors are not in it.
    pub fn bytes(&self) -> usize {
        let of_lists = |lists: &Lists| 4 * (lists.offsets.len() + lists.links.len());
        self.base.bytes() + self.upper.iter().map(|layer| 4 * layer.nodes.len() + of_lists(&layer.lists)).sum::<usize>()
    }

    /// How many passages cannot be reached from the entry point over the lowest layer.
    pub fn unreachable(&self) -> usize {
        let mut seen = vec![false; self.nodes()];
        reach(self.entry, &mut seen, |node| self.base.of(node));
        seen.into_iter().filter(|seen| !seen).count()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(of: &[&[u32]]) -> Lists {
        Lists::flatten(of.iter().copied()).unwrap()
    }

    #[test]
    fn every_defect_is_found_before_a_search() {
        let good = || lists(&[&[1, 2], &[2, 0], &[0]]);
        assert!(FlatGraph::new(0, &good(), Vec::new()).is_ok());
        let mut link = good();
        link.links[3] = 3;
        let mut order = good();
        order.offsets[2] = 1;
        let mut end = good();
        end.links.pop();
        for base in [link, order, end] {
            assert!(FlatGraph::new(0, &base, Vec::new()).is_err(), "{base:?}");
        }
        assert!(FlatGraph::new(3, &good(), Vec::new()).is_err());
        let upper = UpperLayer { nodes: vec![2, 1], lists: lists(&[&[1], &[1]]) };
        assert!(FlatGraph::new(0, &good(), vec![upper]).is_err());
        let many: Vec<u32> = vec![1; MOST_LINKS + 1];
        assert!(FlatGraph::new(0, &lists(&[&many, &[]]), Vec::new()).unwrap_err().contains("links"));
    }

    #[test]
    fn links_come_back_as_they_were_laid_out() {
        let long: Vec<u32> = (1..18).collect();
        let given: Vec<&[u32]> = (0..18).map(|node| if node == 0 { &long[..] } else { &[][..] }).collect();
        let base = Base::new(given.len(), |node| given[node]).unwrap();
        assert_eq!((base.width, base.row(3)), (32, &[3; 32][..]));
        assert!(base.lists().eq(given));
        // A link to itself is none.
        assert_eq!(Base::new(2, |node| [&[0u32, 1][..], &[0]][node]).unwrap().of(0), [1]);
    }

    #[test]
    fn reach_follows_links_one_way() {
        let graph = FlatGraph::new(0, &lists(&[&[1], &[], &[0]]), Vec::new()).unwrap();
        assert_eq!(graph.unreachable(), 1);
    }
}
