//! The generative selection model of DRO (Shi et al. 2025, arXiv 2505.03075, section 3.2): a language model reads a question
//! and n candidate passages and writes an ordered list of K of them, `[9] > [20] > [3]`.
//!
//! `identifiers` says which tokens stand for which passage and what may follow what, `prompt` what is read, `writing` draws
//! lists and takes the likeliest, `scoring` gives their log-probability with a gradient, `expectation` is the E-step's result.
//!
//! Dimensions: B questions, n candidates of a question, K passages of a list, m lists drawn for a question, M lists of all
//! questions together.

use std::path::Path;

use candle_core::Device;
use ragtune_index::Passage;
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::models::folder::replace_file;
use crate::models::generator::Generator;
use crate::models::nn::Format;

mod expectation;
mod identifiers;
mod prompt;
mod scoring;
mod writing;

pub use expectation::{Drawn, Expectation, GOLD_WARNING, Selection, Teacher, Teaching};
pub(in crate::pipeline) use expectation::{by_likelihood, distinct, gold_first, inject};
pub use identifiers::{Cursor, Identifiers, list_text};
pub use prompt::{FILE as PROMPT_FILE, SelectorPrompt};
pub use scoring::Scoring;
pub use writing::{SampleKey, Sampling, Written};

/// Candidates that a selector reads unless told otherwise (DRO, arXiv 2505.03075, section 4.3).
pub const CANDIDATES: usize = 20;

const ADAPTER_CONFIG: &str = "adapter_config.json";

/// A language model that chooses passages.
#[derive(Debug)]
pub struct Selector {
    /// The language model, with its adapter where it has one.
    pub generator: Generator,
    /// How it is asked.
    pub prompt: SelectorPrompt,
    identifiers: Identifiers,
}

/// What a selector reads for one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorInput {
    /// Tokens of the prompt.
    pub ids: Vec<u32>,
    /// Candidates in it.
    pub passages: usize,
    /// Whether a candidate was shortened.
    pub truncated: bool,
}

/// What a folder of a trained selector is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole language model.
    Whole,
    /// An adapter on the model of this name (a folder, or `owner/name`, with `@revision` where the adapter names one).
    Adapter(Option<String>),
}

impl Selector {
    /// A language model as a selector among up to `candidates` passages.
    pub fn new(generator: Generator, prompt: SelectorPrompt, candidates: usize) -> Result<Self> {
        if candidates == 0 {
            return Err(Error::new("a selector of `0` candidates has nothing to choose from")
                .hint(format!(
                    "expected 1 or more: `--dro candidates={CANDIDATES}` in training, `--candidates {CANDIDATES}` in `ragtune \
                     eval`"
                )));
        }
        let identifiers = Identifiers::new(generator.text(), &prompt.template().answer_prefix, candidates)?;
        Ok(Self { generator, prompt, identifiers })
    }

    /// The model of a generator folder as a selector, before any training: with the folder's `selector_prompt.json`, or the
    /// default template. A `format` keeps its matrices in fewer bits.
    pub fn of_generator(folder: &Path, candidates: usize, format: Option<Format>, device: &Device) -> Result<Self> {
        Self::assemble(folder, folder, candidates, format, device)
    }

    /// A trained selector: a generator folder, or an adapter's with the folder of its `base`.
    pub fn load(
        folder: &Path,
        base: Option<&Path>,
        candidates: usize,
        format: Option<Format>,
        device: &Device,
    ) -> Result<Self> {
        match (Self::kind(folder)?, base) {
            (Kind::Whole, None) => Self::assemble(folder, folder, candidates, format, device),
            (Kind::Whole, Some(base)) => Err(Error::new(format!(
                "the selector `{}` is a whole model, so it has no base like `{}`",
                folder.display(),
                base.display()
            ))
            .hint("leave `--selector-base` out")),
            (Kind::Adapter(_), Some(base)) => {
                let mut selector = Self::assemble(base, folder, candidates, format, device)?;
                selector.generator.load_adapter(folder)?;
                Ok(selector)
            }
            (Kind::Adapter(_), None) => Err(Error::new(format!(
                "the selector `{}` is an adapter, and nothing says which model it belongs on",
                folder.display()
            ))
            .hint("name the model's folder with `--selector-base`")),
        }
    }

    /// What a selector's folder holds.
    pub fn kind(folder: &Path) -> Result<Kind> {
        let path = folder.join(ADAPTER_CONFIG);
        if !path.is_file() {
            return Ok(Kind::Whole);
        }
        let text = std::fs::read_to_string(&path).context(|| format!("cannot read `{}`", path.display()))?;
        let config: Value = serde_json::from_str(&text).context(|| format!("`{}` is not JSON", path.display()))?;
        let named = |key: &str| config.get(key).and_then(Value::as_str).filter(|name| !name.is_empty());
        Ok(Kind::Adapter(named("base_model_name_or_path").map(|name| match named("revision") {
            Some(revision) => format!("{name}@{revision}"),
            None => name.to_owned(),
        })))
    }

    /// Writes the adapter, where there is one, or the whole model, with the template beside it, so that [`Selector::load`]
    /// reads it. Durable when it returns.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match self.generator.lora() {
            Some(_) => self.generator.save_adapter(folder)?,
            None => self.generator.save(folder)?,
        }
        let template = serde_json::to_vec_pretty(self.prompt.template())?;
        replace_file(&folder.join(PROMPT_FILE), |path| Ok(std::fs::write(path, &template)?))
    }

    /// n: the most candidates it can name.
    pub fn candidates(&self) -> usize {
        self.identifiers.len()
    }

    /// Its identifiers as tokens.
    pub fn identifiers(&self) -> &Identifiers {
        &self.identifiers
    }

    /// The most tokens of a prompt before a list of `choose` passages: what the template allows, or what the model's
    /// positions leave, whichever is less.
    pub fn prompt_limit(&self, choose: usize) -> usize {
        // One more for the token that ends a list that is learnt as free text.
        let list = self.identifiers.longest_list(choose) + 1;
        self.prompt.template().max_prompt_tokens.min(self.generator.max_positions().saturating_sub(list))
    }

    /// What is read for one question, with room for a list of `choose` passages.
    pub fn input(&self, question: &str, passages: &[&Passage], choose: usize) -> Result<SelectorInput> {
        if passages.is_empty() || passages.len() > self.candidates() {
            return Err(Error::new(format!(
                "the question was given `{}` candidates, expected 1 to {}",
                passages.len(),
                self.candidates()
            )));
        }
        let prompt = self.prompt.ids(self.generator.text(), passages, question, self.prompt_limit(choose))?;
        Ok(SelectorInput { ids: prompt.ids, passages: passages.len(), truncated: prompt.truncated })
    }

    fn assemble(model: &Path, own: &Path, candidates: usize, format: Option<Format>, device: &Device) -> Result<Self> {
        let generator = Generator::load_as(model, device, format)?;
        // An adapter trained from a model folder with a template of its own carries a copy; either is enough.
        let own = if own.join(PROMPT_FILE).is_file() { own } else { model };
        let prompt = SelectorPrompt::of_folder(model, own, &generator)?;
        Self::new(generator, prompt, candidates)
    }
}

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod tests;
