//! Building the proximity graph. The only file that names hnsw_rs.
//!
//! # Why a refresh may keep the edges
//!
//! A graph here is nothing but "from this passage, look at those next". It holds no vector and no distance: every score that a
//! search compares or returns is computed from the question and the vectors of the generation that is searched. So edges that
//! were found among other vectors can make a search *miss* a passage, but never give one a wrong score, a wrong rank among
//! those found or a place it has not. What is lost is recall, and recall can be measured. Four things guard it:
//!
//! 1. **Every passage can be reached.** After a build whatever the entry point does not lead to is linked (`strays`). That is
//!    a property of the edges alone: vectors may move as they like and it stays true.
//! 2. **It is measured, each time.** [`recall`](crate::recall()) asks for the neighbours of stored passages by exact search
//!    among the new vectors and through the old edges. It is compared with what the graph reached when it was *built*, not
//!    with the refresh before, so that many small losses cannot add up unseen.
//! 3. **Repair only adds** ([`repair`](crate::repair())): old edges stay behind new ones, because the long ones among them
//!    hold distant parts together and nothing local can replace them. It counts only if the measured recall rose.
//! 4. **Otherwise it is built again**, here, from nothing.
//!
//! Neighbours of a passage move with it when an encoder is fine-tuned, which is why step 2 mostly finds nothing lost.
//!
//! # Building
//!
//! hnsw_rs finds the links; they are taken out of it, those of the lowest layer chosen again now that all passages are known
//! (see `shape`), and laid flat (see `adjacency`), where a search costs less than a third. Points go in one after the other: the
//! same vectors give the same graph, bit for bit, which training relies on when it resumes. N passages, D dimension.

use std::collections::BTreeMap;

use hnsw_rs::anndists::dist::distances::Distance;
use hnsw_rs::hnsw::Hnsw;

use crate::adjacency::{FlatGraph, Lists, UpperLayer};
use crate::distance::dot;
use crate::shape::shape;
use crate::strays::link_strays;

/// How to build the graph and how to measure it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphParams {
    /// Links per passage and upper layer; the lowest layer has up to twice as many. 4 to 128.
    pub links: usize,
    /// Width of the beam that looks for them. 1 to 100 000; more is slower and better.
    pub ef_construction: usize,
    /// Stored vectors on which the graph's recall is measured against exact search; at most all are taken.
    pub probes: usize,
    /// Width of the beam in that measurement.
    pub ef: usize,
}

impl Default for GraphParams {
    fn default() -> Self {
        Self { links: 16, ef_construction: 200, probes: 200, ef: 64 }
    }
}

impl GraphParams {
    /// Refuses what hnsw_rs would abort or panic on.
    pub fn check(&self) -> Result<(), Refused> {
        let range = |name, value: usize, from: usize, to: usize, expected| {
            if (from..=to).contains(&value) {
                return Ok(());
            }
            Err(Refused { name, value: value.to_string(), expected })
        };
        range("links", self.links, 4, 128, "a number from 4 to 128")?;
        range("ef-construction", self.ef_construction, 1, 100_000, "a number from 1 to 100000")?;
        range("ef", self.ef, 1, 1_000_000, "a number from 1 to 1000000")
    }
}

/// A setting outside its range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Name of the setting.
    pub name: &'static str,
    /// The value given.
    pub value: String,
    /// The range.
    pub expected: &'static str,
}

/// A finished graph and how many passages had to be linked by hand.
#[derive(Debug)]
pub struct Built {
    /// The graph.
    pub graph: FlatGraph,
    /// Passages that could not be reached from the entry point and were linked to their nearest reachable passage.
    pub relinked: u32,
}

/// hnsw_rs takes its logarithm of the layer count from this and cannot take less without losing levels.
const LAYERS: usize = 16;

/// Builds the graph over `vectors` (N, D) row-major: finite, of length one, N at least 1. hnsw_rs runs on the calling
/// thread alone; the result does not depend on the number of threads that choose links afterwards.
pub fn build(vectors: &[f32], dim: usize, params: &GraphParams) -> Result<Built, Refused> {
    params.check()?;
    let n = vectors.len().checked_div(dim).unwrap_or(0);
    if n == 0 || n * dim != vectors.len() || i32::try_from(n).is_err() {
        let value = n.to_string();
        return Err(Refused { name: "passages in a graph", value, expected: "1 to 2147483647" });
    }
    let index = Hnsw::<f32, InnerProduct>::new(params.links, n, LAYERS, params.ef_construction, InnerProduct);
    for (ordinal, vector) in vectors.chunks_exact(dim).enumerate() {
        index.insert((vector, ordinal));
    }
    let mut layers = extract(&index, n);
    drop(index);
    layers.base = shape(&layers.base, vectors, dim, params.links);
    let graph = layers.flatten()?;
    let relinked = link_strays(&mut layers.base, &graph, vectors, dim, 2 * params.links);
    let graph = if relinked == 0 { graph } else { layers.flatten()? };
    Ok(Built { graph, relinked })
}

/// `1 - a·b` on unit vectors, never negative and never NaN: hnsw_rs panics on either. Rounding makes `a·a` exceed 1.
#[derive(Clone, Copy)]
struct InnerProduct;

impl Distance<f32> for InnerProduct {
    fn eval(&self, a: &[f32], b: &[f32]) -> f32 {
        let distance = 1.0 - dot(a, b);
        if distance.is_nan() { f32::MAX } else { distance.max(0.0) }
    }
}

struct Layers {
    entry: u32,
    base: Vec<Vec<u32>>,
    upper: Vec<BTreeMap<u32, Vec<u32>>>,
}

impl Layers {
    fn flatten(&self) -> Result<FlatGraph, Refused> {
        let too_many = || Refused {
            name: "links of all passages together",
            value: "more than 4294967295".into(),
            expected: "fewer passages or fewer links",
        };
        let base = Lists::flatten(self.base.iter().map(Vec::as_slice)).ok_or_else(too_many)?;
        let upper = self.upper.iter().map(|layer| {
            let lists = Lists::flatten(layer.values().map(Vec::as_slice)).ok_or_else(too_many)?;
            Ok(UpperLayer { nodes: layer.keys().copied().collect(), lists })
        });
        // Ordinals of hnsw_rs are the ones it was given, and lists have its lengths: what is left is that they do not fit.
        FlatGraph::new(self.entry, &base, upper.collect::<Result<_, Refused>>()?).map_err(|_| too_many())
    }
}

/// Takes the links of every layer out of the index.
///
/// hnsw_rs also keeps lists for layers above a point's own, where it only passed through; they are left out, as are links
/// to points that do not live in the layer.
fn extract(index: &Hnsw<'_, f32, InnerProduct>, n: usize) -> Layers {
    let mut base = vec![Vec::new(); n];
    let mut upper: Vec<BTreeMap<u32, Vec<u32>>> = Vec::new();
    let mut entry = (0u8, u32::MAX);
    for point in index.get_point_indexation() {
        let ordinal = point.get_origin_id() as u32;
        let level = point.get_point_id().0;
        // hnsw_rs starts at the point that first reached the topmost layer: among those there, the one inserted first.
        if level > entry.0 || (level == entry.0 && ordinal < entry.1) {
            entry = (level, ordinal);
        }
        if upper.len() < usize::from(level) {
            upper.resize_with(usize::from(level), BTreeMap::new);
        }
        for (layer, neighbours) in point.get_neighborhood_id().into_iter().enumerate() {
            if layer > usize::from(level) {
                break;
            }
            let links = neighbours
                .into_iter()
                .filter(|neighbour| usize::from(neighbour.p_id.0) >= layer)
                .map(|neighbour| neighbour.d_id as u32)
                .filter(|neighbour| *neighbour != ordinal)
                .collect();
            match layer {
                0 => base[ordinal as usize] = links,
                _ => _ = upper[layer - 1].insert(ordinal, links),
            }
        }
    }
    Layers { entry: entry.1, base, upper }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::exact;
    use rand::{RngExt, SeedableRng};

    pub(crate) fn unit_vectors(n: usize, dim: usize, centres: usize, seed: u64) -> Vec<f32> {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let centre: Vec<f32> = (0..centres * dim).map(|_| rng.random_range(-1.0..1.0)).collect();
        let mut vectors = Vec::with_capacity(n * dim);
        for at in 0..n {
            let from = (at * 7 % centres) * dim;
            let row: Vec<f32> =
                centre[from..from + dim].iter().map(|value| value + rng.random_range(-0.6..0.6)).collect();
            let length = dot(&row, &row).sqrt();
            vectors.extend(row.iter().map(|value| value / length));
        }
        vectors
    }

    #[test]
    fn recall_is_high_and_the_same_vectors_give_the_same_graph() {
        let (n, dim) = (2000, 48);
        let vectors = unit_vectors(n, dim, 40, 3);
        let params = GraphParams::default();
        let built = build(&vectors, dim, &params).unwrap();
        assert_eq!(built.graph, build(&vectors, dim, &params).unwrap().graph);
        let questions = unit_vectors(100, dim, 40, 3);
        let (mut right, mut all) = (0, 0);
        for (question, truth) in questions.chunks(dim).zip(exact::search(&vectors, dim, &questions, 10)) {
            let found = built.graph.search(&vectors, dim, question, 10, 64);
            right += found.iter().filter(|hit| truth.contains(hit)).count();
            all += truth.len();
        }
        let recall = right as f64 / all as f64;
        assert!(recall >= 0.95, "recall@10 is {recall}");
        assert!(built.graph.upper.len() >= 2, "a graph of 2000 has upper layers");
        let bytes = built.graph.bytes() as f64 / n as f64;
        assert!(bytes <= 200.0, "{bytes} bytes a passage beside its vector at 16 links");
    }

    #[test]
    fn every_passage_can_be_reached_even_among_equal_ones() {
        let dim = 8;
        let mut vectors = unit_vectors(300, dim, 3, 5);
        let first = vectors[..dim].to_vec();
        for row in vectors.chunks_mut(dim).skip(100) {
            row.copy_from_slice(&first);
        }
        let built = build(&vectors, dim, &GraphParams { links: 4, ..GraphParams::default() }).unwrap();
        assert_eq!(built.graph.unreachable(), 0, "{} relinked", built.relinked);
        assert_eq!(built.graph.search(&vectors, dim, &first, 300, 64).len(), 300);
    }

    #[test]
    fn kinds_of_passages_that_close_into_islands_are_linked() {
        // More passages of a kind than the beam is wide: all that an insertion sees are of its own kind.
        let (dim, kinds, of_a_kind) = (16, 40, 60);
        let centres = unit_vectors(kinds, dim, kinds, 3);
        let mut vectors: Vec<f32> = centres.repeat(of_a_kind);
        let noise = unit_vectors(kinds * of_a_kind, dim, kinds * of_a_kind, 4);
        vectors.iter_mut().zip(&noise).for_each(|(value, noise)| *value += 0.02 * noise);
        vectors.chunks_exact_mut(dim).for_each(|vector| crate::normalize(vector, 1.0).unwrap());
        let params = GraphParams { links: 4, ef_construction: 8, ..GraphParams::default() };
        let built = build(&vectors, dim, &params).unwrap();
        assert!(built.relinked > 0, "no island, nothing tested");
        assert_eq!(built.graph.unreachable(), 0);
        let (found, _) = crate::recall(&built.graph, &vectors, dim, 200, 256);
        assert!(found > 0.9, "{found} of {} relinked", built.relinked);
    }

    #[test]
    fn tiny_and_odd_corpora_build() {
        for n in [1, 2, 3] {
            let vectors = unit_vectors(n, 4, 1, 9);
            let built = build(&vectors, 4, &GraphParams::default()).unwrap();
            assert_eq!(built.graph.search(&vectors, 4, &vectors[..4], n, 1).len(), n);
        }
        assert!(build(&[], 4, &GraphParams::default()).is_err());
        assert!(build(&[1.0], 1, &GraphParams { links: 300, ..GraphParams::default() }).is_err());
    }
}
