//! Dropout (Srivastava et al. 2014, JMLR 15, in its inverted form) whose masks nobody keeps: whether a number is dropped is a
//! hash of where it stands, which the backward pass computes again.
//!
//! A mask is a pure function of (key, row number, place in the row). Row numbers come with the rows, so that a row has the
//! same mask in whatever batch, chunk or second pass it is computed, by any number of threads.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};

use super::kernel::{check, each_piece, floats, gradient, read_floats, rows_of, simd, wrong_shape};
use super::portable;
use crate::error::{Error, Result};

/// What is dropped at one place of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    rate: f64,
    key: u64,
    rows: Arc<[u64]>,
}

impl Dropout {
    /// Drops a share `rate` of the numbers (at least 0, below 1) by the mask of `key`; `rows` has a number for each row, and
    /// rows of the same number have the same mask.
    pub fn new(rate: f64, key: u64, rows: Arc<[u64]>) -> Result<Self> {
        if !(0.0..1.0).contains(&rate) {
            return Err(Error::new(format!("the dropout is `{rate}`, expected a share from 0 to below 1"))
                .hint("0.1 is usual, and 0 drops nothing"));
        }
        Ok(Self { rate, key, rows })
    }

    /// The same mask for some of the rows, chosen by their places.
    pub fn of_rows(&self, chosen: &[u32]) -> Self {
        let rows = chosen.iter().filter_map(|&row| self.rows.get(row as usize).copied());
        Self { rows: rows.collect(), ..*self }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Numbers whose hash is below this are dropped.
    fn threshold(&self) -> u32 {
        (self.rate * 2f64.powi(32)).round() as u32
    }

    /// What a number that stays is multiplied by.
    fn scale(&self) -> f32 {
        (1.0 / (1.0 - self.rate)) as f32
    }

    /// `x`, a row for each row number, with every number times its factor, 0 or 1 / (1 − rate).
    pub(super) fn apply(&self, x: &[f32], width: usize) -> Vec<f32> {
        let mut y = vec![0f32; x.len()];
        each_piece(&mut y, width, |first, y| {
            let rows = &self.rows[first..first + y.len() / width];
            let seeds: Vec<u64> = rows.iter().map(|&row| mix(self.key, row)).collect();
            factors(&seeds, 0, self.threshold(), self.scale(), y);
            multiply(y, &x[first * width..first * width + y.len()]);
        });
        y
    }

    /// The factors of attention probabilities of one head: a row for each of these queries, by their places among all rows,
    /// over these keys, by their places in the sequence.
    pub(super) fn of_scores(&self, head: usize, queries: Range<usize>, keys: Range<usize>, out: &mut Vec<f32>) {
        let seeds: Vec<u64> = self.rows[queries].iter().map(|&row| mix(mix(self.key, row), head as u64)).collect();
        out.resize(seeds.len() * keys.len(), 0.0);
        factors(&seeds, keys.start as u32, self.threshold(), self.scale(), out);
    }
}

/// The number `n` that SplitMix64 (Steele et al. 2014, OOPSLA) begun with `key` gives; for one key no two are equal.
pub fn mix(key: u64, n: u64) -> u64 {
    let mut z = key.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

simd! {
    /// The factors of rows side by side, as many as there are seeds; `first` is the place in its row of the first number.
    ///
    /// In 32 bits, so that a loop over it becomes vector code: two multiplications and three shifts, the low half of the row's
    /// seed before them and the high half between.
    fn factors(seeds: &[u64], first: u32, threshold: u32, scale: f32, out: &mut [f32]) {
        let width = out.len() / seeds.len().max(1);
        for (&seed, out) in seeds.iter().zip(out.chunks_exact_mut(width.max(1))) {
            let (low, high) = (seed as u32, (seed >> 32) as u32);
            for (place, out) in out.iter_mut().enumerate() {
                let mut h = low.wrapping_add(first.wrapping_add(place as u32).wrapping_mul(0x9E37_79B9));
                h = (h ^ (h >> 16)).wrapping_mul(0x21F0_AAAD);
                h = (h ^ (h >> 15)).wrapping_add(high).wrapping_mul(0xD35A_2D97);
                h ^= h >> 15;
                *out = if h < threshold { 0.0 } else { scale };
            }
        }
    }
}

simd! {
    pub(super) fn multiply(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y *= x;
        }
    }
}

/// `x` with every number times 0 (a share `rate` of them) or 1 / (1 − rate), which keeps its expectation.
///
/// `x` (..., D), as many rows of D numbers as the dropout has row numbers; result of the same shape. Gradient to `x` through
/// the same mask. NaN and infinity stay what they are: a dropped one is NaN.
pub fn dropout(x: &Tensor, how: &Dropout) -> Result<Tensor> {
    check("dropout", &[x])?;
    let (rows, _) = rows_of("dropout", x)?;
    if rows != how.rows() {
        return Err(wrong_shape("dropout", "rows", x.dims(), &format!("{} rows", how.rows())));
    }
    if portable::is_portable(x) {
        // The mask is made where its hash is, on the CPU.
        let width = x.dims().last().copied().unwrap_or(1);
        let factors = how.apply(&vec![1.0; x.elem_count()], width);
        return Ok((x * Tensor::from_vec(factors, x.dims(), x.device())?)?);
    }
    Ok(x.contiguous()?.apply_op1(how.clone())?)
}

/// Dropout inside a fused operation is not built for other devices than the CPU.
pub(super) fn refuse_on_device(what: &str, wanted: bool) -> Result<()> {
    if !wanted {
        return Ok(());
    }
    Err(Error::new(format!("dropout {what} is built for the CPU only"))
        .hint("train with `--dropout off` and `--lora-dropout 0` on this device, or on `--device cpu`"))
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let width = layout.shape().dims().last().copied().unwrap_or(1);
        let y = self.apply(floats(self.name(), x, layout)?, width);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let width = x.dims().last().copied().unwrap_or(1);
        gradient(read_floats(&dy.contiguous()?, |dy| self.apply(dy, width))?, x.shape())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// Which of `rows` × `width` numbers a mask keeps.
    fn kept(rate: f64, key: u64, rows: Range<u64>, width: usize) -> Vec<bool> {
        let how = Dropout::new(rate, key, rows.collect()).unwrap();
        how.apply(&vec![1.0; how.rows() * width], width).iter().map(|&y| y != 0.0).collect()
    }

    /// |share − expected| in standard deviations of a mean of `n` throws.
    fn deviations(hits: usize, n: usize, expected: f64) -> f64 {
        (hits as f64 / n as f64 - expected).abs() / (expected * (1.0 - expected) / n as f64).sqrt()
    }

    #[test]
    fn the_share_and_both_moments_are_those_of_throws_of_a_coin() {
        for (number, rate) in [0.01, 0.1, 0.3, 0.5, 0.9].into_iter().enumerate() {
            let n = 2000 * 333;
            let rows: Arc<[u64]> = (0..2000).map(|row| ((row / 50) << 32) | (row % 50)).collect();
            let how = Dropout::new(rate, mix(11, number as u64), rows).unwrap();
            let y = how.apply(&vec![1.0; n], 333);
            let dropped = y.iter().filter(|&&y| y == 0.0).count();
            assert!(deviations(dropped, n, rate) < 4.0, "{rate}: {dropped} of {n}");
            // y is 0 or 1/(1 − rate): mean 1, variance rate / (1 − rate).
            let mean = y.iter().map(|&y| f64::from(y)).sum::<f64>() / n as f64;
            let variance = y.iter().map(|&y| (f64::from(y) - 1.0).powi(2)).sum::<f64>() / n as f64;
            let expected = rate / (1.0 - rate);
            assert!((mean - 1.0).abs() < 4.0 * (expected / n as f64).sqrt(), "{rate}: mean {mean}");
            assert!((variance / expected - 1.0).abs() < 0.05, "{rate}: variance {variance}, expected {expected}");
        }
    }

    /// Two numbers a fixed step apart are kept together as often as two coins fall alike; so are two masks.
    #[test]
    fn neighbours_rows_and_keys_are_independent() {
        let (rate, rows, width) = (0.3, 1024, 512);
        let mask = kept(rate, 5, 0..rows as u64, width);
        let both = (1.0 - rate) * (1.0 - rate);
        for step in [1, 2, 3, 16, width, width + 1, 7 * width, 64 * width] {
            let n = mask.len() - step;
            let hits = (0..n).filter(|&at| mask[at] && mask[at + step]).count();
            assert!(deviations(hits, n, both) < 5.0, "step {step}: {hits} of {n}, expected {both}");
        }
        for other in [kept(rate, 6, 0..rows as u64, width), kept(rate, 5, rows as u64..2 * rows as u64, width)] {
            let hits = mask.iter().zip(&other).filter(|(a, b)| **a && **b).count();
            assert!(deviations(hits, mask.len(), both) < 4.0, "{hits}");
        }
        // By columns: no place of a row is favoured.
        for column in 0..width {
            let hits = (0..rows).filter(|row| mask[row * width + column]).count();
            assert!(deviations(hits, rows, 1.0 - rate) < 4.5, "column {column}: {hits}");
        }
    }

    #[test]
    fn a_mask_is_a_function_of_key_row_and_place() {
        let mask = kept(0.4, 9, 0..300, 100);
        assert_eq!(mask, kept(0.4, 9, 0..300, 100));
        assert_ne!(mask, kept(0.4, 8, 0..300, 100));
        // A row in another place, a narrower row, and one thread.
        assert_eq!(mask[200 * 100..], kept(0.4, 9, 200..300, 100));
        assert_eq!(mask[..60], kept(0.4, 9, 0..1, 60));
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(mask, single.install(|| kept(0.4, 9, 0..300, 100)));
        let how = Dropout::new(0.4, 9, (0..300).collect()).unwrap().of_rows(&[7, 250]);
        let some: Vec<bool> = how.apply(&[1.0; 200], 100).iter().map(|&y| y != 0.0).collect();
        assert_eq!(some, [&mask[700..800], &mask[25_000..25_100]].concat());
        // More is dropped of the same: a larger rate keeps no number that a smaller one drops.
        let more = kept(0.6, 9, 0..300, 100);
        assert!(mask.iter().zip(&more).all(|(few, many)| *few || !*many));
    }

    #[test]
    fn nothing_is_hidden_and_nonsense_is_refused() {
        let rows: Arc<[u64]> = [0, 1].into();
        let x = Var::from_tensor(&Tensor::full(f32::NAN, (2, 50), &Device::Cpu).unwrap()).unwrap();
        let y = dropout(&x, &Dropout::new(0.5, 1, Arc::clone(&rows)).unwrap()).unwrap();
        assert!(y.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().all(|y| y.is_nan()));
        let whole = dropout(&x.ones_like().unwrap(), &Dropout::new(0.0, 1, Arc::clone(&rows)).unwrap()).unwrap();
        assert_eq!(whole.sum_all().unwrap().to_scalar::<f32>().unwrap(), 100.0);
        for rate in [1.0, -0.1, f64::NAN] {
            let error = Dropout::new(rate, 1, Arc::clone(&rows)).unwrap_err();
            assert!(error.to_string().contains(&format!("`{rate}`")), "{error}");
        }
        let three = Tensor::ones((3, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        let error = dropout(&three, &Dropout::new(0.5, 1, rows).unwrap()).unwrap_err();
        assert!(error.to_string().contains("[3, 4], expected 2 rows"), "{error}");
    }
}
