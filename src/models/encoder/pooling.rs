//! How the vectors of tokens become the vector of a text: the poolings of sentence-transformers, one or several side by side.
//!
//! B sequences, N tokens of all of them, D width of a token's vector.

use std::path::Path;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::config::Config;
use crate::error::{Error, Result};
use crate::models::batch::Spans;
use crate::models::nn::{self, Pool};

/// Boolean keys of older folders with the mode each stands for, in the order in which several are put side by side.
const MODES: [(&str, &str, Pool); 6] = [
    ("pooling_mode_cls_token", "cls", Pool::First),
    ("pooling_mode_max_tokens", "max", Pool::Max),
    ("pooling_mode_mean_tokens", "mean", Pool::Mean),
    ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", Pool::MeanSqrtLength),
    ("pooling_mode_weightedmean_tokens", "weightedmean", Pool::WeightedMean),
    ("pooling_mode_lasttoken", "lasttoken", Pool::Last),
];

/// A pooling as its `config.json` describes it.
#[derive(Clone, Debug)]
pub(super) struct Pooling {
    /// Names and meanings, in the order in which their results are put side by side.
    modes: Vec<(&'static str, Pool)>,
    /// Width of a token's vector.
    width: usize,
    /// Whether tokens of the prompt take part.
    pub include_prompt: bool,
    /// Whether the folder names its modes by `pooling_mode`, as newer versions do.
    by_name: bool,
}

impl Pooling {
    /// Reads the old form (a boolean per mode) or the new (names).
    pub fn read(path: &Path) -> Result<Self> {
        let config = Config::read(path)?.ok_or_else(|| {
            Error::new(format!("there is no `{}`, so the pooling is not known", path.display()))
                .hint("copy the whole sentence-transformers folder again")
        })?;
        let mut names: Vec<String> = Vec::new();
        match config.get("pooling_mode") {
            Some(Value::String(mode)) => names.push(mode.clone()),
            Some(Value::Array(modes)) => names.extend(modes.iter().map(|m| m.as_str().unwrap_or("?").to_owned())),
            Some(_) => return Err(config.refused("pooling_mode", "a name or a list of names")),
            None => {
                for (key, name, _) in MODES {
                    if config.flag(key, false)? {
                        names.push(name.to_owned());
                    }
                }
            }
        }
        let known =
            |name: &String| MODES.iter().find(|(_, mode, _)| mode == name).map(|(_, mode, pool)| (*mode, *pool));
        let modes: Option<Vec<(&'static str, Pool)>> = names.iter().map(known).collect();
        let Some(modes) = modes.filter(|modes| !modes.is_empty()) else {
            let got = if names.is_empty() { "none".to_owned() } else { names.join(" + ") };
            let supported = MODES.map(|(_, name, _)| name).join(", ");
            return Err(Error::new(format!("pooling `{got}` of `{}` is not supported", path.display()))
                .hint(format!("supported poolings: {supported}")));
        };
        let width = match config.get("embedding_dimension") {
            Some(_) => config.size("embedding_dimension", None)?,
            None => config.size("word_embedding_dimension", None)?,
        };
        let include_prompt = config.flag("include_prompt", true)?;
        Ok(Self { modes, width, include_prompt, by_name: config.get("pooling_mode").is_some() })
    }

    /// Width of the token vectors it expects.
    pub fn input_width(&self) -> usize {
        self.width
    }

    /// Width of its result.
    pub fn output_width(&self) -> usize {
        self.width * self.modes.len()
    }

    /// The name of its mode; several joined by `+`.
    pub fn name(&self) -> String {
        self.modes.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("+")
    }

    /// Its `config.json`: the booleans that every version of sentence-transformers understands, and the name where the folder
    /// had one.
    pub fn saved_config(&self) -> Value {
        let mut config = Map::new();
        config.insert("word_embedding_dimension".to_owned(), json!(self.width));
        for (key, mode, _) in MODES {
            config.insert(key.to_owned(), json!(self.modes.iter().any(|(name, _)| *name == mode)));
        }
        if self.by_name {
            let names: Vec<&str> = self.modes.iter().map(|(name, _)| *name).collect();
            let value = if names.len() == 1 { json!(names[0]) } else { json!(names) };
            config.insert("pooling_mode".to_owned(), value);
        }
        config.insert("include_prompt".to_owned(), json!(self.include_prompt));
        Value::Object(config)
    }

    /// `states` (N, D) to (B, D · modes), leaving out the first `skip` tokens of every sequence.
    ///
    /// As in sentence-transformers a weighted mean goes on counting from the left-out tokens, and a sequence without any
    /// other token gives zeros.
    pub fn apply(&self, states: &Tensor, spans: &Spans, skip: usize) -> Result<Tensor> {
        let rest = if skip == 0 { None } else { Some(Rest::of(states, spans, skip)?) };
        let (states, spans) = rest.as_ref().map_or((states, spans), |rest| (&rest.states, &rest.spans));
        let mut parts = Vec::with_capacity(self.modes.len());
        for &(_, pool) in &self.modes {
            let plain = nn::pool(states, spans, pool)?;
            parts.push(match pool {
                Pool::WeightedMean if skip > 0 => continue_weights(&plain, states, spans, skip)?,
                _ => plain,
            });
        }
        let pooled = if parts.len() == 1 { parts.swap_remove(0) } else { Tensor::cat(&parts, 1)? };
        match rest.and_then(|rest| rest.present) {
            Some(present) => Ok(pooled.broadcast_mul(&present)?),
            None => Ok(pooled),
        }
    }
}

/// What is left of a batch without the first tokens of each sequence.
struct Rest {
    states: Tensor,
    spans: Spans,
    /// (B, 1): 0 for a sequence of which nothing is left, 1 for the others; `None` where something is left of all.
    present: Option<Tensor>,
}

impl Rest {
    fn of(states: &Tensor, spans: &Spans, skip: usize) -> Result<Self> {
        let (mut rows, mut lengths, mut present) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in 0..spans.len() {
            let range = spans.range(sequence);
            // Where nothing is left the last token stands in, to be multiplied by 0.
            let first = range.start + skip.min(range.len().saturating_sub(1));
            present.push(if skip < range.len() { 1f32 } else { 0.0 });
            lengths.push(range.end - first);
            rows.extend(first as u32..range.end as u32);
        }
        let device = states.device();
        let rows = Tensor::from_slice(&rows, rows.len(), device)?;
        let present = match present.contains(&0.0) {
            true => Some(Tensor::from_slice(&present, (present.len(), 1), device)?),
            false => None,
        };
        Ok(Self { states: nn::embedding(states, &rows)?, spans: Spans::of_lengths(&lengths), present })
    }
}

/// The mean weighted by s + 1, s + 2, ... s + m out of the one weighted by 1, 2, ... m (`weighted`) and the plain one:
/// (s·mean + (m + 1)/2 · weighted) / (s + (m + 1)/2).
fn continue_weights(weighted: &Tensor, states: &Tensor, spans: &Spans, skip: usize) -> Result<Tensor> {
    let share = |length: usize| {
        let (s, own) = (skip as f32, (length as f32 + 1.0) / 2.0);
        s / (s + own)
    };
    let shares: Vec<f32> = spans.lengths().map(share).collect();
    let shares = Tensor::from_slice(&shares, (shares.len(), 1), states.device())?;
    let mean = nn::pool(states, spans, Pool::Mean)?;
    let own = weighted.broadcast_mul(&shares.affine(-1.0, 1.0)?)?;
    Ok((mean.broadcast_mul(&shares)? + own)?)
}
