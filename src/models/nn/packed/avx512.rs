//! The kernels of [`super::Packed`] for processors with AVX-512.

use std::arch::x86_64::{
    __m512, __m512d, __mmask16, _MM_HINT_T0, _mm_prefetch, _mm512_add_ps, _mm512_castpd_ps, _mm512_castps_pd,
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_shuffle_f32x4, _mm512_storeu_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd,
    _mm512_unpacklo_ps,
};

use super::{LANES, View};

/// Rows of a strip that are asked for ahead of their use: it lies in the second-level cache.
const AHEAD: usize = 8;

/// The first `count` lanes.
fn lanes(count: usize) -> __mmask16 {
    if count >= LANES { !0 } else { (1 << count) - 1 }
}

/// Up to eight rows times one strip.
pub struct Tile {
    /// Rows of `depth` numbers, `x_stride` apart.
    pub x: *const f32,
    pub x_stride: usize,
    /// `depth` rows of whole blocks.
    pub strip: *const f32,
    pub depth: usize,
    /// Rows of `columns` numbers, `y_stride` apart.
    pub y: *mut f32,
    pub y_stride: usize,
    pub columns: usize,
    /// `columns` numbers, or null.
    pub bias: *const f32,
}

impl Tile {
    /// # Safety
    /// The pointers hold what their fields say, for `rows` rows of 1 to 8 and 1 to 3 `blocks`; `columns` end in the last block.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn multiply(&self, rows: usize, blocks: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            match blocks {
                1 => self.of_blocks::<1>(rows),
                2 => self.of_blocks::<2>(rows),
                _ => self.of_blocks::<3>(rows),
            }
        }
    }

    /// # Safety
    /// As for [`Tile::multiply`].
    #[target_feature(enable = "avx512f")]
    unsafe fn of_blocks<const B: usize>(&self, rows: usize) {
        // SAFETY: promised by the caller.
        unsafe {
            match rows {
                1 => self.of::<1, B>(),
                2 => self.of::<2, B>(),
                3 => self.of::<3, B>(),
                4 => self.of::<4, B>(),
                5 => self.of::<5, B>(),
                6 => self.of::<6, B>(),
                7 => self.of::<7, B>(),
                _ => self.of::<8, B>(),
            }
        }
    }

    /// # Safety
    /// As for [`Tile::multiply`], with R rows and B blocks.
    #[target_feature(enable = "avx512f")]
    unsafe fn of<const R: usize, const B: usize>(&self) {
        let mut all = [[_mm512_setzero_ps(); B]; R];
        let mut strip = self.strip;
        // SAFETY: within both sides by what the caller promised; a prefetch may point anywhere.
        unsafe {
            for k in 0..self.depth {
                let b: [__m512; B] = std::array::from_fn(|block| _mm512_loadu_ps(strip.add(block * LANES)));
                for block in 0..B {
                    _mm_prefetch::<_MM_HINT_T0>(strip.wrapping_add((AHEAD * B + block) * LANES).cast());
                }
                for (row, sums) in all.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*self.x.add(row * self.x_stride + k));
                    for (sum, b) in sums.iter_mut().zip(b) {
                        *sum = _mm512_fmadd_ps(x, b, *sum);
                    }
                }
                strip = strip.add(B * LANES);
            }
        }
        let last = lanes(self.columns - (B - 1) * LANES);
        for (row, sums) in all.into_iter().enumerate() {
            for (block, mut sum) in sums.into_iter().enumerate() {
                let mask = if block + 1 == B { last } else { !0 };
                // SAFETY: masked to the columns of the result and of the bias.
                unsafe {
                    if !self.bias.is_null() {
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, self.bias.add(block * LANES)));
                    }
                    _mm512_mask_storeu_ps(self.y.add(row * self.y_stride + block * LANES), mask, sum);
                }
            }
        }
    }
}

/// Packs columns of a matrix whose rows are dense.
///
/// # Safety
/// `b` holds its matrix; `to` has room for a whole number of blocks of its rows.
#[target_feature(enable = "avx512f")]
pub unsafe fn pack_rows(b: View<'_>, first: usize, to: &mut [f32]) {
    let width = to.len() / b.rows;
    for (k, to) in to.chunks_exact_mut(width).enumerate() {
        for (block, to) in to.chunks_exact_mut(LANES).enumerate() {
            let column = first + block * LANES;
            let mask = lanes(b.columns.saturating_sub(column));
            // SAFETY: masked to the columns of `b`; `to` has 16 numbers.
            unsafe {
                let from = b.values.as_ptr().wrapping_add(k * b.strides.0 + column);
                _mm512_storeu_ps(to.as_mut_ptr(), _mm512_maskz_loadu_ps(mask, from));
            }
        }
    }
}

/// Packs columns of a matrix whose columns are dense.
///
/// # Safety
/// As for [`pack_rows`].
#[target_feature(enable = "avx512f")]
pub unsafe fn pack_columns(b: View<'_>, first: usize, to: &mut [f32]) {
    let width = to.len() / b.rows;
    for column in (0..width).step_by(LANES) {
        let count = b.columns.saturating_sub(first + column).min(LANES);
        for k in (0..b.rows).step_by(LANES) {
            let depth = LANES.min(b.rows - k);
            let mut rows = [_mm512_setzero_ps(); LANES];
            for (i, row) in rows.iter_mut().enumerate().take(count) {
                // SAFETY: masked to the rows of `b`, in one of its columns.
                *row = unsafe {
                    let from = b.values.as_ptr().add((first + column + i) * b.strides.1 + k);
                    _mm512_maskz_loadu_ps(lanes(depth), from)
                };
            }
            let turned = transposed(rows);
            for (i, row) in turned.iter().enumerate().take(depth) {
                // SAFETY: row k + i of the strip has `width` numbers, these among them.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add((k + i) * width + column), *row) };
            }
        }
    }
}

/// 16 rows of 16 numbers turned around: pairs of rows, then pairs of pairs, then quarters of registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: [__m512; LANES]) -> [__m512; LANES] {
    let pairs = |x: __m512| _mm512_castps_pd(x);
    let singles = |x: __m512d| _mm512_castpd_ps(x);
    let mut two = [_mm512_setzero_ps(); LANES];
    for i in 0..8 {
        two[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        two[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    // Register 4i + j then holds columns j, j + 4, j + 8 and j + 12 of rows 4i to 4i + 3.
    let mut four = [_mm512_setzero_ps(); LANES];
    for i in (0..LANES).step_by(4) {
        for j in 0..2 {
            let (a, b) = (pairs(two[i + j]), pairs(two[i + 2 + j]));
            four[i + 2 * j] = singles(_mm512_unpacklo_pd(a, b));
            four[i + 2 * j + 1] = singles(_mm512_unpackhi_pd(a, b));
        }
    }
    let mut all = [_mm512_setzero_ps(); LANES];
    for j in 0..4 {
        let even = (
            _mm512_shuffle_f32x4::<0x88>(four[j], four[4 + j]),
            _mm512_shuffle_f32x4::<0x88>(four[8 + j], four[12 + j]),
        );
        let odd = (
            _mm512_shuffle_f32x4::<0xdd>(four[j], four[4 + j]),
            _mm512_shuffle_f32x4::<0xdd>(four[8 + j], four[12 + j]),
        );
        all[j] = _mm512_shuffle_f32x4::<0x88>(even.0, even.1);
        all[8 + j] = _mm512_shuffle_f32x4::<0xdd>(even.0, even.1);
        all[4 + j] = _mm512_shuffle_f32x4::<0x88>(odd.0, odd.1);
        all[12 + j] = _mm512_shuffle_f32x4::<0xdd>(odd.0, odd.1);
    }
    all
}
