//! The embedding model: texts in, one vector each out.
//!
//! Reads the BERT family from a sentence-transformers folder and gives the same vectors as that library. Everything that
//! decides a vector (pooling, normalisation, prompts, length limit, lower-casing) is read from the folder, never assumed.
//! Dropout is off at all times: fine-tuning runs without it, so that a step depends on nothing but its batch.
//!
//! Dimensions: B sequences, T tokens of the longest, D width of a vector, L layers, P parameters outside the embeddings.

mod bert;
mod config;
mod modules;
mod save;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use self::config::BertConfig;
use self::modules::{Modules, Pooling};
use super::batch::TokenBatch;
use super::params::Params;
use super::text::Text;
use super::weights::Weights;
use super::{Grad, Role, nn};
use crate::error::{Error, Result};

/// An embedding model with its tokenizer and everything that decides its vectors.
#[derive(Debug)]
pub struct Encoder {
    config: BertConfig,
    modules: Modules,
    text: Text,
    params: Params,
    dropped: Vec<String>,
    device: Device,
}

/// Texts as token ids, and how many of them were cut to the length limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokenized {
    /// Ids of each text, special tokens included, not padded.
    pub ids: Vec<Vec<u32>>,
    /// Texts that lost their end.
    pub truncated: usize,
}

impl Encoder {
    /// Reads a sentence-transformers folder.
    ///
    /// Refused by name: another model type than `bert`, another pooling than mean, cls or max, a module beside
    /// Transformer, Pooling and Normalize, a tensor that is missing, unknown, misshapen or not finite, a tokenizer with
    /// more tokens than the embedding table has rows. All weights but an unused `pooler` start trainable.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        if !device.is_cpu() {
            return Err(Error::new(format!("the encoder cannot run on `{:?}`, expected the CPU", device.location()))
                .hint("use `--device cpu`: the layers of this version are written for the CPU"));
        }
        if !dir.is_dir() {
            return Err(Error::new(format!("there is no encoder folder `{}`", dir.display()))
                .hint("give the folder of a sentence-transformers model with --encoder DIR"));
        }
        let modules = Modules::read(dir)?;
        let inner = dir.join(&modules.transformer_path);
        let config = BertConfig::read(&inner)?;
        let modules = modules.checked(&config, &inner)?;
        let text = Text::load(&inner)?;
        if text.vocab_size() > config.vocab_size {
            return Err(Error::new(format!(
                "the tokenizer of `{}` has ids up to `{}`, expected less than the {} rows of the embedding table",
                dir.display(),
                text.vocab_size() - 1,
                config.vocab_size
            ))
            .hint("tokenizer and weights come from different models: copy both from one"));
        }
        let text = text.with_limit(modules.max_length)?;
        let mut weights = Weights::read_folder(&inner, device)?;
        weights.strip_prefix("bert.")?;
        let (params, dropped) = bert::take_params(&config, &mut weights)?;
        Ok(Self { config, modules, text, params, dropped, device: device.clone() })
    }

    /// Writes a sentence-transformers folder that loads to the same bits, atomically: an interrupted save leaves what was
    /// there before. An existing folder is replaced only when it is a model folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        save::save(self, dir)
    }

    /// Width of a vector, D.
    pub fn dim(&self) -> usize {
        self.config.hidden_size
    }

    /// Token ids a text is cut to, special tokens included.
    pub fn max_length(&self) -> usize {
        self.modules.max_length
    }

    /// The tokenizer, which cuts to [`Encoder::max_length`].
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The weights, to decide which of them train or to change them.
    pub fn params_mut(&mut self) -> &mut Params {
        &mut self.params
    }

    /// Tensors of the folder that have no part in a vector: a pooler (kept and saved again, never trained), heads and
    /// buffers of other tasks (not kept).
    pub fn unused(&self) -> Vec<String> {
        let kept = self.params.names().filter(|name| bert::is_unused(name)).map(str::to_owned);
        let mut all: Vec<String> = kept.chain(self.dropped.iter().cloned()).collect();
        all.sort();
        all
    }

    /// What is put before a text of this role.
    pub fn prompt(&self, role: Role) -> &str {
        match role {
            Role::Question => &self.modules.query_prompt,
            Role::Passage => &self.modules.passage_prompt,
        }
    }

    /// Texts to token ids: prompt of the role, special tokens, cut to the length limit. In parallel, order kept.
    pub fn tokenize(&self, texts: &[&str], role: Role) -> Result<Tokenized> {
        let prompt = self.prompt(role);
        let encoded: Vec<(Vec<u32>, bool)> = texts
            .par_iter()
            .map(|text| {
                let mut whole = format!("{prompt}{text}");
                if self.modules.do_lower_case {
                    whole = whole.chars().flat_map(char::to_lowercase).collect();
                }
                self.text.encode_limited(&whole, true)
            })
            .collect::<Result<_>>()?;
        let truncated = encoded.iter().filter(|(_, cut)| *cut).count();
        Ok(Tokenized { ids: encoded.into_iter().map(|(ids, _)| ids).collect(), truncated })
    }

    /// The vectors of tokenized texts, (B, D) f32, pooled and normalised as the folder says.
    ///
    /// Pads to the longest of the batch: sort by length and cut into batches before. With [`Grad::On`] the result depends
    /// on every trainable weight.
    pub fn forward(&self, sequences: &[Vec<u32>], grad: Grad) -> Result<Tensor> {
        let batch = TokenBatch::new(sequences, self.config.pad_token_id, &self.device)?;
        let longest = batch.ids.dims()[1];
        if longest > self.config.max_position_embeddings {
            return Err(Error::new(format!(
                "a sequence of `{longest}` tokens is longer than the {} positions of the encoder",
                self.config.max_position_embeddings
            ))
            .hint("cut texts with `tokenize`, which knows the limit"));
        }
        let tokens = bert::forward(&self.config, &self.params.view(grad), &batch)?;
        let pooled = match self.modules.pooling {
            Pooling::Mean => nn::mean_pool(&tokens, &batch.lengths)?,
            Pooling::Max => nn::max_pool(&tokens, &batch.lengths)?,
            Pooling::Cls => tokens.narrow(1, 0, 1)?.squeeze(1)?,
        };
        // sentence-transformers leaves the 10⁻¹² of `torch.nn.functional.normalize`.
        if self.modules.normalize { nn::l2_normalize(&pooled, 1e-12) } else { Ok(pooled) }
    }

    /// Modelled floating-point operations of one forward pass over sequences of these lengths.
    ///
    /// Σ 2·P·T + 4·L·D·T² per sequence of T tokens, without padding: 2 per weight and token outside the embeddings, and
    /// the two products of attention (STRATEGIES.md §5). A backward pass over all weights costs twice that.
    pub fn forward_flops(&self, lengths: &[usize]) -> f64 {
        let weights = self.non_embedding_parameters() as f64;
        let attention = 4.0 * (self.config.num_hidden_layers * self.config.hidden_size) as f64;
        lengths.iter().map(|&length| length as f64).map(|t| 2.0 * weights * t + attention * t * t).sum()
    }

    /// Parameters of the layers: no embedding table, no unused tensor.
    pub fn non_embedding_parameters(&self) -> usize {
        let counted = |name: &str| !name.starts_with("embeddings.") && !bert::is_unused(name);
        self.params.iter().filter(|(name, _)| counted(name)).map(|(_, param)| param.var.elem_count()).sum()
    }

    /// Everything that decides a vector, as it is now: two encoders with equal fingerprints give equal vectors.
    pub fn fingerprint(&self) -> Result<BTreeMap<String, String>> {
        let weights = self.params.digest_of(|name| !bert::is_unused(name))?;
        let Modules { query_prompt, passage_prompt, .. } = &self.modules;
        Ok([
            ("architecture", self.config.identity()),
            ("weights", weights),
            ("tokenizer", self.text.digest().to_owned()),
            ("pooling", self.modules.pooling.name().to_owned()),
            ("query_prefix", query_prompt.clone()),
            ("passage_prefix", passage_prompt.clone()),
            ("normalize", self.modules.normalize.to_string()),
            ("lower_case", self.modules.do_lower_case.to_string()),
            ("max_length", self.modules.max_length.to_string()),
            ("dtype", "f32".to_owned()),
            ("dim", self.dim().to_string()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect())
    }

    /// A deep copy: training one leaves the other as it is.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            config: self.config.clone(),
            modules: self.modules.clone(),
            text: self.text.clone(),
            params: self.params.try_clone()?,
            dropped: self.dropped.clone(),
            device: self.device.clone(),
        })
    }
}
