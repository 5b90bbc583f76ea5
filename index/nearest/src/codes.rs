//! Vectors in fewer bits: float16, or 8 bits a number with one factor a passage. A walk through the graph goes by them, and what
//! it finds is scored again by the vectors (see `beam`).
//!
//! Codes are a function of the vectors, the same on every machine: float16 is rounded to the nearest, ties to even; the factor of
//! a passage is its largest number by size, over 127, and a code is the number over that, rounded half away from zero. Questions
//! are compared in 16 bits with the codes' 8: bytes have to be widened before they are multiplied anyway, and a question in 8 bits
//! would add an error as large as that of the codes. Sums of whole numbers are exact and products of float16 follow the order of
//! `lanes`, so that all machines walk alike.
//!
//! What runs where: AVX-512 (F, BW) converts or widens 32 numbers at a time and multiplies them by `vfmadd` or `vpmaddwd`; AVX2
//! with F16C does the same with half as many; others what the compiler makes of plain loops. Measured with 384 numbers and 8100
//! passages on AVX-512: 1.5 times as many questions a second by float16 as by the vectors, 2.1 times as many by 8 bits.
//!
//! N passages, D dimension.

use rayon::prelude::*;

use crate::aligned::Aligned;
use crate::lanes::F16;
use crate::space::{Bytes, Halves};

/// Bytes that a row of codes is padded to: a line of the cache.
const LINE: usize = 64;

/// How the numbers of a vector are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coding {
    /// float16.
    F16,
    /// 8 bits, and a float32 for each passage.
    Int8,
}

impl Coding {
    /// Bytes of a row of codes: padded with zeros to a multiple of 64.
    pub fn row_bytes(self, dim: usize) -> usize {
        let bytes = match self {
            Coding::F16 => 2 * dim,
            Coding::Int8 => dim,
        };
        bytes.next_multiple_of(LINE)
    }

    /// Bytes of all codes of N passages: N rows, then for 8 bits N factors.
    pub fn bytes(self, n: usize, dim: usize) -> Option<usize> {
        let rows = n.checked_mul(self.row_bytes(dim))?;
        match self {
            Coding::F16 => Some(rows),
            Coding::Int8 => rows.checked_add(n.checked_mul(4)?),
        }
    }

    /// The codes of `vectors` (N, D), finite and of length one, laid out as [`Codes::view`] reads them. All threads of rayon's
    /// pool take part; the result does not depend on their number.
    pub fn encode(self, vectors: &[f32], dim: usize) -> Aligned<u8> {
        let n = vectors.len().checked_div(dim).unwrap_or(0);
        let stride = self.row_bytes(dim);
        let mut bytes = Aligned::zeros(self.bytes(n, dim).unwrap_or(0));
        let (rows, factors) = bytes.split_at_mut(n * stride);
        let rows = rows.par_chunks_exact_mut(stride.max(1)).zip(vectors.par_chunks_exact(dim.max(1)));
        match self {
            Coding::F16 => rows.for_each(|(row, vector)| {
                for (code, value) in row.chunks_exact_mut(2).zip(vector) {
                    code.copy_from_slice(&half::f16::from_f32(*value).to_bits().to_ne_bytes());
                }
            }),
            Coding::Int8 => rows.zip(factors.par_chunks_exact_mut(4)).for_each(|((row, vector), factor)| {
                let largest = vector.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let scale = largest / 127.0;
                factor.copy_from_slice(&scale.to_ne_bytes());
                for (code, value) in row.iter_mut().zip(vector) {
                    *code = (value / scale).round() as i8 as u8;
                }
            }),
        }
        bytes
    }
}

/// The codes of N vectors, wherever they lie.
#[derive(Debug, Clone, Copy)]
pub struct Codes<'a> {
    dim: usize,
    kept: Kept<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Kept<'a> {
    F16(&'a [F16]),
    Int8 { rows: &'a [i8], scales: &'a [f32] },
}

/// Codes and a question to compare them with.
pub(crate) enum Asked<'a> {
    F16(Halves<'a>),
    Int8(Bytes<'a>),
}

impl<'a> Codes<'a> {
    /// Codes as [`Coding::encode`] lays them out, in the byte order of this machine and beginning where a float32 may; else what is
    /// wrong with their length or place. The numbers are not looked at: whatever they are can lead a walk astray, but neither out of
    /// its arrays nor to a wrong score.
    pub fn view(coding: Coding, bytes: &'a [u8], n: usize, dim: usize) -> Result<Self, String> {
        let expected = coding.bytes(n, dim);
        if expected != Some(bytes.len()) || dim == 0 {
            return Err(format!("it has {} bytes of codes, {} were expected", bytes.len(), expected.unwrap_or(0)));
        }
        if !bytes.as_ptr().cast::<f32>().is_aligned() {
            return Err("its codes do not begin where a number may".into());
        }
        let (rows, factors) = bytes.split_at(n * coding.row_bytes(dim));
        let kept = match coding {
            // SAFETY: the bytes are there and aligned, any two of them are a number of 16 bits.
            Coding::F16 => Kept::F16(unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len() / 2) }),
            Coding::Int8 => {
                // SAFETY: any byte is an i8.
                let rows = unsafe { std::slice::from_raw_parts(rows.as_ptr().cast(), rows.len()) };
                // SAFETY: rows are whole lines, so that factors are aligned like the rows; any four bytes are a float32.
                let scales = unsafe { std::slice::from_raw_parts(factors.as_ptr().cast(), n) };
                Kept::Int8 { rows, scales }
            }
        };
        Ok(Self { dim, kept })
    }

    /// Number of passages.
    pub fn len(&self) -> usize {
        match self.kept {
            Kept::F16(rows) => rows.len() * 2 / Coding::F16.row_bytes(self.dim),
            Kept::Int8 { scales, .. } => scales.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the vectors.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Ready to be compared with a question (D).
    pub(crate) fn asked(&self, question: &'a [f32]) -> Asked<'a> {
        match self.kept {
            Kept::F16(rows) => Asked::F16(Halves { rows, stride: Coding::F16.row_bytes(self.dim) / 2, question }),
            Kept::Int8 { rows, scales } => {
                Asked::Int8(Bytes::new(rows, scales, Coding::Int8.row_bytes(self.dim), question))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distance::dot;
    use crate::exact::{self, Hit};
    use crate::graph::{GraphParams, build, tests::unit_vectors};
    use crate::{recall, recall_of_codes};

    const ALL: [Coding; 2] = [Coding::F16, Coding::Int8];

    #[test]
    fn codes_are_near_their_vectors_at_every_length() {
        for dim in [1, 3, 31, 32, 33, 64, 65, 100, 384, 385] {
            let vectors = unit_vectors(9, dim, 3, 5);
            for coding in ALL {
                let bytes = coding.encode(&vectors, dim);
                let codes = Codes::view(coding, &bytes, 9, dim).unwrap();
                assert_eq!((codes.len(), codes.dim()), (9, dim));
                let stride = coding.row_bytes(dim);
                for (at, vector) in vectors.chunks_exact(dim).enumerate() {
                    let read: Vec<f32> = match codes.kept {
                        Kept::F16(rows) => {
                            let row = &rows[at * stride / 2..][..stride / 2];
                            assert!(row[dim..].iter().all(|code| code.0 == 0), "padding");
                            row[..dim].iter().map(|code| half::f16::from_bits(code.0).to_f32()).collect()
                        }
                        Kept::Int8 { rows, scales } => {
                            let row = &rows[at * stride..][..stride];
                            assert!(row[dim..].iter().all(|code| *code == 0), "padding");
                            row[..dim].iter().map(|code| f32::from(*code) * scales[at]).collect()
                        }
                    };
                    let most = vector.iter().fold(0f32, |most, value| most.max(value.abs()));
                    let bound = if coding == Coding::F16 { most / 1024.0 } else { most / 253.0 };
                    let far = vector.iter().zip(&read).find(|(a, b)| (*a - *b).abs() > bound);
                    assert_eq!(far, None, "{coding:?} {dim}");
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_codes_are_refused() {
        let vectors = unit_vectors(9, 70, 3, 5);
        for coding in ALL {
            let good = coding.encode(&vectors, 70);
            for (n, dim) in [(8, 70), (10, 70), (9, 700), (0, 70), (9, 0), (usize::MAX / 64, 70)] {
                assert!(Codes::view(coding, &good, n, dim).is_err(), "{coding:?} {n} {dim}");
            }
            Codes::view(coding, &good, 9, 70).unwrap();
            assert!(Codes::view(coding, &good[..good.len() - 1], 9, 70).is_err());
            let mut shifted = Aligned::<u8>::zeros(good.len() + 1);
            shifted[1..].copy_from_slice(&good);
            assert!(Codes::view(coding, &shifted[1..], 9, 70).unwrap_err().contains("begin"));
        }
    }

    #[test]
    fn scores_are_those_of_the_vectors_and_nearly_all_is_found() {
        let (n, dim) = (3000, 48);
        let vectors = unit_vectors(n, dim, 60, 1);
        let graph = build(&vectors, dim, &GraphParams::default()).unwrap().graph;
        let questions = unit_vectors(40, dim, 60, 2);
        let (exact, _) = recall(&graph, &vectors, dim, 200, 64);
        for coding in ALL {
            let bytes = coding.encode(&vectors, dim);
            let codes = Codes::view(coding, &bytes, n, dim).unwrap();
            let (found, probes) = recall_of_codes(&graph, &codes, &vectors, dim, 200, 64);
            assert!(probes == 200 && found > exact - 0.005 && found > 0.97, "{coding:?}: {found} of {exact}");
            let mut right = 0;
            for question in questions.chunks_exact(dim) {
                let (hits, fit) = graph.search_codes_where(&codes, &vectors, question, 10, 64, |_| true);
                assert_eq!((hits.len(), fit), (10, 64));
                assert!(hits.windows(2).all(|pair| pair[0].rank(&pair[1]).is_lt()));
                for hit in &hits {
                    let row = &vectors[hit.ordinal as usize * dim..][..dim];
                    assert_eq!(hit.score.to_bits(), dot(question, row).to_bits(), "{coding:?}");
                }
                let truth = exact::search(&vectors, dim, question, 10).remove(0);
                right += hits.iter().filter(|hit| truth.contains(hit)).count();
                // A beam over everything finds what exact search finds: all scores are scored again in the end.
                let all = graph.search_codes_where(&codes, &vectors, question, n, n, |_| true).0;
                assert_eq!(all, exact::search(&vectors, dim, question, n).remove(0));
                let some = graph.search_codes_where(&codes, &vectors, question, 5, 64, |at| at % 3 == 0);
                assert!(some.0.iter().all(|Hit { ordinal, .. }| ordinal % 3 == 0) && some.1 <= 64);
            }
            assert!(right >= 390, "{coding:?}: {right} of 400");
        }
    }

    #[test]
    fn a_question_of_any_length_is_compared() {
        let vectors = unit_vectors(300, 33, 10, 1);
        let graph = build(&vectors, 33, &GraphParams::default()).unwrap().graph;
        for coding in ALL {
            let bytes = coding.encode(&vectors, 33);
            let codes = Codes::view(coding, &bytes, 300, 33).unwrap();
            for scale in [0.0, f32::MIN_POSITIVE / 1e6, 1e-20, 1.0, 1e18] {
                let question: Vec<f32> = vectors[..33].iter().map(|value| value * scale).collect();
                let (hits, _) = graph.search_codes_where(&codes, &vectors, &question, 1, 300, |_| true);
                assert_eq!(hits.len(), 1);
                if scale >= 1e-20 {
                    assert_eq!(hits[0].ordinal, 0, "{coding:?} {scale}");
                }
            }
        }
    }
}
