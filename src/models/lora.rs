//! Low-rank adapters (LoRA, Hu et al., arXiv 2106.09685) on the generator's linear layers, in the file layout of peft.
//!
//! An adapted layer computes x·Wᵀ + b + s·(drop(x)·Aᵀ)·Bᵀ with A (r, In), B (Out, r) and s = alpha/r, or alpha/√r where it is
//! rank-stabilised (rsLoRA, Kalajdzievski, arXiv 2312.03732). W is frozen: it gets no gradient and costs no backward work of
//! its own. B begins as 0, so that a new adapter changes nothing. Joined projections (Phi-3's `qkv_proj`, GPT-NeoX's
//! `query_key_value`) carry one adapter together, as in peft.

mod files;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use candle_core::Tensor;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

use super::generator::{Generator, GeneratorConfig, Linear};
use crate::error::{Error, Result};

/// The target that stands for every linear layer but the output layer, as in peft.
pub const ALL_LINEAR: &str = "all-linear";

/// What an adapter is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// r: rows of A and columns of B; at least 1.
    pub rank: usize,
    /// What the adapter's output is multiplied by, times the rank.
    pub alpha: f64,
    /// Share of the inputs of each A that passes of training with a draw drop; answers do not depend on it.
    pub dropout: f64,
    /// Which layers: a name matches a module path that equals it or ends in a dot and it; [`ALL_LINEAR`] matches all.
    pub targets: Vec<String>,
    /// Whether the scale is alpha/√r instead of alpha/r.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub rank_stabilised: bool,
}

impl Default for LoraConfig {
    /// Rank 8, alpha 16, every linear layer.
    fn default() -> Self {
        Self { rank: 8, alpha: 16.0, dropout: 0.0, targets: vec![ALL_LINEAR.to_owned()], rank_stabilised: false }
    }
}

impl LoraConfig {
    /// What the adapter's product is multiplied by: alpha/r or alpha/√r.
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Refuses what no adapter can be made from.
    pub fn check(&self) -> Result<()> {
        if self.rank == 0 {
            return Err(Error::new("the adapter's rank is `0`, expected at least 1").hint("set a rank such as 8"));
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(Error::new(format!("the adapter's alpha is `{}`, expected a number above 0", self.alpha))
                .hint("set an alpha such as twice the rank"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::new(format!(
                "the adapter's dropout is `{}`, expected at least 0 and less than 1",
                self.dropout
            ))
            .hint("set it to 0"));
        }
        if self.targets.is_empty() {
            return Err(Error::new("the adapter names no target module")
                .hint(format!("set targets such as q_proj, v_proj, or {ALL_LINEAR}")));
        }
        Ok(())
    }

    /// Refuses a rank above that of every matrix the adapter would sit on: it would take memory and change nothing.
    pub fn check_rank(&self, config: &GeneratorConfig) -> Result<()> {
        self.check()?;
        let places = self.places(config)?;
        let most = places.values().map(|linear| linear.inputs.min(linear.outputs)).max().unwrap_or_default();
        if self.rank <= most {
            return Ok(());
        }
        Err(Error::new(format!(
            "`--lora-rank {}` is more than the rank of the matrices that the adapter sits on, which is at most {most}",
            self.rank
        ))
        .hint(format!("choose at most `--lora-rank {most}`; 8 to 64 are usual")))
    }

    /// The module paths of a generator that the targets choose, in order; a target that chooses none is an error.
    pub fn modules(&self, config: &GeneratorConfig) -> Result<BTreeSet<String>> {
        Ok(self.places(config)?.into_keys().collect())
    }

    /// The chosen linear layers by their module paths.
    fn places(&self, config: &GeneratorConfig) -> Result<BTreeMap<String, Linear>> {
        let (root, linears) = (config.causal_root(), config.linears());
        let of_layer =
            |layer| linears.iter().map(move |linear| (format!("{root}layers.{layer}.{}", linear.path), *linear));
        let all: BTreeMap<String, Linear> = (0..config.layers).flat_map(of_layer).collect();
        let mut chosen = BTreeMap::new();
        for target in &self.targets {
            let everything = target.eq_ignore_ascii_case(ALL_LINEAR);
            let matches = |path: &str| {
                everything
                    || path.strip_suffix(target.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            let before = all.iter().filter(|(path, _)| matches(path)).map(|(path, linear)| (path.clone(), *linear));
            let before: Vec<(String, Linear)> = before.collect();
            if target.is_empty() || before.is_empty() {
                let known: Vec<&str> = linears.iter().map(Linear::name).collect();
                return Err(Error::new(format!("the adapter's target `{target}` matches no module of the generator"))
                    .hint(format!("a `{}` has: {}, or {ALL_LINEAR}", config.family.name(), known.join(", "))));
            }
            chosen.extend(before);
        }
        Ok(chosen)
    }

    /// The same with [`ALL_LINEAR`] written out, as peft saves it.
    fn spelled_out(&self, config: &GeneratorConfig) -> Self {
        let mut targets: Vec<String> = Vec::with_capacity(self.targets.len());
        for target in &self.targets {
            match target.eq_ignore_ascii_case(ALL_LINEAR) {
                true => targets.extend(config.linears().iter().map(|linear| linear.name().to_owned())),
                false => targets.push(target.clone()),
            }
        }
        Self { targets, ..self.clone() }
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

/// An adapter that was merged into the weights: what [`Generator::unmerge_lora`] needs to take it out again.
#[derive(Clone, Debug)]
pub(super) struct Merged {
    lora: Lora,
    /// A and B of each module, by the module's path.
    weights: BTreeMap<String, (Tensor, Tensor)>,
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

    /// Adds the adapter's product s·B·A to the weights it sits on and removes it. Every weight trains again.
    ///
    /// Outputs stay the same up to rounding. Without an adapter the call is an error.
    pub fn merge_lora(&mut self) -> Result<()> {
        let Some(lora) = self.lora.clone() else {
            return Err(Error::new("the generator has no adapter to merge").hint("add or load one first"));
        };
        let mut weights = BTreeMap::new();
        for path in &lora.modules {
            let a = self.params.get(&name_a(path))?.var.as_detached_tensor();
            let b = self.params.get(&name_b(path))?.var.as_detached_tensor();
            weights.insert(path.clone(), (a, b));
        }
        self.add_product(&weights, lora.config.scale())?;
        for path in &lora.modules {
            self.params.remove(&name_a(path));
            self.params.remove(&name_b(path));
        }
        self.lora = None;
        self.params.set_trainable(|_| true);
        self.merged.push(Merged { lora, weights });
        Ok(())
    }

    /// Takes the adapter that was merged last out of the weights again and puts it back on: the inverse of
    /// [`Generator::merge_lora`] up to rounding. Only the adapter trains then.
    ///
    /// Without a merged adapter, and while another one is on, the call is an error. What was learnt since the merge stays.
    pub fn unmerge_lora(&mut self) -> Result<()> {
        if self.lora.is_some() {
            return Err(Error::new("the generator has an adapter on it, so an earlier one cannot be taken out")
                .hint("merge it first, or load the base again"));
        }
        let Some(merged) = self.merged.last().cloned() else {
            return Err(Error::new("no adapter was merged into the generator since it was loaded")
                .hint("load the base instead of the merged model, and its adapter"));
        };
        self.add_product(&merged.weights, -merged.lora.config.scale())?;
        self.install(&merged.lora.config, |path, _, _| {
            let found = merged.weights.get(path).cloned();
            found.ok_or_else(|| Error::new(format!("the merged adapter has no weights for `{path}`")))
        })?;
        self.merged.pop();
        Ok(())
    }

    /// Adds scale·B·A to the weight of each module; all sums are made before the first is set.
    fn add_product(&self, weights: &BTreeMap<String, (Tensor, Tensor)>, scale: f64) -> Result<()> {
        let mut sums = Vec::with_capacity(weights.len());
        for (path, (a, b)) in weights {
            let weight = &self.params.get(&format!("{path}.weight"))?.var;
            let product = (b.matmul(a)? * scale)?;
            sums.push((weight, (weight.as_detached_tensor() + product)?));
        }
        for (weight, sum) in sums {
            weight.set(&sum)?;
        }
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
        let places = config.places(self.config())?;
        let mut made = Vec::with_capacity(places.len());
        for (path, linear) in &places {
            made.push((path, weights(path, (config.rank, linear.inputs), (linear.outputs, config.rank))?));
        }
        for (path, (a, b)) in made {
            let device = self.device().clone();
            self.params.insert(name_a(path), a.to_device(&device)?, true)?;
            self.params.insert(name_b(path), b.to_device(&device)?, true)?;
        }
        self.params.set_trainable(|name| name.starts_with(PREFIX));
        let config = config.spelled_out(self.config());
        self.lora = Some(Lora { config, modules: places.into_keys().collect() });
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
