//! What the layers share: access to values, rows in parallel, sums in a fixed order, and `exp`.

use candle_core::{CpuStorage, DType, Device, Layout, Result as CandleResult, Shape, Storage, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Compiles a function three times, for every x86-64, for AVX2 with FMA and for AVX-512, and picks at run time.
///
/// All give the same bits: the body is the same arithmetic, which the compiler neither reorders nor contracts. Where it says
/// `mul_add` the widths of today's processors have an instruction, and others call a function: slow, but right.
macro_rules! simd {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn plain($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                #[allow(clippy::too_many_arguments)]
                fn wide($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments)]
                fn widest($($arg: $type),*) $(-> $out)? {
                    plain($($arg),*)
                }
                if $crate::models::nn::kernel::has_avx512() {
                    // SAFETY: the processor has what `widest` asks for.
                    return unsafe { widest($($arg),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has what `wide` asks for.
                    return unsafe { wide($($arg),*) };
                }
            }
            plain($($arg),*)
        }
    };
}
pub(super) use simd;

/// Whether the processor has the parts of AVX-512 that the loops are compiled for.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512dq")
        && std::arch::is_x86_feature_detected!("avx512vl")
}

/// A buffer of `length` numbers whose caller writes every one of them before any is read: zeroing what is overwritten anyway
/// would cost as much as an addition.
pub(super) fn unwritten(length: usize) -> Vec<f32> {
    let mut values: Vec<std::mem::MaybeUninit<f32>> = Vec::with_capacity(length);
    // SAFETY: within the capacity, and `MaybeUninit` may be uninitialised.
    unsafe { values.set_len(length) };
    let mut values = std::mem::ManuallyDrop::new(values);
    // SAFETY: the parts of a vector of the same layout; every bit pattern is an f32, and none is read before it is written.
    unsafe { Vec::from_raw_parts(values.as_mut_ptr().cast(), length, values.capacity()) }
}

/// Room for numbers that begins where a line of the cache does, used again and again.
#[derive(Default)]
pub(super) struct Aligned {
    values: Vec<f32>,
    start: usize,
    length: usize,
}

impl Aligned {
    /// Room for `length` numbers, which the caller writes before it reads them.
    pub fn take(&mut self, length: usize) -> &mut [f32] {
        if self.values.len() < length + LANES {
            self.values = unwritten(length + LANES);
            self.start = self.values.as_ptr().align_offset(LANES * size_of::<f32>()).min(LANES);
        }
        self.length = length;
        &mut self.values[self.start..self.start + length]
    }

    /// What was written.
    pub fn get(&self) -> &[f32] {
        &self.values[self.start..self.start + self.length]
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.start..self.start + self.length]
    }
}

/// Numbers one parallel piece of work should have: enough to hide the cost of handing it out.
const PIECE: usize = 1 << 14;

/// Rows of `width` numbers that make one piece of work; depends on nothing but the width.
pub(super) fn rows_per_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// Runs `work(first row, rows)` over pieces of `out`, in parallel.
pub(super) fn each_piece(out: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    let rows = rows_per_piece(width);
    if out.len() <= rows * width {
        return work(0, out);
    }
    out.par_chunks_mut(rows * width).enumerate().for_each(|(piece, part)| work(piece * rows, part));
}

/// Runs `work(first row, rows)` over pieces of two outputs whose rows belong together, in parallel.
pub(super) fn each_piece_of_two(
    one: (&mut [f32], usize),
    two: (&mut [f32], usize),
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = rows_per_piece(one.1.max(two.1));
    one.0
        .par_chunks_mut(rows * one.1)
        .zip(two.0.par_chunks_mut(rows * two.1))
        .enumerate()
        .for_each(|(piece, (a, b))| work(piece * rows, a, b));
}

/// Sums of `width` columns that `add(first row, row count, sums)` collects over `rows` rows: pieces in parallel, their
/// sums added in the order of the pieces.
pub(super) fn column_sums(rows: usize, width: usize, add: impl Fn(usize, usize, &mut [f32]) + Sync) -> Vec<f32> {
    // Pieces of many rows: each costs a buffer as wide as a row and one more addition at the end.
    let step = (4 * rows_per_piece(width)).max(64);
    let pieces: Vec<Vec<f32>> = (0..rows.div_ceil(step))
        .into_par_iter()
        .map(|piece| {
            let first = piece * step;
            let mut sums = vec![0f32; width];
            add(first, step.min(rows - first), &mut sums);
            sums
        })
        .collect();
    let mut pieces = pieces.into_iter();
    let mut total = pieces.next().unwrap_or_else(|| vec![0f32; width]);
    for piece in pieces {
        for (sum, part) in total.iter_mut().zip(&piece) {
            *sum += part;
        }
    }
    total
}

const LANES: usize = 16;

/// Σ f(a_i), in 16 lanes and then in the order of the lanes.
#[inline(always)]
pub(super) fn sum_by(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole, rest) = a.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane += f(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane += f(value);
    }
    fold(lanes, |x, y| x + y)
}

/// Σ f(a_i, b_i), in 16 lanes and then in the order of the lanes.
#[inline(always)]
pub(super) fn sum_by_two(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (whole_a, rest_a) = a.as_chunks::<LANES>();
    let (whole_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in whole_a.iter().zip(whole_b) {
        for lane in 0..LANES {
            lanes[lane] += f(a[lane], b[lane]);
        }
    }
    for ((lane, &a), &b) in lanes.iter_mut().zip(rest_a).zip(rest_b) {
        *lane += f(a, b);
    }
    fold(lanes, |x, y| x + y)
}

/// The largest number; NaN when there is one, −∞ when there is no number.
#[inline(always)]
pub(super) fn largest(a: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (whole, rest) = a.as_chunks::<LANES>();
    // Written so that a NaN on the right wins and a NaN on the left stays.
    let larger = |x: f32, y: f32| if x >= y || x.is_nan() { x } else { y };
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = larger(*lane, value);
    }
    fold(lanes, larger)
}

/// All lanes by `f`, halves on each other.
#[inline(always)]
pub(super) fn fold(lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    let mut lanes = lanes;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// eˣ for x ≤ 0 to one unit in the last place or so; 0 below −87.3 (where f32 has no normal number), NaN for NaN.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2 (Cody and Waite's two-part ln 2), then the Taylor series of eʳ to r⁷ (remainder
/// below 6·10⁻⁹ of the value), then 2ⁿ by its bits. No branch and no table, so that loops over it become vector code.
#[inline(always)]
pub(super) fn exp_of_negative(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it leaves the rounded integer in the low bits
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    const LOWEST: f32 = -87.3;
    let bounded = if x < LOWEST { LOWEST } else { x };
    let shifted = bounded.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, bounded));
    let mut series = 1.0 / 5040.0;
    for term in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        series = r.mul_add(series, term);
    }
    series = (r * r).mul_add(series, r) + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < LOWEST { 0.0 } else { series * power }
}

/// 1 / (1 + e⁻ˣ), without overflow on either side.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let e = exp_of_negative(-x.abs());
    let s = 1.0 / (1.0 + e);
    if x < 0.0 { e * s } else { s }
}

/// The values of a contiguous f32 argument of an operation.
pub(super) fn floats<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> CandleResult<&'a [f32]> {
    let CpuStorage::F32(values) = storage else {
        candle_core::bail!("{op}: expected f32, got another type");
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("{op}: expected a contiguous tensor"),
    }
}

/// The values of a contiguous u32 argument of an operation.
pub(super) fn ids<'a>(op: &'static str, storage: &'a CpuStorage, layout: &Layout) -> CandleResult<&'a [u32]> {
    let CpuStorage::U32(values) = storage else {
        candle_core::bail!("{op}: expected u32, got another type");
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("{op}: expected a contiguous tensor"),
    }
}

/// Hands the values of an f32 tensor, in row-major order, to `read`; from another device they are copied.
pub fn with_values<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    check("reading values", &[tensor])?;
    Ok(read_floats(&tensor.to_device(&Device::Cpu)?.contiguous()?, read)?)
}

/// [`with_values`] inside a backward pass, where the checks were made by the forward pass.
pub(super) fn read_floats<R>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> R) -> CandleResult<R> {
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(floats("reading values", storage, layout)?)),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// The ids of a contiguous u32 tensor; from another device they are copied.
pub(super) fn read_ids<R>(tensor: &Tensor, read: impl FnOnce(&[u32]) -> R) -> CandleResult<R> {
    let tensor = tensor.to_device(&Device::Cpu)?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(ids("reading ids", storage, layout)?)),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// A gradient made by a backward kernel.
pub(super) fn gradient(values: Vec<f32>, shape: &Shape) -> CandleResult<Option<Tensor>> {
    Ok(Some(Tensor::from_vec(values, shape, &Device::Cpu)?))
}

/// Refuses what the layers cannot compute: another type than f32.
pub(super) fn check(op: &str, tensors: &[&Tensor]) -> Result<()> {
    for tensor in tensors {
        if tensor.dtype() != DType::F32 {
            return Err(Error::new(format!("{op} got a tensor of type `{:?}`, expected f32", tensor.dtype())));
        }
    }
    Ok(())
}

/// Refuses ids that are not u32.
pub(super) fn check_ids(op: &str, tensor: &Tensor) -> Result<()> {
    if tensor.dtype() != DType::U32 {
        return Err(Error::new(format!("{op} got ids of type `{:?}`, expected u32", tensor.dtype())));
    }
    Ok(())
}

/// Refuses what a layer that is written for the CPU alone cannot compute: another type than f32, another device.
pub(super) fn check_on_cpu(op: &str, tensor: &Tensor) -> Result<()> {
    check(op, &[tensor])?;
    if tensor.device().is_cpu() {
        return Ok(());
    }
    Err(Error::new(format!("{op} got a tensor on `{:?}`, expected the CPU", tensor.device().location()))
        .hint("leave `--precision` out, or use `--device cpu`"))
}

/// The error of a wrong shape.
pub(super) fn wrong_shape(op: &str, what: &str, got: &[usize], expected: &str) -> Error {
    Error::new(format!("{op} got {what} of shape {got:?}, expected {expected}"))
}

/// Rows and width of a tensor seen as a matrix over its last dimension.
pub(super) fn rows_of(op: &str, x: &Tensor) -> Result<(usize, usize)> {
    match x.dims().last() {
        Some(&width) if x.elem_count() > 0 => Ok((x.elem_count() / width, width)),
        _ => Err(wrong_shape(op, "a tensor", x.dims(), "at least one row with at least one number")),
    }
}
