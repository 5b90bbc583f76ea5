//! How much the answer attends to each part of the prompt.
//!
//! B sequences, K segments a prompt, N tokens of all sequences together, M of them that predict an answer token, T answer
//! tokens of one sequence, L layers, H query heads, Hk key and value heads, Dh head width.

use std::ops::Range;

use candle_core::Tensor;

use super::network::places;
use super::scoring::check_answers;
use super::{Generator, Scored};
use crate::error::{Error, Result};
use crate::models::Grad;
use crate::models::batch::TokenBatch;
use crate::models::nn::{self, Attend, Piece};

impl Generator {
    /// Attention to each segment of a prompt while its answer is predicted, (B, K) f32, without gradient:
    ///
    /// `1/(L H T) sum_l sum_h sum_t sum_(j in segment) a_lhtj ||v_lhj||`, with `a` the attention probability of token j at
    /// the position that predicts answer token t, `v` the value vector that head h reads there, and its L2 norm.
    ///
    /// This is the quantity that Atlas distils into its retriever as `evalnormsum` (ADist; Izacard et al. 2022, arXiv
    /// 2208.03299, section 3.2). Deviations: Atlas has an encoder and takes the cross-attention of the decoder, while a
    /// decoder-only model has self-attention alone, so that the passages' own vectors depend on what stands before them in
    /// the prompt; and Atlas' program divides by a constant 256 besides, which is left to the temperature of the loss.
    /// Nothing is normalised over the segments: a prompt's instruction, question and answer take their share too.
    ///
    /// `segments` has one list for each sequence, all K long: token ranges within the prompt. An empty range has mass 0. The
    /// pass costs [`Generator::forward_flops`] of the sequences without logits, less the end of the last layer.
    pub fn attention_mass(&self, sequences: &[Scored], segments: &[Vec<Range<usize>>]) -> Result<Tensor> {
        check_answers(sequences)?;
        self.check_sequences(sequences.iter().map(|sequence| sequence.ids.as_slice()))?;
        let count = check_segments(sequences, segments)?;
        let (rows, device) = (sequences.len(), self.device());
        let ids: Vec<Vec<u32>> = sequences.iter().map(|sequence| sequence.ids.clone()).collect();
        let batch = TokenBatch::new(&ids, device)?;
        let network = self.network(Grad::Off)?;
        let config = &network.config;
        let tables = network.rope.tables(&places(&batch)?, device)?;
        let whole = Attend::within(&batch.spans, config.heads, config.key_value_heads, config.attention_scale).pieces;
        let answers = Answers::of(sequences, &batch);
        let chosen = Tensor::from_vec(answers.rows.clone(), answers.rows.len(), device)?;
        // Segments are told apart by the columns of a head: so many at a time.
        let columns: Vec<Range<usize>> =
            (0..count).step_by(config.head_dim).map(|first| first..(first + config.head_dim).min(count)).collect();
        let marks: Vec<Tensor> =
            columns.iter().map(|columns| self.marks(segments, &batch, columns.clone())).collect::<Result<_>>()?;
        let mut mass = vec![0f64; rows * count];
        let mut x = network.embed(&batch.ids)?;
        for (index, layer) in network.layers.iter().enumerate() {
            let (query, key, value) = layer.attention_inputs(config, &x, &tables)?;
            let norms = value.contiguous()?.reshape(((), config.key_value_heads, config.head_dim))?;
            let norms = norms.sqr()?.sum_keepdim(2)?.sqrt()?;
            let asking = query.index_select(&chosen, 0)?;
            let how = network.attend(layer, answers.pieces.clone());
            for (columns, marks) in columns.iter().zip(&marks) {
                // Attention over these "values" sums probability x norm by segment instead of mixing vectors.
                let marked = norms.broadcast_mul(marks)?.reshape(((), config.key_value_heads * config.head_dim))?;
                let found = nn::attention(&asking, &key, &marked, &how)?;
                let found = found.reshape(((), config.heads, config.head_dim))?.sum(1)?.to_vec2::<f32>()?;
                answers.add(&found, columns.clone(), count, &mut mass);
            }
            // What the last layer goes on with, nobody attends to.
            if index + 1 < network.layers.len() {
                let mixed = nn::attention(&query, &key, &value, &network.attend(layer, whole.clone()))?;
                x = layer.on_rows(config, &x, mixed, None)?;
            }
        }
        let heads = (config.layers * config.heads) as f64;
        let mean: Vec<f32> = mass.into_iter().map(|sum| (sum / heads) as f32).collect();
        Ok(Tensor::from_vec(mean, (rows, count), device)?)
    }

    /// (N, 1, Dh) f32: 1 where the token of the row lies in the segment of the column.
    fn marks(&self, segments: &[Vec<Range<usize>>], batch: &TokenBatch, columns: Range<usize>) -> Result<Tensor> {
        let (tokens, width) = (batch.spans.tokens(), self.config().head_dim);
        let mut marks = vec![0f32; tokens * width];
        for (sequence, segments) in segments.iter().enumerate() {
            let start = batch.spans.range(sequence).start;
            for (column, segment) in segments.get(columns.clone()).unwrap_or_default().iter().enumerate() {
                for token in segment.clone() {
                    marks[(start + token) * width + column] = 1.0;
                }
            }
        }
        Ok(Tensor::from_vec(marks, (tokens, 1, width), self.device())?)
    }
}

/// The positions that predict the tokens of the answers.
struct Answers {
    /// M of the N tokens.
    rows: Vec<u32>,
    /// Queries are places among the M, keys among the N: up to the last that predicts.
    pieces: Vec<Piece>,
}

impl Answers {
    fn of(sequences: &[Scored], batch: &TokenBatch) -> Self {
        let (mut rows, mut pieces) = (Vec::new(), Vec::with_capacity(sequences.len()));
        for (index, sequence) in sequences.iter().enumerate() {
            let span = batch.spans.range(index);
            let (first, end, next) = (span.start + sequence.answer_start - 1, span.end - 1, rows.len());
            rows.extend((first..end).map(|row| row as u32));
            pieces.push(Piece { queries: next..rows.len(), keys: span.start..end });
        }
        Self { rows, pieces }
    }

    /// Adds the mean over the T positions of each sequence to its part of `mass` (B, K).
    fn add(&self, found: &[Vec<f32>], columns: Range<usize>, count: usize, mass: &mut [f64]) {
        for (piece, mass) in self.pieces.iter().zip(mass.chunks_exact_mut(count)) {
            for row in found.get(piece.queries.clone()).unwrap_or_default() {
                for (sum, &found) in mass[columns.clone()].iter_mut().zip(row) {
                    *sum += f64::from(found) / piece.queries.len() as f64;
                }
            }
        }
    }
}

/// K, the same for every sequence and at least 1; refuses ranges that leave the prompt.
fn check_segments(sequences: &[Scored], segments: &[Vec<Range<usize>>]) -> Result<usize> {
    let count = segments.first().map_or(0, Vec::len);
    if segments.len() != sequences.len() || count == 0 || segments.iter().any(|of| of.len() != count) {
        return Err(Error::new(format!(
            "attention was asked for by segment, got `{:?}` of them for {} prompts, expected the same number for each, at least 1",
            segments.iter().map(Vec::len).collect::<Vec<_>>(),
            sequences.len()
        )));
    }
    for (index, (sequence, segments)) in sequences.iter().zip(segments).enumerate() {
        let leaves = |segment: &&Range<usize>| segment.start > segment.end || segment.end > sequence.answer_start;
        if let Some(segment) = segments.iter().find(leaves) {
            return Err(Error::new(format!(
                "a segment of sequence {index} is `{segment:?}`, expected a range within the {} tokens of its prompt",
                sequence.answer_start
            )));
        }
    }
    Ok(count)
}

#[cfg(test)]
#[path = "attention_mass_tests.rs"]
mod tests;
