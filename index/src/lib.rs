//! Passages and their vectors: keep them, find the nearest. Knows no model.
//!
//! A [`Corpus`] is a directory. Its passages lie in a Lance dataset that is the source of truth; each [`Generation`] is one
//! complete embedding of all passages by one encoder state, committed to the dataset in one step or not at all. Beside every
//! generation lies an HNSW graph: derived, checksummed, disposable. Where the graph cannot be used, exact search answers and
//! [`Generation::graph_defect`] says why. `FORMAT.md` describes every file, the order of the writes and what a crash can leave.
//!
//! Absences that callers may rely on: this crate never prints, never reads a clock, starts no process, names no model, and
//! neither Lance, Arrow, hnsw_rs nor `async` appears in its signatures. Only `table` names Lance and Arrow. What computes -
//! the inner product, exact search, the graph and hnsw_rs that builds it - is the crate `ragtune-nearest` beside this one; BM25
//! is `ragtune-lexical`.
//!
//! ```no_run
//! # use ragtune_index::*; use std::{collections::BTreeMap, path::Path};
//! # fn main() -> Result<()> {
//! let passages = vec![Passage { id: "1".into(), title: "Rain".into(), text: "Rain falls.".into() }];
//! let source = Source { name: "corpus.jsonl".into(), blake3: "..".into() };
//! let corpus = Corpus::create(
//!     Path::new("index"), &source, passages.into_iter().map(Ok::<_, Error>), &CreateOptions::default())?;
//! let encoder = Fingerprint::new(BTreeMap::from([("weights".to_string(), "..".to_string())]));
//! let lock = corpus.lock("ragtune index build")?;
//! let mut writer = corpus.begin(&lock, &encoder, 2)?;
//! for fragment in writer.pending() {
//!     writer.write(&fragment, &[1.0, 0.0])?;
//! }
//! let generation = writer.commit(&GraphParams::default(), GraphPlan::Build, &mut |_stage| {})?;
//! let hits = generation.search(&[0.6, 0.8], 1, Search::Graph { ef: 64 }, Trust::Same(&encoder))?;
//! # Ok(()) }
//! ```

mod adopt;
mod append;
mod check;
mod compact;
mod corpus;
mod create;
mod delete;
mod digests;
mod durable;
mod error;
mod filter;
mod fingerprint;
mod gc;
mod generation;
mod graph_plan;
mod held;
mod ids;
mod journal;
mod lexical;
mod lock;
mod manifest;
mod mapped;
mod mend;
mod passage;
mod protection;
mod publish;
mod retained;
mod retire;
mod rollback;
mod sealed;
mod search;
mod sidecar;
mod staged;
mod stats;
mod survey;
mod table;
mod texts;
mod torn;
mod unreadable;
mod vectors;
mod versions;
mod view;
mod vouch;
mod writer;

pub use append::{Appended, Embed};
pub use check::{Defect, DefectKind, check};
pub use compact::Compacted;
pub use corpus::Corpus;
pub use create::CreateOptions;
pub use delete::Deleted;
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use gc::{Collected, CollectedFile};
pub use generation::Generation;
pub use graph_plan::GraphPlan;
pub use lexical::{Keep, Lexical, Ranked};
pub use lock::WriterLock;
pub use manifest::GraphInfo;
pub use passage::{Fragment, Passage, Source};
pub use protection::BASE;
pub use publish::CommitStage;
pub use ragtune_nearest::{Allowed, GraphParams, Hit};
pub use search::{Search, Trust};
pub use stats::Stats;
pub use survey::GenerationInfo;
pub use vectors::{CodesInfo, DerivedVectors, Held, NO_FILE, Vectors};
pub use versions::VersionInfo;
pub use writer::{GenerationWriter, Staging};
