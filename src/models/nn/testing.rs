//! What the tests of layers share.

use candle_core::{Device, Tensor};
use rand::{RngExt, SeedableRng};

/// Pseudo-random numbers in [−1, 1), the same on every machine.
pub fn noise(seed: u64, shape: &[usize]) -> Tensor {
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| random.random_range(-1.0..1.0)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// √Σ t².
pub fn norm(t: &Tensor) -> f32 {
    t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
}
