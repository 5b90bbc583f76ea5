//! RAG-Sequence decoding: no single search follows `sum_k p_k p(y | x, z_k)`, because the sum is over whole answers.
//!
//! Every passage's own search gives at most N hypotheses; their union, each once, is weighed by `log sum_k p_k p(y | x, z_k)`,
//! the prior once and the end of the answer included (Lewis et al. 2020, arXiv 2005.11401, section 2.5). Thorough decoding
//! scores every hypothesis under all K passages; fast decoding takes what the searches found and counts 0 for the rest, so
//! that its score of an answer is at most the thorough one. A length penalty steers the searches, never the weighing.
//!
//! Two hypotheses are one when their tokens are, the one that ended them included.

use std::collections::BTreeMap;

use super::candidates::with_rows;
use super::mixture::log_sum_exp;
use super::rows::Rows;
use super::search::{Hypothesis, Search};
use crate::error::{Error, Result};

/// log p(y | x, z_k) of one question's hypotheses by their tokens: one place a passage, none where it is not known.
type Known = BTreeMap<Vec<u32>, (bool, Vec<Option<f64>>)>;

/// Fast decoding: `rows` hold B·K prompts, question by question, `priors` B times K numbers log p_k. The log-probability of
/// what is found is the weighed one.
pub(super) fn fast(rows: &mut impl Rows, priors: &[Vec<f32>], how: &Search<'_>) -> Result<Vec<Hypothesis>> {
    let known = hypotheses(rows, priors, how)?;
    weigh(&known, priors)
}

/// Thorough decoding, likewise.
pub(super) fn thorough<R: Rows>(rows: &mut R, priors: &[Vec<f32>], how: &Search<'_>) -> Result<Vec<Hypothesis>> {
    let all: Vec<usize> = (0..rows.count()).collect();
    let mut known = hypotheses(&mut rows.fork(&all)?, priors, how)?;
    let mut missing: Vec<(usize, Vec<u32>)> = Vec::new();
    for (question, known) in known.iter().enumerate() {
        for (tokens, (_, by_passage)) in known {
            let unknown = by_passage.iter().enumerate().filter(|(_, found)| found.is_none());
            missing.extend(unknown.map(|(passage, _)| (question * how.width + passage, tokens.clone())));
        }
    }
    // By row, so that hypotheses which begin alike share what is read; at most as many rows at a time as the searches had.
    missing.sort_unstable();
    for part in missing.chunks(all.len().max(1) * how.beams.max(1)) {
        for ((row, tokens), log_prob) in part.iter().zip(log_probs_of(rows, part)?) {
            let place = known
                .get_mut(row / how.width)
                .and_then(|known| known.get_mut(tokens))
                .and_then(|(_, by_passage)| by_passage.get_mut(row % how.width));
            if let Some(place) = place {
                *place = Some(log_prob);
            }
        }
    }
    weigh(&known, priors)
}

/// The union of what the searches over single passages find, for each question.
fn hypotheses(rows: &mut impl Rows, priors: &[Vec<f32>], how: &Search<'_>) -> Result<Vec<Known>> {
    let alone = Search { width: 1, best: how.beams, ..*how };
    let found = alone.run(rows, &vec![vec![0.0]; priors.len() * how.width])?;
    let union = found.chunks(how.width).map(|passages| {
        let mut known = Known::new();
        for (passage, hypotheses) in passages.iter().enumerate() {
            for hypothesis in hypotheses {
                let entry = known.entry(hypothesis.tokens.clone());
                let (_, by_passage) = entry.or_insert_with(|| (hypothesis.ended, vec![None; how.width]));
                if let Some(place) = by_passage.get_mut(passage) {
                    *place = Some(hypothesis.log_prob);
                }
            }
        }
        known
    });
    Ok(union.collect())
}

/// Σ of the log-probabilities of given tokens after given rows, in nats. What several of them begin with is read once.
fn log_probs_of<R: Rows>(rows: &R, wanted: &[(usize, Vec<u32>)]) -> Result<Vec<f64>> {
    let mut sums = vec![0.0; wanted.len()];
    let mut beginnings: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, (row, _)) in wanted.iter().enumerate() {
        beginnings.entry(*row).or_default().push(at);
    }
    let mut reading = rows.fork(&beginnings.keys().copied().collect::<Vec<_>>())?;
    // Which of the wanted ones share each row of the reading.
    let mut shared: Vec<Vec<usize>> = beginnings.into_values().collect();
    for step in 0.. {
        let log_probs = reading.log_probs()?;
        let vocabulary = log_probs.dim(1)?;
        let mut longer: BTreeMap<(usize, u32), Vec<usize>> = BTreeMap::new();
        with_rows(&log_probs, |values| {
            for (row, (members, values)) in shared.iter().zip(values.chunks_exact(vocabulary)).enumerate() {
                for &at in members {
                    let (Some((_, answer)), Some(sum)) = (wanted.get(at), sums.get_mut(at)) else { continue };
                    let Some(&token) = answer.get(step) else { continue };
                    *sum += values.get(token as usize).map_or(f64::NEG_INFINITY, |value| f64::from(*value));
                    if step + 1 < answer.len() {
                        longer.entry((row, token)).or_default().push(at);
                    }
                }
            }
        })?;
        if longer.is_empty() {
            break;
        }
        let (kept, tokens): (Vec<usize>, Vec<u32>) = longer.keys().copied().unzip();
        reading.advance(&kept, &tokens)?;
        shared = longer.into_values().collect();
    }
    Ok(sums)
}

/// The hypothesis of each question with the largest `log sum_k p_k p(y | x, z_k)` over the passages that are known; of equals
/// the one whose tokens come first.
fn weigh(known: &[Known], priors: &[Vec<f32>]) -> Result<Vec<Hypothesis>> {
    let weighed = known.iter().zip(priors).map(|(known, prior)| {
        let mut best: Option<Hypothesis> = None;
        for (tokens, (ended, by_passage)) in known {
            let joint = prior.iter().zip(by_passage).filter_map(|(prior, found)| Some(f64::from(*prior) + (*found)?));
            let log_prob = log_sum_exp(&joint.collect::<Vec<f64>>());
            if best.as_ref().is_none_or(|best| log_prob > best.log_prob) {
                best = Some(Hypothesis { tokens: tokens.clone(), log_prob, ended: *ended });
            }
        }
        best.ok_or_else(|| Error::new("the searches over single passages found no hypothesis"))
    });
    weighed.collect()
}
