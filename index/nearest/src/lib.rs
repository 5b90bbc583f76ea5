//! Nearest neighbours by inner product among unit vectors: exact search, and an HNSW graph in flat arrays.
//!
//! Only numbers: no file, no clock, no async. It is a crate of its own for the sake of compilation: this code needs the
//! optimiser, while everything that touches Lance makes the optimiser compile large parts of Lance again and gains nothing
//! from it. Only `graph` names hnsw_rs, and it says why edges may be kept while vectors move.

mod adjacency;
mod aligned;
mod allowed;
mod beam;
mod codes;
mod digest;
mod distance;
mod exact;
mod graph;
mod graph_file;
mod lanes;
mod recall;
mod repair;
mod shape;
mod space;
mod strays;
mod vector_file;

pub use adjacency::FlatGraph;
pub use aligned::{Aligned, Number};
pub use allowed::Allowed;
pub use codes::{Codes, Coding};
pub use digest::digest;
pub use distance::{dot, normalize, not_of_length_one};
pub use exact::{Hit, search, search_among, search_from};
pub use graph::{Built, GraphParams, Refused, build};
pub use graph_file::{decode, decode_known, encode};
pub use recall::{recall, recall_of_codes};
pub use repair::repair;
pub use vector_file::{Kind, VectorFile, Wanted};
