//! `graph.bin`: whatever is accepted can be searched from any question without leaving its arrays, and finds what its links
//! lead to.

use std::sync::LazyLock;

use ragtune_nearest::{FlatGraph, GraphParams, Hit, build, decode, dot, encode, recall, repair};

use crate::fence::{Fenced, number};
use crate::input::{Input, bend_bytes, flipped, u32_at, with_checksum};

const MAGIC: &[u8] = b"rtgraph\n";
/// Files of more passages are read as if the corpus had this many.
const MOST: usize = 1024;
/// Dimensions around the widths of registers.
const DIMS: [usize; 6] = [1, 3, 8, 16, 19, 33];

static VECTORS: LazyLock<Fenced> = LazyLock::new(|| Fenced::new(MOST * DIMS[5], |at| number(at as u64)));
static QUESTION: LazyLock<Fenced> = LazyLock::new(|| Fenced::new(DIMS[5], |at| number(at as u64 + 1_000_003)));

/// Whether the input is a graph; panics where one is not what it should be.
pub fn check(data: &[u8]) -> bool {
    let mut input = Input::of(data);
    let kind = input.byte();
    let bytes = match kind % 3 {
        0 => input.rest().to_vec(),
        1 => with_checksum([MAGIC, input.rest()].concat()),
        _ => described(&mut input),
    };
    examine(&bytes, usize::from(kind / 3))
}

/// Files of graphs that were built, and descriptions.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![2], vec![5; 90], (0..200u8).map(|at| at.wrapping_mul(3).wrapping_add(2)).collect()];
    for n in [1, 7, 60] {
        let vectors: Vec<f32> = (0..n).flat_map(|at| [(at as f32).cos(), (at as f32).sin()]).collect();
        let params = GraphParams { links: 4, ..GraphParams::default() };
        let file = encode(&build(&vectors, 2, &params).expect("a graph of so few can be built").graph);
        let body = &file[MAGIC.len()..file.len() - blake3::OUT_LEN];
        seeds.extend([[&[0], &file[..]].concat(), [&[1 + 3 * n as u8], body].concat()]);
    }
    seeds
}

/// A file in which most numbers agree with one another.
fn described(input: &mut Input<'_>) -> Vec<u8> {
    let n = 1 + input.below(64);
    let layers = input.below(4);
    let mut words = vec![1, n as u32, link(input, n), layers as u32];
    put_lists(&mut words, input, n, n);
    for _ in 0..layers {
        let mut nodes: Vec<u32> = (0..n as u32).filter(|_| input.byte() & 3 == 0).collect();
        if input.byte() == 255 {
            nodes.push(link(input, n));
        }
        words.push(nodes.len() as u32);
        words.extend(&nodes);
        put_lists(&mut words, input, nodes.len(), n);
    }
    let numbers = words.into_iter().flat_map(u32::to_le_bytes);
    let mut content: Vec<u8> = MAGIC.iter().copied().chain(numbers).collect();
    bend_bytes(&mut content, input);
    with_checksum(content)
}

fn put_lists(words: &mut Vec<u32>, input: &mut Input<'_>, nodes: usize, n: usize) {
    let mut links = Vec::new();
    for _ in 0..nodes {
        let degree = match input.byte() {
            255 => 1025,
            254 => 1024,
            other => usize::from(other % 8),
        };
        match degree {
            0..8 => links.extend((0..degree).map(|_| link(input, n))),
            _ => links.extend(std::iter::repeat_n(link(input, n), degree)),
        }
        words.push(links.len() as u32);
    }
    words.extend(links);
}

/// An ordinal, once in a while of no passage.
fn link(input: &mut Input<'_>, n: usize) -> u32 {
    match input.byte() {
        255 => n as u32,
        other => u32::from(other) % n as u32,
    }
}

fn examine(bytes: &[u8], how: usize) -> bool {
    let n = (u32_at(bytes, 12) as usize).min(MOST);
    let Ok(graph) = decode(bytes, n) else { return false };
    assert!(decode(bytes, n + 1).is_err(), "a graph of {n} passages is none of {}", n + 1);
    for bad in flipped(bytes, 2) {
        assert!(decode(&bad, n).is_err(), "a flipped bit");
    }
    assert!(decode(&bytes[..how % bytes.len()], n).is_err(), "cut to {}", how % bytes.len());
    let written = encode(&graph);
    let again = decode(&written, n).expect("what was written is read");
    assert_eq!(encode(&again), written);
    assert_eq!((graph.nodes(), again.nodes()), (n, n));

    let base = Base::read(&written);
    upper_layers(&written, n);
    assert_eq!(graph.unreachable(), base.unreachable());
    let dim = DIMS[how % DIMS.len()];
    let (vectors, question) = (VECTORS.last(n * dim), QUESTION.last(dim));
    search(&graph, &base, vectors, question);
    if how % 4 == 3 {
        mend(&graph, &base, vectors, dim, 1 + how % 9);
    }
    true
}

fn search(graph: &FlatGraph, base: &Base, vectors: &[f32], question: &[f32]) {
    let (n, dim) = (graph.nodes(), question.len());
    for (k, ef) in [(0, 1), (1, 1), (3, 8), (n, 1)] {
        let hits = graph.search(vectors, dim, question, k, ef);
        assert!(hits.len() <= k && (k == 0 || !hits.is_empty()), "{} hits of {k}", hits.len());
        assert!(hits.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "{hits:?} are in order and differ");
        for hit in &hits {
            let row = &vectors[hit.ordinal as usize * dim..][..dim];
            assert_eq!(hit.score.to_bits(), dot(question, row).to_bits(), "{hit:?}");
        }
    }
    // The widest beam finds whatever its first passage leads to.
    let all = graph.search(vectors, dim, question, n, n);
    let mut found = vec![false; n];
    all.iter().for_each(|hit| found[hit.ordinal as usize] = true);
    for hit in &all {
        assert!(base.links[hit.ordinal as usize].iter().all(|link| found[*link as usize]), "behind {hit:?}");
    }
    let odd = |ordinal: u32| ordinal % 2 == 1;
    let (hits, fit) = graph.search_where(vectors, dim, question, 5.min(n), n, odd);
    let wanted: Vec<Hit> = all.iter().filter(|hit| odd(hit.ordinal)).copied().collect();
    assert_eq!((&hits[..], fit), (&wanted[..wanted.len().min(5)], wanted.len()));
}

/// What a refresh does with the graph of the generation before.
fn mend(graph: &FlatGraph, base: &Base, vectors: &[f32], dim: usize, links: usize) {
    let (share, probes) = recall(graph, vectors, dim, 3, 4);
    assert!((0.0..=1.0).contains(&share) && probes <= 3.max(graph.nodes()), "{share} of {probes}");
    let mended = repair(graph, vectors, dim, links);
    let written = encode(&mended);
    let after = Base::read(&written);
    for (old, new) in base.links.iter().zip(&after.links) {
        assert!(old.iter().all(|link| new.contains(link)), "{old:?} became {new:?}");
    }
    let again = decode(&written, graph.nodes()).expect("what was repaired is read");
    search(&again, &after, vectors, &vectors[..dim]);
}

/// Nothing but passages, in order, and links to passages, in the layers above the lowest of a file that was read.
fn upper_layers(file: &[u8], n: usize) {
    let mut at = 20 + 4 * n;
    at += 4 + 4 * u32_at(file, at) as usize;
    for _ in 0..u32_at(file, 20) {
        let count = u32_at(file, at) as usize;
        let nodes: Vec<u32> = (1..=count).map(|node| u32_at(file, at + 4 * node)).collect();
        assert!(nodes.is_sorted_by(|a, b| a < b) && nodes.iter().all(|node| (*node as usize) < n), "{nodes:?} of {n}");
        at += 4 * count;
        let links = if count == 0 { 0 } else { u32_at(file, at + 4 * count) as usize };
        at += 4 * count + 4;
        assert!((0..links).all(|link| (u32_at(file, at + 4 * link) as usize) < n));
        at += 4 * links;
    }
    assert_eq!(at + blake3::OUT_LEN, file.len());
}

/// The lowest layer, read from a file that is known to be whole.
struct Base {
    entry: u32,
    links: Vec<Vec<u32>>,
}

impl Base {
    fn read(file: &[u8]) -> Self {
        let n = u32_at(file, 12) as usize;
        let end = |node: usize| u32_at(file, 24 + 4 * node) as usize;
        let links = (0..n).map(|node| {
            let from = if node == 0 { 0 } else { end(node - 1) };
            (from..end(node)).map(|link| u32_at(file, 24 + 4 * (n + link))).collect()
        });
        Self { entry: u32_at(file, 16), links: links.collect() }
    }

    fn unreachable(&self) -> usize {
        let mut seen = vec![false; self.links.len()];
        let mut waiting = vec![self.entry];
        while let Some(node) = waiting.pop() {
            if !std::mem::replace(&mut seen[node as usize], true) {
                waiting.extend(&self.links[node as usize]);
            }
        }
        seen.iter().filter(|seen| !**seen).count()
    }
}
