//! Writing answers token by token, with the keys and values of what was read kept.
//!
//! N rows (prompts), V vocabulary, C positions the cache has room for, Hk key and value heads, Dh head width. Rows have
//! lengths of their own: each is rotated by its own positions and attends to its own length of the cache. Nothing here
//! records a graph.

use candle_core::{DType, Device, Tensor};

use super::batch::TokenBatch;
use super::generator::{Generator, Network, too_long};
use super::nn::{self, AttentionMask};
use super::{Grad, generator};
use crate::error::{Error, Result};

/// Positions by which a cache grows at least, so that it is copied seldom.
const ROOM: usize = 32;

/// Prompts that were read, ready to be continued: the distribution of each row's next token, and [`Decoding::advance`].
///
/// It shares its weights with the generator: one that is trained meanwhile changes under it.
#[derive(Debug)]
pub struct Decoding {
    network: Network,
    device: Device,
    lengths: Vec<usize>,
    /// Keys (rotated) and values of each layer, both (N, C, Hk·Dh).
    cache: Vec<(Tensor, Tensor)>,
    logits: Tensor,
}

impl Generator {
    /// Reads prompts of any lengths, padding them to the longest; the weights get no gradient.
    ///
    /// An empty prompt, one beyond [`Generator::max_positions`] and an id outside the vocabulary are errors.
    pub fn start(&self, prompts: &[Vec<u32>]) -> Result<Decoding> {
        if prompts.is_empty() {
            return Err(Error::new("there is no prompt to continue, expected at least one"));
        }
        self.check_sequences(prompts.iter().map(Vec::as_slice))?;
        let batch = TokenBatch::new(prompts, self.special().pad, self.device())?;
        let longest = batch.lengths.iter().copied().max().unwrap_or(0);
        let last: Vec<u32> =
            batch.lengths.iter().enumerate().map(|(row, length)| (row * longest + length - 1) as u32).collect();
        let last = Tensor::from_vec(last, prompts.len(), self.device())?;
        let network = self.network(Grad::Off)?;
        let room = (longest + ROOM).min(self.max_positions().max(longest));
        let mut cache = Vec::with_capacity(network.config.layers);
        let hidden = network.hidden(&batch, &last, |_, keys, values| {
            let widen = |tensor: &Tensor| tensor.pad_with_zeros(1, 0, room - longest)?.contiguous();
            cache.push((widen(keys)?, widen(values)?));
            Ok(())
        })?;
        let logits = network.logits(&hidden)?;
        Ok(Decoding { network, device: self.device().clone(), lengths: batch.lengths, cache, logits })
    }

    /// Continues each prompt by its likeliest tokens: at most `max_new` of them, up to and including the first of
    /// `stop_ids`, and not beyond [`Generator::max_positions`] in all. Of equally likely tokens the lowest id is taken.
    ///
    /// All prompts are read as one batch: the caller decides how many fit into memory. Rows that ended cost nothing more.
    pub fn greedy(&self, prompts: &[Vec<u32>], max_new: usize, stop_ids: &[u32]) -> Result<Vec<Vec<u32>>> {
        let mut written = vec![Vec::new(); prompts.len()];
        if prompts.is_empty() || max_new == 0 {
            self.check_sequences(prompts.iter().map(Vec::as_slice))?;
            return Ok(written);
        }
        let mut decoding = self.start(prompts)?;
        // Which prompt each row of the decoding continues; a prompt that fills every position has no room for a token.
        let mut active: Vec<usize> = (0..prompts.len()).collect();
        let mut open: Vec<usize> =
            active.iter().copied().filter(|&row| prompts[row].len() < self.max_positions()).collect();
        loop {
            if open.is_empty() {
                return Ok(written);
            }
            if open.len() < active.len() {
                active = open.iter().map(|&row| active[row]).collect();
                decoding.select(&open)?;
            }
            if !written[active[0]].is_empty() {
                let tokens: Vec<u32> = active.iter().filter_map(|&prompt| written[prompt].last().copied()).collect();
                decoding.advance(&tokens)?;
            }
            for (&prompt, token) in active.iter().zip(decoding.likeliest()?) {
                written[prompt].push(token);
            }
            let goes_on = |&row: &usize| {
                let (prompt, written) = (&prompts[active[row]], &written[active[row]]);
                written.len() < max_new
                    && prompt.len() + written.len() < self.max_positions()
                    && !written.last().is_some_and(|last| stop_ids.contains(last))
            };
            open = (0..active.len()).filter(goes_on).collect();
        }
    }
}

impl Decoding {
    /// log p(next token | what the row holds so far), (N, V) f32 in nats.
    pub fn log_probs(&self) -> Result<Tensor> {
        nn::log_softmax(&self.logits)
    }

    /// Tokens of each row so far, prompt included.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Appends one token to every row and reads it.
    ///
    /// Another number of tokens than of rows, an id outside the vocabulary and a row at the position limit are errors
    /// that leave everything as it was.
    pub fn advance(&mut self, tokens: &[u32]) -> Result<()> {
        let rows = self.lengths.len();
        let limit = self.network.config.max_positions;
        if tokens.len() != rows {
            return Err(Error::new(format!(
                "got `{}` next tokens for {rows} rows, expected one for each",
                tokens.len()
            )));
        }
        if let Some(row) = self.lengths.iter().position(|&length| length >= limit) {
            return Err(too_long(row, self.lengths[row] + 1, limit));
        }
        generator::check_ids(tokens, self.network.config.vocabulary)?;
        self.make_room()?;

        let network = &self.network;
        let config = &network.config;
        let half = config.head_dim / 2;
        let (mut cos, mut sin) = (Vec::with_capacity(rows * half), Vec::with_capacity(rows * half));
        for &position in &self.lengths {
            let (row_cos, row_sin) = network.rope.tables(position, 1);
            cos.extend(row_cos);
            sin.extend(row_sin);
        }
        let cos = Tensor::from_vec(cos, (rows, 1, half), &self.device)?;
        let sin = Tensor::from_vec(sin, (rows, 1, half), &self.device)?;
        let seen: Vec<usize> = self.lengths.iter().map(|length| length + 1).collect();
        // One query for each row: it sees everything its row holds, itself included.
        let mask = AttentionMask::Padding { lengths: seen.clone() };
        let heads = (config.heads, config.key_value_heads);

        let ids = Tensor::new(tokens, &self.device)?.reshape((rows, 1))?;
        let mut x = nn::embedding(&network.embedding, &ids)?;
        for (layer, (keys, values)) in network.layers.iter().zip(&self.cache) {
            let (query, key, value) = layer.attention_inputs(config, &x)?;
            let query = nn::rope_packed(&query, heads.0, &cos, &sin)?;
            let key = nn::rope_packed(&key, heads.1, &cos, &sin)?;
            for (row, &position) in self.lengths.iter().enumerate() {
                for (all, new) in [(keys, &key), (values, &value)] {
                    all.narrow(0, row, 1)?.slice_set(&new.narrow(0, row, 1)?, 1, position)?;
                }
            }
            let mixed = nn::attention_packed(&query, keys, values, heads, &mask, network.attention_scale())?;
            x = layer.after_attention(config, &x, &mixed)?;
        }
        self.logits = network.logits(&x)?.squeeze(1)?;
        self.lengths = seen;
        Ok(())
    }

    /// Keeps these rows, in this order; a row may be named more than once, to continue it in several ways.
    pub fn select(&mut self, rows: &[usize]) -> Result<()> {
        if let Some(row) = rows.iter().find(|&&row| row >= self.lengths.len()) {
            return Err(Error::new(format!("there is no row `{row}` among {} that are decoded", self.lengths.len())));
        }
        if rows.is_empty() {
            return Err(Error::new("a decoding needs at least one row"));
        }
        let ids: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
        let ids = Tensor::from_vec(ids, rows.len(), &self.device)?;
        for (keys, values) in &mut self.cache {
            *keys = keys.index_select(&ids, 0)?;
            *values = values.index_select(&ids, 0)?;
        }
        self.logits = self.logits.index_select(&ids, 0)?;
        self.lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        Ok(())
    }

    /// The token with the largest logit of each row; the lowest id of several.
    fn likeliest(&self) -> Result<Vec<u32>> {
        let width = self.network.config.vocabulary;
        nn::with_values(&self.logits, |logits| {
            let of_row = |(row, logits): (usize, &[f32])| {
                let mut best = 0;
                for (id, logit) in logits.iter().enumerate() {
                    if !logit.is_finite() {
                        return Err(Error::new(format!(
                            "the generator gives token `{id}` of row {row} the logit `{logit}`"
                        ))
                        .hint("its weights have diverged: go back to an earlier checkpoint"));
                    }
                    if *logit > logits[best] {
                        best = id;
                    }
                }
                Ok(best as u32)
            };
            logits.chunks_exact(width).enumerate().map(of_row).collect()
        })?
    }

    /// Makes the cache at least one position longer than the longest row.
    fn make_room(&mut self) -> Result<()> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let config = &self.network.config;
        let width = config.key_value_heads * config.head_dim;
        for (keys, values) in &mut self.cache {
            let room = keys.dim(1)?;
            if longest < room {
                return Ok(());
            }
            let more = (longest / 2).max(ROOM).min(config.max_positions - room).max(1);
            let space = Tensor::zeros((self.lengths.len(), more, width), DType::F32, &self.device)?;
            *keys = Tensor::cat(&[&*keys, &space], 1)?.contiguous()?;
            *values = Tensor::cat(&[&*values, &space], 1)?.contiguous()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
