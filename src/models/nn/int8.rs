//! y = x · Wᵀ + b on 8-bit integers, for passes that need no gradient.
//!
//! Weights are rounded once, to 255 steps for each output; the rows of x each time, to 256 steps between their least and
//! largest number (dynamic quantisation, as ONNX Runtime's, but for each row and output instead of each tensor):
//!
//! ```text
//! x[r] ≈ low[r] + step[r] · u, W[o] ≈ scale[o] · w, u in 0..=255, w in −127..=127, so that
//! y[r][o] ≈ step[r] · scale[o] · Σ u·w + low[r] · scale[o] · Σ w + b[o].
//! ```
//!
//! The sums are exact integers: processors with AVX-512 VNNI, with AVX2 and with neither give the same bits.

use std::ops::Range;

use super::kernel::{check, check_on_cpu, simd, unwritten, with_values, wrong_shape};
use super::tiles::{LANES, Part, TILE_BLOCKS, TILE_ROWS, each_job};
use crate::error::{Error, Result};
use candle_core::Tensor;

/// As many products of 255 and 127 as 32 bits hold the sum of.
const MOST_INPUTS: usize = i32::MAX as usize / (255 * 127);

/// A weight (Out, In) with its bias as 8-bit integers.
#[derive(Clone, Debug)]
pub struct Int8Matrix {
    out: usize,
    input: usize,
    /// Blocks of 16 outputs; in each, groups of 4 inputs; in each, 4 numbers of the first output, 4 of the second, ...
    packed: Vec<i8>,
    scale: Vec<f32>,
    /// scale · Σ w of each output.
    sum: Vec<f32>,
    bias: Vec<f32>,
}

impl Int8Matrix {
    /// Whether this processor has instructions for it; elsewhere a plain loop takes several times as long as f32.
    pub fn is_quick() -> bool {
        by_bytes() || by_words()
    }

    /// Rounds `weight` (Out, In), f32; `bias` (Out) stays f32.
    pub fn new(weight: &Tensor, bias: Option<&Tensor>) -> Result<Self> {
        check_on_cpu("int8 weights", weight)?;
        let (out, input) = match weight.dims() {
            &[_, input] if input > MOST_INPUTS => {
                return Err(Error::new(format!(
                    "int8 weights of {input} inputs: the sum of more than {MOST_INPUTS} products can leave 32 bits"
                ))
                .hint("use bf16 or f32 for this model"));
            }
            &[out, input] if out > 0 && input > 0 => (out, input),
            got => return Err(wrong_shape("int8 weights", "a weight", got, "(out, in)")),
        };
        let (blocks, groups) = (out.div_ceil(LANES), input.div_ceil(4));
        let mut matrix = Self {
            out,
            input,
            packed: vec![0; blocks * LANES * groups * 4],
            scale: vec![0.0; blocks * LANES],
            sum: vec![0.0; blocks * LANES],
            bias: vec![0.0; blocks * LANES],
        };
        with_values(weight, |weight| matrix.round(weight))?;
        if let Some(bias) = bias {
            check("int8 weights", &[bias])?;
            if bias.dims() != [out] {
                return Err(wrong_shape("int8 weights", "a bias", bias.dims(), &format!("({out})")));
            }
            with_values(bias, |bias| matrix.bias[..out].copy_from_slice(bias))?;
        }
        Ok(matrix)
    }

    fn round(&mut self, weight: &[f32]) {
        let groups = self.input.div_ceil(4);
        for (o, row) in weight.chunks_exact(self.input).enumerate() {
            // NaN and infinity make the scale NaN, so that the output is: integers would hide them.
            let (largest, poison) =
                row.iter().fold((0f32, 0f32), |(top, poison), w| (top.max(w.abs()), poison + w * 0.0));
            let scale = largest / 127.0 + poison;
            let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            let block = o / LANES * groups * LANES * 4;
            let mut sum = 0i32;
            for (i, w) in row.iter().enumerate() {
                let rounded = (w * inverse).round().clamp(-127.0, 127.0) as i8;
                sum += i32::from(rounded);
                self.packed[block + (i / 4 * LANES + o % LANES) * 4 + i % 4] = rounded;
            }
            self.scale[o] = scale;
            self.sum[o] = scale * sum as f32;
        }
    }

    /// x (..., In) to (..., Out), f32; no gradient.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        check("int8 product", &[x])?;
        if x.dims().last() != Some(&self.input) || x.elem_count() == 0 {
            return Err(wrong_shape("int8 product", "input", x.dims(), &format!("(..., {})", self.input)));
        }
        if x.track_op() {
            return Err(Error::new("an int8 product was asked for in a pass with gradients, which it has none of"));
        }
        let mut y = unwritten(x.elem_count() / self.input * self.out);
        with_values(x, |x| {
            each_job(&mut y, self.out, |rows, outputs, y| {
                let mut rounded = Rounded::default();
                rounded.take(&x[rows.start * self.input..rows.end * self.input], self.input);
                self.multiply(&rounded, rows, outputs, y);
            });
        })?;
        let mut shape = x.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.out;
        }
        Ok(Tensor::from_vec(y, shape, x.device())?)
    }

    /// Some strips of outputs of some rows.
    fn multiply(&self, x: &Rounded, rows: Range<usize>, outputs: Range<usize>, mut y: Part<'_>) {
        let groups = self.input.div_ceil(4);
        let mut sums = [0i32; TILE_ROWS * TILE_BLOCKS * LANES];
        for first in outputs.step_by(TILE_BLOCKS * LANES) {
            let blocks = TILE_BLOCKS.min((self.scale.len() - first) / LANES);
            let weights = &self.packed[first * groups * 4..(first + blocks * LANES) * groups * 4];
            for row in (0..rows.len()).step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(rows.len() - row);
                let own = row * groups * 4..(row + count) * groups * 4;
                tile(x, own, weights, groups, blocks, &mut sums);
                let own = first..(first + blocks * LANES).min(self.out);
                for (i, sums) in sums.chunks_exact(blocks * LANES).take(count).enumerate() {
                    finish(
                        &sums[..own.len()],
                        (x.step[row + i], x.low[row + i]),
                        (&self.scale[own.clone()], &self.sum[own.clone()], &self.bias[own.clone()]),
                        y.row(rows.start + row + i, own.clone()),
                    );
                }
            }
        }
    }
}

simd! {
    fn finish(sums: &[i32], row: (f32, f32), of_output: (&[f32], &[f32], &[f32]), y: &mut [f32]) {
        let (step, low) = row;
        let (scale, total, bias) = of_output;
        for ((((y, &sum), &scale), &total), &bias) in y.iter_mut().zip(sums).zip(scale).zip(total).zip(bias) {
            *y = step * scale * sum as f32 + (low * total + bias);
        }
    }
}

/// Rows of x as integers, padded with 0 to a multiple of four.
#[derive(Default)]
struct Rounded {
    values: Vec<u8>,
    /// The same in 16 bits, where the processor multiplies no bytes.
    wide: Vec<i16>,
    step: Vec<f32>,
    low: Vec<f32>,
}

impl Rounded {
    fn take(&mut self, x: &[f32], width: usize) {
        let padded = width.div_ceil(4) * 4;
        let rows = x.len() / width;
        self.values.clear();
        self.values.resize(rows * padded, 0);
        self.step.clear();
        self.low.clear();
        for (x, u) in x.chunks_exact(width).zip(self.values.chunks_exact_mut(padded)) {
            let (low, high) = bounds(x);
            // Equal numbers: any step will do. A row with NaN or infinity becomes NaN, through `low`.
            let step = if high > low { (high - low) / 255.0 } else { 1.0 };
            round_row(x, low, 1.0 / step, &mut u[..width]);
            self.step.push(step);
            self.low.push(if (high - low).is_finite() { low } else { f32::NAN });
        }
        self.wide.clear();
        if by_words() {
            self.wide.resize(self.values.len(), 0);
            widen(&self.values, &mut self.wide);
        }
    }
}

simd! {
    fn widen(values: &[u8], words: &mut [i16]) {
        for (word, &value) in words.iter_mut().zip(values) {
            *word = i16::from(value);
        }
    }
}

/// Whether the processor multiplies four bytes at a time.
fn by_bytes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512vnni") && std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether it multiplies pairs of 16 bits, and no bytes.
fn by_words() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !by_bytes() && std::arch::is_x86_feature_detected!("avx2");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

simd! {
    /// Least and largest number; both NaN where one of them is NaN or infinite.
    fn bounds(x: &[f32]) -> (f32, f32) {
        let (mut low, mut high, mut poison) = ([f32::INFINITY; 16], [f32::NEG_INFINITY; 16], [0f32; 16]);
        let (whole, rest) = x.as_chunks::<16>();
        for chunk in whole {
            for lane in 0..16 {
                let value = chunk[lane];
                low[lane] = if value < low[lane] { value } else { low[lane] };
                high[lane] = if value > high[lane] { value } else { high[lane] };
                poison[lane] += value * 0.0;
            }
        }
        for (lane, &value) in rest.iter().enumerate() {
            low[lane] = if value < low[lane] { value } else { low[lane] };
            high[lane] = if value > high[lane] { value } else { high[lane] };
            poison[lane] += value * 0.0;
        }
        let mut bounds = (low[0], high[0]);
        for lane in 1..16 {
            bounds.0 = if low[lane] < bounds.0 { low[lane] } else { bounds.0 };
            bounds.1 = if high[lane] > bounds.1 { high[lane] } else { bounds.1 };
        }
        let poison: f32 = poison.iter().sum();
        (bounds.0 + poison, bounds.1 + poison)
    }
}

simd! {
    fn round_row(x: &[f32], low: f32, inverse: f32, u: &mut [u8]) {
        // Adding 2²³ leaves the integer nearest to a number of 0 to 255 in the lowest byte.
        const ROUND: f32 = 8_388_608.0;
        for (u, &x) in u.iter_mut().zip(x) {
            *u = ((x - low) * inverse + ROUND).to_bits() as u8;
        }
    }
}

/// Σ u·w of `own.len() / (4·groups)` rows of `x` with `blocks` blocks of outputs; row by row into `sums`.
fn tile(x: &Rounded, own: Range<usize>, weights: &[i8], groups: usize, blocks: usize, sums: &mut [i32]) {
    let rows = own.len() / (4 * groups);
    assert!(weights.len() == blocks * groups * LANES * 4 && sums.len() >= rows * blocks * LANES);
    #[cfg(target_arch = "x86_64")]
    if by_words() {
        // SAFETY: the processor has what is asked for, and every length was checked just now.
        return unsafe { avx2::tile(&x.wide[own], weights, groups, blocks, sums) };
    }
    let u = &x.values[own];
    #[cfg(target_arch = "x86_64")]
    if by_bytes() {
        // SAFETY: the processor has what is asked for, and every length was checked just now.
        unsafe {
            if rows == TILE_ROWS && blocks == TILE_BLOCKS {
                return tile_vnni::<TILE_ROWS, TILE_BLOCKS>(u, weights, groups, sums);
            }
            for (u, sums) in u.chunks_exact(groups * 4).zip(sums.chunks_exact_mut(blocks * LANES)) {
                if blocks == TILE_BLOCKS {
                    tile_vnni::<1, TILE_BLOCKS>(u, weights, groups, sums);
                    continue;
                }
                for (weights, sums) in weights.chunks_exact(groups * LANES * 4).zip(sums.chunks_exact_mut(LANES)) {
                    tile_vnni::<1, 1>(u, weights, groups, sums);
                }
            }
        }
        return;
    }
    plain(u, weights, groups, blocks, sums);
}

/// [`tile`] on every processor.
fn plain(u: &[u8], weights: &[i8], groups: usize, blocks: usize, sums: &mut [i32]) {
    for (row, sums) in u.chunks_exact(groups * 4).zip(sums.chunks_exact_mut(blocks * LANES)) {
        for (block, sums) in weights.chunks_exact(groups * LANES * 4).zip(sums.chunks_exact_mut(LANES)) {
            sums.fill(0);
            for (u, w) in row.chunks_exact(4).zip(block.chunks_exact(LANES * 4)) {
                for (sum, w) in sums.iter_mut().zip(w.chunks_exact(4)) {
                    *sum += (0..4).map(|i| i32::from(u[i]) * i32::from(w[i])).sum::<i32>();
                }
            }
        }
    }
}

/// Sums of R rows with B blocks.
///
/// # Safety
/// `u` has R · groups · 4 numbers, `weights` B · groups · 64, `sums` at least R · B · 16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn tile_vnni<const R: usize, const B: usize>(u: &[u8], weights: &[i8], groups: usize, sums: &mut [i32]) {
    use std::arch::x86_64::{
        _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_storeu_si512,
    };
    let mut all = [[_mm512_setzero_si512(); B]; R];
    for group in 0..groups {
        // SAFETY: within `weights` and `u` by the lengths promised.
        unsafe {
            let at = weights.as_ptr().add(group * LANES * 4);
            let w: [_; B] = std::array::from_fn(|block| _mm512_loadu_si512(at.add(block * groups * LANES * 4).cast()));
            for (row, sums) in all.iter_mut().enumerate() {
                let four = _mm512_set1_epi32(u.as_ptr().add((row * groups + group) * 4).cast::<i32>().read_unaligned());
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_dpbusd_epi32(*sum, four, w);
                }
            }
        }
    }
    for (row, of_row) in all.iter().enumerate() {
        for (block, sum) in of_row.iter().enumerate() {
            // SAFETY: within `sums` by the length promised.
            unsafe { _mm512_storeu_si512(sums.as_mut_ptr().add((row * B + block) * LANES).cast(), *sum) };
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::nn::linear;
    use crate::models::nn::testing::{noise, norm};
    use candle_core::Device;

    /// Every shape of tile: whole and ragged rows, blocks and groups.
    #[test]
    fn stays_close_to_the_product_in_f32() {
        for (rows, input, out) in [(64, 384, 48), (65, 384, 384), (3, 37, 17), (100, 50, 100), (1, 4, 1)] {
            let (x, weight, bias) = (noise(1, &[rows, input]), noise(2, &[out, input]), noise(3, &[out]));
            let got = Int8Matrix::new(&weight, Some(&bias)).unwrap().forward(&x).unwrap();
            let want = linear(&x, &weight, Some(&bias)).unwrap();
            let error = norm(&(got - &want).unwrap()) / norm(&want);
            assert!(error < 0.01, "({rows}, {input}, {out}): {error}");
        }
    }

    #[test]
    fn whole_tiles_and_single_rows_give_the_same_bits() {
        let (x, weight) = (noise(4, &[11, 40]), noise(5, &[96, 40]));
        let matrix = Int8Matrix::new(&weight, None).unwrap();
        let all = matrix.forward(&x).unwrap().to_vec2::<f32>().unwrap();
        for (row, all) in all.iter().enumerate() {
            let alone = matrix.forward(&x.narrow(0, row, 1).unwrap()).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(&alone[0], all, "row {row}");
        }
    }

    /// What this processor does against the plain loop, at the ends of both ranges, where 16 bits would overflow first.
    #[test]
    fn every_processor_gives_the_same_bits() {
        let (groups, blocks) = (33, 3);
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 24
        };
        let weights: Vec<i8> =
            (0..blocks * groups * LANES * 4).map(|_| [-127, 127, 0, 1][next() as usize % 4]).collect();
        for rows in 1..=TILE_ROWS {
            let values: Vec<u8> = (0..rows * groups * 4).map(|_| [255, 255, 0, 254][next() as usize % 4]).collect();
            let x = Rounded { wide: values.iter().map(|&u| i16::from(u)).collect(), values, ..Rounded::default() };
            let (mut got, mut want) = (vec![7; rows * blocks * LANES], vec![9; rows * blocks * LANES]);
            tile(&x, 0..rows * groups * 4, &weights, groups, blocks, &mut got);
            plain(&x.values, &weights, groups, blocks, &mut want);
            assert_eq!(got, want, "{rows} rows");
            // A processor with AVX-512 takes another kernel and has AVX2 too.
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") {
                got.fill(7);
                // SAFETY: the processor has AVX2; the lengths are those that `tile` just took.
                unsafe { avx2::tile(&x.wide, &weights, groups, blocks, &mut got) };
                assert_eq!(got, want, "{rows} rows with AVX2");
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_not_hidden() {
        let matrix = Int8Matrix::new(&noise(6, &[2, 20]), None).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = vec![1f32; 20];
            x[7] = bad;
            let y = matrix.forward(&Tensor::new(x.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap()).unwrap();
            assert!(y.to_vec2::<f32>().unwrap()[0].iter().all(|y| y.is_nan()), "{bad}");

            // In a weight they are of one output.
            let mut weight = noise(6, &[3, 20]).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            weight[27] = bad;
            let matrix = Int8Matrix::new(&Tensor::from_vec(weight, (3, 20), &Device::Cpu).unwrap(), None).unwrap();
            let y = matrix.forward(&noise(7, &[1, 20])).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(y[0].iter().map(|y| y.is_nan()).collect::<Vec<_>>(), [false, true, false], "a weight of {bad}");
        }
    }

    #[test]
    fn a_sum_that_could_leave_32_bits_is_refused() {
        let weight = |inputs| Tensor::zeros((1, inputs), candle_core::DType::F32, &Device::Cpu).unwrap();
        Int8Matrix::new(&weight(MOST_INPUTS), None).unwrap();
        let error = Int8Matrix::new(&weight(MOST_INPUTS + 1), None).unwrap_err();
        assert!(error.to_string().contains("66312") && error.find_hint().is_some(), "{error}");
    }

    /// The least numbers there are have an inverse beyond all numbers.
    #[test]
    fn weights_next_to_nothing_stay_within_their_range() {
        let weight = Tensor::new(&[[f32::MIN_POSITIVE, -f32::MIN_POSITIVE, 1e-45, 0.0]], &Device::Cpu).unwrap();
        let matrix = Int8Matrix::new(&weight, None).unwrap();
        assert!(matrix.packed.iter().all(|w| *w >= -127), "{:?}", &matrix.packed[..4]);
        let y = matrix.forward(&noise(8, &[1, 4])).unwrap().to_vec2::<f32>().unwrap();
        assert!(y[0][0].abs() < 1e-36, "{y:?}");
    }
}
