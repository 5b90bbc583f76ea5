//! Rotary frequencies of a generator and their cosines and sines.
//!
//! T positions, Dh width of a head. Only `models/nn.rs` turns vectors by them; decoding turns single positions.

use std::f64::consts::PI;

use super::config::{GeneratorConfig, RopeScaling};

/// Inverse frequencies, one for each pair of a head's dimensions.
#[derive(Clone, Debug)]
pub struct Rope {
    inverse: Vec<f32>,
}

impl Rope {
    /// `theta^(-2i/Dh)`, stretched as the configuration says; in f32 like transformers, whose long sequences it must match.
    pub fn new(config: &GeneratorConfig) -> Self {
        let width = config.head_dim;
        let inverse = (0..width / 2).map(|index| {
            let exponent = (2 * index) as f32 / width as f32;
            let plain = 1.0 / (config.rope_theta as f32).powf(exponent);
            stretch(plain, config.rope_scaling)
        });
        Self { inverse: inverse.collect() }
    }

    /// Cosines and sines of the positions `start .. start + count`: each (count, Dh/2) in row order.
    pub fn tables(&self, start: usize, count: usize) -> (Vec<f32>, Vec<f32>) {
        let mut cos = Vec::with_capacity(count * self.inverse.len());
        let mut sin = Vec::with_capacity(count * self.inverse.len());
        for position in start..start + count {
            for frequency in &self.inverse {
                let angle = position as f32 * frequency;
                cos.push(angle.cos());
                sin.push(angle.sin());
            }
        }
        (cos, sin)
    }
}

fn stretch(inverse: f32, scaling: RopeScaling) -> f32 {
    match scaling {
        RopeScaling::None => inverse,
        RopeScaling::Linear { factor } => inverse / factor as f32,
        RopeScaling::Llama3 { factor, low_frequency, high_frequency, original } => {
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_takes_all_three_branches() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low_frequency: 1.0, high_frequency: 4.0, original: 64.0 };
        assert_eq!(stretch(1.0, scaling), 1.0);
        assert_eq!(stretch(0.05, scaling), 0.05 / 8.0);
        let between = stretch(0.2, scaling);
        assert!(between > 0.2 / 8.0 && between < 0.2, "{between}");
    }

    #[test]
    fn tables_begin_at_the_asked_position() {
        let rope = Rope { inverse: vec![1.0, 0.5] };
        let (all, _) = rope.tables(0, 4);
        let (late, _) = rope.tables(2, 2);
        assert_eq!(all[4..], late[..]);
        assert_eq!(late[1], 1f32.cos());
    }
}
