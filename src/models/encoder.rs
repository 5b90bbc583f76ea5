//! The embedding model: texts in, one vector each out.
//!
//! Reads a sentence-transformers folder of any family of `backbone` (BERT and its kin, ModernBERT, language models) and
//! gives the same vectors as that library. Everything that decides a vector (pooling, further modules, prompts, length
//! limit, lower-casing, a cut of the vector) is read from the folder, never assumed. Nothing is dropped but in passes of
//! training that ask for it ([`Encoder::set_dropout`], [`Encoder::forward_drawing`]).
//!
//! Dimensions: B sequences, N tokens of all of them, T of one, D width of a vector, P parameters outside the embeddings.

mod backbone;
mod bert;
mod cached;
mod chain;
mod config;
mod limits;
mod memory;
mod modern;
mod modules;
mod pass;
mod pooling;
mod positions;
mod rounded;
mod save;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use self::backbone::Backbone;
use self::cached::Cache;
use self::chain::Module;
use self::limits::Limits;
use self::modules::Modules;
use super::dropout::{Draw, Dropping, Rates};
use super::params::Params;
use super::text::Text;
use super::weights::Weights;
use super::{Grad, Role};
use crate::error::{Context, Error, Result};

pub use self::rounded::Rounded;

/// An embedding model with its tokenizer and everything that decides its vectors.
#[derive(Debug)]
pub struct Encoder {
    backbone: Arc<Backbone>,
    modules: Modules,
    limits: Limits,
    /// Ids that a prompt takes at the beginning of a text where the pooling leaves prompts out: question, passage.
    left_out: [usize; 2],
    text: Text,
    params: Params,
    dropped: Vec<String>,
    /// The model card of the folder it was read from.
    card: Option<Arc<str>>,
    device: Device,
    /// Where passes with gradients leave their chunks, when those are computed twice to save memory.
    cache: Option<Cache>,
    /// What passes with a draw drop.
    rates: Rates,
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
    /// Refused by name: a model type, a pooling, a module or a setting that is not supported, a tensor that is missing,
    /// unknown, misshapen or not finite, a tokenizer with more tokens than the embedding table has rows or that does not
    /// add the special tokens it promises. All weights but an unused `pooler` start trainable.
    pub fn load(dir: &Path, device: &Device) -> Result<Self> {
        if !dir.is_dir() {
            return Err(Error::new(format!("there is no encoder folder `{}`", dir.display()))
                .hint("give the folder of a sentence-transformers model with --encoder DIR"));
        }
        let modules = Modules::read(dir)?;
        let inner = dir.join(&modules.transformer_path);
        let backbone = Backbone::read(&inner)?;
        modules.check_width(backbone.hidden(), &inner)?;
        let limits = Limits::read(&inner, backbone.max_positions())?;
        let text = Text::load(&inner)?;
        if text.vocab_size() > backbone.vocabulary() {
            return Err(Error::new(format!(
                "the tokenizer of `{}` has ids up to `{}`, expected less than the {} rows of the embedding table",
                dir.display(),
                text.vocab_size() - 1,
                backbone.vocabulary()
            ))
            .hint("tokenizer and weights come from different models: copy both from one"));
        }
        if backbone.is_decoder() {
            limits::check_special_tokens(&inner, &text)?;
        }
        let mut left_out = [0; 2];
        if !modules.pooling.include_prompt {
            for (count, prompt) in left_out.iter_mut().zip([&modules.query_prompt, &modules.passage_prompt]) {
                *count = limits::prompt_tokens(&text, &cased(&limits, prompt), limits.max_length)?;
            }
        }
        let text = text.with_limit(limits.max_length)?;
        let (mut params, dropped) = backbone.take_params(&mut Weights::read_folder(&inner, &Device::Cpu)?)?;
        for module in &modules.chain {
            module.take_params(dir, &Device::Cpu, &mut params)?;
        }
        // Read and checked on the CPU, whose memory is where files go.
        params.move_to(device)?;
        let card = dir.join(save::CARD);
        let card = match card.is_file() {
            true => Some(std::fs::read(&card).context(|| format!("cannot read `{}`", card.display()))?),
            false => None,
        };
        Ok(Self {
            backbone: Arc::new(backbone),
            modules,
            limits,
            left_out,
            text,
            params,
            dropped,
            card: card.map(|bytes| String::from_utf8_lossy(&bytes).into()),
            device: device.clone(),
            cache: None,
            rates: Rates::default(),
        })
    }

    /// Writes a sentence-transformers folder that loads to the same bits, atomically: an interrupted save leaves what was
    /// there before. An existing folder is replaced only when it is a model folder.
    pub fn save(&self, dir: &Path) -> Result<()> {
        save::save(self, dir)
    }

    /// Where its weights are, and what it makes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Width of a vector, D.
    pub fn dim(&self) -> usize {
        self.modules.cut().unwrap_or_else(|| self.modules.whole_width())
    }

    /// Cuts vectors to their first `dim` numbers (Matryoshka, arXiv 2205.13147), as `truncate_dim` of the folder does; 0 and
    /// more than the chain gives are errors. Like in sentence-transformers the cut comes after the last module: what that
    /// scaled to unit length is shorter afterwards.
    pub fn truncate(&mut self, dim: usize) -> Result<()> {
        self.modules.truncate(dim)
    }

    /// Token ids a text is cut to, special tokens included.
    pub fn max_length(&self) -> usize {
        self.limits.max_length
    }

    /// The family of its transformer: `model_type` of config.json.
    pub fn family(&self) -> &'static str {
        self.backbone.family()
    }

    /// Layers of its transformer.
    pub fn layers(&self) -> usize {
        self.backbone.layers()
    }

    /// The name sentence-transformers gives its pooling; several, side by side, joined by `+`.
    pub fn pooling_name(&self) -> String {
        self.modules.pooling.name()
    }

    /// Its modules in order, as sentence-transformers calls them.
    pub fn module_names(&self) -> Vec<&'static str> {
        self.modules.names()
    }

    /// Whether every vector has unit length: the last module says so, and nothing is cut off afterwards.
    pub fn is_normalized(&self) -> bool {
        self.modules.ends_normalized() && self.modules.cut().is_none()
    }

    /// Every prompt of the folder with its name; [`Encoder::prompt`] says which of them a role gets.
    pub fn prompts(&self) -> Vec<(String, String)> {
        self.modules.prompts()
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
        let kept = self.params.names().filter(|name| Backbone::is_unused(name)).map(str::to_owned);
        let mut all: Vec<String> = kept.chain(self.dropped.iter().cloned()).collect();
        all.sort();
        all
    }

    /// Decides what passes with a [`Draw`] drop from now on; nothing until then.
    pub fn set_dropout(&mut self, dropping: Dropping) {
        self.rates = self.dropout().under(dropping);
    }

    /// The dropout that its config.json asks for.
    pub fn dropout(&self) -> Rates {
        self.backbone.rates()
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
            .map(|text| self.text.encode_limited(&cased(&self.limits, &format!("{prompt}{text}")), true))
            .collect::<Result<_>>()?;
        let truncated = encoded.iter().filter(|(_, cut)| *cut).count();
        Ok(Tokenized { ids: encoded.into_iter().map(|(ids, _)| ids).collect(), truncated })
    }

    /// The vectors of tokenized texts, (B, D) f32, pooled and normalised as the folder says.
    ///
    /// Sequences are packed one after the other: a batch costs what its tokens cost. With [`Grad::On`] the result depends on
    /// every trainable weight. An encoder whose pooling leaves prompts out must know whose prompt to leave out:
    /// [`Encoder::forward_as`]; it is an error here unless both roles have prompts of the same length.
    pub fn forward(&self, sequences: &[Vec<u32>], grad: Grad) -> Result<Tensor> {
        let [question, passage] = self.left_out;
        if question != passage {
            return Err(Error::new(format!(
                "the pooling leaves out a prompt of `{question}` tokens for questions and `{passage}` for passages, expected \
                 to be told which these texts are"
            ))
            .hint("set `include_prompt` to true in 1_Pooling/config.json if the model was trained so"));
        }
        self.forward_with(sequences, question, grad, None)
    }

    /// [`Encoder::forward`] of texts of one role.
    pub fn forward_as(&self, sequences: &[Vec<u32>], role: Role, grad: Grad) -> Result<Tensor> {
        self.forward_with(sequences, self.left_out_of(role), grad, None)
    }

    /// [`Encoder::forward_as`] with gradients in training: drops what [`Encoder::set_dropout`] decided, by the random numbers
    /// of `draw`. Another split into chunks drops the same.
    pub fn forward_drawing(&self, sequences: &[Vec<u32>], role: Role, draw: Draw) -> Result<Tensor> {
        self.forward_with(sequences, self.left_out_of(role), Grad::On, Some(draw))
    }

    fn forward_with(&self, sequences: &[Vec<u32>], prompt: usize, grad: Grad, draw: Option<Draw>) -> Result<Tensor> {
        match &self.cache {
            Some(cache) if grad == Grad::On => self.forward_in_chunks(sequences, prompt, cache, draw),
            _ => self.forward_after(sequences, prompt, self.params.view(grad), draw),
        }
    }

    /// Tokens at the beginning of a text of this role that the pooling leaves out.
    fn left_out_of(&self, role: Role) -> usize {
        let [question, passage] = self.left_out;
        match role {
            Role::Question => question,
            Role::Passage => passage,
        }
    }

    /// Modelled floating-point operations of one forward pass over sequences of these lengths.
    ///
    /// Σ 2·P·T + A(T) + 2·M per sequence of T tokens: 2 per weight and token outside the embeddings, the two products of
    /// attention (4·L·D·T² in L layers whose tokens see each other; STRATEGIES.md §5), and 2 for each of the M weights after
    /// the pooling. A backward pass over all weights costs twice that.
    pub fn forward_flops(&self, lengths: &[usize]) -> f64 {
        let after = self.count(|name| self.is_after_pooling(name)) as f64;
        let before = self.non_embedding_parameters() as f64 - after;
        let one = |tokens: f64| 2.0 * before * tokens + self.backbone.attention_flops(tokens) + 2.0 * after;
        lengths.iter().map(|&length| one(length as f64)).sum()
    }

    /// Parameters of the layers and modules: no embedding table, no unused tensor.
    pub fn non_embedding_parameters(&self) -> usize {
        self.count(|name| self.is_after_pooling(name) || !(Backbone::is_table(name) || Backbone::is_unused(name)))
    }

    fn count(&self, counted: impl Fn(&str) -> bool) -> usize {
        self.params.sizes().filter(|(name, _)| counted(name)).map(|(_, size)| size).sum()
    }

    fn is_after_pooling(&self, name: &str) -> bool {
        self.modules.chain.iter().any(|module| module.owns(name))
    }

    /// Everything that decides a vector, as it is now: two encoders with equal fingerprints give equal vectors.
    pub fn fingerprint(&self) -> Result<BTreeMap<String, String>> {
        let weights = self.params.digest_of(|name| !Backbone::is_unused(name))?;
        let Modules { query_prompt, passage_prompt, pooling, chain, .. } = &self.modules;
        let mut fields = vec![
            ("architecture", self.backbone.identity()),
            ("weights", weights),
            ("tokenizer", self.text.digest().to_owned()),
            ("pooling", pooling.name()),
            ("query_prefix", query_prompt.clone()),
            ("passage_prefix", passage_prompt.clone()),
            ("normalize", self.modules.ends_normalized().to_string()),
            ("lower_case", self.limits.do_lower_case.to_string()),
            ("max_length", self.limits.max_length.to_string()),
            ("dtype", "f32".to_owned()),
            ("dim", self.dim().to_string()),
        ];
        // Said only where it is unusual, so that indexes made before these were supported stay valid.
        if self.left_out != [0, 0] {
            fields.push(("include_prompt", pooling.include_prompt.to_string()));
        }
        if chain.len() > usize::from(self.modules.ends_normalized()) {
            fields.push(("modules", chain.iter().map(Module::identity).collect::<Vec<_>>().join(", ")));
        }
        Ok(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    /// A deep copy: training one leaves the other as it is.
    pub fn try_clone(&self) -> Result<Self> {
        Ok(Self {
            backbone: Arc::clone(&self.backbone),
            modules: self.modules.clone(),
            limits: self.limits,
            left_out: self.left_out,
            text: self.text.clone(),
            params: self.params.try_clone()?,
            dropped: self.dropped.clone(),
            card: self.card.clone(),
            device: self.device.clone(),
            cache: self.cache.as_ref().map(Cache::empty),
            rates: self.rates,
        })
    }
}

/// A text as the tokenizer gets it.
fn cased<'a>(limits: &Limits, text: &'a str) -> Cow<'a, str> {
    match limits.do_lower_case {
        true => Cow::Owned(text.chars().flat_map(char::to_lowercase).collect()),
        false => Cow::Borrowed(text),
    }
}
