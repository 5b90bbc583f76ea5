//! A decoder without weights: what its configuration says, and what follows from it. A generator is one with an output
//! layer; an embedding model may be one that is pooled.

use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::config::GeneratorConfig;
use super::network::Network;
use super::rope::Rope;
use crate::error::Result;
use crate::models::batch::TokenBatch;
use crate::models::params::View;

/// Configuration and rotary frequencies of a decoder.
#[derive(Clone, Debug)]
pub(in crate::models) struct Decoder {
    config: GeneratorConfig,
    rope: Rope,
}

// What an encoder made from a decoder needs, and a generator reads off its configuration.
impl Decoder {
    /// Reads `config.json` of a model folder; the second part is the file as it stands, for saving.
    pub fn read(dir: &Path) -> Result<(Self, Value)> {
        let (config, raw) = GeneratorConfig::read(dir)?;
        Ok((Self { rope: Rope::new(&config), config }, raw))
    }

    /// Its sizes and switches.
    pub fn config(&self) -> &GeneratorConfig {
        &self.config
    }

    pub(super) fn rope(&self) -> &Rope {
        &self.rope
    }

    /// What stands before the names of its tensors in the family's causal language models, such as `model.`; nothing does
    /// in a bare checkpoint.
    pub fn causal_root(&self) -> &'static str {
        self.config.causal_root()
    }

    /// Names and shapes of all tensors but the output layer.
    pub fn shapes(&self, root: &str) -> Vec<(String, Vec<usize>)> {
        self.config.shapes(root)
    }

    /// States after the last norm, (N, D) f32: one row for each token of the batch. With [`Grad::On`] the gradient reaches
    /// every trainable weight of the view.
    ///
    /// [`Grad::On`]: crate::models::Grad::On
    pub fn states(&self, view: View<'_>, root: &str, batch: &TokenBatch) -> Result<Tensor> {
        Network::new(self, root, view, None)?.states(batch, None, |_, _, _| Ok(()))
    }

    /// D: width of a state.
    pub fn hidden(&self) -> usize {
        self.config.hidden
    }

    /// The longest sequence it can read, in tokens.
    pub fn max_positions(&self) -> usize {
        self.config.max_positions
    }

    /// V: ids it knows.
    pub fn vocabulary(&self) -> usize {
        self.config.vocabulary
    }

    /// A short text that differs whenever anything about the configuration does that changes what is computed.
    pub fn identity(&self) -> String {
        let digest = blake3::hash(format!("{:?}", self.config).as_bytes()).to_hex();
        format!("{} {}", self.config.family.name(), &digest[..16])
    }
}
