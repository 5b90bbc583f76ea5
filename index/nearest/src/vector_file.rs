//! `vectors.bin` and the files of codes, as bytes: a header that says whose they are and how to verify them, then rows. The layout
//! is in FORMAT.md. This file touches no disk: whoever maps a file hands in its bytes.

use crate::codes::Coding;
use crate::digest::digest;

/// First eight bytes of the file.
const MAGIC: &[u8; 8] = b"rtvects\n";
/// The format this program writes and the newest it reads.
const FORMAT: u32 = 1;
/// Bytes of the header up to its own checksum.
const BODY: usize = VectorFile::HEADER - blake3::OUT_LEN;

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The vectors: float32, not padded.
    Vectors,
    /// Codes of them.
    Codes(Coding),
}

impl Kind {
    fn number(self) -> u32 {
        match self {
            Kind::Vectors => 0,
            Kind::Codes(Coding::F16) => 1,
            Kind::Codes(Coding::Int8) => 2,
        }
    }

    /// Bytes of the rows of N passages.
    pub fn bytes(self, n: usize, dim: usize) -> Option<usize> {
        match self {
            Kind::Vectors => n.checked_mul(dim)?.checked_mul(4),
            Kind::Codes(coding) => coding.bytes(n, dim),
        }
    }
}

/// Which file is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What its rows are.
    pub kind: Kind,
    /// Number of passages.
    pub n: usize,
    /// Length of the vectors.
    pub dim: usize,
    /// Whose vectors they are: a blake3 that no other vectors have.
    pub belongs: &'a [u8; 32],
}

/// The header of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VectorFile {
    /// What its rows are.
    pub kind: Kind,
    /// Number of passages.
    pub n: usize,
    /// Length of the vectors.
    pub dim: usize,
    /// Whose vectors they are.
    pub belongs: [u8; 32],
    /// Share of the 10 nearest other passages (exact) that a walk by these codes finds, scored again; 1 for the vectors.
    pub recall_at_10: f32,
    /// Stored passages on which it was measured; 0 for the vectors.
    pub probes: u32,
    /// Width of the beam at which it was measured; 0 for the vectors.
    pub ef: u32,
    /// blake3 of everything behind the header.
    pub blake3: [u8; 32],
}

impl VectorFile {
    /// Bytes of the header: rows begin on a line of the cache behind it.
    pub const HEADER: usize = 256;

    /// The header of these rows. `recall` is recall@10, the number of probes and the width of the beam.
    pub fn describing(wanted: Wanted<'_>, rows: &[u8], recall: (f32, u32, u32)) -> Self {
        let Wanted { kind, n, dim, belongs } = wanted;
        let (recall_at_10, probes, ef) = recall;
        Self { kind, n, dim, belongs: *belongs, recall_at_10, probes, ef, blake3: digest(rows).into() }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; Self::HEADER] {
        let mut header = [0; Self::HEADER];
        let numbers = [FORMAT, self.kind.number(), self.n as u32, self.dim as u32];
        let numbers = numbers.map(u32::to_le_bytes);
        let measured = [self.recall_at_10.to_bits(), self.probes, self.ef].map(u32::to_le_bytes);
        let parts: [&[u8]; 5] = [MAGIC, numbers.as_flattened(), &self.belongs, measured.as_flattened(), &self.blake3];
        let mut rest = &mut header[..];
        for part in parts {
            let (here, behind) = rest.split_at_mut(part.len());
            here.copy_from_slice(part);
            rest = behind;
        }
        let checksum = blake3::hash(&header[..BODY]);
        header[BODY..].copy_from_slice(checksum.as_bytes());
        header
    }

    /// The header that a file begins with, or what is wrong with it. `file_bytes` is the length of the file, which must be that
    /// of the rows it announces.
    pub fn decode(beginning: &[u8], file_bytes: u64) -> Result<Self, String> {
        let Some(header) = beginning.first_chunk::<{ Self::HEADER }>() else {
            return Err(format!("it has {file_bytes} bytes, too few for its header"));
        };
        let (body, checksum) = header.split_at(BODY);
        if !body.starts_with(MAGIC) {
            return Err("it does not begin as a file of vectors".into());
        }
        let mut rest = &body[MAGIC.len()..];
        let format = number(&mut rest)?;
        if format > FORMAT {
            return Err(format!("it has format {format}, this program reads formats up to {FORMAT}"));
        }
        if blake3::hash(body).as_bytes() != checksum {
            return Err("the checksum of its header does not match".into());
        }
        let kind = match number(&mut rest)? {
            0 => Kind::Vectors,
            1 => Kind::Codes(Coding::F16),
            2 => Kind::Codes(Coding::Int8),
            other => return Err(format!("its rows are of kind {other}, which this program does not know")),
        };
        let (n, dim) = (number(&mut rest)? as usize, number(&mut rest)? as usize);
        let belongs = hash(&mut rest)?;
        let recall_at_10 = f32::from_bits(number(&mut rest)?);
        let (probes, ef) = (number(&mut rest)?, number(&mut rest)?);
        let found = Self { kind, n, dim, belongs, recall_at_10, probes, ef, blake3: hash(&mut rest)? };
        match found.file_bytes() {
            Some(expected) if expected == file_bytes => Ok(found),
            Some(expected) => Err(format!("it has {file_bytes} bytes, its header announces {expected}")),
            None => Err("its header announces more than there can be".into()),
        }
    }

    /// Bytes of the whole file; `None` where they are more than can be.
    pub fn file_bytes(&self) -> Option<u64> {
        u64::try_from(self.kind.bytes(self.n, self.dim)?.checked_add(Self::HEADER)?).ok()
    }

    /// Refuses a file that is another than the one looked for.
    pub fn must_be(&self, wanted: Wanted<'_>) -> Result<(), String> {
        if self.kind != wanted.kind {
            return Err(format!("it holds {:?}, {:?} were looked for", self.kind, wanted.kind));
        }
        if self.belongs != *wanted.belongs || (self.n, self.dim) != (wanted.n, wanted.dim) {
            return Err("it belongs to other vectors".into());
        }
        Ok(())
    }

    /// Refuses rows that are not those that were written. All threads of rayon's pool take part.
    pub fn verify(&self, rows: &[u8]) -> Result<(), String> {
        match *digest(rows).as_bytes() == self.blake3 {
            true => Ok(()),
            false => Err("its checksum does not match its content".into()),
        }
    }
}

fn number(rest: &mut &[u8]) -> Result<u32, String> {
    let (number, behind) = rest.split_first_chunk::<4>().ok_or("it ends too early")?;
    *rest = behind;
    Ok(u32::from_le_bytes(*number))
}

fn hash(rest: &mut &[u8]) -> Result<[u8; 32], String> {
    let (hash, behind) = rest.split_first_chunk::<32>().ok_or("it ends too early")?;
    *rest = behind;
    Ok(*hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_back_and_no_change_to_it_passes() {
        for kind in [Kind::Vectors, Kind::Codes(Coding::F16), Kind::Codes(Coding::Int8)] {
            let belongs = [7; 32];
            let wanted = Wanted { kind, n: 5, dim: 70, belongs: &belongs };
            let rows: Vec<u8> = (0..kind.bytes(5, 70).unwrap()).map(|at| at as u8).collect();
            let file = VectorFile::describing(wanted, &rows, (0.98, 200, 64));
            let (header, length) = (file.encode(), file.file_bytes().unwrap());
            assert_eq!(length as usize, VectorFile::HEADER + rows.len());
            let read = VectorFile::decode(&header, length).unwrap();
            assert_eq!(read, file);
            read.must_be(wanted).unwrap();
            read.verify(&rows).unwrap();
            assert!(read.must_be(Wanted { belongs: &[8; 32], ..wanted }).unwrap_err().contains("other vectors"));
            assert!(read.must_be(Wanted { n: 6, ..wanted }).is_err());
            let other = if kind == Kind::Vectors { Kind::Codes(Coding::Int8) } else { Kind::Vectors };
            assert!(read.must_be(Wanted { kind: other, ..wanted }).is_err());
            for bit in 0..header.len() * 8 {
                let mut bad = header;
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(VectorFile::decode(&bad, length).is_err(), "bit {bit}");
            }
            for cut in 0..header.len() {
                assert!(VectorFile::decode(&header[..cut], length).is_err(), "cut to {cut}");
            }
            for wrong in [0, length - 1, length + 1, u64::MAX] {
                assert!(VectorFile::decode(&header, wrong).unwrap_err().contains("announces"));
            }
            for at in 0..rows.len() {
                let mut bad = rows.clone();
                bad[at] ^= 1;
                assert!(read.verify(&bad).is_err());
            }
        }
    }
}
