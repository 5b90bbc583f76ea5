//! What lies beside a generation: its sidecar directory, the MANIFEST in it, and the pointer to the newest.

use std::path::{Path, PathBuf};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::durable::{entries, name, write_atomic};
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::sealed;

/// Directory of all sidecars in the index directory.
pub(crate) const GENERATIONS: &str = "generations";
/// Name of the manifest in a sidecar.
pub(crate) const MANIFEST: &str = "MANIFEST.json";
/// Name of the graph in a sidecar.
pub(crate) const GRAPH: &str = "graph.bin";
/// Name of the pointer in [`GENERATIONS`].
pub(crate) const CURRENT: &str = "CURRENT";
/// How a sidecar that is being written begins.
pub(crate) const UNFINISHED: &str = ".tmp-";

/// What is known of a generation's graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GraphInfo {
    /// Share of the 10 nearest other passages (exact) that the graph finds, mean over the probes; 1 is perfect.
    #[serde(deserialize_with = "share")]
    pub recall_at_10: f32,
    /// Stored passages on which it was measured.
    pub probes: usize,
    /// Beam width at which it was measured.
    pub ef: usize,
    /// Links per passage and upper layer; twice as many on the lowest.
    pub links: usize,
    /// Beam width of the construction.
    pub ef_construction: usize,
    /// How the graph came about: `build` is from nothing, `reuse:<n>` has the edges of generation n, `repair:<n>` has those and
    /// more.
    pub origin: String,
    /// The recall of the graph that the edges were built as; `None` in an older manifest, where it is `recall_at_10`.
    #[serde(default, deserialize_with = "share_if_any", skip_serializing_if = "Option::is_none")]
    pub built_recall_at_10: Option<f32>,
    /// Passages that the construction left unreachable and that were linked to their nearest neighbour afterwards.
    pub unreachable_relinked: u32,
    /// Length of the graph's file.
    pub bytes: u64,
}

/// A file of vectors that belongs to a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct VectorFile {
    pub(crate) fragment: u64,
    pub(crate) rows: u32,
    /// Its name in the dataset's `data` directory: random, and never used again.
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) blake3: String,
}

/// The sidecar's own description of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) uuid: String,
    pub(crate) number: u32,
    pub(crate) dataset_version: u64,
    /// Number of passages in the graph: all, or the first so many where others were appended since.
    pub(crate) len: u32,
    pub(crate) dim: u32,
    pub(crate) metric: String,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) vectors: Vec<VectorFile>,
    pub(crate) graph: GraphInfo,
    pub(crate) graph_blake3: String,
}

impl Manifest {
    /// The manifest of a sidecar directory.
    pub(crate) fn read(sidecar: &Path) -> Result<Self> {
        sealed::read(&sidecar.join(MANIFEST))
    }

    /// Whether it describes these vectors of this dataset: the test for staleness.
    pub(crate) fn describes(&self, uuid: &str, files: &[String]) -> bool {
        self.uuid == uuid && self.vectors.iter().map(|vectors| &vectors.file).eq(files)
    }
}

/// Name of the sidecar of generation `number` with these vector files: `g-<number>-<8 hex of blake3 over their names>`.
pub(crate) fn sidecar_name(number: u32, files: &[String]) -> String {
    format!("g-{number}-{}", suffix(files))
}

/// The sidecar that belongs to these vector files, whatever its number, and how many of them it belongs to: all, or, where a
/// crash came between an append and its sidecar, the first so many. Whether its content does is for its manifest to say.
pub(crate) fn find_sidecar(dir: &Path, files: &[String]) -> Result<Option<(PathBuf, usize)>> {
    let sidecars = sidecars(dir)?;
    let found = (1..=files.len()).rev().find_map(|count| {
        let suffix = format!("-{}", suffix(files.get(..count)?));
        sidecars.iter().find(|sidecar| name(sidecar).ends_with(&suffix)).map(|sidecar| (sidecar.clone(), count))
    });
    Ok(found)
}

/// Whether a sidecar belongs to exactly these vector files, by its name.
pub(crate) fn belongs_to(sidecar: &Path, files: &[String]) -> bool {
    name(sidecar).ends_with(&format!("-{}", suffix(files)))
}

/// All finished sidecars of an index directory.
pub(crate) fn sidecars(dir: &Path) -> Result<Vec<PathBuf>> {
    let found = entries(&dir.join(GENERATIONS))?;
    Ok(found.into_iter().filter(|path| name(path).starts_with("g-") && path.is_dir()).collect())
}

/// Points CURRENT at a sidecar, durably.
pub(crate) fn point_at(dir: &Path, sidecar: &str) -> Result<()> {
    write_atomic(&dir.join(GENERATIONS).join(CURRENT), format!("{sidecar}\n").as_bytes())
}

/// A share of passages. Serde makes an infinity of `1e39`, which would be written as null where a manifest is carried over.
fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    let share = f32::deserialize(from)?;
    match (0.0..=1.0).contains(&share) {
        true => Ok(share),
        false => Err(D::Error::custom(format!("a recall is `{share}`, a number from 0 to 1 was expected"))),
    }
}

fn share_if_any<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f32>, D::Error> {
    #[derive(Deserialize)]
    struct Share(#[serde(deserialize_with = "share")] f32);
    Ok(Option::<Share>::deserialize(from)?.map(|share| share.0))
}

fn suffix(files: &[String]) -> String {
    blake3::hash(files.join("\n").as_bytes()).to_hex()[..8].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn graph(recall: Value, built: Value) -> std::result::Result<GraphInfo, serde_json::Error> {
        serde_json::from_value(json!({
            "recall_at_10": recall, "built_recall_at_10": built, "probes": 1, "ef": 1, "links": 4, "ef_construction": 1,
            "origin": "build", "unreachable_relinked": 0, "bytes": 1,
        }))
    }

    #[test]
    fn a_recall_is_a_share_and_is_read_again_as_it_is_written() {
        for good in [json!(0), json!(0.97), json!(1.0)] {
            let read = graph(good.clone(), good.clone()).unwrap();
            assert_eq!(read, serde_json::from_value(serde_json::to_value(&read).unwrap()).unwrap());
            assert_eq!(graph(good, Value::Null).unwrap().built_recall_at_10, None);
        }
        for bad in [json!(1e39), json!(1.5), json!(-0.5), json!("1")] {
            let (recall, built) = (graph(bad.clone(), json!(1)), graph(json!(1), bad.clone()));
            assert!(recall.is_err() && built.is_err(), "{bad}");
        }
        assert!(graph(json!(1e39), Value::Null).unwrap_err().to_string().contains("from 0 to 1"));
    }
}
