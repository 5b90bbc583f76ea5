//! The kernel of [`super::multiply`] for processors with AVX2 and FMA: 8 registers of sums, 2 of weights and 1 of x, of the 16 there
//! are, for four rows at a time; the weight is near when the second four meet it.

use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps, _mm256_storeu_ps};

use super::Sums;

const LANES: usize = 8;
/// Rows of x that meet the weight at a time.
const ROWS: usize = 4;

/// Sums of `rows` rows of x, up to eight, with one or two of the weight.
///
/// # Safety
/// The processor has AVX2 and FMA. `x` points to `rows` and `weight` to `outputs` rows of `input` numbers.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn sums(x: *const f32, weight: *const f32, input: usize, rows: usize, outputs: usize) -> Sums {
    let mut all = Sums::default();
    for (part, sums) in all.chunks_mut(ROWS).enumerate().take(rows.div_ceil(ROWS)) {
        // SAFETY: promised by the caller.
        unsafe {
            let x = x.add(part * ROWS * input);
            match outputs {
                1 => of_outputs::<1>(x, weight, input, rows - part * ROWS, sums),
                _ => of_outputs::<2>(x, weight, input, rows - part * ROWS, sums),
            }
        }
    }
    all
}

/// # Safety
/// As for [`sums`], with W outputs; rows after the fourth are left out.
#[target_feature(enable = "avx2,fma")]
unsafe fn of_outputs<const W: usize>(
    x: *const f32,
    weight: *const f32,
    input: usize,
    rows: usize,
    sums: &mut [[f32; 2]],
) {
    // SAFETY: promised by the caller.
    unsafe {
        match rows {
            1 => tile::<1, W>(x, weight, input, sums),
            2 => tile::<2, W>(x, weight, input, sums),
            3 => tile::<3, W>(x, weight, input, sums),
            _ => tile::<ROWS, W>(x, weight, input, sums),
        }
    }
}

/// Sums of R rows of x with W rows of the weight: 8 lanes over the inputs, then the lanes, then what is left, always in the same
/// order.
///
/// # Safety
/// `x` points to R and `weight` to W rows of `input` numbers.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const W: usize>(x: *const f32, weight: *const f32, input: usize, to: &mut [[f32; 2]]) {
    let mut all = [[_mm256_setzero_ps(); W]; R];
    let whole = input / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        // SAFETY: within the rows by what the caller promised.
        unsafe {
            let w: [_; W] = std::array::from_fn(|i| _mm256_loadu_ps(weight.add(i * input + at)));
            for (row, sums) in all.iter_mut().enumerate() {
                let x = _mm256_loadu_ps(x.add(row * input + at));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm256_fmadd_ps(x, w, *sum);
                }
            }
        }
    }
    for (row, sums) in all.into_iter().enumerate() {
        for (output, sum) in sums.into_iter().enumerate() {
            let mut lanes = [0f32; LANES];
            // SAFETY: as many numbers as a register has, and the rest of both rows.
            unsafe {
                _mm256_storeu_ps(lanes.as_mut_ptr(), sum);
                let rest = (whole..input).map(|i| *x.add(row * input + i) * *weight.add(output * input + i));
                to[row][output] = lanes.iter().sum::<f32>() + rest.sum::<f32>();
            }
        }
    }
}
