//! How long opening takes at a size: `RAGTUNE_OPEN=1000000 cargo test --release --workspace --test it opening -- --ignored
//! --nocapture`, with 384 numbers a vector. The graph is not built, which would take longer than all else by far, but has 32 links
//! a passage to anywhere: for opening only their number counts.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use ragtune_index::*;
use serde_json::{Value, json};

use crate::common::*;
use crate::fuzz::sealed;

const DIM: usize = 384;
const LINKS: usize = 32;

#[test]
#[ignore = "measures, and takes gigabytes of disk for a million passages"]
fn seconds_to_open_in_every_holding() {
    let n = wanted("RAGTUNE_OPEN", 100_000) as usize;
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    make(dir.path(), n);
    let question = vectors(1, DIM, 3);
    let how = Search::Graph { ef: 64 };
    for held in Vectors::ALL {
        let mut seconds = Vec::new();
        // The first makes the files.
        for _ in 0..6 {
            let began = Instant::now();
            let corpus = Corpus::open(dir.path()).unwrap().holding(held);
            let generation = corpus.current().unwrap().unwrap();
            seconds.push(began.elapsed().as_secs_f64());
            assert_eq!((generation.len(), generation.graph_defect()), (n, None));
            assert_eq!(generation.search(&question, 10, how, Trust::StaleAllowed).unwrap()[0].len(), 10);
        }
        let first = seconds.remove(0);
        eprintln!("{n} passages, {}: {first:.3} s at first, then {seconds:.3?}", held.name());
    }
}

/// An index of so many passages, as a build would leave it but for the links.
fn make(dir: &Path, n: usize) {
    let corpus = Corpus::create(dir, &source(), passages(n), &CreateOptions::default()).unwrap();
    let by = encoder("a");
    let lock = corpus.lock("a test").unwrap();
    let mut writer = corpus.begin(&lock, &by, DIM).unwrap();
    for fragment in writer.pending() {
        writer.write(&fragment, &vectors(fragment.rows as usize, DIM, u64::from(fragment.first))).unwrap();
    }
    let journal = fs::read_to_string(dir.join("generations/journal.jsonl")).unwrap();
    // The commit is done when the graph begins.
    let stopped = catch_unwind(AssertUnwindSafe(|| {
        writer.commit(&params(), GraphPlan::Build, &mut |stage| assert!(stage != CommitStage::Graph))
    }));
    assert!(stopped.is_err());
    let staged: Vec<Value> =
        journal.lines().skip(1).map(|line| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap()).collect();
    let files: Vec<&str> = staged.iter().map(|staged| staged["file"].as_str().unwrap()).collect();
    let suffix = blake3::hash(files.join("\n").as_bytes()).to_hex()[..8].to_string();
    let sidecar = dir.join("generations").join(format!("g-1-{suffix}"));
    fs::create_dir_all(&sidecar).unwrap();
    let graph = graph(n);
    fs::write(sidecar.join("graph.bin"), &graph).unwrap();
    let version = corpus.generations().unwrap()[0].dataset_version;
    let content = json!({
        "format": 1, "uuid": corpus.uuid(), "number": 1, "dataset_version": version, "len": n, "dim": DIM,
        "metric": "inner product", "fingerprint": by,
        "vectors": staged.iter().map(|staged| json!({
            "fragment": staged["fragment"]["id"], "rows": staged["fragment"]["rows"], "file": staged["file"],
            "bytes": staged["bytes"], "blake3": staged["blake3"],
        })).collect::<Vec<_>>(),
        "graph": {
            "recall_at_10": 0.0, "probes": 5, "ef": 64, "links": 16, "ef_construction": 1, "origin": "build",
            "unreachable_relinked": 0, "bytes": graph.len(),
        },
        "graph_blake3": blake3::hash(&graph).to_hex().as_str(),
    });
    fs::write(sidecar.join("MANIFEST.json"), sealed(&content)).unwrap();
}

/// Links to anywhere, in one layer.
fn graph(n: usize) -> Vec<u8> {
    let numbers = [1, n as u32, 0, 0].into_iter();
    let ends = (1..=n).map(|node| (node * LINKS) as u32);
    let links = (0..n).flat_map(|node| (0..LINKS).map(move |link| ((node + 1 + link * 7919) % n) as u32));
    let mut bytes = b"rtgraph\n".to_vec();
    bytes.extend(numbers.chain(ends).chain(links).flat_map(u32::to_le_bytes));
    let checksum = blake3::hash(&bytes);
    bytes.extend_from_slice(checksum.as_bytes());
    bytes
}
