//! Vectors from files, and times.

use std::fs;
use std::path::Path;

use ragtune_nearest::Aligned;
use rand::{RngExt, SeedableRng};

use crate::arguments::Arguments;

/// Passages (N, D) and questions (B, D), row-major, of length one.
pub struct Data {
    pub dim: usize,
    pub passages: Aligned<f32>,
    pub questions: Vec<f32>,
}

impl Data {
    /// Reads both, and repeats passages as asked.
    pub fn read(arguments: &Arguments) -> Result<Self, String> {
        let dim = arguments.dim;
        let real = floats(&arguments.vectors.join("passages.f32"), dim)?;
        let questions = floats(&arguments.vectors.join("questions.f32"), dim)?;
        let wanted = if arguments.passages == 0 { real.len() / dim } else { arguments.passages };
        let mut passages = Aligned::zeros(wanted * dim);
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
        // Noise of this length, evenly in all directions: its values have this deviation.
        let each = arguments.noise / (dim as f32).sqrt() * 3f32.sqrt();
        for (at, (row, from)) in passages.chunks_exact_mut(dim).zip(real.chunks_exact(dim).cycle()).enumerate() {
            row.copy_from_slice(from);
            if at * dim >= real.len() {
                row.iter_mut().for_each(|value| *value += rng.random_range(-each..each));
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                row.iter_mut().for_each(|value| *value /= length);
            }
        }
        Ok(Self { dim, passages, questions })
    }

    pub fn len(&self) -> usize {
        self.passages.len() / self.dim
    }

    pub fn asked(&self) -> usize {
        self.questions.len() / self.dim
    }
}

fn floats(path: &Path, dim: usize) -> Result<Vec<f32>, String> {
    let bytes = fs::read(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || numbers.is_empty() || numbers.len() % dim != 0 {
        return Err(format!("`{}` has {} bytes, rows of {dim} float32 were expected", path.display(), bytes.len()));
    }
    Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

/// What one width of the beam reached.
#[derive(Default)]
pub struct Measured {
    pub recall: f64,
    /// Seconds of each pass over all questions.
    pub wall: Vec<f64>,
    /// Seconds that the processor worked for the first thread in each.
    pub cpu: Vec<f64>,
}

/// Seconds that the processor has worked for this thread; 0 where the system does not say.
#[cfg(target_os = "linux")]
pub fn cpu_seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock writes into a time that is there.
    match unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) } {
        0 => time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9,
        _ => 0.0,
    }
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub fn cpu_seconds() -> f64 {
    0.0
}

/// Resident memory in bytes; 0 where the system does not say.
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

pub fn json_list(values: &[f64]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:.6}")).collect();
    format!("[{}]", values.join(", "))
}
