//! How the learning rate moves over the steps of a stage.

use std::f64::consts::PI;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What happens after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// The rate stays.
    #[default]
    Constant,
    /// Straight down to 0 at the last step.
    Linear,
    /// Half a cosine down to 0 at the last step.
    Cosine,
}

impl Decay {
    /// Every value by its name, in the order of the help text.
    pub const NAMES: [(&'static str, Decay); 3] =
        [("constant", Decay::Constant), ("linear", Decay::Linear), ("cosine", Decay::Cosine)];
}

impl FromStr for Decay {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, decay)| *decay).ok_or_else(|| {
            let known: Vec<&str> = Self::NAMES.iter().map(|(known, _)| *known).collect();
            Error::new(format!("schedule `{name}` is not known, expected one of: {}", known.join(", ")))
                .hint("use `--schedule linear`, or another of these names")
        })
    }
}

/// A linear warm-up from 0, then a decay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// What happens after the warm-up.
    pub decay: Decay,
    /// Steps of the warm-up; 0 for none.
    pub warmup: u64,
}

impl Schedule {
    /// A schedule from the name of its decay (see [`Decay::NAMES`]) and the steps of its warm-up.
    pub fn parse(decay: &str, warmup: u64) -> Result<Self> {
        Ok(Self { decay: decay.parse()?, warmup })
    }

    /// What the learning rate is multiplied by at `step`, counted from 0, of `total` steps; between 0 and 1.
    ///
    /// The factors of transformers' `get_constant_schedule_with_warmup`, `get_linear_schedule_with_warmup` and
    /// `get_cosine_schedule_with_warmup` (half a cycle). The first step of a warm-up has factor 0, as there.
    /// From `total` on the factor is the one at `total` (there the cosine would rise again).
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        if step < self.warmup {
            return step as f64 / self.warmup as f64;
        }
        let step = step.min(total.max(self.warmup));
        let span = total.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / span;
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => {
                if total <= self.warmup {
                    // Nothing is left to decay over: the rate ends with the warm-up.
                    return 0.0;
                }
                (1.0 - progress).max(0.0)
            }
            Decay::Cosine => (0.5 * (1.0 + (PI * progress).cos())).max(0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Case {
        decay: Decay,
        warmup: u64,
        total: u64,
        factors: Vec<f64>,
    }

    #[test]
    fn equals_transformers() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/golden/adamw_schedules.json");
        let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(cases.len(), 15);
        for case in cases {
            let schedule = Schedule { decay: case.decay, warmup: case.warmup };
            for (step, expected) in case.factors.iter().enumerate() {
                let factor = schedule.factor(step as u64, case.total);
                assert!((factor - expected).abs() < 1e-12, "{schedule:?} step {step}: {factor} not {expected}");
            }
        }
    }

    #[test]
    fn stays_at_its_end() {
        for decay in [Decay::Linear, Decay::Cosine] {
            let schedule = Schedule { decay, warmup: 1 };
            assert!(schedule.factor(15, 10) < 1e-12, "{decay:?}");
        }
        assert_eq!(Schedule::default().factor(99, 10), 1.0);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        assert_eq!("cosine".parse::<Decay>().unwrap(), Decay::Cosine);
        let error = Schedule::parse("polynomial", 3).unwrap_err().to_string();
        assert!(error.contains("`polynomial`") && error.contains("constant, linear, cosine"), "{error}");
    }
}
