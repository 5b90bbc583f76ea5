//! What is searched for, and what is found.

use super::rows::Rows;
use super::{beam, greedy};
use crate::error::Result;

/// How hypotheses are searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search<'a> {
    /// Rows that are mixed into one distribution; 1 where nothing is.
    pub width: usize,
    /// N: hypotheses followed at a time; 1 is greedy decoding.
    pub beams: usize,
    /// Of the N best finished hypotheses, so many are asked for: the search ends when none of these can change any more.
    pub best: usize,
    /// Hypotheses are compared by log-probability / tokens^penalty; with 0 by probability.
    pub length_penalty: f64,
    /// The most tokens of a hypothesis, the one that ends it included; at least 1.
    pub max_new: usize,
    /// Any of these ends a hypothesis.
    pub stop: &'a [u32],
}

/// A continuation that is complete: it ended, or was cut at the most tokens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hypothesis {
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>,
    /// Sum of their log-probabilities in nats, the end included.
    pub log_prob: f64,
    /// Whether the last token ended it.
    pub ended: bool,
}

impl Hypothesis {
    /// Its tokens without the one that ended it.
    pub fn words(&self) -> &[u32] {
        let end = self.tokens.len() - usize::from(self.ended && !self.tokens.is_empty());
        self.tokens.get(..end).unwrap_or_default()
    }
}

impl Search<'_> {
    /// The hypotheses of each group of `width` rows, best first, at least one and at most N; one log prior of `width`
    /// numbers for each group.
    pub fn run(&self, rows: &mut impl Rows, priors: &[Vec<f32>]) -> Result<Vec<Vec<Hypothesis>>> {
        match self.beams {
            0 | 1 => Ok(greedy::search(rows, priors, self)?.into_iter().map(|found| vec![found]).collect()),
            _ => beam::search(rows, priors, self),
        }
    }

    /// What hypotheses of `length` tokens are compared by.
    pub fn score(&self, log_prob: f64, length: usize) -> f64 {
        if self.length_penalty == 0.0 { log_prob } else { log_prob / (length as f64).powf(self.length_penalty) }
    }

    /// The most that the score of a hypothesis of `length` tokens can come to: no token adds to its probability, and its
    /// length goes on to whichever end the penalty likes.
    pub fn bound(&self, log_prob: f64, length: usize) -> f64 {
        let likes_long = self.length_penalty > 0.0;
        self.score(log_prob, if likes_long { self.max_new } else { (length + 1).min(self.max_new) })
    }
}
