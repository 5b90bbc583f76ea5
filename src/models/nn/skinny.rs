//! x · Wᵀ for a few rows of x: what writing one token at a time is made of.
//!
//! Such a product is limited by how fast the weight comes from memory. A general product packs the weight first, which reads
//! and writes it once more; here each row of the weight is read once, where it lies, and meets all rows of x on the way.

use super::tiles::Part;

/// The most rows that are few.
pub(super) const FEW: usize = 16;
/// Rows of x, and of the weight, that meet at a time.
const TILE: (usize, usize) = (8, 2);
/// What they come to.
type Sums = [[f32; TILE.1]; TILE.0];

/// Whether the processor has what [`multiply`] needs.
pub(super) fn available() -> bool {
    super::packed::available()
        || (std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma"))
}

/// Outputs `outputs` of all rows; `x` (rows, In), `weight` (Out, In), dense. Needs [`available`]. A row's bits do not depend on the
/// others.
pub(super) fn multiply(x: &[f32], weight: &[f32], input: usize, outputs: std::ops::Range<usize>, y: &mut Part<'_>) {
    assert!(available() && weight.len() >= outputs.end * input && x.len().is_multiple_of(input));
    let rows = x.len() / input;
    let sums_of: unsafe fn(*const f32, *const f32, usize, usize, usize) -> Sums = match super::packed::available() {
        true => avx512::sums,
        false => avx2::sums,
    };
    let mut output = outputs.start;
    while output < outputs.end {
        let count = TILE.1.min(outputs.end - output);
        for row in (0..rows).step_by(TILE.0) {
            let size = TILE.0.min(rows - row);
            // SAFETY: the processor has what the kernel asks for, and both lie within their matrices by the lengths checked above.
            let sums = unsafe {
                sums_of(x.as_ptr().add(row * input), weight.as_ptr().add(output * input), input, size, count)
            };
            for (i, sums) in sums.iter().enumerate().take(size) {
                y.row(row + i, output..output + count).copy_from_slice(&sums[..count]);
            }
        }
        output += count;
    }
}

mod avx2;
mod avx512;

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
                alone.push(few);
            }
            // Elsewhere a general product computes few rows too, whose order of sums depends on how many there are.
            if super::available() {
                let most = alone.last().unwrap();
                for few in &alone {
                    assert_eq!(few[..], most[..few.len()], "a row's bits do not depend on the others");
                }
            }
        }
    }
}
