//! What `benches/peers/inputs.py` wrote: the same work for both sides.
//!
//! B questions, K passages a question; token ids are of the encoder or the generator, as said.

use std::path::Path;

use ragtune::error::{Context, Error, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// `embed.json`: texts to embed.
#[derive(Deserialize)]
pub struct Texts {
    /// Passages, title first; what is timed.
    pub passages: Vec<String>,
    /// Questions, to measure what the vectors find.
    pub questions: Vec<String>,
}

/// `mnrl.json`: steps of fine-tuning the encoder.
#[derive(Deserialize)]
pub struct Pairs {
    /// Factor on the cosine scores.
    pub scale: f64,
    pub learning_rate: f64,
    pub batches: Vec<PairBatch>,
}

/// B questions and their passages, in ids of the encoder.
#[derive(Deserialize)]
pub struct PairBatch {
    pub questions: Vec<Vec<u32>>,
    pub passages: Vec<Vec<u32>>,
}

/// `reading.json`: steps of training generator and encoder on answers.
#[derive(Deserialize)]
pub struct Readings {
    /// Temperature of the prior over the passages.
    pub temperature: f64,
    pub learning_rate_encoder: f64,
    pub learning_rate_generator: f64,
    pub batches: Vec<Reading>,
}

/// B questions with K passages each.
#[derive(Deserialize)]
pub struct Reading {
    /// B·K prompts, question after question, in ids of the generator.
    pub prompts: Vec<Vec<u32>>,
    /// B answers in ids of the generator.
    pub answers: Vec<Vec<u32>>,
    /// B questions in ids of the encoder.
    pub questions: Vec<Vec<u32>>,
    /// B·K passages in ids of the encoder.
    pub passages: Vec<Vec<u32>>,
}

/// `decode.json`: prompts to continue.
#[derive(Deserialize)]
pub struct Prompts {
    pub new_tokens: usize,
    pub prompts: Vec<Vec<u32>>,
}

/// `matmul.json`: products x·Wᵀ.
#[derive(Deserialize)]
pub struct Products {
    /// Rows of x.
    pub rows: usize,
    /// In, Out, and how often.
    pub shapes: Vec<(usize, usize, usize)>,
}

/// Reads one file of the folder.
pub fn read<T: DeserializeOwned>(folder: &Path, file: &str) -> Result<T> {
    let path = folder.join(file);
    let text = std::fs::read(&path).map_err(|source| {
        Error::new(format!("cannot read the input `{}`", path.display()))
            .because(source)
            .hint("`bash benches/speed.sh FOLDER` makes it; or give the folder with --inputs")
    })?;
    serde_json::from_slice(&text).context(|| format!("`{}` is not what benches/peers/inputs.py writes", path.display()))
}

/// The batch of a repetition: they are taken in turn.
pub fn batch<T>(batches: &[T], repetition: usize) -> Result<&T> {
    let turn = repetition.checked_rem(batches.len());
    turn.and_then(|turn| batches.get(turn)).ok_or_else(|| {
        Error::new("the inputs hold no batch, expected at least one").hint("run benches/peers/inputs.py again")
    })
}
