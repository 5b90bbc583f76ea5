//! The transformer of an encoder, whichever family it is of: `config.json` decides.

use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::bert::{self, Bert};
use super::config::Config;
use super::modern::{self, ModernBert};
use crate::error::{Error, Result};
use crate::models::batch::TokenBatch;
use crate::models::dropout::Rates;
use crate::models::generator::{self, Decoder};
use crate::models::params::{Params, View};
use crate::models::weights::Weights;

/// A transformer that turns tokens into vectors.
#[derive(Debug)]
pub(super) struct Backbone {
    network: Network,
    /// `config.json`, to be saved again.
    config: Config,
}

#[derive(Debug)]
enum Network {
    Bert(Bert),
    Modern(ModernBert),
    /// A language model, whose tokens see what stands before them, or, made to embed, both sides.
    Decoder(Box<Decoder>),
}

/// The key of a decoder whose tokens see both sides.
const BOTH_SIDES: &str = "use_bidirectional_attention";
/// Beginnings of the names of decoders' heads.
static DECODER_HEADS: [&str; 3] = ["lm_head.", "embed_out.", "score."];
/// Ends of the names of what some decoder checkpoints store although it follows from config.json.
const DECODER_BUFFERS: [&str; 3] = ["rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];
/// Tables of embeddings, which are looked up and not multiplied with.
const TABLES: [&str; 4] = ["embeddings.", "embed_tokens.", "embed_in.", bert::DISTANCES];

/// Every `model_type` that can embed.
fn supported() -> Vec<&'static str> {
    let encoders = bert::FAMILIES.iter().map(|family| family.model_type).chain([modern::MODEL_TYPE]);
    encoders.chain(generator::SUPPORTED.iter().copied()).collect()
}

impl Backbone {
    /// Reads and checks `config.json` of a folder.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("config.json");
        let config = Config::read(&path)?.ok_or_else(|| {
            Error::new(format!("there is no `{}`", path.display()))
                .hint("give the folder of a sentence-transformers model, with config.json beside its weights")
        })?;
        let hint = || format!("supported model types: {}", supported().join(", "));
        let network = Self::network(dir, &config).map_err(|error| error.or_hint(hint()))?;
        Ok(Self { network, config })
    }

    fn network(dir: &Path, config: &Config) -> Result<Network> {
        let model_type = config.text("model_type", "")?;
        if let Some(family) = bert::FAMILIES.iter().find(|family| family.model_type == model_type) {
            return Ok(Network::Bert(Bert::read(family, config)?));
        }
        if model_type == modern::MODEL_TYPE {
            return Ok(Network::Modern(ModernBert::read(config)?));
        }
        if !generator::SUPPORTED.contains(&model_type) {
            return Err(config.refused("model_type", &format!("one of: {}", supported().join(", "))));
        }
        // Code of its own makes these look both ways, which transformers has not.
        if !config.flag("is_causal", true)? {
            return Err(config.refused("is_causal", "`true`"));
        }
        let (decoder, _) = Decoder::read(dir)?;
        // What EmbeddingGemma has, and no other family.
        if config.flag(BOTH_SIDES, false)? && decoder.config().causal {
            return Err(config.refused(BOTH_SIDES, &format!("`false` in a `{model_type}`")));
        }
        Ok(Network::Decoder(Box::new(decoder)))
    }

    /// `model_type` of its config.json.
    pub fn family(&self) -> &'static str {
        match &self.network {
            Network::Bert(bert) => bert.family.model_type,
            Network::Modern(_) => modern::MODEL_TYPE,
            Network::Decoder(decoder) => decoder.config().family.name(),
        }
    }

    /// D: the width of a token's vector.
    pub fn hidden(&self) -> usize {
        match &self.network {
            Network::Bert(bert) => bert.hidden,
            Network::Modern(modern) => modern.hidden,
            Network::Decoder(decoder) => decoder.hidden(),
        }
    }

    /// V: rows of the table of words.
    pub fn vocabulary(&self) -> usize {
        match &self.network {
            Network::Bert(bert) => bert.vocabulary,
            Network::Modern(modern) => modern.vocabulary,
            Network::Decoder(decoder) => decoder.vocabulary(),
        }
    }

    /// L: its layers.
    pub fn layers(&self) -> usize {
        match &self.network {
            Network::Bert(bert) => bert.layers,
            Network::Modern(modern) => modern.layers,
            Network::Decoder(decoder) => decoder.config().layers,
        }
    }

    /// The most tokens of a sequence.
    pub fn max_positions(&self) -> usize {
        match &self.network {
            Network::Bert(bert) => bert.max_positions(),
            Network::Modern(modern) => modern.max_positions,
            Network::Decoder(decoder) => decoder.max_positions(),
        }
    }

    /// Whether it is a language model.
    pub fn is_decoder(&self) -> bool {
        matches!(self.network, Network::Decoder(_))
    }

    /// The settings that decide a vector and cannot be seen in the shapes of the weights.
    pub fn identity(&self) -> String {
        match &self.network {
            Network::Bert(bert) => bert.identity(),
            Network::Modern(modern) => modern.identity(),
            Network::Decoder(decoder) => decoder.identity(),
        }
    }

    /// The vectors of all tokens after the last layer, (N, D).
    pub fn states(&self, view: View<'_>, batch: &TokenBatch) -> Result<Tensor> {
        match &self.network {
            Network::Bert(bert) => bert.states(view, batch),
            Network::Modern(modern) => modern.states(view, batch),
            Network::Decoder(decoder) => decoder.states(view, "", batch),
        }
    }

    /// Modelled operations of attention over one sequence of `tokens`: its two products, 4·D·T² a layer; less where a layer
    /// sees near tokens only, and half of it where tokens see only what stands before them.
    pub fn attention_flops(&self, tokens: f64) -> f64 {
        match &self.network {
            Network::Bert(bert) => 4.0 * (bert.layers * bert.hidden) as f64 * tokens * tokens,
            Network::Modern(modern) => modern.attention_flops(tokens),
            Network::Decoder(decoder) => {
                let config = decoder.config();
                let seen = if config.causal { 0.5 } else { 1.0 };
                4.0 * seen * (config.layers * config.query_width()) as f64 * tokens * tokens
            }
        }
    }

    /// Dropout by config.json.
    pub fn rates(&self) -> Rates {
        match &self.network {
            Network::Bert(bert) => bert.rates,
            Network::Modern(modern) => modern.rates,
            Network::Decoder(decoder) => decoder.rates(),
        }
    }

    /// Numbers a token that dropout at these rates keeps in all layers: what went into it stays beside what came out.
    pub fn dropped_numbers(&self, rates: Rates) -> f64 {
        let width = |rate: Option<f64>, width: usize| if rate.unwrap_or(0.0) > 0.0 { width as f64 } else { 0.0 };
        let inside = match &self.network {
            Network::Modern(modern) => modern.intermediate,
            Network::Bert(_) | Network::Decoder(_) => self.hidden(),
        };
        let of_layer = width(rates.attended, self.hidden()) + width(rates.feed_forward, inside);
        width(rates.embedding, self.hidden()) + self.layers() as f64 * of_layer
    }

    /// Numbers a token that a layer keeps for its backward pass: inputs and results of projections, attention, norms, sums and
    /// activation, each once.
    pub fn kept_numbers(&self) -> f64 {
        match &self.network {
            Network::Bert(bert) => (10 * bert.hidden + 2 * bert.intermediate) as f64,
            // The fused results stay beside their parts.
            Network::Modern(modern) => (14 * modern.hidden + 5 * modern.intermediate) as f64,
            Network::Decoder(decoder) => generator::kept_numbers(decoder.config()),
        }
    }

    /// Whether a tensor of the model is a table of embeddings.
    pub fn is_table(name: &str) -> bool {
        TABLES.iter().any(|table| name.starts_with(table))
    }

    /// Whether a tensor of the model has no part in a vector.
    pub fn is_unused(name: &str) -> bool {
        name.starts_with("pooler.")
    }

    /// Takes the weights of the transformer out of a checkpoint; second the names of tensors that belong to other tasks and
    /// are not kept. A tensor of the model that is missing or misshapen and one that nothing explains are errors.
    pub fn take_params(&self, weights: &mut Weights) -> Result<(Params, Vec<String>)> {
        let (shapes, prefix, heads) = match &self.network {
            Network::Bert(bert) => (bert.shapes(), bert.family.prefix, bert.family.heads),
            Network::Modern(modern) => (modern.shapes(), modern::PREFIX, &modern::HEADS[..]),
            Network::Decoder(decoder) => (decoder.shapes(""), decoder.causal_root(), &DECODER_HEADS[..]),
        };
        weights.strip_prefix(prefix)?;
        let mut params = Params::new();
        for (name, shape) in shapes {
            params.insert(name.clone(), weights.take(&name, &shape)?, true)?;
        }
        let mut dropped: Vec<String> = weights.buffers().keys().cloned().collect();
        let left: Vec<String> = weights.names().map(str::to_owned).collect();
        for name in left {
            // Positions that some versions store as numbers, and what follows from config.json.
            let buffer = name == "embeddings.position_ids"
                || (self.is_decoder() && DECODER_BUFFERS.iter().any(|end| name.ends_with(end)));
            if Self::is_unused(&name) && !self.is_decoder() {
                if let Some(tensor) = weights.take_any(&name)? {
                    params.insert(name, tensor, false)?;
                }
            } else if buffer || heads.iter().any(|head| name.starts_with(head)) {
                dropped.push(name);
            } else {
                return Err(Error::new(format!(
                    "`{}` holds a tensor `{name}` that a `{}` of {} layers lacks",
                    weights.origin().display(),
                    self.family(),
                    self.layers()
                ))
                .hint("the weights do not belong to this `config.json`: copy the whole model folder again"));
            }
        }
        Ok((params, dropped))
    }

    /// `config.json` as it was read, but for what a save decides: the class, and the type of the weights.
    pub fn saved_config(&self) -> Value {
        let mut config = self.config.raw().clone();
        let Some(map) = config.as_object_mut() else { return config };
        let class = match &self.network {
            Network::Bert(bert) => Some(bert.family.class.to_owned()),
            Network::Modern(_) => Some(modern::CLASS.to_owned()),
            // The weights are saved without an output layer.
            Network::Decoder(_) => map
                .get("architectures")
                .and_then(|list| list.get(0)?.as_str())
                .map(|class| class.replace("ForCausalLM", "Model")),
        };
        if let Some(class) = class {
            map.insert("architectures".to_owned(), serde_json::json!([class]));
        }
        let key = if map.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        map.insert(key.to_owned(), serde_json::json!("float32"));
        config
    }
}
