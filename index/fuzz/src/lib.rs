//! What the fuzz targets feed to the readers of an index's files, and what must hold of whatever a reader accepts.
//!
//! libFuzzer cannot guess a checksum. The first byte of an input says what becomes of the rest: the whole of a file, or the
//! content of one, to which the right checksum is added, or, where a format has numbers that must agree with one another, a
//! description that a file is written from. The files are written here from FORMAT.md, not by the code that is tested.
//!
//! The modules of ragtune-index that read files are compiled in, not linked: that crate links Lance, which would take longer to
//! instrument than all else that CI does.

#[allow(dead_code)]
#[path = "../../src/durable.rs"]
mod durable;
#[allow(dead_code)]
#[path = "../../src/error.rs"]
mod error;
#[allow(dead_code)]
#[path = "../../src/fingerprint.rs"]
mod fingerprint;
#[allow(dead_code)]
#[path = "../../src/journal.rs"]
mod journal;
#[allow(dead_code)]
#[path = "../../src/manifest.rs"]
mod manifest;
#[allow(dead_code)]
#[path = "../../src/passage.rs"]
mod passage;
#[allow(dead_code)]
#[path = "../../src/sealed.rs"]
mod sealed;
#[allow(dead_code)]
#[path = "../../src/staged.rs"]
mod staged;
#[allow(dead_code)]
#[path = "../../src/texts.rs"]
mod texts;
#[allow(dead_code)]
#[path = "../../src/vouch.rs"]
mod vouch;

mod bend;
mod fence;
pub mod graph;
mod input;
pub mod journals;
pub mod lexical;
pub mod sealed_files;
mod seeds;
mod table;
pub mod vectors;

pub use seeds::begin;
