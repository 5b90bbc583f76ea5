//! y = x · Wᵀ + b with both sides rounded to bf16 and sums in f32: half the memory of a frozen weight, and up to twice the
//! speed where the processor multiplies bf16 (AVX-512 BF16); with AVX2 about the speed of f32.
//!
//! bf16 is the upper half of an f32. Rounding is to the nearest, ties to even; sums run in f32, in an
//! order that depends on the kernel and never on how many rows or threads there are.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{check, check_on_cpu, floats, gradient, read_floats, simd, unwritten, with_values, wrong_shape};
use super::tiles::{LANES, Part, TILE_BLOCKS, TILE_ROWS, each_job};
use crate::error::Result;

/// A weight (Out, In) in bf16, packed for both directions; copies share it.
#[derive(Clone)]
pub struct Bf16Matrix {
    forward: Arc<Packed>,
    /// The transposed weight, where a backward pass will want it.
    backward: Option<Arc<Packed>>,
}

impl fmt::Debug for Bf16Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bf16 ({}, {})", self.forward.out, self.forward.input)
    }
}

impl Bf16Matrix {
    /// Whether this processor has a kernel for it; elsewhere a plain loop takes several times as long as f32.
    pub fn is_quick() -> bool {
        by_pairs() || by_floats()
    }

    /// Rounds `weight` (Out, In), f32. Without `gradients` the product has no backward pass and takes half the memory.
    pub fn new(weight: &Tensor, gradients: bool) -> Result<Self> {
        check_on_cpu("bf16 weights", weight)?;
        let (out, input) = match weight.dims() {
            &[out, input] if out > 0 && input > 0 => (out, input),
            got => return Err(wrong_shape("bf16 weights", "a weight", got, "(out, in)")),
        };
        with_values(weight, |weight| Self {
            forward: Arc::new(Packed::new(out, input, |o, i| weight[o * input + i])),
            backward: gradients.then(|| Arc::new(Packed::new(input, out, |i, o| weight[o * input + i]))),
        })
    }

    /// (Out, In).
    pub fn dims(&self) -> (usize, usize) {
        (self.forward.out, self.forward.input)
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        2 * (self.forward.values.len() + self.backward.as_ref().map_or(0, |packed| packed.values.len()))
    }

    /// Hands the bytes of the rounded numbers to `visit`, as they are packed.
    pub fn visit_bytes(&self, visit: impl FnOnce(&[u8])) {
        let bytes: Vec<u8> = self.forward.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        visit(&bytes);
    }

    /// The rounded numbers, (Out, In) f32.
    pub fn widened(&self) -> Result<Tensor> {
        let (out, input) = self.dims();
        let values: Vec<f32> = (0..out * input).map(|at| self.forward.at(at / input, at % input)).collect();
        Ok(Tensor::from_vec(values, (out, input), &Device::Cpu)?)
    }

    pub(super) fn multiply(&self, x: &[f32]) -> Vec<f32> {
        self.forward.multiply(x)
    }

    pub(super) fn multiply_transposed(&self, dy: &[f32]) -> CandleResult<Vec<f32>> {
        match &self.backward {
            Some(backward) => Ok(backward.multiply(dy)),
            None => candle_core::bail!("bf16 product: the weight was packed for passes without gradients"),
        }
    }

    /// x (..., In) to (..., Out), plus `bias` (Out). Gradient to x, through the rounded weight and with the incoming gradient
    /// rounded too, and to the bias.
    pub fn forward(&self, x: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        check("bf16 product", &[x])?;
        let (out, input) = self.dims();
        if x.dims().last() != Some(&input) || x.elem_count() == 0 {
            return Err(wrong_shape("bf16 product", "input", x.dims(), &format!("(..., {input})")));
        }
        let y = x.contiguous()?.apply_op1(self.clone())?;
        let Some(bias) = bias else { return Ok(y) };
        if bias.dims() != [out] {
            return Err(wrong_shape("bf16 product", "a bias", bias.dims(), &format!("({out})")));
        }
        Ok(y.broadcast_add(bias)?)
    }
}

impl CustomOp1 for Bf16Matrix {
    fn name(&self) -> &'static str {
        "bf16 product"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let y = self.forward.multiply(floats(self.name(), x, layout)?);
        let mut shape = layout.shape().dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = self.forward.out;
        }
        Ok((CpuStorage::F32(y), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        gradient(read_floats(&dy.contiguous()?, |dy| self.multiply_transposed(dy))??, x.shape())
    }
}

/// Blocks of 16 outputs; in each, pairs of inputs; in each, 2 numbers of the first output, 2 of the second, ...
struct Packed {
    out: usize,
    input: usize,
    values: Vec<u16>,
}

impl Packed {
    fn new(out: usize, input: usize, weight: impl Fn(usize, usize) -> f32) -> Self {
        let (blocks, pairs) = (out.div_ceil(LANES), input.div_ceil(2));
        let mut values = vec![0; blocks * LANES * pairs * 2];
        for o in 0..out {
            for i in 0..input {
                values[place(o, i, pairs)] = round(weight(o, i));
            }
        }
        Self { out, input, values }
    }

    fn at(&self, o: usize, i: usize) -> f32 {
        widen(self.values[place(o, i, self.input.div_ceil(2))])
    }

    fn multiply(&self, x: &[f32]) -> Vec<f32> {
        let pairs = self.input.div_ceil(2);
        let mut y = unwritten(x.len() / self.input * self.out);
        each_job(&mut y, self.out, |rows, outputs, y| {
            let mut rounded = Rounded { values: vec![0; rows.len() * pairs * 2], wide: Vec::new() };
            let x = &x[rows.start * self.input..rows.end * self.input];
            for (x, rounded) in x.chunks_exact(self.input).zip(rounded.values.chunks_exact_mut(pairs * 2)) {
                round_row(x, &mut rounded[..self.input]);
            }
            if by_floats() {
                rounded.wide = vec![0.0; rounded.values.len()];
                widen_all(&rounded.values, &mut rounded.wide);
            }
            self.tiles(&rounded, rows, outputs, y);
        });
        y
    }

    fn tiles(&self, x: &Rounded, rows: Range<usize>, outputs: Range<usize>, mut y: Part<'_>) {
        let pairs = self.input.div_ceil(2);
        let padded = self.out.div_ceil(LANES) * LANES;
        let mut sums = [0f32; TILE_ROWS * TILE_BLOCKS * LANES];
        for first in outputs.step_by(TILE_BLOCKS * LANES) {
            let blocks = TILE_BLOCKS.min((padded - first) / LANES);
            let weights = &self.values[first * pairs * 2..(first + blocks * LANES) * pairs * 2];
            for row in (0..rows.len()).step_by(TILE_ROWS) {
                let count = TILE_ROWS.min(rows.len() - row);
                tile(x, row * pairs * 2..(row + count) * pairs * 2, weights, pairs, blocks, &mut sums);
                let own = first..(first + blocks * LANES).min(self.out);
                for (i, sums) in sums.chunks_exact(blocks * LANES).take(count).enumerate() {
                    y.row(rows.start + row + i, own.clone()).copy_from_slice(&sums[..own.len()]);
                }
            }
        }
    }
}

/// Where the weight of output `o` and input `i` lies.
#[inline(always)]
fn place(o: usize, i: usize, pairs: usize) -> usize {
    (o / LANES * pairs * LANES + i / 2 * LANES + o % LANES) * 2 + i % 2
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    if x.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded }
}

simd! {
    fn round_row(x: &[f32], rounded: &mut [u16]) {
        for (rounded, &x) in rounded.iter_mut().zip(x) {
            *rounded = round(x);
        }
    }
}

#[inline(always)]
fn widen(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

simd! {
    fn widen_all(values: &[u16], floats: &mut [f32]) {
        for (float, &value) in floats.iter_mut().zip(values) {
            *float = widen(value);
        }
    }
}

/// Rows of x as bf16, padded with 0 to whole pairs.
struct Rounded {
    values: Vec<u16>,
    /// The same as f32, where the processor multiplies no bf16.
    wide: Vec<f32>,
}

/// Whether the processor multiplies pairs of bf16.
fn by_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512bf16") && std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether it multiplies eight f32 at a time, and no bf16.
fn by_floats() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !by_pairs() && std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Sums of `own.len() / (2·pairs)` rows of `x` with `blocks` blocks of outputs; row by row into `sums`.
fn tile(x: &Rounded, own: Range<usize>, weights: &[u16], pairs: usize, blocks: usize, sums: &mut [f32]) {
    let rows = own.len() / (2 * pairs);
    assert!(weights.len() == blocks * pairs * LANES * 2 && sums.len() >= rows * blocks * LANES);
    #[cfg(target_arch = "x86_64")]
    if by_floats() {
        // SAFETY: the processor has what is asked for, and every length was checked just now.
        return unsafe { avx2::tile(&x.wide[own], weights, pairs, blocks, sums) };
    }
    let x = &x.values[own];
    #[cfg(target_arch = "x86_64")]
    if by_pairs() {
        // Ragged tiles at the edges go row by row, so that a row has the same bits wherever it stands.
        // SAFETY: the processor has what is asked for, and every length was checked just now.
        unsafe {
            match (rows == TILE_ROWS, blocks == TILE_BLOCKS) {
                (true, true) => tile_avx512::<TILE_ROWS, TILE_BLOCKS>(x, weights, pairs, sums),
                (false, true) => {
                    each_row(x, pairs, sums, blocks, |x, sums| tile_avx512::<1, TILE_BLOCKS>(x, weights, pairs, sums))
                }
                (_, false) => each_row(x, pairs, sums, blocks, |x, sums| {
                    let of_block = weights.chunks_exact(pairs * LANES * 2).zip(sums.chunks_exact_mut(LANES));
                    of_block.for_each(|(weights, sums)| tile_avx512::<1, 1>(x, weights, pairs, sums));
                }),
            }
        }
        return;
    }
    each_row(x, pairs, sums, blocks, |x, sums| {
        for (block, sums) in weights.chunks_exact(pairs * LANES * 2).zip(sums.chunks_exact_mut(LANES)) {
            sums.fill(0.0);
            for (x, w) in x.chunks_exact(2).zip(block.chunks_exact(LANES * 2)) {
                for (sum, w) in sums.iter_mut().zip(w.chunks_exact(2)) {
                    *sum += widen(x[0]) * widen(w[0]) + widen(x[1]) * widen(w[1]);
                }
            }
        }
    });
}

fn each_row(x: &[u16], pairs: usize, sums: &mut [f32], blocks: usize, work: impl Fn(&[u16], &mut [f32])) {
    for (x, sums) in x.chunks_exact(pairs * 2).zip(sums.chunks_exact_mut(blocks * LANES)) {
        work(x, sums);
    }
}

/// Sums of R rows with B blocks.
///
/// # Safety
/// `x` has R · pairs · 2 numbers, `weights` B · pairs · 32, `sums` at least R · B · 16.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_avx512<const R: usize, const B: usize>(x: &[u16], weights: &[u16], pairs: usize, sums: &mut [f32]) {
    use std::arch::x86_64::{
        __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut all = [[_mm512_setzero_ps(); B]; R];
    for pair in 0..pairs {
        // SAFETY: within `weights` and `x` by the lengths promised; both types are 64 bytes without invalid values.
        unsafe {
            let at = weights.as_ptr().add(pair * LANES * 2);
            let w: [__m512bh; B] = std::array::from_fn(|block| {
                std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(at.add(block * pairs * LANES * 2).cast()))
            });
            for (row, sums) in all.iter_mut().enumerate() {
                let two = x.as_ptr().add((row * pairs + pair) * 2).cast::<i32>().read_unaligned();
                let two = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(two));
                for (sum, w) in sums.iter_mut().zip(w) {
                    *sum = _mm512_dpbf16_ps(*sum, two, w);
                }
            }
        }
    }
    for (row, of_row) in all.iter().enumerate() {
        for (block, sum) in of_row.iter().enumerate() {
            // SAFETY: within `sums` by the length promised.
            unsafe { _mm512_storeu_ps(sums.as_mut_ptr().add((row * B + block) * LANES), *sum) };
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
    use candle_core::Var;

    fn rounded(t: &Tensor) -> Tensor {
        let values: Vec<f32> = t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        Tensor::from_vec(values.into_iter().map(|x| widen(round(x))).collect::<Vec<_>>(), t.dims(), &Device::Cpu)
            .unwrap()
    }

    /// Every shape of tile, both directions: the dense layer over rounded numbers.
    #[test]
    fn is_the_product_of_rounded_numbers() {
        for (rows, input, out) in [(64, 384, 48), (65, 384, 384), (3, 37, 17), (100, 50, 100), (1, 4, 1), (9, 64, 70)] {
            let (x, weight, bias) = (noise(1, &[rows, input]), noise(2, &[out, input]), noise(3, &[out]));
            let r = noise(4, &[rows, out]);
            let (x, bias) = (Var::from_tensor(&rounded(&x)).unwrap(), Var::from_tensor(&bias).unwrap());
            let grads = |y: &Tensor| (y * rounded(&r)).unwrap().sum_all().unwrap().backward().unwrap();
            let got = Bf16Matrix::new(&weight, true).unwrap().forward(&x, Some(&bias)).unwrap();
            let want = linear(&x, &rounded(&weight), Some(&bias)).unwrap();
            assert!(norm(&(&got - &want).unwrap()) < 1e-5 * norm(&want), "({rows}, {input}, {out})");
            let (got, want) = (grads(&got), grads(&want));
            for var in [&x, &bias] {
                let (got, want) = (got.get(var).unwrap(), want.get(var).unwrap());
                assert!(norm(&(got - want).unwrap()) < 1e-5 * norm(want), "({rows}, {input}, {out})");
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_wherever_it_stands() {
        // More rows than one job has, and every size of tile.
        let (x, weight) = (noise(4, &[70, 40]), noise(5, &[100, 40]));
        let matrix = Bf16Matrix::new(&weight, false).unwrap();
        let all = matrix.forward(&x, None).unwrap().to_vec2::<f32>().unwrap();
        for (row, all) in all.iter().enumerate() {
            let alone = matrix.forward(&x.narrow(0, row, 1).unwrap(), None).unwrap().to_vec2::<f32>().unwrap();
            assert_eq!(&alone[0], all, "row {row}");
        }
        let x = Var::from_tensor(&x).unwrap();
        let error = matrix.forward(&x, None).unwrap().sum_all().unwrap().backward().unwrap_err();
        assert!(error.to_string().contains("without gradients"), "{error}");
    }

    #[test]
    fn rounding_is_to_the_nearest_and_keeps_nan() {
        for (x, want) in [(1.0, 1.0), (1.003_906_2, 1.0), (1.011_718_7, 1.015_625), (-3.140_625, -3.140_625)] {
            assert_eq!(widen(round(x)), want);
        }
        assert!(widen(round(f32::NAN)).is_nan() && widen(round(f32::from_bits(0x7f80_0001))).is_nan());
        assert_eq!(widen(round(f32::INFINITY)), f32::INFINITY);
    }
}
