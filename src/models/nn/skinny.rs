//! x · Wᵀ for a few rows of x: what writing one token at a time is made of.
//!
//! Such a product is limited by how fast the weight comes from memory. A general product packs the weight first, which reads
//! and writes it once more; here each row of the weight is read once, where it lies, and meets all rows of x on the way.

use super::packed::available;
use super::tiles::Part;

/// The most rows that are few.
pub(super) const FEW: usize = 16;
/// Rows of x, and of the weight, that meet at a time: 16 registers of sums, 2 of weights and 1 of x, of the 32 there are.
const TILE: (usize, usize) = (8, 2);

/// Outputs `outputs` of all rows; `x` (rows, In), `weight` (Out, In), dense. Needs `available()`.
pub(super) fn multiply(x: &[f32], weight: &[f32], input: usize, outputs: std::ops::Range<usize>, y: &mut Part<'_>) {
    assert!(available() && weight.len() >= outputs.end * input && x.len().is_multiple_of(input));
    let rows = x.len() / input;
    let mut output = outputs.start;
    while output < outputs.end {
        let count = TILE.1.min(outputs.end - output);
        for row in (0..rows).step_by(TILE.0) {
            let size = TILE.0.min(rows - row);
            // SAFETY: the processor has AVX-512, and both lie within their matrices by the lengths checked above.
            let sums = unsafe {
                let (x, weight) = (x.as_ptr().add(row * input), weight.as_ptr().add(output * input));
                match (size, count) {
                    (8, 2) => tile::<8, 2>(x, weight, input),
                    (8, _) => tile::<8, 1>(x, weight, input),
                    (_, 2) => tile_of::<2>(x, weight, input, size),
                    (_, _) => tile_of::<1>(x, weight, input, size),
                }
            };
            for (i, sums) in sums.iter().enumerate().take(size) {
                y.row(row + i, output..output + count).copy_from_slice(&sums[..count]);
            }
        }
        output += count;
    }
}

/// Fewer than eight rows.
///
/// # Safety
/// As for [`tile`], with `rows` rows of x.
#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const W: usize>(
    x: *const f32,
    weight: *const f32,
    input: usize,
    rows: usize,
) -> [[f32; TILE.1]; TILE.0] {
    // SAFETY: promised by the caller.
    unsafe {
        match rows {
            1 => tile::<1, W>(x, weight, input),
            2 => tile::<2, W>(x, weight, input),
            3 => tile::<3, W>(x, weight, input),
            4 => tile::<4, W>(x, weight, input),
            5 => tile::<5, W>(x, weight, input),
            6 => tile::<6, W>(x, weight, input),
            _ => tile::<7, W>(x, weight, input),
        }
    }
}

/// Sums of R rows of x with W rows of the weight: 16 lanes over the inputs, then the lanes, always in the same order.
///
/// # Safety
/// `x` points to R and `weight` to W rows of `input` numbers.
#[target_feature(enable = "avx512f")]
unsafe fn tile<const R: usize, const W: usize>(
    x: *const f32,
    weight: *const f32,
    input: usize,
) -> [[f32; TILE.1]; TILE.0] {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_maskz_loadu_ps, _mm512_reduce_add_ps, _mm512_setzero_ps,
    };
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
    let mut sums = [[0f32; TILE.1]; TILE.0];
    for (to, from) in sums.iter_mut().zip(all) {
        for (to, from) in to.iter_mut().zip(from) {
            *to = _mm512_reduce_add_ps(from);
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use crate::models::nn::linear;
    use crate::models::nn::testing::noise;

    /// Few rows against the same rows among many; every size of tile, widths that are no multiple of a register.
    #[test]
    fn few_rows_give_what_they_give_among_many() {
        for (input, out) in [(64, 33), (37, 200), (5, 1), (768, 96)] {
            let (x, weight) = (noise(1, &[40, input]), noise(2, &[out, input]));
            let all = linear(&x, &weight, None).unwrap().to_vec2::<f32>().unwrap();
            let mut alone = Vec::new();
            for rows in 1..=16 {
                let few = linear(&x.narrow(0, 0, rows).unwrap(), &weight, None).unwrap().to_vec2::<f32>().unwrap();
                for (few, all) in few.iter().zip(&all) {
                    for (few, all) in few.iter().zip(all) {
                        assert!(
                            (few - all).abs() <= 2e-6 * input as f32,
                            "{rows} rows of ({input}, {out}): {few} {all}"
                        );
                    }
                }
                alone.push(few[0].clone());
            }
            // Elsewhere a general product computes few rows too, whose order of sums depends on how many there are.
            if super::available() {
                assert!(alone.iter().all(|row| *row == alone[0]), "a row's bits do not depend on the others");
            }
        }
    }
}
