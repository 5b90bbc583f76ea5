//! Files of rows in the sidecar, mapped into memory: looked at before they are mapped, so that no access leaves the file.
//!
//! A file is never written in place but replaced as a whole, so that a mapping stays what it was even when its file is made anew
//! or removed. That somebody else cuts a file short while it is mapped cannot be seen in time: the system then ends the process
//! with SIGBUS.

use std::fs::File;
use std::io::Read;
use std::ops::Deref;
use std::path::Path;

use memmap2::Mmap;
use ragtune_nearest::{Aligned, VectorFile, Wanted};

use crate::vectors::NO_FILE;

/// The rows of a file behind its header, read-only.
#[derive(Debug)]
pub(crate) struct Mapped(Mmap);

impl Mapped {
    /// Maps a file after its header and its length were found to be those of the file looked for. Rows are not verified.
    pub(crate) fn open(path: &Path, wanted: Wanted<'_>) -> Result<(VectorFile, Self), String> {
        if cfg!(target_endian = "big") {
            return Err("this machine has another order of bytes than the file".into());
        }
        let (header, file) = read_header(path)?;
        header.must_be(wanted)?;
        // SAFETY: whoever writes such a file replaces it as a whole; see above for what else may happen to it.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| format!("it cannot be mapped: {error}"))?;
        match header.file_bytes() == u64::try_from(map.len()).ok() {
            true => Ok((header, Self(map))),
            false => Err("it was changed while it was opened".into()),
        }
    }
}

/// The header of a file, whose length was found to be right.
pub(crate) fn header(path: &Path) -> Result<VectorFile, String> {
    read_header(path).map(|(header, _)| header)
}

fn read_header(path: &Path) -> Result<(VectorFile, File), String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => NO_FILE.to_string(),
        _ => format!("it cannot be read: {error}"),
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let length = file.metadata().map_err(unreadable)?.len();
    let mut beginning = Vec::with_capacity(VectorFile::HEADER);
    file.by_ref().take(VectorFile::HEADER as u64).read_to_end(&mut beginning).map_err(unreadable)?;
    Ok((VectorFile::decode(&beginning, length)?, file))
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[VectorFile::HEADER..]
    }
}

/// All vectors of a generation, row-major (N, D).
#[derive(Debug)]
pub(crate) enum Floats {
    Memory(Aligned<f32>),
    Mapped(Mapped),
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Floats::Memory(vectors) => vectors,
            // Rows begin on a line of the cache, and their length was found to be that of whole rows.
            Floats::Mapped(rows) => bytemuck::cast_slice(rows),
        }
    }
}

/// Codes of all vectors.
#[derive(Debug)]
pub(crate) enum CodeBytes {
    Memory(Aligned<u8>),
    Mapped(Mapped),
}

impl Deref for CodeBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            CodeBytes::Memory(codes) => codes,
            CodeBytes::Mapped(rows) => rows,
        }
    }
}
