//! GELU's forward pass where the processor has AVX-512.

use std::arch::x86_64::{
    _CMP_LT_OQ, _mm512_abs_ps, _mm512_cmp_ps_mask, _mm512_cvttps_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps,
    _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_maskz_mov_ps, _mm512_max_ps, _mm512_mul_ps,
    _mm512_permutexvar_ps, _mm512_reduce_ps, _mm512_set1_ps, _mm512_setzero_ps,
};

use super::tiles::LANES;

/// 1 − Φ(a) is a polynomial in each of sixteen cells of [0, 6), 0 above: one register holds a power's coefficients for all
/// cells, so that looking them up is one instruction, and neither e^x nor a division is left. From fixtures/golden/nn_gelu_cells.py.
#[rustfmt::skip]
static TAIL: [[f32; LANES]; 6] = [
    [5.0e-1, 3.538_302_2e-1, 2.266_273_5e-1, 1.302_945_2e-1, 6.680_72e-2, 3.039_636_5e-2, 1.222_447_4e-2, 4.332_448_4e-3, 1.349_897_6e-3, 3.690_779_8e-4, 8.841_701_5e-5, 1.853_662e-5, 3.397_633e-6, 5.440_312e-7, 7.604_708e-8, 9.274_917e-9],
    [-1.496_032e-1, -1.394_453e-1, -1.129_262_6e-1, -7.945_371e-2, -4.856_925e-2, -2.579_502_4e-2, -1.190_245_8e-2, -4.771_576e-3, -1.661_915_9e-3, -5.028_927e-4, -1.322_077_6e-4, -3.019_601e-5, -5.991_672e-6, -1.032_872_4e-6, -1.546_817_4e-7, -2.012_418e-8],
    [-1.679_569e-6, 9.800_817e-3, 1.587_718_4e-2, 1.675_934_3e-2, 1.366_165_3e-2, 9.070_327e-3, 5.022_265e-3, 2.348_602_7e-3, 9.345_698e-4, 3.179_819e-4, 9.281_222_4e-5, 2.329_324e-5, 5.035_206e-6, 9.386_967_6e-7, 1.510_721_3e-7, 2.100_546_6e-8],
    [3.512_811_8e-3, 2.824_834_8e-3, 1.170_930_3e-3, -4.925_442e-4, -1.429_149_1e-3, -1.528_166_2e-3, -1.137_164_8e-3, -6.592_293e-4, -3.105_825_2e-4, -1.214_278_8e-4, -3.987_177e-5, -1.107_936_5e-5, -2.618_787_2e-6, -5.284_614e-7, -9.129_205e-8, -1.352_882_25e-8],
    [-1.082_885_5e-5, -3.585_036e-4, -4.786_183e-4, -3.455_735_6e-4, -1.091_019_9e-4, 6.827_776e-5, 1.287_677_4e-4, 1.081_432_86e-4, 6.395_383e-5, 2.940_983_7e-5, 1.094_401_1e-5, 3.364_058e-6, 8.647_267e-7, 1.873_682e-7, 3.441_351_7e-8, 5.379_444e-9],
    [-6.687_167_5e-5, -2.472_442_4e-5, 2.392_984_6e-5, 4.516_742_8e-5, 3.500_722_6e-5, 1.269_590_85e-5, -3.435_217_9e-6, -8.491_121e-6, -6.844_474_7e-6, -3.732_002_1e-6, -1.557_034_6e-6, -5.208_924_6e-7, -1.430_703_8e-7, -3.271_433_6e-8, -6.283_844e-9, -1.020_287_1e-9],
];
const LARGEST: f32 = 6.0;
const TRUNCATE: i32 = 3;

/// x · Φ(x) = max(x, 0) − |x| · (1 − Φ(|x|)) of each number, written over it; error below 10⁻⁷ · max(1, |x|).
///
/// # Safety
/// The processor has the parts of AVX-512 that [`super::kernel::has_avx512`] asks for.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn in_place(values: &mut [f32]) {
    // SAFETY: each row of the table has sixteen numbers.
    let table = TAIL.map(|row| unsafe { _mm512_loadu_ps(row.as_ptr()) });
    for line in values.chunks_mut(LANES) {
        let mask = if line.len() == LANES { !0 } else { (1 << line.len()) - 1 };
        // SAFETY: masked to the numbers of the line.
        let x = unsafe { _mm512_maskz_loadu_ps(mask, line.as_ptr()) };
        let size = _mm512_abs_ps(x);
        let scaled = _mm512_mul_ps(size, _mm512_set1_ps(LANES as f32 / LARGEST));
        let cell = _mm512_cvttps_epi32(scaled);
        let within = _mm512_reduce_ps::<TRUNCATE>(scaled);
        let mut tail = _mm512_permutexvar_ps(cell, table[5]);
        for power in (0..5).rev() {
            tail = _mm512_fmadd_ps(tail, within, _mm512_permutexvar_ps(cell, table[power]));
        }
        let near = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(size, _mm512_set1_ps(LARGEST));
        let tail = _mm512_maskz_mov_ps(near, tail);
        // In this order a NaN comes out of the maximum.
        let positive = _mm512_max_ps(_mm512_setzero_ps(), x);
        let y = _mm512_fnmadd_ps(size, tail, positive);
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(line.as_mut_ptr(), mask, y) };
    }
}
