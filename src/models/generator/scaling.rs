//! How rotary frequencies are stretched: the `rope_scaling` (or newer `rope_parameters`) of `config.json`.

use super::reader::Reader;
use crate::error::{Error, Result};

/// The kinds of scaling, by their `rope_type`.
const KINDS: &str = "default, linear, dynamic, yarn, longrope, llama3";

/// How rotary frequencies are stretched beyond the lengths of pretraining.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained. `dynamic` scaling is this too: it changes frequencies beyond the position limit only, which no sequence
    /// passes here.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by `factor`, short ones kept, interpolation between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original / low` count as long.
        low_frequency: f64,
        /// Wavelengths below `original / high` count as short.
        high_frequency: f64,
        /// Positions of the pretraining.
        original: f64,
    },
    /// YaRN (Peng et al., arXiv 2309.00071): frequencies that turn often kept, those that turn seldom divided by `factor`,
    /// a ramp over the dimensions between.
    Yarn {
        /// The divisor.
        factor: f64,
        /// What cosines and sines are multiplied by.
        magnitude: f64,
        /// Turns within the original length above which a frequency is kept.
        beta_fast: f64,
        /// Turns within the original length below which it is divided.
        beta_slow: f64,
        /// Positions of the pretraining.
        original: f64,
        /// Whether the ends of the ramp are whole dimensions.
        truncate: bool,
    },
    /// LongRoPE (Ding et al., arXiv 2402.13753): a divisor for each frequency, other ones for sequences beyond the
    /// original length.
    LongRope {
        /// R/2 divisors of sequences up to `original`.
        short: Vec<f64>,
        /// R/2 divisors of longer sequences.
        long: Vec<f64>,
        /// Positions of the pretraining.
        original: usize,
        /// What cosines and sines are multiplied by, whatever the length.
        magnitude: f64,
    },
}

/// What the scaling depends on besides its own entries.
pub(super) struct Surroundings {
    /// Position limit of the model.
    pub max_positions: usize,
    /// R.
    pub rotary: usize,
    /// `original_max_position_embeddings` beside, not inside, the scaling.
    pub original: Option<usize>,
    /// Whether `yarn` stands for LongRoPE, as in early Phi-3 configurations.
    pub yarn_is_long: bool,
}

impl RopeScaling {
    /// Understands the entries of a scaling.
    pub(super) fn parse(read: &Reader<'_>, around: &Surroundings) -> Result<Self> {
        let kind = match read.text("rope_type")? {
            Some(kind) => kind,
            None => read.text("type")?.unwrap_or("default"),
        };
        let positive = |key: &str| read.positive(key);
        let required = |key: &str| {
            positive(key)?.ok_or_else(|| Error::new(format!("rope scaling `{kind}` needs `{key}`")).hint(HINT))
        };
        let original = || match positive("original_max_position_embeddings")? {
            Some(original) => Ok(original),
            None => Ok::<f64, Error>(around.max_positions as f64),
        };
        match kind {
            "default" => Ok(Self::None),
            "linear" => Ok(Self::Linear { factor: required("factor")? }),
            "dynamic" => required("factor").map(|_| Self::None),
            "llama3" => {
                let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
                if high <= low {
                    return Err(Error::new(format!(
                        "`high_freq_factor` of rope scaling is `{high}`, expected more than `low_freq_factor`, which is `{low}`"
                    ))
                    .hint(HINT));
                }
                let factor = required("factor")?;
                Ok(Self::Llama3 { factor, low_frequency: low, high_frequency: high, original: original()? })
            }
            "longrope" | "su" => long(read, kind, around),
            "yarn" if around.yarn_is_long => long(read, kind, around),
            "yarn" => {
                let factor = required("factor")?;
                let stretched = |share: f64| if factor <= 1.0 { 1.0 } else { 0.1 * share * factor.ln() + 1.0 };
                let shares = (read.number("mscale")?, read.number("mscale_all_dim")?);
                let magnitude = match (positive("attention_factor")?, shares) {
                    (Some(given), _) => given,
                    (None, (Some(one), Some(all))) if one != 0.0 && all != 0.0 => stretched(one) / stretched(all),
                    _ => stretched(1.0),
                };
                Ok(Self::Yarn {
                    factor,
                    magnitude,
                    beta_fast: positive("beta_fast")?.unwrap_or(32.0),
                    beta_slow: positive("beta_slow")?.unwrap_or(1.0),
                    original: original()?,
                    truncate: read.flag("truncate", true)?,
                })
            }
            other => Err(Error::new(format!("rope scaling `{other}` is not supported, expected one of: {KINDS}"))
                .hint("choose a model with one of these kinds of `rope_scaling`")),
        }
    }
}

const HINT: &str = "correct `rope_scaling` in config.json, or copy the file again from where the model came from";

fn long(read: &Reader<'_>, kind: &str, around: &Surroundings) -> Result<RopeScaling> {
    let count = around.rotary / 2;
    let divisors = |key: &str| match read.numbers(key)? {
        Some(found) if found.len() == count && found.iter().all(|divisor| *divisor > 0.0) => Ok(found),
        Some(found) => Err(Error::new(format!(
            "`{key}` of rope scaling is a list of `{}` numbers, expected {count} above 0",
            found.len()
        ))
        .hint(HINT)),
        None => Err(Error::new(format!("rope scaling `{kind}` needs `{key}`")).hint(HINT)),
    };
    let (short, long) = (divisors("short_factor")?, divisors("long_factor")?);
    let inside = read.positive("original_max_position_embeddings")?.map(|original| original as usize);
    let known = around.original.or(inside);
    let original = known.unwrap_or(around.max_positions);
    let factor = match known {
        Some(original) => Some(around.max_positions as f64 / original as f64),
        None => read.positive("factor")?,
    };
    let magnitude = match (read.positive("attention_factor")?, factor) {
        (Some(given), _) => given,
        (None, Some(factor)) if factor <= 1.0 => 1.0,
        (None, Some(factor)) => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        (None, None) => {
            return Err(Error::new(format!(
                "rope scaling `{kind}` needs `factor`, `attention_factor` or `original_max_position_embeddings`"
            ))
            .hint(HINT));
        }
    };
    Ok(RopeScaling::LongRope { short, long, original, magnitude })
}
