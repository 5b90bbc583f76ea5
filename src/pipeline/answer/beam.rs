//! Beam search over one distribution, a model's own or the mixture of several.
//!
//! At every step the N open hypotheses of a question are continued by every token. Of the N best continuations those that
//! end are finished hypotheses, and the N best that do not end go on; the N best finished ones are kept. At the most tokens
//! the N best continuations are hypotheses whether they end or not. The search ends when nothing that is open can come
//! among the hypotheses asked for: exactly, not by a guess, since no token adds to a probability. Without a length penalty
//! and for one answer this finds what `transformers` 4.57 finds with `generate(num_beams=N, length_penalty=0)`, with a
//! positive penalty what it finds with `early_stopping="never"`; its other rules of stopping are heuristics.

use super::candidates::{best, with_rows};
use super::mixture::mix;
use super::rows::Rows;
use super::search::{Hypothesis, Search};
use crate::error::{Error, Result};

/// A hypothesis that is not finished.
struct Open {
    tokens: Vec<u32>,
    log_prob: f64,
}

/// The hypotheses of one group of rows.
struct Group<'a> {
    /// Its place among all groups.
    index: usize,
    /// Its prior.
    prior: &'a [f32],
    /// Best first; each has its rows in the model.
    open: Vec<Open>,
    /// Best first, at most N.
    finished: Vec<Hypothesis>,
}

/// The N best hypotheses of each group, best first.
pub(super) fn search(rows: &mut impl Rows, priors: &[Vec<f32>], how: &Search<'_>) -> Result<Vec<Vec<Hypothesis>>> {
    let start = |(index, prior)| {
        let open = vec![Open { tokens: Vec::new(), log_prob: 0.0 }];
        Group { index, prior, open, finished: Vec::new() }
    };
    let mut groups: Vec<Group<'_>> = priors.iter().map(Vec::as_slice).enumerate().map(start).collect();
    let mut found = vec![Vec::new(); priors.len()];
    for length in 1..=how.max_new {
        let prior_rows: Vec<&[f32]> =
            groups.iter().flat_map(|group| std::iter::repeat_n(group.prior, group.open.len())).collect();
        let mixed = mix(&rows.log_probs()?, &prior_rows, how.width)?;
        let vocabulary = mixed.dim(1)?;
        let (mut kept, mut tokens, mut still) = (Vec::new(), Vec::new(), Vec::new());
        with_rows(&mixed, |values| -> Result<()> {
            let mut first = 0;
            for mut group in std::mem::take(&mut groups) {
                let count = group.open.len();
                let own = values.get(first * vocabulary..(first + count) * vocabulary).unwrap_or_default();
                let continued = group.extend(own, length, how)?;
                if group.goes_on(length, how) {
                    for beam in continued {
                        kept.extend((first + beam) * how.width..(first + beam + 1) * how.width);
                    }
                    let last = group.open.iter().filter_map(|open| open.tokens.last().copied());
                    tokens.extend(last.flat_map(|token| std::iter::repeat_n(token, how.width)));
                    still.push(group);
                } else if let Some(found) = found.get_mut(group.index) {
                    *found = group.finished;
                }
                first += count;
            }
            Ok(())
        })??;
        if still.is_empty() {
            break;
        }
        rows.advance(&kept, &tokens)?;
        groups = still;
    }
    if found.iter().any(Vec::is_empty) {
        return Err(Error::new("the generator leaves no token to go on with"));
    }
    Ok(found)
}

impl Group<'_> {
    /// Continues every open hypothesis by one token; says which open one each of the new ones continues.
    fn extend(&mut self, log_probs: &[f32], length: usize, how: &Search<'_>) -> Result<Vec<usize>> {
        let sums: Vec<f64> = self.open.iter().map(|open| open.log_prob).collect();
        // Of N·(stop tokens + 1) continuations at least N do not end, where there are so many.
        let candidates = best(log_probs, &sums, how.beams * (how.stop.len() + 1))?;
        let (mut open, mut continued) = (Vec::with_capacity(how.beams), Vec::with_capacity(how.beams));
        for (rank, candidate) in candidates.into_iter().enumerate() {
            let ended = how.stop.contains(&candidate.token);
            let complete = ended || length == how.max_new;
            if rank >= how.beams && (complete || open.len() >= how.beams) {
                continue;
            }
            let mut tokens = self.open.get(candidate.beam).map(|open| open.tokens.clone()).unwrap_or_default();
            tokens.push(candidate.token);
            if complete {
                self.finish(Hypothesis { tokens, log_prob: candidate.log_prob, ended }, how);
            } else {
                open.push(Open { tokens, log_prob: candidate.log_prob });
                continued.push(candidate.beam);
            }
        }
        self.open = open;
        Ok(continued)
    }

    /// Keeps a finished hypothesis while it is among the N best, the earlier one of equals.
    fn finish(&mut self, new: Hypothesis, how: &Search<'_>) {
        let score = |of: &Hypothesis| how.score(of.log_prob, of.tokens.len());
        let place = self.finished.partition_point(|other| score(other) >= score(&new));
        self.finished.insert(place, new);
        self.finished.truncate(how.beams);
    }

    /// Whether an open hypothesis can still come among the ones asked for.
    fn goes_on(&self, length: usize, how: &Search<'_>) -> bool {
        let Some(likeliest) = self.open.first() else { return false };
        let worst_wanted = how.best.clamp(1, how.beams) - 1;
        match self.finished.get(worst_wanted) {
            Some(last) => how.bound(likeliest.log_prob, length) > how.score(last.log_prob, last.tokens.len()),
            None => true,
        }
    }
}
