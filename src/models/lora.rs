//! Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on the generator's projections, in the file layout of peft.
//!
//! An adapted projection computes x·Wᵀ + b + (alpha/r)·(x·Aᵀ)·Bᵀ with A (r, In) and B (Out, r). W is frozen: it gets no
//! gradient and costs no backward work of its own. B begins as 0, so that a new adapter changes nothing.

mod files;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use candle_core::Tensor;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::generator::{Generator, GeneratorConfig, PROJECTIONS, projection_shape};
use crate::error::{Error, Result};

/// What an adapter is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// r: rows of A and columns of B; at least 1.
    pub rank: usize,
    /// What the adapter's output is multiplied by, times the rank.
    pub alpha: f64,
    /// Share of inputs zeroed in training; only 0 is supported.
    pub dropout: f64,
    /// Which projections: a name matches a module path that equals it or ends in a dot and it.
    pub targets: Vec<String>,
}

impl Default for LoraConfig {
    /// Rank 8, alpha 16, every projection.
    fn default() -> Self {
        let last = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: PROJECTIONS.map(last).into() }
    }
}

impl LoraConfig {
    /// alpha / r.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Refuses what no adapter can be made from.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::new("the adapter's rank is `0`, expected at least 1").hint("set a rank such as 8"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::new(format!("the adapter's alpha is `{}`, expected a number above 0", self.alpha)));
        }
        if self.dropout != 0.0 {
            return Err(Error::new(format!("the adapter's dropout is `{}`, but only 0 is supported", self.dropout))
                .hint("set it to 0: answers do not depend on it, and training here goes without it"));
        }
        if self.targets.is_empty() {
            return Err(Error::new("the adapter names no target module").hint("set targets such as q_proj, v_proj"));
        }
        Ok(())
    }

    /// The module paths of a generator that the targets choose, in order; a target that chooses none is an error.
    pub fn modules(&self, config: &GeneratorConfig) -> Result<BTreeSet<String>> {
        let all: Vec<String> = (0..config.layers)
            .flat_map(|layer| PROJECTIONS.map(|projection| format!("model.layers.{layer}.{projection}")))
            .collect();
        let mut chosen = BTreeSet::new();
        for target in &self.targets {
            let matches = |path: &&String| {
                path.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            let before = all.iter().filter(matches).cloned().collect::<Vec<_>>();
            if target.is_empty() || before.is_empty() {
                let known = PROJECTIONS.map(|path| path.rsplit('.').next().unwrap_or(path)).join(", ");
                return Err(Error::new(format!("the adapter's target `{target}` matches no module of the generator"))
                    .hint(format!("use some of: {known}")));
            }
            chosen.extend(before);
        }
        Ok(chosen)
    }
}

/// The adapter of a generator: its settings and where it sits. Its weights are among the generator's parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    config: LoraConfig,
    modules: BTreeSet<String>,
}

impl Lora {
    /// Its settings.
    pub fn config(&self) -> &LoraConfig {
        &self.config
    }

    /// The paths of the modules it sits on, such as `model.layers.0.self_attn.q_proj`.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().map(String::as_str)
    }

    pub(super) fn covers(&self, path: &str) -> bool {
        self.modules.contains(path)
    }
}

/// The name of the narrowing weight on a module, among the parameters and in peft's files.
pub(super) fn name_a(path: &str) -> String {
    format!("{PREFIX}{path}.lora_A.weight")
}

/// The name of the widening weight on a module.
pub(super) fn name_b(path: &str) -> String {
    format!("{PREFIX}{path}.lora_B.weight")
}

const PREFIX: &str = "base_model.model.";

impl Generator {
    /// Puts a new adapter on the generator and freezes everything else: A uniform in ±1/√In (what peft's kaiming start
    /// comes to) by `seed` and module name, B zero.
    pub fn add_lora(&mut self, config: &LoraConfig, seed: u64) -> Result<()> {
        self.install(config, |path, a_shape, b_shape| {
            let device = candle_core::Device::Cpu;
            let bound = 1.0 / (a_shape.1 as f32).sqrt();
            let mut random = random_for(seed, path);
            let values: Vec<f32> = (0..a_shape.0 * a_shape.1).map(|_| random.random_range(-bound..bound)).collect();
            let a = Tensor::from_vec(values, a_shape, &device)?;
            Ok((a, Tensor::zeros(b_shape, candle_core::DType::F32, &device)?))
        })
    }

    /// The adapter, where there is one.
    pub fn lora(&self) -> Option<&Lora> {
        self.lora.as_ref()
    }

    /// Adds the adapter's product (alpha/r)·B·A to the weights it sits on and removes it. Every weight trains again.
    ///
    /// Outputs stay the same up to rounding. Without an adapter the call is an error.
    pub fn merge_lora(&mut self) -> Result<()> {
        let Some(lora) = self.lora.clone() else {
            return Err(Error::new("the generator has no adapter to merge").hint("add or load one first"));
        };
        let mut merged = Vec::new();
        for path in &lora.modules {
            let weight = &self.params.get(&format!("{path}.weight"))?.var;
            let a = self.params.get(&name_a(path))?.var.as_detached_tensor();
            let b = self.params.get(&name_b(path))?.var.as_detached_tensor();
            let product = (b.matmul(&a)? * lora.config.scale())?;
            merged.push((weight.clone(), (weight.as_detached_tensor() + product)?));
        }
        for (weight, value) in merged {
            weight.set(&value)?;
        }
        for path in &lora.modules {
            self.params.remove(&name_a(path));
            self.params.remove(&name_b(path));
        }
        self.lora = None;
        self.params.set_trainable(|_| true);
        Ok(())
    }

    /// Adds the weights of an adapter, made by `weights(path, shape of A, shape of B)`, and freezes all others. All are
    /// made before the first is added.
    fn install(
        &mut self,
        config: &LoraConfig,
        mut weights: impl FnMut(&str, (usize, usize), (usize, usize)) -> Result<(Tensor, Tensor)>,
    ) -> Result<()> {
        if self.lora.is_some() {
            return Err(
                Error::new("the generator already has an adapter").hint("merge it first, or load the base again")
            );
        }
        config.check()?;
        let modules = config.modules(self.config())?;
        let mut made = Vec::with_capacity(modules.len());
        for path in &modules {
            let projection = path.splitn(4, '.').nth(3).unwrap_or_default();
            let (output, input) = projection_shape(self.config(), projection);
            made.push((path, weights(path, (config.rank, input), (output, config.rank))?));
        }
        for (path, (a, b)) in made {
            self.params.insert(name_a(path), a, true)?;
            self.params.insert(name_b(path), b, true)?;
        }
        self.params.set_trainable(|name| name.starts_with(PREFIX));
        self.lora = Some(Lora { config: config.clone(), modules });
        Ok(())
    }
}

/// The random numbers of one module: they depend on nothing but the seed and the module's name.
fn random_for(seed: u64, path: &str) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new_derive_key("ragtune: start of a low-rank adapter");
    hasher.update(&seed.to_le_bytes());
    hasher.update(path.as_bytes());
    ChaCha8Rng::from_seed(hasher.finalize().into())
}
