//! The kernel of [`super::Packed`] for processors with AVX2 and FMA and without AVX-512's bf16: half the memory, the speed of f32.

use std::arch::x86_64::{
    __m256, _mm256_and_si256, _mm256_broadcast_ss, _mm256_castsi256_ps, _mm256_fmadd_ps, _mm256_loadu_si256,
    _mm256_set1_epi32, _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::LANES;
use crate::models::nn::tiles::{SMALL_ROWS, Small, small_tiles};

/// Outputs of one tile.
const OUTPUTS: usize = 8 * REGISTERS;
const REGISTERS: usize = 2;

/// Sums of the rows of `x`, rounded and widened again, with `blocks` blocks of outputs; row by row into `sums`. Each sum runs in
/// the order of the inputs, so that a row has the same bits wherever it stands.
///
/// # Safety
/// The processor has AVX2 and FMA. `x` has whole rows of pairs · 2 numbers, `weights` has blocks · pairs · 32, `sums` room for
/// rows · blocks · 16.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn tile(x: &[f32], weights: &[u16], pairs: usize, blocks: usize, sums: &mut [f32]) {
    let stride = blocks * LANES;
    for Small { row, rows, block, first } in small_tiles(x.len() / (2 * pairs), blocks, OUTPUTS) {
        // SAFETY: within all three by the lengths promised.
        unsafe {
            let at = Tile {
                x: x.as_ptr().add(row * pairs * 2),
                weights: weights.as_ptr().add((block * pairs * LANES + first) * 2),
                pairs,
                sums: sums.as_mut_ptr().add(row * stride + block * LANES + first),
                stride,
            };
            match rows {
                1 => at.multiply::<1>(),
                2 => at.multiply::<2>(),
                3 => at.multiply::<3>(),
                _ => at.multiply::<SMALL_ROWS>(),
            }
        }
    }
}

/// Some rows times [`OUTPUTS`] outputs.
struct Tile {
    /// Rows of 2 · `pairs` numbers.
    x: *const f32,
    /// For each pair 2 numbers of each of 16 outputs, from the first of these on.
    weights: *const u16,
    pairs: usize,
    /// Rows of sums, `stride` apart.
    sums: *mut f32,
    stride: usize,
}

impl Tile {
    /// # Safety
    /// The pointers hold what their fields say, for R rows.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn multiply<const R: usize>(&self) {
        let mut all = [[_mm256_setzero_ps(); REGISTERS]; R];
        let upper = _mm256_set1_epi32(-0x1_0000);
        for pair in 0..self.pairs {
            // SAFETY: within the rows and the outputs by what the caller promised.
            unsafe {
                let at = self.weights.add(pair * LANES * 2);
                let both = [0, 1].map(|part| _mm256_loadu_si256(at.add(part * 16).cast()));
                // A bf16 is the upper half of an f32: the first of a pair is moved there, the second is there.
                let w: [[__m256; REGISTERS]; 2] = [
                    both.map(|both| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(both))),
                    both.map(|both| _mm256_castsi256_ps(_mm256_and_si256(both, upper))),
                ];
                for (row, sums) in all.iter_mut().enumerate() {
                    for (i, w) in w.iter().enumerate() {
                        let x = _mm256_broadcast_ss(&*self.x.add((row * self.pairs + pair) * 2 + i));
                        for (sum, w) in sums.iter_mut().zip(w) {
                            *sum = _mm256_fmadd_ps(x, *w, *sum);
                        }
                    }
                }
            }
        }
        for (row, sums) in all.into_iter().enumerate() {
            for (part, sum) in sums.into_iter().enumerate() {
                // SAFETY: eight sums of a row, as promised.
                unsafe { _mm256_storeu_ps(self.sums.add(row * self.stride + part * 8), sum) };
            }
        }
    }
}
