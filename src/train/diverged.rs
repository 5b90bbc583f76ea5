//! What is said when training leaves the finite numbers: at which step, in which tensor, and what is left to go back to.
//!
//! A checkpoint is written after steps whose loss, gradients and updated weights were all finite, so the newest one is
//! always good. Nothing is written on the way out.

use super::{Trainer, checkpoint, optimizer};
use crate::data::Question;
use crate::error::Error;
use crate::models::nn::with_values;
use crate::models::params::Params;

impl Trainer<'_> {
    /// The loss of some questions is a NaN or an infinity.
    pub(super) fn loss_diverged(&self, value: f64, questions: &[&Question]) -> Error {
        let ids: Vec<&str> = questions.iter().map(|question| question.id.as_str()).collect();
        Error::new(format!(
            "training stopped: the loss at step {} is {value}, expected a finite number; {}; questions `{}`",
            self.steps_done() + 1,
            self.suspect(),
            ids.join("`, `")
        ))
        .hint(self.way_back("--lr-encoder` or `--lr-generator"))
        .divergence()
    }

    /// A gradient or an update of `part` is not finite, or could not be computed: `error` names the tensor.
    pub(super) fn diverged(&self, part: &str, error: Error) -> Error {
        let hint = match error.find_hint() {
            Some(hint) if !hint.starts_with(optimizer::LOWER) => hint,
            _ => self.way_back(&format!("--lr-{part}")),
        };
        Error::new(format!("training stopped at step {}, {part}: {error}", self.steps_done() + 1))
            .hint(hint)
            .divergence()
    }

    /// Where a loss may have gone wrong: the first weight that is not finite, else the largest one.
    fn suspect(&self) -> String {
        let parts = [("encoder", self.pipeline.encoder.params()), ("generator", self.pipeline.generator.params())];
        let mut largest = (0f32, String::from("none"));
        for (part, params) in parts {
            for (name, value) in extremes(params) {
                if !value.is_finite() {
                    return format!("`{name}` of the {part} holds {value}");
                }
                if value > largest.0 {
                    largest = (value, format!("`{name}` of the {part}"));
                }
            }
        }
        format!("every weight is finite, the largest is {:e} in {}", largest.0, largest.1)
    }

    fn way_back(&self, flag: &str) -> String {
        let kept = match checkpoint::newest(&self.run.checkpoints()) {
            Some(path) => format!("the checkpoint `{}` is from before and is kept", path.display()),
            None => "no checkpoint was written yet: `--checkpoint-every` says how often one is".to_owned(),
        };
        format!("lower `{flag}` and train again into a new `--out`; {kept}")
    }
}

/// For each tensor the first number that is not finite, else the largest size of any.
fn extremes(params: &Params) -> impl Iterator<Item = (&str, f32)> {
    params.iter().filter_map(|(name, param)| {
        let extreme = with_values(&param.var, |values| {
            let odd = values.iter().copied().find(|value| !value.is_finite());
            odd.unwrap_or_else(|| values.iter().fold(0f32, |largest, value| largest.max(value.abs())))
        });
        // A tensor that cannot be read is not what is looked for: this is said beside an error.
        Some((name, extreme.ok()?))
    })
}
