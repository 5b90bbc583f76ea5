//! How sure a mean or a difference of means is: percentile bootstrap over questions (Efron 1979; paired, as Koehn 2004).
//!
//! Randomness is ChaCha8 from the seed, one stream for each block of resamples: the same numbers with any number of threads.

use crate::error::{Error, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Resamples that give the 95 % bounds two stable digits.
pub const RESAMPLES: usize = 10_000;

/// Resamples drawn from one random stream.
const BLOCK: usize = 250;

/// A mean and the bounds between which it lies in 95 % of the resamples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean itself, in the unit of the values.
    pub mean: f64,
    /// The 2.5th percentile of the resampled means.
    pub low: f64,
    /// The 97.5th percentile of the resampled means.
    pub high: f64,
}

/// The mean of paired differences, with its interval.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// Mean of `b - a`, with its 95 % bounds.
    #[serde(flatten)]
    pub interval: Interval,
    /// Twice the share of resampled differences on the far side of zero (zero included, one resample added to both), at
    /// most 1: how often chance in the choice of questions alone would turn the sign. It reads like a p-value; no
    /// correction for many comparisons is made.
    pub sign_risk: f64,
}

impl Difference {
    /// Whether zero lies outside the 95 % bounds.
    pub fn is_clear(&self) -> bool {
        self.interval.low > 0.0 || self.interval.high < 0.0
    }
}

/// Mean of N values with its 95 % percentile bootstrap interval over `resamples` resamples.
///
/// # Errors
/// When there is no value, a value is not finite, or `resamples` is 0.
pub fn mean_interval(values: &[f64], resamples: usize, seed: u64) -> Result<Interval> {
    let found = bootstrap(&[values], resamples, seed)?;
    Ok(found.first().map(|found| found.interval).unwrap_or_default())
}

/// Difference of the means of two systems on the same N questions, in the same order: `b - a`, questions resampled in pairs.
///
/// # Errors
/// When the lengths differ, there is no value, a value is not finite, or `resamples` is 0.
pub fn paired_bootstrap(a: &[f64], b: &[f64], resamples: usize, seed: u64) -> Result<Difference> {
    if a.len() != b.len() {
        let message = format!("{} scores cannot be paired with {}, expected the same questions", a.len(), b.len());
        return Err(Error::new(message));
    }
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    let found = bootstrap(&[&differences], resamples, seed)?;
    Ok(found.first().copied().unwrap_or_default())
}

/// [`mean_interval`] and the risk of its sign for many columns of values (or of paired differences) at once: the drawing
/// of questions, which costs most, is shared between columns of one length. The result for a column is the same as alone.
///
/// # Errors
/// When a column holds no value or one that is not finite, or `resamples` is 0.
pub fn bootstrap(columns: &[&[f64]], resamples: usize, seed: u64) -> Result<Vec<Difference>> {
    for column in columns {
        check(column, resamples)?;
    }
    let mut by_length: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (place, column) in columns.iter().enumerate() {
        by_length.entry(column.len()).or_default().push(place);
    }
    let mut found = vec![Difference::default(); columns.len()];
    for places in by_length.values() {
        let alike: Vec<&[f64]> = places.iter().filter_map(|&place| columns.get(place).copied()).collect();
        let means = resampled_means(&alike, resamples, seed);
        for ((&place, column), means) in places.iter().zip(&alike).zip(means) {
            if let Some(slot) = found.get_mut(place) {
                *slot = describe(column, means);
            }
        }
    }
    Ok(found)
}

/// The arithmetic mean; `None` of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation over `n - 1`; `None` of fewer than two values.
pub fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values).filter(|_| values.len() > 1)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

fn check(values: &[f64], resamples: usize) -> Result<()> {
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::new(format!("a score is `{value}`, expected a finite number")));
    }
    if values.is_empty() || resamples == 0 || u32::try_from(values.len()).is_err() {
        let message =
            format!("{} scores and {resamples} resamples give no interval, expected at least 1", values.len());
        return Err(Error::new(message));
    }
    Ok(())
}

/// For each of C columns of one length N, the means of `resamples` samples of N values drawn with replacement.
fn resampled_means(columns: &[&[f64]], resamples: usize, seed: u64) -> Vec<Vec<f64>> {
    let (width, count) = (columns.len(), columns.first().map_or(0, |column| column.len()));
    // (N, C): a draw adds one contiguous row, which the compiler vectorises. Each column is still summed in draw order.
    let rows: Vec<f64> =
        (0..count).flat_map(|row| columns.iter().filter_map(move |column| column.get(row))).copied().collect();
    let blocks: Vec<Vec<f64>> = (0..resamples.div_ceil(BLOCK))
        .into_par_iter()
        .map(|block| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(block as u64);
            let size = BLOCK.min(resamples - block * BLOCK);
            let mut sums = vec![0.0; size * width];
            for sums in sums.chunks_exact_mut(width) {
                for _ in 0..count {
                    // The high half of a product is below `count`; its bias is at most count / 2^32.
                    let row = ((u64::from(random.next_u32()) * count as u64) >> 32) as usize;
                    let row = rows.get(row * width..(row + 1) * width).unwrap_or_default();
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            }
            sums
        })
        .collect();
    let mean_of =
        |column: usize| blocks.iter().flatten().skip(column).step_by(width).map(|sum| sum / count as f64).collect();
    (0..width).map(mean_of).collect()
}

/// The interval of a column and the risk of its sign, from its resampled means.
fn describe(values: &[f64], mut means: Vec<f64>) -> Difference {
    let share = |count: usize| (count + 1) as f64 / (means.len() + 1) as f64;
    let below = share(means.iter().filter(|&&mean| mean <= 0.0).count());
    let above = share(means.iter().filter(|&&mean| mean >= 0.0).count());
    let sign_risk = (2.0 * below.min(above)).min(1.0);
    means.sort_by(f64::total_cmp);
    let mean = mean(values).unwrap_or_default();
    Difference {
        interval: Interval { mean, low: percentile(&means, 0.025), high: percentile(&means, 0.975) },
        sign_risk,
    }
}

/// Linear interpolation between the closest ranks of a sorted list.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or_default();
    let (low, high) = (at(place.floor()), at(place.ceil()));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fixed sequence without a random generator: the fractional parts of multiples of the golden ratio.
    fn sequence(n: usize, scale: f64) -> Vec<f64> {
        (0..n).map(|i| (i as f64 * 0.618_033_988_749_895).fract() * scale).collect()
    }

    #[test]
    fn the_interval_of_a_mean_is_as_wide_as_theory_says() {
        let values = sequence(900, 1.0);
        let found = mean_interval(&values, RESAMPLES, 7).unwrap();
        // The normal approximation: 1.96 standard errors to either side.
        let error = 1.96 * deviation(&values).unwrap() / 30.0;
        assert!((found.mean - 0.5).abs() < 1e-3);
        assert!((found.mean - found.low - error).abs() < 0.08 * error, "{found:?}");
        assert!((found.high - found.mean - error).abs() < 0.08 * error, "{found:?}");
    }

    #[test]
    fn the_interval_covers_the_truth_about_95_times_in_100() {
        // Bernoulli samples from a generator that is not the bootstrap's: mean 0.3, 200 questions, 400 experiments.
        let mut random = ChaCha8Rng::seed_from_u64(1234);
        let mut covered = 0;
        for experiment in 0..400 {
            let sample: Vec<f64> =
                (0..200).map(|_| f64::from(u8::from(random.next_u32() < (0.3 * 4_294_967_296.0) as u32))).collect();
            let found = mean_interval(&sample, 500, experiment).unwrap();
            covered += u32::from(found.low <= 0.3 && 0.3 <= found.high);
        }
        assert!((364..=394).contains(&covered), "{covered} of 400");
    }

    #[test]
    fn pairing_removes_what_both_share() {
        let a = sequence(400, 10.0);
        let b: Vec<f64> = a.iter().zip(sequence(400, 0.2)).map(|(a, noise)| a + 0.05 + noise).collect();
        let paired = paired_bootstrap(&a, &b, 2000, 3).unwrap();
        assert!((paired.interval.mean - 0.15).abs() < 2e-3);
        assert!(paired.is_clear() && paired.sign_risk < 0.002);
        let (alone_a, alone_b) = (mean_interval(&a, 2000, 3).unwrap(), mean_interval(&b, 2000, 3).unwrap());
        assert!(alone_a.high > alone_b.low, "unpaired intervals overlap, so the pairing is what shows the difference");
    }

    #[test]
    fn swapping_the_systems_turns_the_sign_and_nothing_else() {
        let (a, b) = (sequence(123, 1.0), sequence(123, 1.3));
        let there = paired_bootstrap(&a, &b, 1000, 5).unwrap();
        let back = paired_bootstrap(&b, &a, 1000, 5).unwrap();
        assert_eq!(there.interval.mean, -back.interval.mean);
        assert!((there.interval.low + back.interval.high).abs() < 1e-12);
        assert_eq!(there.sign_risk, back.sign_risk);
    }

    #[test]
    fn equal_systems_do_not_differ() {
        let a = sequence(50, 1.0);
        let same = paired_bootstrap(&a, &a, 100, 0).unwrap();
        assert_eq!(same.interval, Interval::default());
        assert_eq!(same.sign_risk, 1.0);
        assert!(!same.is_clear());
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_with_any_number_of_threads() {
        let values = sequence(77, 1.0);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| mean_interval(&values, 1234, 9).unwrap())
        };
        assert_eq!(with(1), with(5));
        assert_ne!(mean_interval(&values, 1234, 9).unwrap(), mean_interval(&values, 1234, 10).unwrap());
    }

    #[test]
    fn many_columns_at_once_give_what_each_gives_alone() {
        let (a, b, c) = (sequence(70, 1.0), sequence(70, 2.0), sequence(31, 1.0));
        let together = bootstrap(&[&a, &c, &b], 600, 4).unwrap();
        for (column, found) in [&a, &c, &b].into_iter().zip(together) {
            assert_eq!(mean_interval(column, 600, 4).unwrap(), found.interval);
        }
        assert!(bootstrap(&[&a, &[]], 600, 4).is_err());
    }

    #[test]
    fn what_has_no_interval_is_refused() {
        let message = |result: Result<Interval>| result.unwrap_err().to_string();
        assert!(message(mean_interval(&[], 10, 0)).starts_with("0 scores"));
        assert!(message(mean_interval(&[1.0], 0, 0)).contains("0 resamples"));
        assert!(message(mean_interval(&[1.0, f64::NAN], 10, 0)).contains("`NaN`"));
        let unequal = paired_bootstrap(&[1.0], &[1.0, 2.0], 10, 0).unwrap_err();
        assert_eq!(unequal.to_string(), "1 scores cannot be paired with 2, expected the same questions");
    }

    #[test]
    fn percentiles_interpolate_between_ranks() {
        let sorted = [0.0, 10.0, 20.0, 30.0, 40.0];
        assert_eq!(percentile(&sorted, 0.0), 0.0);
        assert_eq!(percentile(&sorted, 0.5), 20.0);
        assert_eq!(percentile(&sorted, 0.975), 39.0);
        assert_eq!(percentile(&sorted, 1.0), 40.0);
        assert_eq!(deviation(&[1.0, 3.0]), Some(2f64.sqrt()));
        assert_eq!(deviation(&[1.0]), None);
        assert_eq!(mean(&[]), None);
    }
}
