//! The kernel of [`super::Int8Matrix`] for processors with AVX2 and without AVX-512 VNNI.
//!
//! There is no instruction that multiplies bytes here without saturating: both sides are widened to 16 bits, whose pairs are
//! multiplied and added exactly.

use std::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_add_epi32, _mm256_cvtepi8_epi16, _mm256_hadd_epi32, _mm256_madd_epi16,
    _mm256_permute4x64_epi64, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_storeu_si256,
};

use super::LANES;
use crate::models::nn::tiles::{SMALL_ROWS, Small, small_tiles};

/// Outputs of one tile.
const OUTPUTS: usize = 8;

/// Σ u·w of the rows of `u`, already widened, with `blocks` blocks of outputs; row by row into `sums`.
///
/// # Safety
/// The processor has AVX2. `u` has whole rows of groups · 4 numbers, `weights` has blocks · groups · 64, `sums` room for rows ·
/// blocks · 16.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn tile(u: &[i16], weights: &[i8], groups: usize, blocks: usize, sums: &mut [i32]) {
    let stride = blocks * LANES;
    for Small { row, rows, block, first } in small_tiles(u.len() / (4 * groups), blocks, OUTPUTS) {
        // SAFETY: within all three by the lengths promised.
        unsafe {
            let at = Tile {
                u: u.as_ptr().add(row * groups * 4),
                weights: weights.as_ptr().add((block * groups * LANES + first) * 4),
                groups,
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

/// Some rows times eight outputs.
struct Tile {
    /// Rows of 4 · `groups` numbers.
    u: *const i16,
    /// For each group 4 numbers of each of 16 outputs, from the first of the eight on.
    weights: *const i8,
    groups: usize,
    /// Rows of eight sums, `stride` apart.
    sums: *mut i32,
    stride: usize,
}

impl Tile {
    /// # Safety
    /// The pointers hold what their fields say, for R rows.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn multiply<const R: usize>(&self) {
        // Each register has two sums, of the even and the odd pair of every group, for four outputs.
        let mut all = [[_mm256_setzero_si256(); 2]; R];
        for group in 0..self.groups {
            // SAFETY: within the rows and the outputs by what the caller promised.
            unsafe {
                let at = self.weights.add(group * LANES * 4);
                let w: [__m256i; 2] =
                    std::array::from_fn(|four| _mm256_cvtepi8_epi16(_mm_loadu_si128(at.add(four * 16).cast())));
                for (row, sums) in all.iter_mut().enumerate() {
                    let u = self.u.add((row * self.groups + group) * 4).cast::<i64>().read_unaligned();
                    let u = _mm256_set1_epi64x(u);
                    for (sum, w) in sums.iter_mut().zip(w) {
                        *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(u, w));
                    }
                }
            }
        }
        for (row, [low, high]) in all.into_iter().enumerate() {
            // Adding neighbours leaves the outputs 0, 1, 4, 5, 2, 3, 6, 7.
            let sums = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(low, high));
            // SAFETY: eight sums of a row, as promised.
            unsafe { _mm256_storeu_si256(self.sums.add(row * self.stride).cast(), sums) };
        }
    }
}
