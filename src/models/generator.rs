//! The generator: a decoder-only language model from a Hugging Face folder.
//!
//! `families` reads `config.json` of each family into the sizes and switches of `config`; `names` says which tensors such
//! a model has, and `network` and `layer` compute by the same switches: no family has a layer of its own. `decoder` is
//! what a generator shares with an embedding model made from a decoder, `head` is the output layer.
//!
//! Forward passes for training score given answers ([`Generator::answer_log_probs`]) or see which part of the prompt they
//! attend to ([`Generator::attention_mass`]); those for answering write new ones with cached keys and values ([`Generator::start`], [`Generator::greedy`], in `decoding`). Low-rank adapters are
//! in `lora`.
//!
//! Dimensions: N sequences, T answer tokens of the longest answer, V vocabulary, D hidden width, L layers.

mod attention_mass;
mod branches;
mod config;
mod decoder;
mod families;
mod head;
mod layer;
mod memory;
mod names;
mod network;
mod projection;
mod reader;
mod rope;
mod saving;
mod scaling;
mod scoring;
mod special;

#[cfg(test)]
mod dropout_tests;
#[cfg(test)]
mod family_tests;
#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::checkpointing::Tape;
use super::dropout::{Dropping, Drops, Rates};
use super::lora::{Lora, Merged};
use super::nn::Format;
use super::params::Params;
use super::text::Text;
use super::weights::{self, Weights};
use super::{Grad, folder};
use crate::error::{Context, Error, Result};

pub use branches::{Branch, Branched, Choice};
pub use config::{Family, FeedForward, GeneratorConfig, LayerKind, NormKind, QueryKeyValue, Rotation, SUPPORTED};
pub(in crate::models) use decoder::Decoder;
pub(super) use head::Head;
pub(in crate::models) use memory::kept_numbers;
pub(super) use names::Linear;
pub(super) use network::Network;
pub(super) use rope::Place;
pub use scaling::RopeScaling;
pub use scoring::Scored;
pub use special::SpecialTokens;

const CONFIG: &str = "config.json";
/// Besides the tokenizer's files, what goes along when a generator is saved, where it exists.
const COMPANIONS: [&str; 2] = ["generation_config.json", "chat_template.jinja"];

/// A language model with its tokenizer, its weights and, while it has one, its adapter.
#[derive(Debug)]
pub struct Generator {
    decoder: Decoder,
    raw_config: Value,
    special: SpecialTokens,
    text: Text,
    device: Device,
    origin: PathBuf,
    companions: BTreeMap<&'static str, Vec<u8>>,
    pub(super) params: Params,
    pub(super) lora: Option<Lora>,
    /// Adapters that were merged into the weights, the latest last.
    pub(super) merged: Vec<Merged>,
    /// Where passes with gradients leave their layers, when those are computed twice to save memory.
    tape: Option<Tape>,
    /// What passes with a draw drop.
    rates: Rates,
}

impl Generator {
    /// Reads `config.json`, `tokenizer.json` and the weights of a model folder; every weight trains until told otherwise.
    ///
    /// An unknown model family, an unsupported setting, a tokenizer with more tokens than the model or less than half of them, and missing,
    /// surplus, misshapen or non-finite tensors are errors that name them. A tied embedding may be stored under either
    /// of its names, and is saved as the embedding.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        Self::load_as(dir, device, None)
    }

    /// [`Generator::load`] with the matrices of [`Generator::quantise`] in a format of fewer bits from the beginning: the device
    /// never holds them all in f32.
    pub fn load_as(dir: &Path, device: &Device, format: Option<Format>) -> Result<Self> {
        let mut generator = Self::read(dir, device)?;
        if let Some(format) = format {
            generator.quantise(format)?;
        }
        generator.params.move_to(device)?;
        Ok(generator)
    }

    /// A generator for `device` whose weights are still on the CPU, where files are read and checked.
    fn read(dir: &Path, device: &Device) -> Result<Self> {
        let (decoder, raw_config) = Decoder::read(dir)?;
        let config = decoder.config();
        if !config.causal {
            return Err(Error::new(format!(
                "the model `{}` sees both sides of a token (`use_bidirectional_attention`): it embeds and cannot write",
                dir.display()
            ))
            .hint("give it as `--encoder`, and a causal language model as `--generator`"));
        }
        let text = Text::load(dir)?;
        if text.vocab_size() > config.vocabulary {
            return Err(Error::new(format!(
                "the tokenizer of `{}` has {} tokens, but the model only {}",
                dir.display(),
                text.vocab_size(),
                config.vocabulary
            ))
            .hint("copy tokenizer.json and the weights from the same model"));
        }
        // Models are padded by a few hundred tokens at most; one twice as large was trained with another tokenizer.
        if text.vocab_size() * 2 < config.vocabulary {
            return Err(Error::new(format!(
                "the tokenizer of `{}` has {} tokens, less than half of the model's {}: they do not belong together",
                dir.display(),
                text.vocab_size(),
                config.vocabulary
            ))
            .hint("copy tokenizer.json and the weights from the same model"));
        }
        let special = SpecialTokens::read(dir, &raw_config, &text, config.vocabulary)?;
        let params = read_weights(dir, config, &Device::Cpu)?;
        // Kept in memory, like the tokenizer: the folder may be gone, or be replaced, when the model is saved.
        let mut companions = BTreeMap::new();
        for file in COMPANIONS {
            let path = dir.join(file);
            if path.is_file() {
                companions.insert(file, std::fs::read(&path).context(|| format!("cannot read `{}`", path.display()))?);
            }
        }
        Ok(Self {
            decoder,
            raw_config,
            special,
            text,
            device: device.clone(),
            origin: dir.to_path_buf(),
            companions,
            params,
            lora: None,
            merged: Vec::new(),
            tape: None,
            rates: Rates::default(),
        })
    }

    /// Writes a model folder that [`Generator::load`] and transformers read: config, tokenizer, f32 weights. Durable when
    /// it returns; a crash leaves the old folder or the new one.
    ///
    /// An adapter is not part of such a folder: with one the call is an error.
    pub fn save(&self, dir: &Path) -> Result<()> {
        if self.lora.is_some() {
            return Err(Error::new(
                "the generator has an adapter that is not merged, so it has no single folder of weights",
            )
            .hint("save the adapter by itself, or merge it first"));
        }
        let mut config = self.raw_config.clone();
        for key in ["torch_dtype", "dtype"] {
            if let Some(dtype) = config.get_mut(key) {
                *dtype = "float32".into();
            }
        }
        folder::replace_folder(dir, CONFIG, |temporary| {
            let text = serde_json::to_string_pretty(&config)?;
            std::fs::write(temporary.join(CONFIG), text).context(|| format!("cannot write `{}`", dir.display()))?;
            self.text.write_files(temporary)?;
            for (file, bytes) in &self.companions {
                std::fs::write(temporary.join(file), bytes).context(|| format!("cannot write `{}`", dir.display()))?;
            }
            self.params.to_safetensors(&temporary.join(weights::SINGLE))
        })
    }

    /// A deep copy, adapter included: training one leaves the other as it is.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            decoder: self.decoder.clone(),
            raw_config: self.raw_config.clone(),
            special: self.special.clone(),
            text: self.text.clone(),
            device: self.device.clone(),
            origin: self.origin.clone(),
            companions: self.companions.clone(),
            params: self.params.try_clone()?,
            lora: self.lora.clone(),
            merged: self.merged.clone(),
            tape: self.tape.is_some().then(Tape::default),
            rates: self.rates,
        })
    }

    /// Its sizes and switches.
    pub fn config(&self) -> &GeneratorConfig {
        self.decoder.config()
    }

    /// The `model_type` of its family, one of [`SUPPORTED`].
    pub fn family(&self) -> &'static str {
        self.config().family.name()
    }

    /// Its tokenizer.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// Its ids with a meaning.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// The longest sequence it can read, in tokens, prompt and answer together.
    pub fn max_positions(&self) -> usize {
        self.config().max_positions
    }

    /// Its weights and those of its adapter, under the names they have in the files of transformers and peft.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// [`Generator::params`], to choose what trains or to restore a checkpoint.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Decides what passes with a [`Draw`] drop from now on, apart from the adapter, whose settings say that; nothing until
    /// then.
    ///
    /// [`Draw`]: super::dropout::Draw
    pub fn set_dropout(&mut self, dropping: Dropping) {
        self.rates = self.dropout().under(dropping);
    }

    /// The dropout that its config.json asks for.
    pub fn dropout(&self) -> Rates {
        self.decoder.rates()
    }

    /// The ids of a prompt: the beginning-of-text token, where the model has one, then the text's own.
    pub fn prompt_ids(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids: Vec<u32> = self.special.bos.into_iter().collect();
        ids.extend(self.text.encode(text, false)?);
        Ok(ids)
    }

    /// Numbers in all weights, adapter included; a tied embedding counts once.
    pub fn parameter_count(&self) -> usize {
        self.params.count()
    }

    /// P: numbers in all weights but the embedding and the output layer, adapter included.
    pub fn non_embedding_parameters(&self) -> usize {
        let config = self.config();
        let embedding = config.embedding_name(config.causal_root());
        let counted = self.params.sizes().filter(|(name, _)| *name != embedding && *name != config.head_name());
        counted.map(|(_, count)| count).sum()
    }

    /// Floating point operations of a forward pass without cache over sequences of these lengths, with `logits`
    /// positions going through the output layer: Σ (2·P·t + 2·L·A·t²) + 2·V·D·logits.
    ///
    /// P without embedding, A the width of all heads together. The attention term is the causal half of STRATEGIES.md §5's
    /// 4·L·A·t², less in layers with a window. One multiplication and one addition count 2; norms, activations, softmax and
    /// rotations are left out, and so is padding. A full backward pass costs twice a forward pass, one that only reaches an
    /// adapter about once.
    pub fn forward_flops(&self, lengths: &[usize], logits: usize) -> f64 {
        let (config, parameters) = (self.config(), self.non_embedding_parameters() as f64);
        let sequence = |&length: &usize| {
            let pairs: f64 = config.kinds.iter().map(|kind| kind.scored_pairs(length)).sum();
            2.0 * parameters * length as f64 + 4.0 * config.query_width() as f64 * pairs
        };
        let head = 2.0 * (config.vocabulary * config.hidden * logits) as f64;
        lengths.iter().map(sequence).sum::<f64>() + head
    }

    /// The weights of one forward pass, resolved by name.
    pub(super) fn network(&self, grad: Grad) -> Result<Network> {
        self.network_dropping(grad, None)
    }

    /// [`Generator::network`] for one batch, of which this is dropped.
    fn network_dropping(&self, grad: Grad, drops: Option<&Drops>) -> Result<Network> {
        let view = self.params.view(grad).dropping(drops);
        Network::new(&self.decoder, self.decoder.causal_root(), view, self.lora.as_ref())
    }

    /// The output layer of one forward pass: the embedding's own weight where the two are one.
    pub(super) fn head(&self, grad: Grad) -> Result<Head> {
        let config = self.config();
        let weight = match config.tied {
            true => self.params.view(grad).get(&config.embedding_name(config.causal_root()))?,
            false => self.params.view(grad).get(config.head_name())?,
        };
        Ok(Head::new(weight, config.logit_soft_cap))
    }

    /// Refuses sequences that are empty, longer than the position limit or with ids outside the vocabulary.
    pub(super) fn check_sequences<'a>(&self, sequences: impl Iterator<Item = &'a [u32]>) -> Result<()> {
        for (index, ids) in sequences.enumerate() {
            if ids.is_empty() {
                return Err(Error::new(format!("sequence {index} has no token")));
            }
            if ids.len() > self.config().max_positions {
                return Err(too_long(index, ids.len(), self.config().max_positions));
            }
            check_ids(ids, self.config().vocabulary)?;
        }
        Ok(())
    }

    /// The folder it was read from.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// Where its weights are, and what it makes.
    pub fn device(&self) -> &Device {
        &self.device
    }
}

/// Refuses ids outside the vocabulary.
pub(super) fn check_ids(ids: &[u32], vocabulary: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= vocabulary) {
        None => Ok(()),
        Some(id) => {
            Err(Error::new(format!("token id `{id}` is outside the generator's vocabulary of {vocabulary} tokens")))
        }
    }
}

/// The error of a sequence beyond the position limit.
pub(super) fn too_long(index: usize, length: usize, limit: usize) -> Error {
    Error::new(format!("sequence {index} has `{length}` tokens, but the generator can read at most {limit}"))
        .hint("lower `--top-k` or `--max-prompt-tokens`, or take a generator with a larger `max_position_embeddings`")
}

fn read_weights(dir: &Path, config: &GeneratorConfig, device: &Device) -> Result<Params> {
    let mut weights = Weights::read_folder(dir, device)?;
    let mut params = Params::new();
    let (root, head) = (config.causal_root(), config.head_name());
    let (embedding, table) = (config.embedding_name(root), [config.vocabulary, config.hidden]);
    // A tied embedding may be stored as the output layer alone.
    let stored_as_head = config.tied && weights.contains(head) && !weights.contains(&embedding);
    for (name, shape) in config.shapes(root) {
        let stored = if stored_as_head && name == embedding { head } else { name.as_str() };
        let tensor = weights.take(stored, &shape)?;
        params.insert(name, tensor, true)?;
    }
    if !config.tied {
        params.insert(head, weights.take(head, &table)?, true)?;
    } else if weights.contains(head) {
        let embedded = params.get(&embedding)?.var.as_detached_tensor();
        if !same_values(&embedded, &weights.take(head, &table)?)? {
            return Err(Error::new(format!(
                "`{embedding}` and `{head}` of `{}` differ, but config.json says that they are one",
                dir.display()
            ))
            .hint("set `tie_word_embeddings` to false in config.json if both are meant"));
        }
    }
    match weights.names().find(|name| !is_derived(config.family, name)) {
        None => Ok(params),
        Some(surplus) => Err(Error::new(format!(
            "`{}` holds a tensor `{surplus}` that a model with this config.json lacks",
            dir.display()
        ))
        .hint("copy config.json and the weights from the same model; an adapter is loaded separately")),
    }
}

/// Whether a stored tensor follows from the configuration: early checkpoints keep rotary frequencies and masks.
fn is_derived(family: Family, name: &str) -> bool {
    let masks = [".attention.bias", ".attention.masked_bias"];
    name.ends_with(".rotary_emb.inv_freq")
        || (family == Family::GptNeoX && masks.iter().any(|mask| name.ends_with(mask)))
}

fn same_values(one: &Tensor, other: &Tensor) -> Result<bool> {
    super::nn::with_values(one, |one| super::nn::with_values(other, |other| one == other))?
}
