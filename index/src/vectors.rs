//! What may be said of how vectors are held, and what is said of it.

use ragtune_nearest::{Coding, Kind, VectorFile};

/// How the vectors of a generation are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vectors {
    /// Read from the dataset into memory: what trains uses this.
    #[default]
    Memory,
    /// float32 mapped from a file, `vectors.bin`.
    Mapped,
    /// A walk goes by float16 mapped from `vectors-f16.bin`; what it finds is scored again by `vectors.bin`.
    F16,
    /// The same by 8 bits a number, from `vectors-int8.bin`.
    Int8,
}

impl Vectors {
    /// All of them.
    pub const ALL: [Vectors; 4] = [Vectors::Memory, Vectors::Mapped, Vectors::F16, Vectors::Int8];

    /// The name that is typed: `memory`, `mapped`, `f16`, `int8`.
    pub fn name(self) -> &'static str {
        match self {
            Vectors::Memory => "memory",
            Vectors::Mapped => "mapped",
            Vectors::F16 => "f16",
            Vectors::Int8 => "int8",
        }
    }

    pub(crate) fn coding(self) -> Option<Coding> {
        match self {
            Vectors::Memory | Vectors::Mapped => None,
            Vectors::F16 => Some(Coding::F16),
            Vectors::Int8 => Some(Coding::Int8),
        }
    }
}

/// What is said of a file that had to be made because there was none.
pub const NO_FILE: &str = "there was none";

/// How the vectors of an opened generation are held, and what was done for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held {
    /// As what; codes are held only where there is a graph to walk through.
    pub vectors: Vectors,
    /// Why files were made just now, one line each, [`NO_FILE`] or what was wrong with the old one; empty where all were there.
    pub made: Vec<String>,
    /// Why what was made was not written, where that is so.
    pub not_kept: Option<String>,
    /// What is known of the codes, where there are some.
    pub codes: Option<CodesInfo>,
}

/// What is known of codes.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct CodesInfo {
    /// Share of the 10 nearest other passages (exact) that a walk by the codes finds, scored again; mean over the probes.
    pub recall_at_10: f32,
    /// Stored passages on which it was measured.
    pub probes: u32,
    /// Width of the beam at which it was measured.
    pub ef: u32,
    /// Bytes of the codes of all passages.
    pub code_bytes: u64,
}

impl CodesInfo {
    pub(crate) fn of(header: &VectorFile) -> Option<Self> {
        let Kind::Codes(_) = header.kind else { return None };
        let VectorFile { recall_at_10, probes, ef, .. } = *header;
        Some(Self {
            recall_at_10,
            probes,
            ef,
            code_bytes: header.file_bytes()?.saturating_sub(VectorFile::HEADER as u64),
        })
    }
}

/// A file in the sidecar of the newest generation.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DerivedVectors {
    /// Its name.
    pub file: String,
    /// What opens it.
    pub vectors: Vectors,
    /// Its length.
    pub bytes: u64,
    /// What is known of the codes in it.
    #[serde(flatten)]
    pub codes: Option<CodesInfo>,
}
