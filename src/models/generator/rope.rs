//! Rotary frequencies of a decoder, and the cosines and sines of the tokens of a batch.
//!
//! N tokens, R numbers of a head that are rotated. Only `models::nn` turns vectors by them.

use std::f64::consts::PI;

use candle_core::{Device, Tensor};

use super::config::{GeneratorConfig, Rotation};
use super::scaling::RopeScaling;
use crate::error::Result;

/// The frequencies of a model: those of most layers, and those of layers with [`Rotation::Local`].
#[derive(Clone, Debug)]
pub(in crate::models) struct Rope {
    global: Frequencies,
    local: Option<Frequencies>,
}

/// Inverse frequencies, one for each pair of rotated numbers.
#[derive(Clone, Debug)]
struct Frequencies {
    inverse: Vec<f32>,
    /// Those of sequences with more tokens than this.
    beyond: Option<(usize, Vec<f32>)>,
    /// What cosines and sines are multiplied by.
    magnitude: f32,
}

/// A token as rotations see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::models) struct Place {
    /// Its place in its sequence, from 0.
    pub position: usize,
    /// Tokens of its sequence.
    pub length: usize,
}

/// Cosines and sines of N tokens, each (N, R/2).
#[derive(Clone, Debug)]
pub(in crate::models) struct Angles {
    pub cos: Tensor,
    pub sin: Tensor,
}

/// The angles of a batch for every kind of layer that the model has.
#[derive(Clone, Debug)]
pub(in crate::models) struct Tables {
    global: Angles,
    local: Option<Angles>,
}

impl Tables {
    /// The angles of a layer, where it rotates at all.
    pub fn of(&self, rotation: Rotation) -> Option<&Angles> {
        match rotation {
            Rotation::None => None,
            Rotation::Global => Some(&self.global),
            Rotation::Local => self.local.as_ref(),
        }
    }
}

impl Rope {
    /// `theta^(-2i/R)`, stretched as the configuration says; in f32 like transformers, whose long sequences it must match.
    pub fn new(config: &GeneratorConfig) -> Self {
        let global = Frequencies::new(config.rope_theta, config.rotary, &config.rope_scaling);
        let local = config.kinds.iter().any(|kind| kind.rotation == Rotation::Local);
        let local = local.then(|| Frequencies::new(config.rope_local_theta, config.rotary, &RopeScaling::None));
        Self { global, local }
    }

    /// The angles of these tokens.
    pub fn tables(&self, places: &[Place], device: &Device) -> Result<Tables> {
        let local = match &self.local {
            Some(frequencies) => Some(frequencies.angles(places, device)?),
            None => None,
        };
        Ok(Tables { global: self.global.angles(places, device)?, local })
    }

    /// Whether a sequence that grows from `before` to `after` tokens is rotated anew from its beginning.
    pub fn changes(&self, before: usize, after: usize) -> bool {
        self.global.beyond.as_ref().is_some_and(|(limit, _)| (before > *limit) != (after > *limit))
    }
}

impl Frequencies {
    fn new(theta: f64, rotary: usize, scaling: &RopeScaling) -> Self {
        let plain: Vec<f32> =
            (0..rotary / 2).map(|index| 1.0 / (theta as f32).powf((2 * index) as f32 / rotary as f32)).collect();
        let divided = |divisors: &[f64]| -> Vec<f32> {
            plain.iter().zip(divisors).map(|(inverse, by)| inverse / *by as f32).collect()
        };
        let (inverse, beyond, magnitude) = match scaling {
            RopeScaling::None => (plain, None, 1.0),
            RopeScaling::Linear { factor } => (divided(&vec![*factor; plain.len()]), None, 1.0),
            RopeScaling::Llama3 { factor, low_frequency, high_frequency, original } => {
                let stretch = |inverse| llama3(inverse, *factor, *low_frequency, *high_frequency, *original);
                (plain.into_iter().map(stretch).collect(), None, 1.0)
            }
            RopeScaling::Yarn { factor, magnitude, beta_fast, beta_slow, original, truncate } => {
                let ends = yarn_ramp(theta, rotary, *original, (*beta_fast, *beta_slow), *truncate);
                let stretch = |(index, inverse): (usize, f32)| {
                    let divided = ((index as f32 - ends.0) / (ends.1 - ends.0)).clamp(0.0, 1.0);
                    inverse / *factor as f32 * divided + inverse * (1.0 - divided)
                };
                (plain.into_iter().enumerate().map(stretch).collect(), None, *magnitude)
            }
            RopeScaling::LongRope { short, long, original, magnitude } => {
                (divided(short), Some((*original, divided(long))), *magnitude)
            }
        };
        Self { inverse, beyond, magnitude: magnitude as f32 }
    }

    fn angles(&self, places: &[Place], device: &Device) -> Result<Angles> {
        let half = self.inverse.len();
        let mut cos = Vec::with_capacity(places.len() * half);
        let mut sin = Vec::with_capacity(places.len() * half);
        for place in places {
            for frequency in self.of_length(place.length) {
                let angle = place.position as f32 * frequency;
                cos.push(angle.cos() * self.magnitude);
                sin.push(angle.sin() * self.magnitude);
            }
        }
        let shape = (places.len(), half);
        Ok(Angles { cos: Tensor::from_vec(cos, shape, device)?, sin: Tensor::from_vec(sin, shape, device)? })
    }

    fn of_length(&self, length: usize) -> &[f32] {
        match &self.beyond {
            Some((limit, long)) if length > *limit => long,
            _ => &self.inverse,
        }
    }
}

/// The stretched frequency of Llama 3.1.
fn llama3(inverse: f32, factor: f64, low_frequency: f64, high_frequency: f64, original: f64) -> f32 {
    let wavelength = 2.0 * PI / f64::from(inverse);
    if wavelength < original / high_frequency {
        inverse
    } else if wavelength > original / low_frequency {
        inverse / factor as f32
    } else {
        let smooth = (original / wavelength - low_frequency) / (high_frequency - low_frequency);
        ((1.0 - smooth) * f64::from(inverse) / factor + smooth * f64::from(inverse)) as f32
    }
}

/// The dimensions between which YaRN goes over from kept to divided frequencies (arXiv 2309.00071, equations 19 and 20).
fn yarn_ramp(theta: f64, rotary: usize, original: f64, betas: (f64, f64), truncate: bool) -> (f32, f32) {
    // The dimension that turns so many times within the original length.
    let turning = |turns: f64| rotary as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (turning(betas.0), turning(betas.1));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(rotary as f64 - 1.0));
    if low == high {
        high += 0.001; // as in transformers: no division by 0
    }
    (low as f32, high as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_takes_all_three_branches() {
        let stretch = |inverse| llama3(inverse, 8.0, 1.0, 4.0, 64.0);
        assert_eq!(stretch(1.0), 1.0);
        assert_eq!(stretch(0.05), 0.05 / 8.0);
        let between = stretch(0.2);
        assert!(between > 0.2 / 8.0 && between < 0.2, "{between}");
    }

    #[test]
    fn yarn_keeps_fast_frequencies_and_divides_slow_ones() {
        let scaling = RopeScaling::Yarn {
            factor: 4.0,
            magnitude: 1.5,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original: 4096.0,
            truncate: true,
        };
        let plain = Frequencies::new(1e4, 64, &RopeScaling::None);
        let yarn = Frequencies::new(1e4, 64, &scaling);
        let ratio = |index: usize| plain.inverse[index] / yarn.inverse[index];
        assert_eq!((ratio(0), ratio(31), yarn.magnitude), (1.0, 4.0, 1.5));
        assert!(ratio(16) > 1.0 && ratio(16) < 4.0, "{}", ratio(16));
    }

    #[test]
    fn longrope_has_other_frequencies_for_long_sequences() {
        let scaling =
            RopeScaling::LongRope { short: vec![1.0, 2.0], long: vec![4.0, 8.0], original: 3, magnitude: 2.0 };
        let frequencies = Frequencies::new(1e4, 4, &scaling);
        let angles = |length| frequencies.angles(&[Place { position: 1, length }], &Device::Cpu).unwrap();
        let cos = |length| angles(length).cos.to_vec2::<f32>().unwrap()[0][0];
        assert_eq!((cos(3), cos(4)), (2.0 * 1f32.cos(), 2.0 * 0.25f32.cos()));
        let rope = Rope { global: frequencies, local: None };
        assert!(rope.changes(3, 4) && !rope.changes(2, 3) && !rope.changes(4, 5));
    }
}
