//! Writing answers token by token, with the keys and values of what was read kept.
//!
//! B rows (prompts), V vocabulary, C tokens the cache has room for, Hk key and value heads, Dh head width. Rows have
//! lengths of their own: each is rotated by its own positions and attends to its own part of the cache. Nothing here
//! records a graph.

use candle_core::{DType, Device, Tensor};

use super::batch::TokenBatch;
use super::generator::{Generator, Head, Network, Place, too_long};
use super::nn::{self, Piece};
use super::{Grad, generator};
use crate::error::{Error, Result};

/// Tokens by which a cache grows at least, so that it is copied seldom.
const ROOM: usize = 32;

/// Prompts that were read, ready to be continued: the distribution of each row's next token, and [`Decoding::advance`].
///
/// It shares its weights with the generator: one that is trained meanwhile changes under it.
#[derive(Debug)]
pub struct Decoding {
    network: Network,
    head: Head,
    device: Device,
    /// The tokens of each row so far.
    ids: Vec<Vec<u32>>,
    lengths: Vec<usize>,
    cache: Cache,
    logits: Tensor,
}

/// What every layer has seen: row b begins at b·C.
#[derive(Debug)]
struct Cache {
    /// C.
    room: usize,
    /// Keys (rotated) and values of each layer, both (B·C, Hk·Dh).
    layers: Vec<(Tensor, Tensor)>,
}

impl Generator {
    /// Reads prompts of any lengths; the weights get no gradient.
    ///
    /// An empty prompt, one beyond [`Generator::max_positions`] and an id outside the vocabulary are errors.
    pub fn start(&self, prompts: &[Vec<u32>]) -> Result<Decoding> {
        self.start_with(prompts, self.head(Grad::Off)?)
    }

    /// [`Generator::start`] where one of `tokens` follows, whatever else the vocabulary holds: U of them take the place of V
    /// in what [`Decoding::log_probs`] gives, in their order.
    pub fn start_among(&self, prompts: &[Vec<u32>], tokens: &[u32]) -> Result<Decoding> {
        generator::check_ids(tokens, self.config().vocabulary)?;
        let tokens = Tensor::new(tokens, self.device())?;
        self.start_with(prompts, self.head(Grad::Off)?.among(&tokens)?)
    }

    fn start_with(&self, prompts: &[Vec<u32>], head: Head) -> Result<Decoding> {
        if prompts.is_empty() {
            return Err(Error::new("there is no prompt to continue, expected at least one"));
        }
        self.check_sequences(prompts.iter().map(Vec::as_slice))?;
        let network = self.network(Grad::Off)?;
        let (cache, logits) = read(&network, &head, prompts, self.device())?;
        let lengths = prompts.iter().map(Vec::len).collect();
        Ok(Decoding { network, head, device: self.device().clone(), ids: prompts.to_vec(), lengths, cache, logits })
    }

    /// Floating point operations of reading one more token in each of some rows of these lengths, whose keys and values are
    /// kept, and of the logits after it: what [`Generator::forward_flops`] of the longer rows has more.
    pub fn step_flops(&self, lengths: &[usize]) -> f64 {
        let longer: Vec<usize> = lengths.iter().map(|length| length + 1).collect();
        self.forward_flops(&longer, longer.len()) - self.forward_flops(lengths, 0)
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
    /// log p(next token | what the row holds so far), (B, V) f32 in nats.
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
        if self.lengths.iter().any(|&length| self.network.rope.changes(length, length + 1)) {
            // A row grows into other rotary frequencies, by which everything it holds is rotated: all is read again.
            let ids: Vec<Vec<u32>> =
                self.ids.iter().zip(tokens).map(|(row, token)| [row.as_slice(), &[*token]].concat()).collect();
            (self.cache, self.logits) = read(&self.network, &self.head, &ids, &self.device)?;
        } else {
            self.logits = self.step(tokens)?;
        }
        for (row, token) in self.ids.iter_mut().zip(tokens) {
            row.push(*token);
        }
        self.lengths.iter_mut().for_each(|length| *length += 1);
        Ok(())
    }

    /// Logits (B, V) after one more token in every row, whose keys and values go into the cache.
    fn step(&mut self, tokens: &[u32]) -> Result<Tensor> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        self.cache.make_room(longest, self.network.config.max_positions)?;
        let (network, room) = (&self.network, self.cache.room);
        let places: Vec<Place> =
            self.lengths.iter().map(|&length| Place { position: length, length: length + 1 }).collect();
        let tables = network.rope.tables(&places, &self.device)?;
        // One query for each row: it sees everything its row holds, itself included, or the end of it.
        let pieces: Vec<Piece> = self
            .lengths
            .iter()
            .enumerate()
            .map(|(row, length)| Piece { queries: row..row + 1, keys: row * room..row * room + length + 1 })
            .collect();
        let mut x = network.embed(&Tensor::new(tokens, &self.device)?)?;
        for (layer, (keys, values)) in network.layers.iter().zip(&self.cache.layers) {
            let (query, key, value) = layer.attention_inputs(&network.config, &x, &tables)?;
            for (all, new) in [(keys, key.contiguous()?), (values, value.contiguous()?)] {
                for (row, &position) in self.lengths.iter().enumerate() {
                    all.slice_set(&new.narrow(0, row, 1)?, 0, row * room + position)?;
                }
            }
            let mixed = nn::attention(&query, keys, values, &network.attend(layer, pieces.clone()))?;
            x = layer.after_attention(&network.config, &x, &mixed)?;
        }
        self.head.logits(&network.finish(&x)?)
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
        self.cache.select(&ids)?;
        self.logits = self.logits.index_select(&ids, 0)?;
        self.ids = rows.iter().map(|&row| self.ids[row].clone()).collect();
        self.lengths = rows.iter().map(|&row| self.lengths[row]).collect();
        Ok(())
    }

    /// A copy of these rows that is continued by itself; a row may be named more than once. This decoding stays as it is.
    pub fn fork(&self, rows: &[usize]) -> Result<Self> {
        let (network, head, device) = (self.network.clone(), self.head.clone(), self.device.clone());
        // New tokens are written into the cache in place: selecting copies it, so that nothing is shared.
        let cache = Cache { room: self.cache.room, layers: self.cache.layers.clone() };
        let (ids, lengths, logits) = (self.ids.clone(), self.lengths.clone(), self.logits.clone());
        let mut copy = Self { network, head, device, ids, lengths, cache, logits };
        copy.select(rows)?;
        Ok(copy)
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
}

/// Reads whole rows: what is kept of them, and the logits (B, V) after their last tokens.
fn read(network: &Network, head: &Head, rows: &[Vec<u32>], device: &Device) -> Result<(Cache, Tensor)> {
    let batch = TokenBatch::new(rows, device)?;
    let spans = &batch.spans;
    let longest = spans.longest();
    let last: Vec<u32> = (0..spans.len()).map(|row| (spans.range(row).end - 1) as u32).collect();
    let last = Tensor::from_vec(last, rows.len(), device)?;
    let room = (longest + ROOM).min(network.config.max_positions.max(longest));
    let mut layers = Vec::with_capacity(network.config.layers);
    let states = network.states(&batch, Some(&last), |_, keys, values| {
        let spread = |packed: &Tensor| -> Result<Tensor> {
            let packed = packed.contiguous()?;
            let all = Tensor::zeros((rows.len() * room, packed.dim(1)?), DType::F32, device)?;
            for row in 0..rows.len() {
                let span = spans.range(row);
                all.slice_set(&packed.narrow(0, span.start, span.len())?, 0, row * room)?;
            }
            Ok(all)
        };
        layers.push((spread(keys)?, spread(values)?));
        Ok(())
    })?;
    Ok((Cache { room, layers }, head.logits(&states)?))
}

impl Cache {
    /// Makes room for at least one token more than the longest row has.
    fn make_room(&mut self, longest: usize, limit: usize) -> Result<()> {
        if longest < self.room {
            return Ok(());
        }
        let room = self.room + (longest / 2).max(ROOM).min(limit.saturating_sub(self.room)).max(1);
        let widened = |all: &Tensor| -> Result<Tensor> {
            let (tokens, width) = all.dims2()?;
            let rows = all.reshape((tokens / self.room, self.room, width))?;
            Ok(rows.pad_with_zeros(1, 0, room - self.room)?.contiguous()?.reshape(((), width))?)
        };
        // One layer after the other, so that no more than one is there twice.
        for (keys, values) in &mut self.layers {
            (*keys, *values) = (widened(keys)?, widened(values)?);
        }
        self.room = room;
        Ok(())
    }

    /// Keeps these rows, u32.
    fn select(&mut self, rows: &Tensor) -> Result<()> {
        let chosen = |all: &Tensor| -> Result<Tensor> {
            let (tokens, width) = all.dims2()?;
            let by_row = all.reshape((tokens / self.room, self.room * width))?;
            Ok(by_row.index_select(rows, 0)?.reshape(((), width))?)
        };
        for (keys, values) in &mut self.layers {
            (*keys, *values) = (chosen(keys)?, chosen(values)?);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
