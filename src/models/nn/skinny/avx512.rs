//! The kernel of [`super::multiply`] for processors with AVX-512: 16 registers of sums, 2 of weights and 1 of x, of the 32 there are.

use std::arch::x86_64::{
    _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps,
};

use super::Sums;

/// Sums of `rows` rows of x, up to eight, with one or two of the weight.
///
/// # Safety
/// The processor has AVX-512. `x` points to `rows` and `weight` to `outputs` rows of `input` numbers.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn sums(x: *const f32, weight: *const f32, input: usize, rows: usize, outputs: usize) -> Sums {
    // SAFETY: promised by the caller.
    unsafe {
        match outputs {
            1 => of_outputs::<1>(x, weight, input, rows),
            _ => of_outputs::<2>(x, weight, input, rows),
        }
    }
}

/// # Safety
/// As for [`sums`], with W outputs.
#[target_feature(enable = "avx512f")]
unsafe fn of_outputs<const W: usize>(x: *const f32, weight: *const f32, input: usize, rows: usize) -> Sums {
    // SAFETY: promised by the caller.
    unsafe {
        match rows {
            1 => tile::<1, W>(x, weight, input),
            2 => tile::<2, W>(x, weight, input),
            3 => tile::<3, W>(x, weight, input),
            4 => tile::<4, W>(x, weight, input),
            5 => tile::<5, W>(x, weight, input),
            6 => tile::<6, W>(x, weight, input),
            7 => tile::<7, W>(x, weight, input),
            _ => tile::<8, W>(x, weight, input),
        }
    }
}

/// Sums of R rows of x with W rows of the weight: 16 lanes over the inputs, then the lanes, always in the same order.
///
/// # Safety
/// `x` points to R and `weight` to W rows of `input` numbers.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const W: usize>(x: *const f32, weight: *const f32, input: usize) -> Sums {
    let mut all = [[_mm512_setzero_ps(); W]; R];
    let whole = input / 16 * 16;
    // SAFETY: within the rows by what the caller promised; masked loads touch only the lanes of their mask.
    unsafe {
        for at in (0..whole).step_by(16) {
            let w: [_; W] = std::array::from_fn(|i| _mm512_loadu_ps(weight.add(i * input + at)));
            for (row, sums) in all.iter_mut().enumerate() {
                let x = _mm512_loadu_ps(x.add(row * input + at));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(x, w, *sum);
                }
            }
        }
        if whole < input {
            let mask = (1u16 << (input - whole)) - 1;
            let w: [_; W] = std::array::from_fn(|i| _mm512_maskz_loadu_ps(mask, weight.add(i * input + whole)));
            for (row, sums) in all.iter_mut().enumerate() {
                let x = _mm512_maskz_loadu_ps(mask, x.add(row * input + whole));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(x, w, *sum);
                }
            }
        }
    }
    let mut sums = Sums::default();
    for (to, from) in sums.iter_mut().zip(all) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = _mm512_reduce_add_ps(from);
        }
    }
    sums
}
