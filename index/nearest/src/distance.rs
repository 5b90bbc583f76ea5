//! The one inner product. Everything that scores - exact search, graph building, graph search - calls it, so
//! that equal vectors give equal bits everywhere.

/// Partial sums kept side by side: eight 4-lane or four 8-lane registers.
const LANES: usize = 32;

/// Inner product of two vectors of equal length; the shorter length counts when they differ.
///
/// The order of the additions is fixed (32 strided partial sums, folded in halves, then the tail), and no multiply-add is
/// contracted, so the result is the same bits on every x86-64 and every other IEEE machine, whatever its vector width.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked whether it has AVX2, which is all that the function requires.
        return unsafe { dot_avx2(a, b) };
    }
    dot_lanes(a, b)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2(a: &[f32], b: &[f32]) -> f32 {
    dot_lanes(a, b)
}

#[inline(always)]
fn dot_lanes(a: &[f32], b: &[f32]) -> f32 {
    let length = a.len().min(b.len());
    let (a, a_tail) = a[..length].as_chunks::<LANES>();
    let (b, b_tail) = b[..length].as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = sums.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high.iter()) {
            *low += high;
        }
        width /= 2;
    }
    let tail: f32 = a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum();
    // A sum of +0 makes -0 into +0, so that equal scores also compare equal by their bits.
    sums[0] + tail + 0.0
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
            assert_eq!(dot(&a, &b).to_bits(), dot_lanes(&a, &b).to_bits(), "length {length}");
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
