//! When the index is embedded anew. Policies decide and do nothing else; `train` acts.

use serde::{Deserialize, Serialize};

/// The refresh policy of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refresh {
    /// Not during training; passages that moved are still embedded anew before the final evaluation.
    Never,
    /// Every so many optimiser steps, the whole corpus.
    Every(u64),
}

/// What is known about the index when a step is about to begin.
#[derive(Clone, Copy, Debug)]
pub struct Staleness {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps done when the current generation was embedded.
    pub embedded_at: u64,
    /// Whether the stage moves passage vectors.
    pub passages_move: bool,
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on with the generation there is.
    Keep,
    /// Embed the whole corpus with the live encoder, commit, swap.
    EmbedAll,
}

impl Refresh {
    /// The policy `--refresh-every N` stands for; 0 is never.
    pub fn every(steps: u64) -> Self {
        if steps == 0 { Refresh::Never } else { Refresh::Every(steps) }
    }

    /// Decides before a step. An index that no step has made stale is never embedded again.
    pub fn decide(&self, now: &Staleness) -> Decision {
        let stale = now.passages_move && now.step > now.embedded_at;
        match self {
            Refresh::Every(steps) if stale && now.step.is_multiple_of(*steps) => Decision::EmbedAll,
            _ => Decision::Keep,
        }
    }

    /// Decides before the final evaluation: vectors that moved must be embedded anew, whatever the policy.
    pub fn decide_at_end(now: &Staleness) -> Decision {
        if now.passages_move && now.step > now.embedded_at { Decision::EmbedAll } else { Decision::Keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decisions() {
        use Decision::{EmbedAll, Keep};
        let table = [
            // policy, step, embedded at, passages move, expected
            (Refresh::every(0), 50, 0, true, Keep),
            (Refresh::every(50), 0, 0, true, Keep),
            (Refresh::every(50), 49, 0, true, Keep),
            (Refresh::every(50), 50, 0, true, EmbedAll),
            (Refresh::every(50), 50, 50, true, Keep),
            (Refresh::every(50), 51, 50, true, Keep),
            (Refresh::every(50), 100, 50, true, EmbedAll),
            (Refresh::every(50), 100, 50, false, Keep),
        ];
        for (policy, step, embedded_at, passages_move, expected) in table {
            let now = Staleness { step, embedded_at, passages_move };
            assert_eq!(policy.decide(&now), expected, "{policy:?} {now:?}");
        }
        for (step, embedded_at, passages_move, expected) in
            [(10, 0, true, EmbedAll), (10, 10, true, Keep), (10, 0, false, Keep)]
        {
            assert_eq!(Refresh::decide_at_end(&Staleness { step, embedded_at, passages_move }), expected);
        }
    }
}
