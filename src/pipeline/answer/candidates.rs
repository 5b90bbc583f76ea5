//! The best continuations of some hypotheses by one token.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::models::nn;

/// One more token after a hypothesis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    /// Which hypothesis it continues.
    pub beam: usize,
    /// The token.
    pub token: u32,
    /// Sum of the log-probabilities, this token included, in nats.
    pub log_prob: f64,
}

/// Calls `read` with the values of a (rows, V) tensor of log-probabilities, row after row.
pub(super) fn with_rows<R>(log_probs: &Tensor, read: impl FnOnce(&[f32]) -> R) -> Result<R> {
    nn::with_values(&log_probs.to_device(&Device::Cpu)?, read)
}

/// The `count` best tokens after hypotheses whose sums so far are `sums`: `log_probs` holds V numbers for each of them.
///
/// Best first; of equal ones the one after the earlier hypothesis, then the lower token id. A token that cannot follow
/// (−∞) is none. A log-probability that is no number is an error.
pub(super) fn best(log_probs: &[f32], sums: &[f64], count: usize) -> Result<Vec<Candidate>> {
    let vocabulary = (log_probs.len() / sums.len().max(1)).max(1);
    let mut found: Vec<Candidate> = Vec::with_capacity(count + 1);
    for (beam, (row, sum)) in log_probs.chunks_exact(vocabulary).zip(sums).enumerate() {
        for (token, &log_prob) in row.iter().enumerate() {
            if log_prob.is_nan() {
                return Err(Error::new(format!(
                    "the generator gives token `{token}` the log-probability `{log_prob}`"
                ))
                .hint("its weights have diverged: go back to an earlier checkpoint"));
            }
            let log_prob = sum + f64::from(log_prob);
            let full = found.len() == count;
            // Visited in the order that decides between equals: a later one must be better.
            if log_prob == f64::NEG_INFINITY || (full && found.last().is_none_or(|last| log_prob <= last.log_prob)) {
                continue;
            }
            let place = found.partition_point(|other| other.log_prob >= log_prob);
            found.insert(place, Candidate { beam, token: token as u32, log_prob });
            found.truncate(count);
        }
    }
    Ok(found)
}
