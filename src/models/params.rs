//! The weights of one model by name, which of them train, and their identity.
//!
//! Always visited in name order, so that sums, digests and files do not depend on how a model was built.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};

use super::Grad;
use super::weights::{self, Weights};
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
        self.by_name
            .get(name)
            .ok_or_else(|| Error::new(format!("there is no parameter `{name}` among the {} of this model", self.len())))
    }

    /// Whether there is a weight of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Removes a weight, for instance an adapter that was merged.
    pub fn remove(&mut self, name: &str) -> Option<Param> {
        self.by_name.remove(name)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// All weights with their names, in name order.
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
        self.by_name.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// How many numbers there are in all tensors, trainable or not.
    pub fn count(&self) -> usize {
        self.by_name.values().map(|param| param.var.elem_count()).sum()
    }

    /// The weights as a forward pass sees them.
    pub fn view(&self, grad: Grad) -> View<'_> {
        View { params: self, grad }
    }

    /// A deep copy: training one leaves the other as it is.
    pub fn try_clone(&self) -> Result<Self> {
        let mut copy = Self::new();
        for (name, param) in self.iter() {
            copy.insert(name, param.var.as_detached_tensor(), param.trainable)?;
        }
        Ok(copy)
    }

    /// Hex blake3 over names, shapes and little-endian f32 bytes, in name order: equal weights, equal digest.
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
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Writes all weights as f32 to one safetensors file; durable on return, and a crash leaves the old file or the new.
    pub fn to_safetensors(&self, path: &Path) -> Result<()> {
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
            param.var.set(&value).context(|| format!("cannot take over weights from `{}`", path.display()))?;
        }
        Ok(())
    }
}

/// Weights as one forward pass sees them: variables where a gradient is wanted, plain tensors elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    params: &'a Params,
    grad: Grad,
}

impl View<'_> {
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
