//! What follows the pooling in a sentence-transformers folder: Dense, LayerNorm, Normalize, any number in any order.
//!
//! B texts. Their weights are parameters of the encoder, named after the module's folder: `2_Dense.linear.weight`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::config::Config;
use crate::error::{Error, Result};
use crate::models::nn::{self, Activation};
use crate::models::params::{Params, View};
use crate::models::weights::{self, Weights};

/// Kinds that can be read, as sentence-transformers calls them.
pub(super) const KINDS: [&str; 3] = ["Dense", "LayerNorm", "Normalize"];

/// One module after the pooling.
#[derive(Clone, Debug)]
pub(super) struct Module {
    kind: Kind,
    /// Folder it was read from, inside the encoder's.
    source: PathBuf,
    /// Folder it is saved to, and the beginning of its parameters' names.
    pub folder: String,
    /// Its `config.json`, to be saved again.
    config: Value,
}

#[derive(Clone, Debug)]
enum Kind {
    /// activation(x · Wᵀ + b).
    Dense { input: usize, output: usize, bias: bool, activation: Squash },
    /// A norm with weight and bias; eps is PyTorch's 10⁻⁵.
    LayerNorm { width: usize },
    /// x / max(‖x‖₂, 10⁻¹²).
    Normalize,
}

/// The activation of a Dense module.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Squash {
    Identity,
    Tanh,
    Sigmoid,
    Layer(Activation),
}

/// Classes of PyTorch that a Dense module may name.
static SQUASHES: [(&str, Squash); 6] = [
    ("Identity", Squash::Identity),
    ("Tanh", Squash::Tanh),
    ("Sigmoid", Squash::Sigmoid),
    ("ReLU", Squash::Layer(Activation::Relu)),
    ("GELU", Squash::Layer(Activation::Gelu)),
    ("SiLU", Squash::Layer(Activation::Silu)),
];

impl Module {
    /// Reads the module number `at` of the encoder folder `dir`; `width` is that of the vectors it will get. `None` for a kind
    /// that is not known.
    pub fn read(dir: &Path, kind: &str, source: PathBuf, at: usize, width: usize) -> Result<Option<Self>> {
        let path = dir.join(&source).join("config.json");
        let config = Config::read_or_empty(&path)?;
        let wrong_width = |key: &str, wanted: usize| {
            let expected = format!("`{width}`, the width of the vectors that module gets");
            if wanted == width { Ok(()) } else { Err(config.refused(key, &expected)) }
        };
        let kind = match kind {
            "Dense" => {
                for key in ["module_input_name", "module_output_name"] {
                    if config.text(key, "sentence_embedding")? != "sentence_embedding" {
                        return Err(config.refused(key, "`sentence_embedding`"));
                    }
                }
                let input = config.size("in_features", None)?;
                wrong_width("in_features", input)?;
                Kind::Dense {
                    input,
                    output: config.size("out_features", None)?,
                    bias: config.flag("bias", true)?,
                    activation: Squash::read(&config)?,
                }
            }
            "LayerNorm" => {
                let own = config.size("dimension", None)?;
                wrong_width("dimension", own)?;
                Kind::LayerNorm { width: own }
            }
            "Normalize" => Kind::Normalize,
            _ => return Ok(None),
        };
        let folder = format!("{at}_{}", kind.name());
        Ok(Some(Self { kind, source, folder, config: config.raw().clone() }))
    }

    /// What sentence-transformers calls its kind.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// Whether it scales vectors to unit length.
    pub fn is_normalize(&self) -> bool {
        matches!(self.kind, Kind::Normalize)
    }

    /// Width of its result for vectors of `width`.
    pub fn output_width(&self, width: usize) -> usize {
        match self.kind {
            Kind::Dense { output, .. } => output,
            Kind::LayerNorm { .. } | Kind::Normalize => width,
        }
    }

    /// What decides its result beside its weights.
    pub fn identity(&self) -> String {
        match self.kind {
            Kind::Dense { activation, .. } => format!("Dense({})", activation.name()),
            Kind::LayerNorm { .. } | Kind::Normalize => self.name().to_owned(),
        }
    }

    /// Names of its tensors in its own file, and their shapes.
    fn shapes(&self) -> Vec<(&'static str, Vec<usize>)> {
        match self.kind {
            Kind::Dense { input, output, bias, .. } => {
                let mut all = vec![("linear.weight", vec![output, input])];
                if bias {
                    all.push(("linear.bias", vec![output]));
                }
                all
            }
            Kind::LayerNorm { width } => vec![("norm.weight", vec![width]), ("norm.bias", vec![width])],
            Kind::Normalize => Vec::new(),
        }
    }

    /// Adds its weights, read from the encoder folder `dir`, to the parameters; all of them train.
    pub fn take_params(&self, dir: &Path, device: &Device, params: &mut Params) -> Result<()> {
        let shapes = self.shapes();
        if shapes.is_empty() {
            return Ok(());
        }
        let mut weights = Weights::read_folder(&dir.join(&self.source), device)?;
        for (name, shape) in shapes {
            params.insert(format!("{}.{name}", self.folder), weights.take(name, &shape)?, true)?;
        }
        match weights.names().next() {
            None => Ok(()),
            Some(surplus) => Err(Error::new(format!(
                "`{}` holds a tensor `{surplus}` that a {} lacks",
                weights.origin().display(),
                self.name()
            ))
            .hint("weights and config.json of the module do not belong together: copy the whole model folder again")),
        }
    }

    /// Whether a parameter of this name is one of its own.
    pub fn owns(&self, name: &str) -> bool {
        name.strip_prefix(self.folder.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Writes its folder into the encoder folder `dir`.
    pub fn save(&self, dir: &Path, params: &Params) -> Result<()> {
        let folder = dir.join(&self.folder);
        std::fs::create_dir(&folder)?;
        if self.is_normalize() {
            return Ok(());
        }
        super::save::write_json(&folder.join("config.json"), &self.config)?;
        let mut own = BTreeMap::new();
        for (name, _) in self.shapes() {
            own.insert(name.to_owned(), params.get(&format!("{}.{name}", self.folder))?.var.as_detached_tensor());
        }
        weights::write(&folder.join(weights::SINGLE), &own)
    }

    /// `x` (B, in) to (B, out).
    pub fn apply(&self, x: &Tensor, view: View<'_>) -> Result<Tensor> {
        let get = |name: &str| view.get(&format!("{}.{name}", self.folder));
        match self.kind {
            Kind::Dense { activation, .. } => activation.apply(view.linear(x, &format!("{}.linear", self.folder))?),
            Kind::LayerNorm { .. } => nn::layer_norm(x, &get("norm.weight")?, Some(&get("norm.bias")?), 1e-5),
            // sentence-transformers leaves the 10⁻¹² of `torch.nn.functional.normalize`.
            Kind::Normalize => nn::l2_normalize(x, 1e-12),
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Kind::Dense { .. } => "Dense",
            Kind::LayerNorm { .. } => "LayerNorm",
            Kind::Normalize => "Normalize",
        }
    }
}

impl Squash {
    fn read(config: &Config) -> Result<Self> {
        const KEY: &str = "activation_function";
        // Absent it is sentence-transformers' Tanh. Classes outside PyTorch are code, which it does not run either.
        let class = config.text(KEY, "torch.nn.modules.activation.Tanh")?;
        let (module, name) = class.rsplit_once('.').unwrap_or(("", class));
        let known = SQUASHES.iter().find(|(known, _)| *known == name && module.starts_with("torch."));
        known.map(|(_, squash)| *squash).ok_or_else(|| {
            let names: Vec<&str> = SQUASHES.iter().map(|(name, _)| *name).collect();
            config.refused(KEY, &format!("a class of PyTorch, one of: {}", names.join(", ")))
        })
    }

    fn name(self) -> &'static str {
        SQUASHES.iter().find(|(_, squash)| *squash == self).map_or("?", |(name, _)| name)
    }

    fn apply(self, x: Tensor) -> Result<Tensor> {
        match self {
            Squash::Identity => Ok(x),
            Squash::Tanh => Ok(x.tanh()?),
            // σ(x) = (1 + tanh(x/2)) / 2.
            Squash::Sigmoid => Ok(x.affine(0.5, 0.0)?.tanh()?.affine(0.5, 0.5)?),
            Squash::Layer(activation) => nn::activate(&x, activation),
        }
    }
}
