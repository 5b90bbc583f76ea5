//! A linear map from stale vectors to live ones, fitted on pairs: W = I + (XᵀX + λI)⁻¹ Xᵀ(Y - X), ridge regression of how the
//! vectors moved, so that without evidence nothing moves. Mapped vectors are scaled to unit length again.
//!
//! X, Y: (S, D) rows of stale and live vectors of the same passages.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// λ as multiples of the mean of the diagonal of XᵀX; the one that predicts pairs best that it was not fitted on is taken.
const RIDGES: [f64; 5] = [1e-3, 1e-2, 1e-1, 1.0, 10.0];
/// One pair in so many is held back for that choice.
const HELD_BACK: usize = 8;
/// Vectors mapped at a time.
const BLOCK: usize = 8192;

/// A map of vectors of D numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    dim: usize,
    /// (D, D) row-major: a row vector v becomes v W.
    values: Vec<f32>,
}

impl Map {
    /// The map of these values, (D, D) row-major.
    pub fn new(values: Vec<f32>, dim: usize) -> Result<Self> {
        let finite = values.iter().filter(|value| value.is_finite()).count();
        if values.len() != dim * dim || finite != values.len() {
            return Err(Error::new(format!(
                "a map of vectors of {dim} numbers holds {} finite ones, and this one {} numbers of which {finite} are finite",
                dim * dim,
                values.len()
            ))
            .hint("a checkpoint that holds it is damaged: go on from an earlier one; else give a larger `--refresh-sample`"));
        }
        Ok(Self { dim, values })
    }

    /// Its values as a tensor (D, D).
    pub fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_vec(self.values.clone(), (self.dim, self.dim), &Device::Cpu)?)
    }

    /// Fits the map from `x` to `y`, both (S, D) row-major; two pairs at least.
    pub fn fit(x: &[f32], y: &[f32], dim: usize) -> Result<Self> {
        let pairs: Vec<(&[f32], &[f32])> = x.chunks_exact(dim).zip(y.chunks_exact(dim)).collect();
        if pairs.len() < 2 {
            return Err(Error::new(format!("a map needs two pairs of vectors at least, there are {}", pairs.len()))
                .hint("give a larger `--refresh-sample`"));
        }
        let held = |at: &usize| at % HELD_BACK.min(pairs.len()) == 1;
        let of = |wanted: bool| -> Vec<(&[f32], &[f32])> {
            pairs.iter().enumerate().filter(|(at, _)| held(at) == wanted).map(|(_, pair)| *pair).collect()
        };
        let (fitted, checked) = (of(false), of(true));
        let gram = products(&fitted, dim, |pair, i| f64::from(pair.0[i]));
        let moved = products(&fitted, dim, |pair, i| f64::from(pair.1[i]) - f64::from(pair.0[i]));
        let mean = (0..dim).map(|i| gram[i * dim + i]).sum::<f64>() / dim as f64;
        let mut best: Option<(f64, Map)> = None;
        for ridge in RIDGES {
            let mut left = gram.clone();
            (0..dim).for_each(|i| left[i * dim + i] += ridge * mean);
            let mut values = moved.clone();
            solve(&mut left, &mut values, dim)?;
            (0..dim).for_each(|i| values[i * dim + i] += 1.0);
            let map = Self { dim, values: values.into_iter().map(|value| value as f32).collect() };
            let error = map.error(&checked)?;
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, map));
            }
        }
        best.map(|(_, map)| map).ok_or_else(|| Error::new("no map of the vectors could be fitted"))
    }

    /// Maps vectors (N, D) row-major and scales each to unit length; one that would vanish stays as it is.
    pub fn apply(&self, vectors: &[f32]) -> Result<Vec<f32>> {
        let map = self.tensor()?;
        let mut mapped = Vec::with_capacity(vectors.len());
        for block in vectors.chunks(BLOCK * self.dim) {
            let rows = Tensor::from_slice(block, (block.len() / self.dim, self.dim), &Device::Cpu)?;
            mapped.extend(rows.matmul(&map)?.flatten_all()?.to_vec1::<f32>()?);
        }
        mapped.par_chunks_exact_mut(self.dim).zip(vectors.par_chunks_exact(self.dim)).for_each(|(row, was)| {
            let length = row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            match length.is_finite() && length > 1e-6 {
                true => row.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32),
                false => row.copy_from_slice(was),
            }
        });
        Ok(mapped)
    }

    /// Sum of the squared distances of mapped and true vectors.
    fn error(&self, pairs: &[(&[f32], &[f32])]) -> Result<f64> {
        let x: Vec<f32> = pairs.iter().flat_map(|pair| pair.0).copied().collect();
        let y = pairs.iter().flat_map(|pair| pair.1);
        let mapped = self.apply(&x)?;
        Ok(mapped.iter().zip(y).map(|(mapped, y)| (f64::from(*mapped) - f64::from(*y)).powi(2)).sum())
    }
}

/// Xᵀ Z, (D, D) row-major in f64, where Z holds what `of` gives of each pair.
fn products(pairs: &[(&[f32], &[f32])], dim: usize, of: impl Fn(&(&[f32], &[f32]), usize) -> f64 + Sync) -> Vec<f64> {
    let z: Vec<Vec<f64>> = pairs.iter().map(|pair| (0..dim).map(|i| of(pair, i)).collect()).collect();
    let row = |i: usize| {
        let mut sums = vec![0f64; dim];
        // Pairs in order, whatever thread computes the row.
        for (pair, z) in pairs.iter().zip(&z) {
            let x = f64::from(pair.0[i]);
            sums.iter_mut().zip(z).for_each(|(sum, z)| *sum += x * z);
        }
        sums
    };
    (0..dim).into_par_iter().map(row).collect::<Vec<_>>().concat()
}

/// Solves A X = B for A (D, D) symmetric and positive definite and B (D, D), both row-major, by Cholesky's decomposition; A
/// becomes its factor and B the solution.
fn solve(a: &mut [f64], b: &mut [f64], dim: usize) -> Result<()> {
    for i in 0..dim {
        for j in 0..=i {
            let (head, tail) = (&a[j * dim..j * dim + j], &a[i * dim..i * dim + j]);
            let rest = a[i * dim + j] - head.iter().zip(tail).map(|(p, q)| p * q).sum::<f64>();
            a[i * dim + j] = match i == j {
                true if rest > 0.0 && rest.is_finite() => rest.sqrt(),
                true => {
                    return Err(Error::new("the stale vectors do not determine a map: their products are singular"));
                }
                false => rest / a[j * dim + j],
            };
        }
    }
    // L Z = B, then Lᵀ X = Z, whole rows at a time.
    for i in 0..dim {
        let (done, row) = b.split_at_mut(i * dim);
        let row = &mut row[..dim];
        for (k, above) in done.chunks_exact(dim).enumerate() {
            let factor = a[i * dim + k];
            row.iter_mut().zip(above).for_each(|(value, above)| *value -= factor * above);
        }
        row.iter_mut().for_each(|value| *value /= a[i * dim + i]);
    }
    for i in (0..dim).rev() {
        let (row, done) = b.split_at_mut((i + 1) * dim);
        let row = &mut row[i * dim..];
        for (k, below) in done.chunks_exact(dim).enumerate() {
            let factor = a[(i + 1 + k) * dim + i];
            row.iter_mut().zip(below).for_each(|(value, below)| *value -= factor * below);
        }
        row.iter_mut().for_each(|value| *value /= a[i * dim + i]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn unit(rows: usize, dim: usize, seed: u64) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut values: Vec<f32> = (0..rows * dim).map(|_| random.random_range(-1f32..1.0)).collect();
        for row in values.chunks_exact_mut(dim) {
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.iter_mut().for_each(|value| *value /= length);
        }
        values
    }

    #[test]
    fn a_solution_solves() {
        let dim = 5;
        let x = unit(20, dim, 1);
        let pairs: Vec<(&[f32], &[f32])> = x.chunks_exact(dim).map(|row| (row, row)).collect();
        let gram = products(&pairs, dim, |pair, i| f64::from(pair.0[i]));
        let right: Vec<f64> = (0..dim * dim).map(|i| (i as f64).sin()).collect();
        let (mut factor, mut solution) = (gram.clone(), right.clone());
        solve(&mut factor, &mut solution, dim).unwrap();
        for i in 0..dim {
            for j in 0..dim {
                let product: f64 = (0..dim).map(|k| gram[i * dim + k] * solution[k * dim + j]).sum();
                assert!((product - right[i * dim + j]).abs() < 1e-9, "{i} {j}");
            }
        }
        assert!(solve(&mut vec![0.0; dim * dim], &mut solution, dim).is_err());
    }

    #[test]
    fn a_rotation_is_found_and_noise_alone_moves_little() {
        let (rows, dim) = (400, 6);
        let x = unit(rows, dim, 2);
        // A rotation of the first two axes.
        let (sin, cos) = 0.4f32.sin_cos();
        let turned = |row: &[f32]| {
            let mut out = row.to_vec();
            (out[0], out[1]) = (cos * row[0] - sin * row[1], sin * row[0] + cos * row[1]);
            out
        };
        let y: Vec<f32> = x.chunks_exact(dim).flat_map(turned).collect();
        let map = Map::fit(&x, &y, dim).unwrap();
        let (other, far) = (unit(50, dim, 3), |a: &[f32], b: &[f32]| {
            a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        });
        let truth: Vec<f32> = other.chunks_exact(dim).flat_map(turned).collect();
        let mapped = map.apply(&other).unwrap();
        assert!(far(&mapped, &truth) < 1e-3 * far(&other, &truth), "{} {}", far(&mapped, &truth), far(&other, &truth));
        for row in mapped.chunks_exact(dim) {
            assert!((row.iter().map(|value| value * value).sum::<f32>() - 1.0).abs() < 1e-5);
        }
        // The same vectors on both sides: the identity.
        let same = Map::fit(&x, &x, dim).unwrap();
        assert!(far(&same.apply(&other).unwrap(), &other) < 1e-9);
        assert_eq!(Map::new(map.values.clone(), dim).unwrap(), map);
        assert!(Map::fit(&x[..dim], &y[..dim], dim).is_err() && Map::new(vec![0.0; 3], 2).is_err());
    }
}
