//! Nearest neighbours by inner product among unit vectors: exact search, and an HNSW graph in flat arrays.
//!
//! Only numbers: no file, no clock, no async. It is a crate of its own for the sake of compilation: this code needs the
//! optimiser, while everything that touches Lance makes the optimiser compile large parts of Lance again and gains nothing
//! from it. Only `graph` names hnsw_rs.

mod adjacency;
mod distance;
mod exact;
mod graph;
mod graph_file;
mod recall;

pub use adjacency::FlatGraph;
pub use distance::{dot, normalize};
pub use exact::{Hit, search};
pub use graph::{Built, GraphParams, Refused, build};
pub use graph_file::{decode, encode};
pub use recall::recall;
