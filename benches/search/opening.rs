//! Opening: what it takes to read the graph and to map and verify the vectors, as they are and as codes, from the page cache.
//! Links are arbitrary, 32 a passage: only their number and that they are valid counts here, and a graph of a million passages
//! takes long to build.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use memmap2::Mmap;
use ragtune_nearest::{Codes, Coding, Kind, VectorFile, Wanted, decode, decode_known, digest, not_of_length_one};

use crate::arguments::Arguments;
use crate::numbers::{Data, json_list};

/// Links of a passage: as many as the default asks for at most.
const LINKS: usize = 32;
/// Who the files say that they belong to.
const BELONGS: [u8; 32] = [1; 32];

/// Writes the files of the size that `data` has and opens them as often as there are passes.
pub fn measure(data: &Data, arguments: &Arguments) -> Result<(), String> {
    let folder = arguments.graph.clone().unwrap_or_else(|| arguments.vectors.join("opening"));
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    let graph = arbitrary_graph(data.len());
    let known = digest(&graph).to_hex();
    write(&folder.join("graph.bin"), &[&graph])?;
    let graph_bytes = graph.len();
    drop(graph);
    // SAFETY: any four bytes of a float32 are bytes.
    let floats = unsafe { std::slice::from_raw_parts(data.passages.as_ptr().cast::<u8>(), data.passages.len() * 4) };
    keep(&folder, data, Kind::Vectors, floats)?;
    for coding in [Coding::F16, Coding::Int8] {
        keep(&folder, data, Kind::Codes(coding), &coding.encode(&data.passages, data.dim))?;
    }
    let time = |open: &dyn Fn() -> Result<(), String>| -> Result<Vec<f64>, String> {
        open()?;
        let times = (0..arguments.passes.max(1)).map(|_| {
            let started = Instant::now();
            open()?;
            Ok(started.elapsed().as_secs_f64())
        });
        times.collect()
    };
    let read = || fs::read(folder.join("graph.bin")).map_err(|error| error.to_string());
    let open_graph = || decode_known(&read()?, data.len(), &known).map(drop);
    let open_graph_twice = || decode(&read()?, data.len()).map(drop);
    let open_vectors = || open(&folder, data, Kind::Vectors);
    println!(
        "{{\"work\": \"opening\", \"passages\": {}, \"dim\": {}, \"threads\": {}, \"graph_bytes\": {graph_bytes}, \
         \"graph_seconds\": {}, \"graph_unknown_seconds\": {}, \"vectors_seconds\": {}, \"f16_seconds\": {}, \
         \"int8_seconds\": {}, \"mapped_open_seconds\": {}, \"f16_open_seconds\": {}, \"int8_open_seconds\": {}}}",
        data.len(),
        data.dim,
        arguments.threads,
        json_list(&time(&open_graph)?),
        json_list(&time(&open_graph_twice)?),
        json_list(&time(&open_vectors)?),
        json_list(&time(&|| open(&folder, data, Kind::Codes(Coding::F16)))?),
        json_list(&time(&|| open(&folder, data, Kind::Codes(Coding::Int8)))?),
        json_list(&time(&|| open_graph().and_then(|()| open_vectors()))?),
        json_list(&time(&|| open_graph().and_then(|()| open_vectors()).and_then(|()| open(
            &folder,
            data,
            Kind::Codes(Coding::F16)
        )))?),
        json_list(&time(&|| open_graph().and_then(|()| open_vectors()).and_then(|()| open(
            &folder,
            data,
            Kind::Codes(Coding::Int8)
        )))?),
    );
    fs::remove_dir_all(&folder).map_err(|error| error.to_string())
}

/// Maps a file and verifies it as an index does.
fn open(folder: &Path, data: &Data, kind: Kind) -> Result<(), String> {
    let file = File::open(path(folder, kind)).map_err(|error| error.to_string())?;
    // SAFETY: nobody else knows the file.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| error.to_string())?;
    let header = VectorFile::decode(&map, map.len() as u64)?;
    header.must_be(Wanted { kind, n: data.len(), dim: data.dim, belongs: &BELONGS })?;
    let rows = &map[VectorFile::HEADER..];
    match kind {
        Kind::Vectors => {
            // SAFETY: the rows begin 256 bytes behind the beginning of a page, and their length is that of whole numbers.
            let floats = unsafe { std::slice::from_raw_parts(rows.as_ptr().cast::<f32>(), rows.len() / 4) };
            match not_of_length_one(floats, data.dim, 1e-4) {
                None => Ok(()),
                Some(at) => Err(format!("passage {at} is not of length one")),
            }
        }
        Kind::Codes(coding) => {
            header.verify(rows)?;
            Codes::view(coding, rows, data.len(), data.dim).map(drop)
        }
    }
}

fn keep(folder: &Path, data: &Data, kind: Kind, rows: &[u8]) -> Result<(), String> {
    let wanted = Wanted { kind, n: data.len(), dim: data.dim, belongs: &BELONGS };
    write(&path(folder, kind), &[&VectorFile::describing(wanted, rows, (1.0, 0, 0)).encode(), rows])
}

fn path(folder: &Path, kind: Kind) -> PathBuf {
    folder.join(match kind {
        Kind::Vectors => "vectors.bin",
        Kind::Codes(Coding::F16) => "vectors-f16.bin",
        Kind::Codes(Coding::Int8) => "vectors-int8.bin",
    })
}

fn write(path: &Path, parts: &[&[u8]]) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("`{}` cannot be written: {error}", path.display());
    let mut file = File::create(path).map_err(failed)?;
    parts.iter().try_for_each(|part| file.write_all(part)).map_err(failed)
}

/// The bytes of a graph whose passages link to others anywhere, in one layer.
fn arbitrary_graph(n: usize) -> Vec<u8> {
    let numbers = [1, n as u32, 0, 0].into_iter();
    let ends = (1..=n).map(|node| (node * LINKS) as u32);
    let links = (0..n).flat_map(|node| (0..LINKS).map(move |link| ((node + 1 + link * 7919) % n) as u32));
    let mut bytes = b"rtgraph\n".to_vec();
    bytes.extend(numbers.chain(ends).chain(links).flat_map(u32::to_le_bytes));
    let checksum = digest(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}
