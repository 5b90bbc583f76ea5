//! `graph.bin`: a flat graph in bytes. Little-endian throughout; the layout is in FORMAT.md.

use crate::adjacency::{FlatGraph, Lists, UpperLayer};
use crate::digest::digest;

/// First eight bytes of the file.
const MAGIC: &[u8; 8] = b"rtgraph\n";
/// The format this program writes and the newest it reads.
const FORMAT: u32 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM: usize = blake3::OUT_LEN;
/// More layers than this no graph has: levels fall off exponentially and hnsw_rs knows 16.
const MAX_LAYERS: u32 = 64;

/// The file's content.
pub fn encode(graph: &FlatGraph) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + graph.bytes());
    bytes.extend_from_slice(MAGIC);
    put(&mut bytes, &[FORMAT, graph.nodes() as u32, graph.entry, graph.upper.len() as u32]);
    let mut end = 0;
    for list in graph.base.lists() {
        end += list.len() as u32;
        put(&mut bytes, &[end]);
    }
    graph.base.lists().for_each(|list| put(&mut bytes, list));
    for layer in &graph.upper {
        put(&mut bytes, &[layer.nodes.len() as u32]);
        put(&mut bytes, &layer.nodes);
        put_lists(&mut bytes, &layer.lists);
    }
    let checksum = digest(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}

/// The graph of `n` passages in these bytes, or what is wrong with them. Nothing is trusted before the checksum has been
/// verified, and every bound is checked after it: no content of the file can make a search leave its arrays.
pub fn decode(bytes: &[u8], n: usize) -> Result<FlatGraph, String> {
    decode_if(bytes, n, |body, checksum| digest(body) == blake3::Hash::from_bytes(*checksum))
}

/// The same of a graph of which the blake3 of all bytes is known, in hex: they are hashed once.
pub fn decode_known(bytes: &[u8], n: usize, blake3: &str) -> Result<FlatGraph, String> {
    // Bytes that are what was written have the checksum that was written.
    if digest(bytes).to_hex().as_str() == blake3 {
        return decode_if(bytes, n, |_, _| true);
    }
    decode(bytes, n).and_then(|_| Err("it is another graph than the manifest describes".into()))
}

fn decode_if(bytes: &[u8], n: usize, whole: impl Fn(&[u8], &[u8; CHECKSUM]) -> bool) -> Result<FlatGraph, String> {
    let Some((body, checksum)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err(format!("it has {} bytes, too few for a graph", bytes.len()));
    };
    if !body.starts_with(MAGIC) {
        return Err("it does not begin as a graph file".into());
    }
    let mut reader = Reader { rest: &body[MAGIC.len()..] };
    let format = reader.number()?;
    if format > FORMAT {
        return Err(format!("it has format {format}, this program reads formats up to {FORMAT}"));
    }
    if !whole(body, checksum) {
        return Err("its checksum does not match its content".into());
    }
    let nodes = reader.number()?;
    if nodes as usize != n {
        return Err(format!("it is a graph of {nodes} passages, the corpus holds {n}"));
    }
    let entry = reader.number()?;
    let layers = reader.number()?;
    if layers > MAX_LAYERS {
        return Err(format!("it has {layers} upper layers, at most {MAX_LAYERS} were expected"));
    }
    let base = reader.lists(n)?;
    let mut upper = Vec::new();
    for _ in 0..layers {
        let count = reader.number()? as usize;
        let nodes = reader.numbers(count)?;
        upper.push(UpperLayer { lists: reader.lists(count)?, nodes });
    }
    if !reader.rest.is_empty() {
        return Err(format!("{} bytes follow its end", reader.rest.len()));
    }
    FlatGraph::new(entry, &base, upper)
}

fn put(bytes: &mut Vec<u8>, numbers: &[u32]) {
    for number in numbers {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
}

/// Offsets without the leading zero, which is always there, then the links.
fn put_lists(bytes: &mut Vec<u8>, lists: &Lists) {
    put(bytes, &lists.offsets[1..]);
    put(bytes, &lists.links);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn number(&mut self) -> Result<u32, String> {
        let (number, rest) = self.rest.split_first_chunk::<4>().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(u32::from_le_bytes(*number))
    }

    fn numbers(&mut self, count: usize) -> Result<Vec<u32>, String> {
        let length = count.checked_mul(4).filter(|length| *length <= self.rest.len()).ok_or("it ends too early")?;
        let (numbers, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(numbers.as_chunks::<4>().0.iter().map(|number| u32::from_le_bytes(*number)).collect())
    }

    fn lists(&mut self, nodes: usize) -> Result<Lists, String> {
        let mut offsets = vec![0];
        offsets.extend(self.numbers(nodes)?);
        let links = self.numbers(offsets.last().copied().unwrap_or(0) as usize)?;
        Ok(Lists { offsets, links })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph() -> FlatGraph {
        let lists: Vec<Vec<u32>> = (0..9u32).map(|at| vec![(at + 1) % 9, (at + 4) % 9]).collect();
        let base = Lists::flatten(lists.iter().map(Vec::as_slice)).unwrap();
        let upper = Lists::flatten([&[4u32][..], &[2]].into_iter()).unwrap();
        FlatGraph::new(4, &base, vec![UpperLayer { nodes: vec![2, 4], lists: upper }]).unwrap()
    }

    #[test]
    fn what_was_written_is_read_back() {
        assert_eq!(decode(&encode(&graph()), 9).unwrap(), graph());
        assert!(decode(&encode(&graph()), 10).unwrap_err().contains("9 passages"));
        let bytes = encode(&graph());
        let known = blake3::hash(&bytes).to_hex();
        assert_eq!(decode_known(&bytes, 9, &known).unwrap(), graph());
        assert!(decode_known(&bytes, 9, "00").unwrap_err().contains("another graph"));
        let mut bad = bytes.clone();
        bad[40] ^= 1;
        assert!(decode_known(&bad, 9, &known).unwrap_err().contains("checksum"));
        // Of bytes that are known, too, every bound is checked.
        bad = bytes[..bytes.len() - 40].to_vec();
        assert!(decode_known(&bad, 9, &blake3::hash(&bad).to_hex()).is_err());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_refused() {
        let bytes = encode(&graph());
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length], 9).is_err(), "cut to {length}");
        }
        for at in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(decode(&flipped, 9).is_err(), "bit {at}");
        }
    }

    #[test]
    fn a_file_with_a_right_checksum_and_wrong_content_is_refused() {
        let good = encode(&graph());
        for word in 1..(good.len() - MAGIC.len() - CHECKSUM) / 4 {
            let mut bytes = good[..good.len() - CHECKSUM].to_vec();
            bytes[MAGIC.len() + word * 4..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
            let checksum = blake3::hash(&bytes);
            bytes.extend_from_slice(checksum.as_bytes());
            assert!(decode(&bytes, 9).is_err(), "word {word}");
        }
    }
}
