//! CL-RAG's list-wise loss: passages in the order in which the tuned generator finds them helpful, far misplacements
//! weighing more.
//!
//! `L = -sum_{i<j} ((j - i) / (n - 1)) log sigmoid((s_i - s_j) / tau)` over the n = K retrieved passages, i and j their ranks by
//! the generator (CL-RAG, arXiv 2505.10493, the retriever's stage). Pairs are summed, questions averaged.
//!
//! Deviations: the paper ranks by the gain in decoding rank first and by probability second; here the rank is that of the
//! answer's log-likelihood after each passage alone, and passages that make it equally likely share a rank, so that no
//! order is made up between them. The paper writes scores without a temperature; cosine scores need one. Rewritten documents
//! and the curriculum are matters of the data and the strategy.
//!
//! Trains: question side, and passage side when passage vectors are live. Labels: answers.

use candle_core::Tensor;

use super::choice::Length;
use super::kernel::{log_likelihood, mean, positive};
use super::pairwise::{logistic, margins, rows, weights};
use super::{Needs, Objective};
use crate::error::Result;
use crate::pipeline::step::{Step, ToGenerator};

/// The rank-weighted list-wise loss.
pub struct ClRag {
    /// Temperature tau of the retrieval scores, above 0.
    pub temperature: f64,
}

impl Objective for ClRag {
    fn name(&self) -> &'static str {
        "cl-rag"
    }

    fn equation(&self) -> &'static str {
        "-sum_{i<j} ((j-i)/(K-1)) log sigmoid((s_i-s_j)/tau), passages ranked by log p(y|x,z), pairs summed, mean over \
         questions (arXiv 2505.10493)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("temperature", self.temperature.to_string())]
    }

    fn needs(&self) -> Needs {
        Needs { answers: true, retrieval: true, moves_retriever: true, single_prompts: true, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let scores = step.retrieval_scores()?;
        let (log_probs, mask) = step.answer_token_log_probs(ToGenerator::Stopped)?;
        let answer = log_likelihood(&log_probs, &mask, Length::Sum)?;
        let (loss, without) = cl_rag_loss(&scores, self.temperature, &answer)?;
        step.note_flat(scores.dim(0)?, without);
        Ok(loss)
    }
}

/// The equation alone: `scores` (B, K); `log_likelihood` (B, K), of which only the order counts. The scalar, mean over B,
/// and the number of questions whose passages all rank the same.
pub fn cl_rag_loss(scores: &Tensor, temperature: f64, log_likelihood: &Tensor) -> Result<(Tensor, usize)> {
    let likelihoods = rows(log_likelihood)?;
    let (questions, passages) = scores.dims2()?;
    // A passage's rank is the number of better ones, so that equals share it.
    let ranks: Vec<Vec<usize>> = likelihoods
        .iter()
        .map(|row| row.iter().map(|own| row.iter().filter(|other| *other > own).count()).collect())
        .collect();
    let rank = |b: usize, k: usize| ranks.get(b).and_then(|row| row.get(k)).copied().unwrap_or_default();
    let longest = passages.saturating_sub(1).max(1) as f32;
    let (weights, without) = weights(questions, passages, scores.device(), |b, i, j| {
        rank(b, j).saturating_sub(rank(b, i)) as f32 / longest
    })?;
    let scaled = (scores / positive("temperature", temperature)?)?;
    Ok((mean(&logistic(&margins(&scaled)?, &weights)?)?, without))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_golden, golden, gradient, numbers, tensor, var, variable};
    use super::*;

    #[test]
    fn equals_pytorch() {
        let golden = golden("objectives_retriever", "cl_rag");
        let scores = var(&golden["scores"]);
        let (loss, without) = cl_rag_loss(&scores, 0.2, &golden["log_likelihood"]).unwrap();
        assert_eq!(without, 0);
        check_golden("cl-rag", &golden, &loss, &[("scores", &scores)]);
    }

    #[test]
    fn equals_share_a_rank_and_without_an_order_nothing_moves() {
        let scores = variable(&[0.1, 0.5, 0.3], &[1, 3]);
        let (loss, without) = cl_rag_loss(&scores, 0.2, &tensor(&[-1.0; 3], &[1, 3])).unwrap();
        assert_eq!((numbers(&loss)[0], without), (0.0, 1));
        assert_eq!(gradient(&loss, &scores), [0.0; 3]);
        // One better than two equals: pairs (0, 1) and (0, 2) at weight 1/2 each, none between the equals.
        let (loss, without) = cl_rag_loss(&scores, 1.0, &tensor(&[-1.0, -2.0, -2.0], &[1, 3])).unwrap();
        let softplus = |x: f32| (1.0 + x.exp()).ln();
        let expected = (softplus(0.5 - 0.1) + softplus(0.3 - 0.1)) / 2.0;
        assert!((numbers(&loss)[0] - expected).abs() < 1e-6 && without == 0);
        // The paper's weight of the best against the worst of three is 1.
        let (loss, _) = cl_rag_loss(&scores, 1.0, &tensor(&[-1.0, -2.0, -3.0], &[1, 3])).unwrap();
        let expected = softplus(0.5 - 0.1) / 2.0 + softplus(0.3 - 0.1) + softplus(0.3 - 0.5) / 2.0;
        assert!((numbers(&loss)[0] - expected).abs() < 1e-6);
        assert!(cl_rag_loss(&scores, 1.0, &tensor(&[f32::NAN, -2.0, -3.0], &[1, 3])).is_err());
    }
}
