//! `vectors.bin`, `vectors-f16.bin`, `vectors-int8.bin`: whatever is accepted holds as many rows as it says, and a walk by its codes,
//! whatever they are, stays inside them, scores by the vectors and with the widest beam finds everything.

use std::sync::{LazyLock, Mutex};

use ragtune_nearest::{Codes, Coding, FlatGraph, GraphParams, Kind, VectorFile, Wanted, build, dot, search};

use crate::fence::{Fenced, number};
use crate::input::{Input, bend_bytes, flipped, u32_at, with_checksum};

const MAGIC: &[u8] = b"rtvects\n";
const BELONGS: [u8; 32] = [7; 32];
const HEADER: usize = 256;
/// Bytes of the header that its checksum, which ends it, is made of.
const BODY: usize = HEADER - 32;
/// Passages of files that are searched.
const MOST: usize = 24;
/// Numbers of a vector in them.
const LONGEST: usize = 70;

static VECTORS: LazyLock<Fenced> = LazyLock::new(|| Fenced::new(MOST * LONGEST, |at| number(at as u64)));
static QUESTION: LazyLock<Fenced> = LazyLock::new(|| Fenced::new(LONGEST, |at| number(at as u64 + 999_983)));
static ROWS: LazyLock<Mutex<Fenced>> = LazyLock::new(|| Mutex::new(Fenced::new(MOST * (LONGEST + 64), |_| 0.0)));
/// One of each number of passages.
static GRAPHS: LazyLock<Vec<FlatGraph>> = LazyLock::new(|| (1..=MOST).map(graph).collect());

fn graph(n: usize) -> FlatGraph {
    let vectors: Vec<f32> = (0..n).flat_map(|at| [(at as f32).cos(), (at as f32).sin()]).collect();
    let params = GraphParams { links: 4, ..GraphParams::default() };
    let graph = build(&vectors, 2, &params).expect("a graph of so few can be built").graph;
    assert_eq!(graph.unreachable(), 0);
    graph
}

/// Whether the input is a file of rows; panics where one is not what it should be.
pub fn check(data: &[u8]) -> bool {
    let mut input = Input::of(data);
    let kind = input.byte();
    let bytes = match kind % 3 {
        0 => input.rest().to_vec(),
        1 => announced(input.rest()),
        _ => described(&mut input),
    };
    examine(&bytes, usize::from(kind / 3))
}

/// Files of a few vectors, and descriptions.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        vec![2],
        vec![2, 1, 0, 0, 3, 9, 200, 17],
        (0..90u8).map(|at| at.wrapping_mul(3).wrapping_add(2)).collect(),
    ];
    for (kind, n, dim) in [(Kind::Vectors, 3, 5), (Kind::Codes(Coding::F16), 5, 33), (Kind::Codes(Coding::Int8), 7, 65)]
    {
        let vectors: Vec<f32> = (0..n * dim).map(|at| number(at as u64)).collect();
        let rows = match kind {
            Kind::Vectors => vectors.iter().flat_map(|value| value.to_ne_bytes()).collect(),
            Kind::Codes(coding) => coding.encode(&vectors, dim).to_vec(),
        };
        let header = VectorFile::describing(Wanted { kind, n, dim, belongs: &BELONGS }, &rows, (0.5, 5, 64)).encode();
        seeds.push([&[0], &header[..], &rows[..]].concat());
        seeds.push([&[1], &header[MAGIC.len()..BODY], &rows[..]].concat());
    }
    seeds
}

/// A header with the right checksum, and rows.
fn announced(content: &[u8]) -> Vec<u8> {
    let (header, rows) = content.split_at(content.len().min(BODY - MAGIC.len()));
    let mut header = [MAGIC, header].concat();
    header.resize(BODY, 0);
    [&with_checksum(header)[..], rows].concat()
}

/// A file in which most numbers agree with one another; its rows are any.
fn described(input: &mut Input<'_>) -> Vec<u8> {
    let (kind, n, dim) = (input.below(3) as u32, input.below(MOST + 2), input.below(LONGEST + 2));
    let row = match kind {
        0 => 4 * dim,
        1 => (2 * dim).next_multiple_of(64),
        _ => dim.next_multiple_of(64) + 4,
    };
    let (step, first) = (input.byte(), input.byte());
    let mut rows: Vec<u8> = (0..n * row).map(|at| (at as u8).wrapping_mul(step).wrapping_add(first)).collect();
    bend_bytes(&mut rows, input);
    let recall = f32::from_bits(u32::from(input.byte()) << 24);
    let numbers = [1, kind, n as u32, dim as u32].map(u32::to_le_bytes);
    let measured = [recall.to_bits(), 200, 64].map(u32::to_le_bytes);
    let checksum = *blake3::hash(&rows).as_bytes();
    let mut header = [numbers.as_flattened(), &BELONGS, measured.as_flattened(), &checksum].concat();
    bend_bytes(&mut header, input);
    header.resize(BODY - MAGIC.len(), 0);
    announced(&[header, rows].concat())
}

fn examine(bytes: &[u8], how: usize) -> bool {
    let length = bytes.len() as u64;
    let Ok(file) = VectorFile::decode(bytes, length) else { return false };
    let (header, rows) = bytes.split_at(HEADER);
    assert_eq!((file.n, file.dim), (u32_at(bytes, 16) as usize, u32_at(bytes, 20) as usize));
    assert_eq!(file.kind.bytes(file.n, file.dim), Some(rows.len()));
    for other in [length - 1, length + 1, 0, u64::MAX] {
        assert!(VectorFile::decode(header, other).is_err(), "{other} bytes instead of {length}");
    }
    for bad in flipped(header, 2) {
        assert!(VectorFile::decode(&bad, length).is_err(), "a flipped bit");
    }
    assert!(VectorFile::decode(&header[..how], length).is_err(), "cut to {how}");
    let written = file.encode();
    let again = VectorFile::decode(&written, length).expect("what was written is read");
    assert_eq!(again.encode(), written);

    let wanted = Wanted { kind: file.kind, n: file.n, dim: file.dim, belongs: &file.belongs };
    assert_eq!(file.must_be(wanted), Ok(()));
    assert!(file.must_be(Wanted { n: file.n + 1, ..wanted }).is_err());
    let whole = *blake3::hash(rows).as_bytes() == file.blake3;
    assert_eq!(file.verify(rows).is_ok(), whole);
    if let Kind::Codes(coding) = file.kind
        && whole
        && (1..=MOST).contains(&file.n)
        && (1..=LONGEST).contains(&file.dim)
    {
        walk(coding, rows, file.n, file.dim, how);
    }
    true
}

fn walk(coding: Coding, rows: &[u8], n: usize, dim: usize, how: usize) {
    let mut fenced = ROWS.lock().expect("no other thread");
    let codes = Codes::view(coding, fenced.fill(rows), n, dim).expect("rows of the announced length are codes");
    assert_eq!((codes.len(), codes.dim()), (n, dim));
    let (vectors, question) = (VECTORS.last(n * dim), QUESTION.last(dim));
    let graph = &GRAPHS[n - 1];
    for (k, ef) in [(0, 1), (1, 1), (3, 1 + how % 8)] {
        let (hits, _) = graph.search_codes_where(&codes, vectors, question, k, ef, |_| true);
        assert!(hits.len() <= k && (k == 0 || !hits.is_empty()), "{} hits of {k}", hits.len());
        assert!(hits.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()), "{hits:?} are in order and differ");
        for hit in &hits {
            let row = &vectors[hit.ordinal as usize * dim..][..dim];
            assert_eq!(hit.score.to_bits(), dot(question, row).to_bits(), "{hit:?}");
        }
    }
    let (all, fit) = graph.search_codes_where(&codes, vectors, question, n, n, |_| true);
    assert_eq!((all, fit), (search(vectors, dim, question, n).remove(0), n));
}
