//! AdamW, gradients by name, and their clipping: what turns a backward pass into changed weights.
//!
//! Everything visits weights in name order and sums in fixed pieces, so that equal inputs give equal bits whatever the
//! number of threads. State is saved and loaded to the bit: a resumed run is the run that was not interrupted.

mod moments;
mod on_device;

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use self::moments::Moments;
use self::on_device::{Waiting, fetch, first_odd, odd};
use crate::error::{Context, Error, Result};
use crate::models::nn::{self, with_values};
use crate::models::params::Params;

/// Gradients of the trainable weights by name; f32, each in the shape of its weight.
pub type Gradients = BTreeMap<String, Tensor>;

/// The name under which [`AdamW::state`] keeps the number of steps taken.
const STEP: &str = "step";

/// How the hint of every error begins that says that numbers grew beyond all bounds.
pub(super) const LOWER: &str = "lower the learning rate";

/// The settings of AdamW besides the learning rate.
///
/// `weight_decay` acts on every trainable weight, norms and biases included, as `torch.optim.AdamW` does without
/// parameter groups; its default here is 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdamWConfig {
    /// Share of the old mean gradient that stays at each step.
    pub beta1: f64,
    /// Share of the old mean squared gradient that stays at each step.
    pub beta2: f64,
    /// Added to the root of the mean squared gradient.
    pub eps: f64,
    /// Share of a weight, times the learning rate, that is taken off at each step.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamWConfig {
    /// Refuses settings with which no step makes sense.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if !(0.0..1.0).contains(&value) {
                return Err(Error::new(format!("`{name}` is `{value}`, expected a number from 0 to below 1")));
            }
        }
        for (name, value) in [("eps", self.eps), ("weight_decay", self.weight_decay)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::new(format!("`{name}` is `{value}`, expected a finite number from 0")));
            }
        }
        Ok(())
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019), as `torch.optim.AdamW` computes it.
///
/// With gradient g at step n: w ← w(1 − lr·decay); m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²;
/// w ← w − lr/(1−β₁ⁿ) · m / (√v/√(1−β₂ⁿ) + eps).
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// An optimiser that has taken no step.
    pub fn new(config: AdamWConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { config, steps: 0, moments: BTreeMap::new() })
    }

    /// Changes every trainable weight of `params` by its gradient, with learning rate `lr`.
    ///
    /// Checks before the first weight changes: a trainable weight without a gradient, a gradient of another shape, of a
    /// weight that does not train or with a NaN or infinity, and after the first step a change in which weights train,
    /// is an error naming the weight, and leaves everything as it was. An update that itself leaves the finite numbers is an
    /// error naming its weight, too; weights before it in the order of names have then moved already.
    pub fn step(&mut self, params: &Params, gradients: &Gradients, lr: f64) -> Result<()> {
        if !(lr.is_finite() && lr >= 0.0) {
            return Err(Error::new(format!("the learning rate is `{lr}`, expected a finite number from 0")));
        }
        let mut elsewhere = Vec::new();
        for (name, var) in params.trainable() {
            let gradient = gradients.get(name).ok_or_else(|| missing(&[name]))?;
            if gradient.dims() != var.dims() {
                return Err(Error::new(format!(
                    "the gradient of `{name}` has shape {:?}, expected {:?}",
                    gradient.dims(),
                    var.dims()
                )));
            }
            match self.moments.get(name) {
                None if self.steps > 0 => {
                    return Err(foreign(format!("after {} steps the optimiser has no state of `{name}`", self.steps)));
                }
                Some(moments) if moments.dims() != var.dims() => {
                    return Err(foreign(format!(
                        "the optimiser's state of `{name}` has shape {:?}, expected {:?}",
                        moments.dims(),
                        var.dims()
                    )));
                }
                _ => {}
            }
            match nn::is_portable(gradient) {
                true => elsewhere.push((name, odd(gradient)?)),
                false => check_finite(name, gradient)?,
            }
        }
        if let Some(at) = first_odd(elsewhere.iter().map(|(_, odd)| odd))? {
            return Err(not_finite(elsewhere[at].0));
        }
        let frozen = |name: &&String| !params.get(name).is_ok_and(|param| param.trainable);
        if let Some(name) = gradients.keys().find(frozen) {
            return Err(Error::new(format!("there is a gradient of `{name}`, which does not train")));
        }
        if let Some(name) = self.moments.keys().find(frozen) {
            return Err(foreign(format!("the optimiser has a state of `{name}`, which does not train")));
        }
        self.steps += 1;
        let update = Update::new(&self.config, self.steps, lr);
        let mut waiting = Waiting::new(lr);
        for (name, var) in params.trainable() {
            let Some(gradient) = gradients.get(name) else { continue };
            let moments = self.moments.entry(name.to_owned()).or_insert_with(|| Moments::zeros(var.dims()));
            if nn::is_portable(var) {
                waiting.push(name, var, update.apply_on_device(var, gradient, moments)?)?;
                continue;
            }
            let mut weights = with_values(var, <[f32]>::to_vec)?;
            let (mean, square) = moments.on_host()?;
            if !with_values(gradient, |gradient| update.apply(&mut weights, gradient, mean, square))? {
                return Err(diverges(name, lr));
            }
            let changed = Tensor::from_vec(weights, var.dims(), &Device::Cpu)?;
            var.set(&changed).context(|| format!("cannot change the weight `{name}`"))?;
        }
        waiting.set()
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The settings.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }

    /// Everything a later [`AdamW::load_state`] needs, ready for one safetensors file: `m.<name>` and `v.<name>` in f32
    /// and in the shape of the weight, and `step`, (4) f32: the count of steps cut into four 16-bit digits, lowest first.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for (name, moments) in &self.moments {
            for (letter, tensor) in ["m", "v"].into_iter().zip(moments.tensors(&Device::Cpu)?) {
                state.insert(format!("{letter}.{name}"), tensor);
            }
        }
        // A file of weights is f32 throughout; 16 bits at a time keep every count exact.
        let digits: Vec<f32> = (0..4).map(|digit| ((self.steps >> (16 * digit)) & 0xffff) as f32).collect();
        state.insert(STEP.to_owned(), Tensor::from_vec(digits, 4, &Device::Cpu)?);
        Ok(state)
    }

    /// Continues where another optimiser stood when its [`AdamW::state`] was taken.
    ///
    /// Missing, surplus, misshapen and non-finite tensors are errors that name the tensor; this optimiser is then as
    /// before. Whether the state belongs to the weights is checked by the next [`AdamW::step`].
    pub fn load_state(&mut self, mut state: BTreeMap<String, Tensor>) -> Result<()> {
        let digits = state.remove(STEP).ok_or_else(|| foreign(format!("the optimiser's state lacks `{STEP}`")))?;
        let mut steps = 0u64;
        for (digit, value) in with_values(&digits, <[f32]>::to_vec)?.into_iter().enumerate() {
            if digit >= 4 || !(0.0..65536.0).contains(&value) || value.fract() != 0.0 {
                return Err(foreign(format!("the optimiser's `{STEP}` holds `{value}`, expected four 16-bit digits")));
            }
            steps |= (value as u64) << (16 * digit);
        }
        let mut moments = BTreeMap::new();
        while let Some((key, mean)) = state.pop_first() {
            let Some(name) = key.strip_prefix("m.") else {
                return Err(foreign(format!("the optimiser's state holds `{key}` without its counterpart")));
            };
            let other = format!("v.{name}");
            let square =
                state.remove(&other).ok_or_else(|| foreign(format!("the optimiser's state lacks `{other}`")))?;
            if mean.dims() != square.dims() {
                let (found, expected) = (square.dims(), mean.dims());
                return Err(foreign(format!(
                    "`{other}` of the optimiser's state has shape {found:?}, expected {expected:?}"
                )));
            }
            let values = |key: &str, tensor: &Tensor| -> Result<Vec<f32>> {
                let values = with_values(tensor, <[f32]>::to_vec)?;
                match values.iter().all(|value| value.is_finite()) {
                    true => Ok(values),
                    false => Err(foreign(format!("`{key}` of the optimiser's state is not finite"))),
                }
            };
            let shape = mean.dims().to_vec();
            let (mean, square) = (values(&key, &mean)?, values(&other, &square)?);
            moments.insert(name.to_owned(), Moments::Host { shape, mean, square });
        }
        self.steps = steps;
        self.moments = moments;
        Ok(())
    }
}

/// The gradients of all trainable weights out of a backward pass; a weight that got none is an error naming it.
pub fn gradients(params: &Params, store: &GradStore) -> Result<Gradients> {
    let mut found = Gradients::new();
    let mut without = Vec::new();
    for (name, var) in params.trainable() {
        match store.get(var.as_tensor()) {
            Some(gradient) => {
                found.insert(name.to_owned(), gradient.detach());
            }
            None => without.push(name),
        }
    }
    if without.is_empty() { Ok(found) } else { Err(missing(&without)) }
}

/// Adds `weight · more` to gradients of the same weights, for batches that are computed in parts.
pub fn accumulate(into: &mut Gradients, more: &Gradients, weight: f64) -> Result<()> {
    if !into.is_empty() && into.len() != more.len() {
        return Err(Error::new(format!("cannot add gradients of {} weights to those of {}", more.len(), into.len())));
    }
    let first = into.is_empty();
    for (name, gradient) in more {
        let part = if weight == 1.0 { gradient.clone() } else { (gradient * weight)? };
        let sum = match into.get(name) {
            Some(sum) => (sum + &part)?,
            None if first => part,
            None => return Err(Error::new(format!("cannot add a gradient of `{name}`, which has none so far"))),
        };
        into.insert(name.clone(), sum);
    }
    Ok(())
}

/// The Euclidean norm over all gradients together; a NaN or infinity is an error naming its tensor.
pub fn global_norm(gradients: &Gradients) -> Result<f64> {
    let mut sum = 0.0;
    let elsewhere = gradients.values().filter(|gradient| nn::is_portable(gradient)).map(on_device::sum_of_squares);
    let mut elsewhere = fetch(&elsewhere.collect::<Result<Vec<_>>>()?)?.into_iter();
    for (name, gradient) in gradients {
        let squares = match nn::is_portable(gradient) {
            true => f64::from(elsewhere.next().unwrap_or(f32::NAN)),
            false => with_values(gradient, sum_of_squares)?,
        };
        if !squares.is_finite() {
            return Err(not_finite(name));
        }
        sum += squares;
    }
    Ok(sum.sqrt())
}

/// Scales all gradients by max_norm / (norm + 1e-6) where that is below 1, as `torch.nn.utils.clip_grad_norm_` does, and
/// returns the norm from before.
pub fn clip(gradients: &mut Gradients, max_norm: f64) -> Result<f64> {
    if !(max_norm.is_finite() && max_norm > 0.0) {
        return Err(Error::new(format!("the largest norm is `{max_norm}`, expected a finite number above 0")));
    }
    let norm = global_norm(gradients)?;
    let scale = max_norm / (norm + 1e-6);
    if scale < 1.0 {
        for gradient in gradients.values_mut() {
            *gradient = (&*gradient * scale)?;
        }
    }
    Ok(norm)
}

/// Numbers that are updated or summed together; fixed, so that sums do not depend on the number of threads.
const PIECE: usize = 1 << 14;

/// The factors of one step, the same for every weight.
struct Update {
    keep: f32,
    take_mean: f32,
    beta2: f32,
    take_square: f32,
    eps: f32,
    step_size: f32,
    root_correction: f32,
}

impl Update {
    fn new(config: &AdamWConfig, steps: u64, lr: f64) -> Self {
        let power = |beta: f64| 1.0 - beta.powf(steps as f64);
        Self {
            keep: (1.0 - lr * config.weight_decay) as f32,
            // Subtracted in f64: 1 − 0.999 in f32 would be off by one part in 80 000.
            take_mean: (1.0 - config.beta1) as f32,
            beta2: config.beta2 as f32,
            take_square: (1.0 - config.beta2) as f32,
            eps: config.eps as f32,
            step_size: (lr / power(config.beta1)) as f32,
            root_correction: power(config.beta2).sqrt() as f32,
        }
    }

    /// Changes weights and moments; whether all of them are finite afterwards.
    fn apply(&self, weights: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) -> bool {
        weights
            .par_chunks_mut(PIECE)
            .zip(gradient.par_chunks(PIECE))
            .zip(mean.par_chunks_mut(PIECE).zip(square.par_chunks_mut(PIECE)))
            .map(|((weights, gradient), (mean, square))| {
                let mut lost = false;
                for (((weight, &g), mean), square) in weights.iter_mut().zip(gradient).zip(mean).zip(square) {
                    *mean += self.take_mean * (g - *mean);
                    *square = *square * self.beta2 + self.take_square * g * g;
                    let spread = square.sqrt() / self.root_correction + self.eps;
                    *weight = *weight * self.keep - self.step_size * (*mean / spread);
                    // By bits and without a branch, so that the loop stays one of vector instructions.
                    lost |= infinite(*weight) | infinite(*mean) | infinite(*square);
                }
                !lost
            })
            // Every piece is done, whatever became of another: no short cut.
            .reduce(|| true, |one, other| one & other)
    }
}

/// Whether a number is a NaN or an infinity: all bits of its exponent are set.
fn infinite(value: f32) -> bool {
    value.to_bits() & 0x7f80_0000 == 0x7f80_0000
}

fn sum_of_squares(values: &[f32]) -> f64 {
    let square = |value: &f32| f64::from(*value) * f64::from(*value);
    let pieces: Vec<f64> = values.par_chunks(PIECE).map(|piece| piece.iter().map(square).sum()).collect();
    pieces.into_iter().sum()
}

fn check_finite(name: &str, gradient: &Tensor) -> Result<()> {
    let finite = with_values(gradient, |values| {
        values.par_chunks(PIECE).all(|piece| piece.iter().all(|value| value.is_finite()))
    })?;
    if finite { Ok(()) } else { Err(not_finite(name)) }
}

fn diverges(name: &str, lr: f64) -> Error {
    Error::new(format!("the update of `{name}` with learning rate `{lr:e}` leads to a NaN or an infinity")).hint(LOWER)
}

fn not_finite(name: &str) -> Error {
    Error::new(format!("the gradient of `{name}` holds a NaN or an infinity"))
        .hint(format!("{LOWER}, or look for a batch whose loss is not finite"))
}

fn foreign(what: String) -> Error {
    Error::new(what).hint("resume with the checkpoint and the settings of the very same run")
}

fn missing(names: &[&str]) -> Error {
    let shown = names.iter().take(5).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(5);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Error::new(format!("no gradient reached {shown}{rest}, expected one for every trainable weight"))
        .hint("freeze these weights, or check that the loss depends on them")
}

#[cfg(test)]
mod tests;
