//! The weights of one model by name, which of them train, and their identity.
//!
//! Always visited in name order, so that sums, digests and files do not depend on how a model was built.

mod matrix;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

pub use self::matrix::Matrix;
use super::dropout::{Drops, Site, drop_from};
use super::nn::{self, Bf16Matrix, DenseMatrix, Format, Int8Matrix, Quantised, Then};
use super::weights::{self, Weights};
use super::{Grad, Precision};
use crate::error::{Context, Error, Result};

/// One weight tensor and whether the optimiser may change it.
#[derive(Debug)]
pub struct Param {
    /// The values, f32.
    pub var: Var,
    /// Whether a backward pass produces its gradient.
    pub trainable: bool,
}

/// The weights of a model, in name order.
#[derive(Debug, Default)]
pub struct Params {
    by_name: BTreeMap<String, Param>,
    /// Frozen matrices kept in fewer bits; no name is in both.
    quantised: BTreeMap<String, Quantised>,
}

/// Matrices rounded for passes without gradients, by the path of their layer. They are a copy: whoever changes the weights
/// makes them again.
#[derive(Debug, Default)]
pub struct RoundedLayers {
    by_path: BTreeMap<String, Matrix>,
}

impl Params {
    /// No weights at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a weight, copying `tensor`; it must be f32 and the name must be new.
    pub fn insert(&mut self, name: impl Into<String>, tensor: Tensor, trainable: bool) -> Result<()> {
        let name = name.into();
        if tensor.dtype() != DType::F32 {
            return Err(Error::new(format!("parameter `{name}` has type `{:?}`, expected f32", tensor.dtype())));
        }
        if self.by_name.contains_key(&name) {
            return Err(Error::new(format!("parameter `{name}` was inserted twice")));
        }
        // A `Var` made from a tensor always owns a fresh copy: two models never share storage that one of them trains.
        let var = Var::from_tensor(&tensor.detach().contiguous()?)?;
        self.by_name.insert(name, Param { var, trainable });
        Ok(())
    }

    /// The weight of this name, or an error listing how many there are.
    pub fn get(&self, name: &str) -> Result<&Param> {
        if let Some(quantised) = self.quantised.get(name) {
            return Err(Error::new(format!(
                "parameter `{name}` is kept as {}, expected f32",
                quantised.format().name()
            ))
            .hint("load the model with f32 weights to train, merge or save them"));
        }
        self.by_name
            .get(name)
            .ok_or_else(|| Error::new(format!("there is no parameter `{name}` among the {} of this model", self.len())))
    }

    /// Whether there is a weight of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name) || self.quantised.contains_key(name)
    }

    /// Keeps the chosen weights, which are frozen from now on, in fewer bits on `device`; the f32 values are dropped. A chosen weight
    /// that is no matrix, or whose width does not fit the format, is an error, and then nothing has changed.
    pub fn quantise(&mut self, format: Format, device: &Device, chosen: impl Fn(&str) -> bool) -> Result<()> {
        let mut made = Vec::new();
        for (name, param) in self.by_name.iter().filter(|(name, _)| chosen(name)) {
            let packed = Quantised::new(&param.var.as_detached_tensor().to_device(device)?, format)
                .map_err(|error| Error::new(format!("parameter `{name}` cannot be quantised")).because(error))?;
            made.push((name.clone(), packed));
        }
        for (name, packed) in made {
            self.by_name.remove(&name);
            self.quantised.insert(name, packed);
        }
        Ok(())
    }

    /// Moves every f32 weight to `device`; weights in fewer bits stay where they were made.
    pub fn move_to(&mut self, device: &Device) -> Result<()> {
        for param in self.by_name.values_mut().filter(|param| !param.var.device().same_device(device)) {
            param.var = Var::from_tensor(&param.var.as_detached_tensor().to_device(device)?)?;
        }
        Ok(())
    }

    /// Keeps every weight in f32 again, with the rounded values, frozen.
    pub fn dequantise(&mut self) -> Result<()> {
        for (name, packed) in std::mem::take(&mut self.quantised) {
            self.insert(name, packed.dequantise()?, false)?;
        }
        Ok(())
    }

    /// The weights kept in fewer bits, in name order.
    pub fn quantised(&self) -> impl Iterator<Item = (&str, &Quantised)> {
        self.quantised.iter().map(|(name, packed)| (name.as_str(), packed))
    }

    /// Rounds and packs the matrices of the layers `path` (`path.weight`, and `path.bias` where there is one) for faster passes
    /// without gradients; f32 rounds nothing.
    pub fn rounded(&self, paths: impl Iterator<Item = String>, precision: Precision) -> Result<RoundedLayers> {
        let mut layers = RoundedLayers::default();
        for path in paths {
            let weight = self.get(&format!("{path}.weight"))?.var.as_detached_tensor();
            let bias = self.by_name.get(&format!("{path}.bias")).map(|param| param.var.as_detached_tensor());
            let matrix = match precision {
                Precision::F32 => Matrix::Packed(Arc::new(DenseMatrix::new(&weight, bias.as_ref())?)),
                Precision::Bf16 => Matrix::Bf16(Bf16Matrix::new(&weight, false)?, bias),
                Precision::Int8 => Matrix::Int8(Arc::new(Int8Matrix::new(&weight, bias.as_ref())?)),
            };
            layers.by_path.insert(path, matrix);
        }
        Ok(layers)
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        let dense: usize = self.by_name.values().map(|param| 4 * param.var.elem_count()).sum();
        dense + self.quantised.values().map(Quantised::bytes).sum::<usize>()
    }

    /// Removes a weight, for instance an adapter that was merged.
    pub fn remove(&mut self, name: &str) -> Option<Param> {
        self.by_name.remove(name)
    }

    /// The names of all f32 weights, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// All f32 weights with their names, in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Param)> {
        self.by_name.iter().map(|(name, param)| (name.as_str(), param))
    }

    /// The weights that train, in name order.
    pub fn trainable(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.iter().filter(|(_, param)| param.trainable).map(|(name, param)| (name, &param.var))
    }

    /// Decides for every weight by its name whether it trains.
    pub fn set_trainable(&mut self, decide: impl Fn(&str) -> bool) {
        for (name, param) in &mut self.by_name {
            param.trainable = decide(name);
        }
    }

    /// How many tensors there are.
    pub fn len(&self) -> usize {
        self.by_name.len() + self.quantised.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many numbers there are in all tensors, trainable or not.
    pub fn count(&self) -> usize {
        self.sizes().map(|(_, count)| count).sum()
    }

    /// Name and number of numbers of every tensor, those in fewer bits last.
    pub fn sizes(&self) -> impl Iterator<Item = (&str, usize)> {
        let dense = self.by_name.iter().map(|(name, param)| (name.as_str(), param.var.elem_count()));
        dense.chain(self.quantised.iter().map(|(name, packed)| (name.as_str(), packed.dims().0 * packed.dims().1)))
    }

    /// The weights as a forward pass sees them.
    pub fn view(&self, grad: Grad) -> View<'_> {
        View { params: self, grad, rounded: None, drops: None }
    }

    /// The weights as a pass without gradients sees them, with the rounded matrices of `layers` in place of their own.
    pub fn view_rounded<'a>(&'a self, layers: &'a RoundedLayers) -> View<'a> {
        View { params: self, grad: Grad::Off, rounded: Some(layers), drops: None }
    }

    /// A deep copy: training one leaves the other as it is.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::new();
        for (name, param) in self.iter() {
            copy.insert(name, param.var.as_detached_tensor(), param.trainable)?;
        }
        // Never written to: sharing them is safe.
        copy.quantised = self.quantised.clone();
        Ok(copy)
    }

    /// Hex blake3 over names, shapes and little-endian f32 bytes, in name order, then over weights in fewer bits as they are
    /// packed: equal weights, equal digest.
    pub fn digest(&self) -> Result<String> {
        self.digest_of(|_| true)
    }

    /// [`Params::digest`] over the weights whose names are chosen.
    pub fn digest_of(&self, chosen: impl Fn(&str) -> bool) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (name, param) in self.iter().filter(|(name, _)| chosen(name)) {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(&(param.var.rank() as u64).to_le_bytes());
            for &extent in param.var.dims() {
                hasher.update(&(extent as u64).to_le_bytes());
            }
            weights::visit_bytes(&param.var, |bytes| {
                hasher.update(bytes);
            })?;
        }
        for (name, packed) in self.quantised().filter(|(name, _)| chosen(name)) {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(packed.format().name().as_bytes());
            for extent in [packed.dims().0, packed.dims().1] {
                hasher.update(&(extent as u64).to_le_bytes());
            }
            packed.visit_bytes(|bytes| {
                hasher.update(bytes);
            })?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Writes all weights as f32 to one safetensors file; durable on return, and a crash leaves the old file or the new.
    ///
    /// Weights in fewer bits are an error: a file of them would not be the model that was loaded.
    pub fn to_safetensors(&self, path: &Path) -> Result<()> {
        if let Some((name, packed)) = self.quantised().next() {
            return Err(Error::new(format!(
                "`{name}` is kept as {}, so the model has no f32 weights to write",
                packed.format().name()
            ))
            .hint("save the adapter alone, or load the model with f32 weights and merge the adapter there"));
        }
        let tensors = self.iter().map(|(name, param)| (name.to_owned(), param.var.as_detached_tensor())).collect();
        weights::write(path, &tensors)
    }

    /// Replaces every value by the one in a safetensors file written by [`Params::to_safetensors`].
    ///
    /// All names, shapes and values are checked before the first weight changes: missing, surplus, misshapen and
    /// non-finite tensors are errors that name the tensor.
    pub fn load_into(&self, path: &Path) -> Result<()> {
        let mut found = Weights::read_file(path, &Device::Cpu)?;
        let mut values = Vec::with_capacity(self.len());
        for (name, param) in self.iter() {
            values.push((param, found.take(name, param.var.dims())?));
        }
        if let Some(surplus) = found.names().next() {
            return Err(Error::new(format!("`{}` holds a tensor `{surplus}` that this model lacks", path.display()))
                .hint("use the file that was saved for this very model"));
        }
        for (param, value) in values {
            param
                .var
                .set(&value.to_device(param.var.device())?)
                .context(|| format!("cannot take over weights from `{}`", path.display()))?;
        }
        Ok(())
    }
}

/// Weights as one forward pass sees them: variables where a gradient is wanted, plain tensors elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    params: &'a Params,
    grad: Grad,
    rounded: Option<&'a RoundedLayers>,
    drops: Option<&'a Drops>,
}

impl<'a> View<'a> {
    /// The same for a pass in training that drops this.
    pub(super) fn dropping(self, drops: Option<&'a Drops>) -> Self {
        Self { drops, ..self }
    }

    /// What the pass drops at a place of a layer; `None` for nothing.
    pub(super) fn dropout(&self, site: Site, layer: usize) -> Result<Option<nn::Dropout>> {
        self.drops.map_or(Ok(None), |drops| drops.at(site, layer))
    }

    /// What the pass drops before the adapter of the module at `path`, where that asks for `rate`.
    pub(super) fn adapter_dropout(&self, path: &str, rate: f64) -> Result<Option<nn::Dropout>> {
        self.drops.map_or(Ok(None), |drops| drops.adapter(path, rate))
    }

    /// x (N, ...) with what the pass drops of it at a place of a layer.
    pub(super) fn drop_from(&self, x: Tensor, site: Site, layer: usize) -> Result<Tensor> {
        drop_from(x, self.dropout(site, layer)?.as_ref())
    }

    /// The layer at `path`: `path.weight`, and `path.bias` where there is one.
    pub fn matrix(&self, path: &str) -> Result<Matrix> {
        if let Some(matrix) = self.rounded.and_then(|layers| layers.by_path.get(path)) {
            return Ok(matrix.clone());
        }
        let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
        let bias = if self.params.contains(&bias) { Some(self.get(&bias)?) } else { None };
        Ok(match self.params.quantised.get(&weight) {
            Some(packed) => Matrix::Quantised(packed.clone(), bias),
            None => Matrix::Dense(self.get(&weight)?, bias),
        })
    }

    /// The layer at `path` applied to x (..., In): (..., Out).
    pub fn linear(&self, x: &Tensor, path: &str) -> Result<Tensor> {
        self.matrix(path)?.forward(x)
    }

    /// The same and what follows it.
    pub fn linear_then(&self, x: &Tensor, path: &str, then: Then<'_>) -> Result<Tensor> {
        self.matrix(path)?.forward_then(x, then)
    }

    /// `residual` plus what the layer at `path` makes of x, less what the pass drops of that at a place of a layer.
    pub(super) fn linear_dropping(
        &self,
        x: &Tensor,
        path: &str,
        site: Site,
        layer: usize,
        residual: &Tensor,
    ) -> Result<Tensor> {
        match self.dropout(site, layer)? {
            Some(how) => Ok((nn::dropout(&self.linear(x, path)?, &how)? + residual)?),
            None => self.linear_then(x, path, Then::Add(residual)),
        }
    }

    /// The tensor of this name. With [`Grad::On`] a trainable one is its variable; every other is detached, so that
    /// the backward pass neither visits it nor computes its gradient.
    pub fn get(&self, name: &str) -> Result<Tensor> {
        let param = self.params.get(name)?;
        Ok(match self.grad {
            Grad::On if param.trainable => param.var.as_tensor().clone(),
            _ => param.var.as_detached_tensor(),
        })
    }

    /// Whether there is a weight of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.params.contains(name)
    }

    /// Whether the pass records a graph.
    pub fn grad(&self) -> Grad {
        self.grad
    }
}
