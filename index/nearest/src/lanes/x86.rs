//! AVX-512, and AVX2 with FMA and F16C.

use std::arch::x86_64::*;

use super::{Element, F16, Lanes, tile};

/// Two registers of 16 lanes a block.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// Four registers of 8 lanes a block.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

impl Lanes for Avx512 {
    type Block = [__m512; 2];

    #[inline(always)]
    unsafe fn zero() -> Self::Block {
        // SAFETY: the caller's processor has AVX-512; so in all of this implementation.
        unsafe { [_mm512_setzero_ps(); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Block {
        // SAFETY: the caller promised 32 numbers.
        unsafe { [_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16))] }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const F16) -> Self::Block {
        // SAFETY: the caller promised 32 numbers.
        unsafe {
            [_mm512_cvtph_ps(_mm256_loadu_si256(from.cast())), _mm512_cvtph_ps(_mm256_loadu_si256(from.add(16).cast()))]
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Block, b: Self::Block, sum: Self::Block) -> Self::Block {
        // SAFETY: see above.
        unsafe { [_mm512_fmadd_ps(a[0], b[0], sum[0]), _mm512_fmadd_ps(a[1], b[1], sum[1])] }
    }

    #[inline(always)]
    unsafe fn fold(block: Self::Block) -> f32 {
        // SAFETY: see above.
        unsafe {
            let sixteen = _mm512_add_ps(block[0], block[1]);
            let high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(sixteen), 1));
            fold8(_mm256_add_ps(_mm512_castps512_ps256(sixteen), high))
        }
    }

    /// Four at once share their shuffles: quarters of 128 bits are put beside each other, then folded together.
    #[inline(always)]
    unsafe fn fold4(blocks: [Self::Block; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            let a = _mm512_add_ps(blocks[0][0], blocks[0][1]);
            let b = _mm512_add_ps(blocks[1][0], blocks[1][1]);
            let c = _mm512_add_ps(blocks[2][0], blocks[2][1]);
            let d = _mm512_add_ps(blocks[3][0], blocks[3][1]);
            let ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
            let cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
            let four = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
            let two = _mm512_add_ps(four, _mm512_permute_ps(four, 0x4e));
            let one = _mm512_add_ps(two, _mm512_permute_ps(two, 0xb1));
            let firsts = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), one);
            let mut sums = [0f32; 4];
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(firsts));
            sums
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: asking for a line is a hint that cannot fault.
        unsafe { _mm_prefetch(address.cast(), _MM_HINT_T0) }
    }

    #[inline(always)]
    unsafe fn four<E: Element>(one: *const f32, four: [*const E; 4], dim: usize) -> [f32; 4] {
        // SAFETY: what the caller promised.
        let [products] = unsafe { tile::<Self, E, 1, 4>([one], four, dim) };
        products
    }

    #[inline(always)]
    unsafe fn eight(two: [*const f32; 2], four: [*const f32; 4], dim: usize) -> [[f32; 4]; 2] {
        // SAFETY: what the caller promised.
        unsafe { tile::<Self, f32, 2, 4>(two, four, dim) }
    }

    #[inline(always)]
    unsafe fn four_int8(question: *const i16, rows: [*const i8; 4], len: usize) -> [i32; 4] {
        // SAFETY: see above; every pointer leads to `len` codes.
        unsafe {
            let mut sums = [_mm512_setzero_si512(); 4];
            for at in (0..len).step_by(32) {
                let question = _mm512_loadu_si512(question.add(at).cast());
                for (sum, row) in sums.iter_mut().zip(rows) {
                    let codes = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.add(at).cast()));
                    *sum = _mm512_add_epi32(*sum, _mm512_madd_epi16(codes, question));
                }
            }
            let mut halves = [_mm256_setzero_si256(); 4];
            for (half, sum) in halves.iter_mut().zip(sums) {
                *half = _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
            }
            fold4_int8(halves)
        }
    }
}

impl Lanes for Avx2 {
    type Block = [__m256; 4];

    #[inline(always)]
    unsafe fn zero() -> Self::Block {
        // SAFETY: the caller's processor has AVX2 and FMA; so in all of this implementation.
        unsafe { [_mm256_setzero_ps(); 4] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::Block {
        // SAFETY: the caller promised 32 numbers.
        unsafe {
            [
                _mm256_loadu_ps(from),
                _mm256_loadu_ps(from.add(8)),
                _mm256_loadu_ps(from.add(16)),
                _mm256_loadu_ps(from.add(24)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_f16(from: *const F16) -> Self::Block {
        // SAFETY: the caller promised 32 numbers.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(16).cast())),
                _mm256_cvtph_ps(_mm_loadu_si128(from.add(24).cast())),
            ]
        }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Self::Block, b: Self::Block, sum: Self::Block) -> Self::Block {
        // SAFETY: see above.
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], sum[0]),
                _mm256_fmadd_ps(a[1], b[1], sum[1]),
                _mm256_fmadd_ps(a[2], b[2], sum[2]),
                _mm256_fmadd_ps(a[3], b[3], sum[3]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn fold(block: Self::Block) -> f32 {
        // SAFETY: see above.
        unsafe {
            let (low, high) = (_mm256_add_ps(block[0], block[2]), _mm256_add_ps(block[1], block[3]));
            fold8(_mm256_add_ps(low, high))
        }
    }

    #[inline(always)]
    unsafe fn prefetch(address: *const u8) {
        // SAFETY: asking for a line is a hint that cannot fault.
        unsafe { _mm_prefetch(address.cast(), _MM_HINT_T0) }
    }

    #[inline(always)]
    unsafe fn four_int8(question: *const i16, rows: [*const i8; 4], len: usize) -> [i32; 4] {
        // SAFETY: see above; every pointer leads to `len` codes.
        unsafe {
            let mut sums = [_mm256_setzero_si256(); 4];
            for at in (0..len).step_by(16) {
                let question = _mm256_loadu_si256(question.add(at).cast());
                for (sum, row) in sums.iter_mut().zip(rows) {
                    let codes = _mm256_cvtepi8_epi16(_mm_loadu_si128(row.add(at).cast()));
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(codes, question));
                }
            }
            fold4_int8(sums)
        }
    }
}

/// The sums of four times 8 lanes.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn fold4_int8(sums: [__m256i; 4]) -> [i32; 4] {
    // SAFETY: the caller's processor has AVX2.
    unsafe {
        let (ab, cd) = (_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        let abcd = _mm256_hadd_epi32(ab, cd);
        let four = _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1));
        let mut out = [0i32; 4];
        _mm_storeu_si128(out.as_mut_ptr().cast(), four);
        out
    }
}

/// The sum of 8 lanes, folded in halves.
///
/// # Safety
/// The processor has AVX.
#[inline(always)]
unsafe fn fold8(eight: __m256) -> f32 {
    // SAFETY: the caller's processor has AVX.
    unsafe {
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
}
