//! Direct preference over passages: the retriever prefers a better passage to a worse one more than the encoder it began as.
//!
//! `L = -(1/|P|) sum_{(w,l) in P} log sigmoid(beta [log p_w / p_ref,w - log p_l / p_ref,l])` with `p = softmax(s / tau)` over a
//! question's candidates and `p_ref` the same by the encoder as it was when the stage began, a constant (DPO, Rafailov et al.
//! 2023, arXiv 2305.18290; over documents DDRO, arXiv 2504.05181). The normalisers cancel. Pairs and
//! questions are averaged; a question without a pair adds 0 and is reported as one without a signal.
//!
//! Which passages are preferred is named: by `likelihood` every retrieved passage is preferred to those after which the
//! answer is less likely; by `gold` every gold passage is preferred to every other retrieved passage and hard negative (gold
//! passages that were not retrieved are candidates too).
//!
//! Deviations: DDRO's policy writes document ids, one pair a question; here it is the distribution over candidates and all
//! pairs count. SPO's additional loss on degrees of preference (arXiv 2409.17791) is left out.
//!
//! Trains: question side, and passage side when passage vectors are live. Labels: answers, or gold passages.

use candle_core::Tensor;

use super::choice::Length;
use super::kernel::{log_likelihood, mean, positive};
use super::pairwise::{logistic, margins, rows, weights};
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

choice! {
    /// What makes one passage preferred to another.
    Preferred ("preference") {
        /// The answer is more likely after it.
        Likelihood = "likelihood",
        /// It is a gold passage and the other is not.
        Gold = "gold",
    }
}

/// The preference loss.
pub struct Preference {
    /// Temperature tau of the distribution over candidates, above 0.
    pub temperature: f64,
    /// How far the retriever may leave its reference: DPO's beta, above 0 (0.1 in the paper).
    pub beta: f64,
    /// What makes a passage preferred.
    pub preferred: Preferred,
    /// The most hard negatives of a question (`gold` only).
    pub hard_negatives: usize,
}

impl Objective for Preference {
    fn name(&self) -> &'static str {
        "preference"
    }

    fn equation(&self) -> &'static str {
        "-mean_{w>l} log sigmoid((beta/tau) [(s_w-s_ref,w) - (s_l-s_ref,l)]), mean over pairs and questions (arXiv \
         2305.18290, over documents arXiv 2504.05181)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("temperature", self.temperature.to_string()),
            ("beta", self.beta.to_string()),
            ("preferred by", self.preferred.name().to_owned()),
            ("hard negatives a question", self.hard_negatives.to_string()),
        ]
    }

    fn needs(&self) -> Needs {
        let gold = self.preferred == Preferred::Gold;
        Needs {
            answers: !gold,
            gold,
            hard_negatives: gold && self.hard_negatives > 0,
            retrieval: true,
            moves_retriever: true,
            single_prompts: !gold,
            reference: true,
            ..Needs::default()
        }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        // How good each candidate is: any number of which more is better.
        let (candidates, goodness) = match self.preferred {
            Preferred::Likelihood => {
                let candidates = step.retrieved()?;
                let (log_probs, mask) = step.answer_token_log_probs(ToGenerator::Stopped)?;
                (candidates, log_likelihood(&log_probs, &mask, Length::Sum)?)
            }
            Preferred::Gold => step.gold_among_retrieved(self.hard_negatives)?,
        };
        let scores = step.candidate_scores(&candidates)?;
        let reference = step.reference_scores(&candidates)?;
        let (pairs, without) = preferred_pairs(&goodness, candidates.mask())?;
        step.note_flat(scores.dim(0)?, without);
        preference_loss(&scores, &reference, &pairs, self.temperature, self.beta)
    }
}

/// (B, C, C) weights that average over a question's pairs: above 0 at (i, j) where candidate i is better than candidate j
/// and both are there (`mask` 1); and how many questions have no pair. `goodness` and `mask` (B, C).
fn preferred_pairs(goodness: &Tensor, mask: &Tensor) -> Result<(Tensor, usize)> {
    let device = goodness.device();
    let (goodness, mask) = (rows(goodness)?, rows(mask)?);
    let (questions, candidates) = (goodness.len(), goodness.first().map_or(0, Vec::len));
    let at = |of: &[Vec<f32>], b: usize, k: usize| of.get(b).and_then(|row| row.get(k)).copied().unwrap_or_default();
    let better = |b: usize, i: usize, j: usize| {
        at(&mask, b, i) == 1.0 && at(&mask, b, j) == 1.0 && at(&goodness, b, i) > at(&goodness, b, j)
    };
    let counts: Vec<usize> = (0..questions)
        .map(|b| (0..candidates).map(|i| (0..candidates).filter(|&j| better(b, i, j)).count()).sum())
        .collect();
    let count = |b: usize| counts.get(b).copied().unwrap_or_default().max(1) as f32;
    weights(questions, candidates, device, |b, i, j| f32::from(u8::from(better(b, i, j))) / count(b))
}

/// The equation alone: `scores` and constant `reference` (B, C); `pairs` (B, C, C) the weight with which candidate i is
/// preferred to candidate j. Scalar, mean over B.
pub fn preference_loss(
    scores: &Tensor,
    reference: &Tensor,
    pairs: &Tensor,
    temperature: f64,
    beta: f64,
) -> Result<Tensor> {
    let strength = positive("beta", beta)? / positive("temperature", temperature)?;
    let ratios = ((scores - reference.detach())? * strength)?;
    mean(&logistic(&margins(&ratios)?, pairs)?)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, gradient, numbers, tensor, var, variable};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "preference");
        let (scores, reference) = (var(&golden["scores"]), var(&golden["reference"]));
        let (pairs, without) = preferred_pairs(&golden["goodness"], &golden["mask"]).unwrap();
        assert_eq!(without, 1, "the last question prefers nothing");
        let loss = preference_loss(&scores, &reference, &pairs, 0.05, 0.1).unwrap();
        check_golden("preference", &golden, &loss, &[("scores", &scores)]);
        assert!(loss.backward().unwrap().get(&reference).is_none());
    }

    #[test]
    fn at_its_reference_the_loss_is_log_two_and_the_better_rises() {
        let scores = variable(&[0.1, 0.5, 0.3], &[1, 3]);
        let (pairs, _) = preferred_pairs(&tensor(&[-3.0, -2.0, -1.0], &[1, 3]), &tensor(&[1.0; 3], &[1, 3])).unwrap();
        let loss = preference_loss(&scores, &scores.as_tensor().copy().unwrap(), &pairs, 0.05, 0.1).unwrap();
        assert!((numbers(&loss)[0] - 2f32.ln()).abs() < 1e-6);
        let gradient = gradient(&loss, &scores);
        assert!(gradient[2] < 0.0 && gradient[0] > 0.0 && gradient[1].abs() < 1e-6, "{gradient:?}");
        assert!(gradient.iter().sum::<f32>().abs() < 1e-6);
    }
}
