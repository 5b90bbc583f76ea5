//! The one inner product. Everything that scores - exact search, graph building, graph search - calls it, so
//! that equal vectors give equal bits everywhere.

use rayon::prelude::*;

use crate::lanes::{Lanes, Level, on_level, tile};

/// Inner product of two vectors of equal length; the shorter length counts when they differ.
///
/// The order of the additions is fixed and each multiplication is fused with its addition (see `lanes`), so the result is the
/// same bits on every IEEE machine, whatever its vector width.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    dot_on(Level::best(), a, b)
}

on_level! { fn dot_on(a: &[f32], b: &[f32]) -> f32 = dot_of }

/// # Safety
/// As for [`Lanes`].
#[inline(always)]
unsafe fn dot_of<L: Lanes>(a: &[f32], b: &[f32]) -> f32 {
    // SAFETY: the caller promised the processor; the shorter of the two is read.
    let [[product]] = unsafe { tile::<L, f32, 1, 1>([a.as_ptr()], [b.as_ptr()], a.len().min(b.len())) };
    product
}

/// The first of vectors (N, D) that is not finite, or whose length is off from 1 by more than `tolerance`, a small number. Runs on
/// all threads of rayon's pool.
pub fn not_of_length_one(vectors: &[f32], dim: usize, tolerance: f32) -> Option<usize> {
    let level = Level::best();
    vectors.par_chunks_exact(dim.max(1)).position_first(|vector| {
        let squared = dot_on(level, vector, vector);
        !squared.is_finite() || (squared - 1.0).abs() > 2.0 * tolerance
    })
}

/// Scales a vector to length one in place. Says why not when a value is not finite or the length is off by more than
/// `tolerance`.
pub fn normalize(vector: &mut [f32], tolerance: f64) -> std::result::Result<(), String> {
    if let Some((at, value)) = vector.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        return Err(format!("value {at} is `{value}`, a finite number was expected"));
    }
    let length = vector.iter().map(|value| f64::from(*value) * f64::from(*value)).sum::<f64>().sqrt();
    if (length - 1.0).abs() > tolerance {
        return Err(format!("it has length `{length:.6}`, 1 within {tolerance} was expected"));
    }
    for value in vector {
        *value = (f64::from(*value) / length) as f32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn dot_agrees_with_double_precision_at_every_length() {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
        for length in [0, 1, 3, 31, 32, 33, 64, 100, 384, 385] {
            let a: Vec<f32> = (0..length).map(|_| rng.random_range(-1.0..1.0)).collect();
            let b: Vec<f32> = (0..length).map(|_| rng.random_range(-1.0..1.0)).collect();
            let expected: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(dot(&a, &b)) - expected).abs() < 1e-5, "length {length}");
            assert_eq!(dot(&a, &b).to_bits(), dot(&b, &a).to_bits(), "length {length}");
        }
    }

    #[test]
    fn normalize_mends_rounding_and_refuses_the_rest() {
        let mut close = [0.6004, 0.8];
        normalize(&mut close, 1e-3).unwrap();
        assert!((dot(&close, &close) - 1.0).abs() < 1e-6);
        for bad in [[0.0, 0.0], [2.0, 0.0], [f32::NAN, 1.0], [f32::INFINITY, 0.0]] {
            assert!(normalize(&mut bad.clone(), 1e-3).is_err(), "{bad:?}");
        }
    }
}
