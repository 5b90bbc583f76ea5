//! A decoder without weights: what its configuration says, and what follows from it. A generator is one with an output
//! layer; an embedding model may be one that is pooled.

use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::config::{Family, GeneratorConfig};
use super::network::Network;
use super::reader::Reader;
use super::rope::Rope;
use crate::error::Result;
use crate::models::batch::TokenBatch;
use crate::models::dropout::{self, Rates};
use crate::models::params::View;

/// Configuration, rotary frequencies and dropout of a decoder.
#[derive(Clone, Debug)]
pub(in crate::models) struct Decoder {
    config: GeneratorConfig,
    rope: Rope,
    // Not in the configuration, whose digest says what is computed: answers do not depend on it.
    rates: Rates,
}

// What an encoder made from a decoder needs, and a generator reads off its configuration.
impl Decoder {
    /// Reads `config.json` of a model folder; the second part is the file as it stands, for saving.
    pub fn read(dir: &Path) -> Result<(Self, Value)> {
        let (config, raw) = GeneratorConfig::read(dir)?;
        let rates = rates(config.family, &Reader::new(&raw))?;
        Ok((Self { rope: Rope::new(&config), config, rates }, raw))
    }

    /// Its sizes and switches.
    pub fn config(&self) -> &GeneratorConfig {
        &self.config
    }

    /// Dropout by config.json.
    pub fn rates(&self) -> Rates {
        self.rates
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

/// The dropout of a config.json, where transformers has it in the family; absent keys are 0 there.
fn rates(family: Family, read: &Reader<'_>) -> Result<Rates> {
    let rate = |key: &str| dropout::checked(key, read.number(key)?.unwrap_or(0.0)).map(Some);
    let attention = Rates { attention: rate("attention_dropout")?, ..Rates::default() };
    Ok(match family {
        Family::GptNeoX => {
            let hidden = rate("hidden_dropout")?;
            Rates { embedding: hidden, attended: hidden, feed_forward: hidden, ..attention }
        }
        // Its `embd_pdrop` is in the file and used nowhere.
        Family::Phi3 => {
            let added = rate("resid_pdrop")?;
            Rates { attended: added, feed_forward: added, ..attention }
        }
        _ => attention,
    })
}
