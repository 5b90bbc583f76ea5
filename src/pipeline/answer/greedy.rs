//! Greedy decoding: the likeliest token at every step, the lowest id of several.

use super::candidates::{best, with_rows};
use super::mixture::mix;
use super::rows::Rows;
use super::search::{Hypothesis, Search};
use crate::error::{Error, Result};

/// One hypothesis of each group of rows; a beam search with one beam, without what that would keep for later.
pub(super) fn search(rows: &mut impl Rows, priors: &[Vec<f32>], how: &Search<'_>) -> Result<Vec<Hypothesis>> {
    let mut found = vec![Hypothesis::default(); priors.len()];
    // Groups that are still being continued, in order; the rows of the others are dropped.
    let mut open: Vec<usize> = (0..priors.len()).collect();
    for position in 0..how.max_new {
        let kept: Vec<&[f32]> = open.iter().filter_map(|group| priors.get(*group)).map(Vec::as_slice).collect();
        let mixed = mix(&rows.log_probs()?, &kept, how.width)?;
        let vocabulary = mixed.dim(1)?;
        let next: Vec<_> = with_rows(&mixed, |values| {
            values.chunks_exact(vocabulary).map(|row| best(row, &[0.0], 1)).collect::<Result<_>>()
        })??;
        let (mut kept, mut tokens, mut still) = (Vec::new(), Vec::new(), Vec::new());
        for (place, (group, next)) in open.iter().zip(next).enumerate() {
            let next = next.first().ok_or_else(|| Error::new("the generator leaves no token to go on with"))?;
            let Some(hypothesis) = found.get_mut(*group) else { continue };
            hypothesis.tokens.push(next.token);
            hypothesis.log_prob += next.log_prob;
            hypothesis.ended = how.stop.contains(&next.token);
            if hypothesis.ended {
                continue;
            }
            kept.extend(place * how.width..(place + 1) * how.width);
            tokens.extend(std::iter::repeat_n(next.token, how.width));
            still.push(*group);
        }
        if still.is_empty() || position + 1 == how.max_new {
            break;
        }
        rows.advance(&kept, &tokens)?;
        open = still;
    }
    Ok(found)
}
