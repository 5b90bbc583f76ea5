//! DRO: selector and generator learn from lists of passages weighted by how likely they make the answer (Shi et al. 2025,
//! arXiv 2505.03075, section 3).
//!
//! Marginal likelihood `log p(y|x) = log sum_z p(z|x) p(y|x,d_z)` over ordered lists z of K passages. E-step: m lists
//! `z_i ~ p_T(z|x)` drawn by the selector, with importance weights of the posterior
//! `w_i = p(y|x,d_zi) p(z_i|x) / p_T(z_i|x)`, normalised over the m lists (equation 19; at temperature 1 and top-p 1 the
//! selector cancels, if p(z|x) is what lists are drawn from). M-step:
//! `L = -(1/B) sum_b sum_i w_i [ log p(z_i|x) + log p(y|x,d_zi) ]` with the weights constant; the first term trains the
//! selector, the second the generator. Tokens are summed in both terms, questions averaged.
//!
//! What the paper leaves open or its code does otherwise is a setting ([`Weighting`], [`Mode`], [`Scoring`]). p(z|x) is the
//! same in weights and loss: by [`Scoring::Trie`] a distribution over ordered choices of passages, from which p_T draws; by
//! [`Scoring::Free`] what the language model gives the text. Lists are drawn among well-formed ones all the same, so that
//! free text does not cancel and takes one more pass of the selector (unless `correction` is off); its marginal is the sum
//! over well-formed lists.
//!
//! Deviation: equal lists are scored once and their weights added, which changes no number. Self-normalised weights are
//! biased: towards less learning for small m, to none of the selector's at m = 1.
//!
//! Trains: selector, generator. Labels: answers. The index never goes stale.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::{Length, Needs, Objective};
use crate::error::{Error, Result};
use crate::pipeline::selector::{Drawn, Scoring, Selection, Teacher};
use crate::pipeline::step::Step;

/// What an importance weight is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighting {
    /// How the answer's likelihood enters: the sum is the paper's equations, the mean its released code, whose weights are
    /// flatter, the more so the longer the answer.
    pub length: Length,
    /// Whether weights are divided by the probability that the list was drawn with and multiplied by the selector's own
    /// (1 at temperature 1 and top-p 1 for what lists are drawn from, [`Scoring::Trie`]). Without it, lists drawn otherwise aim
    /// at `p_T(z|x) p(y|x,d_z)`, not at the posterior.
    pub correction: bool,
    /// Whether a list that was drawn several times counts once, as in DRO's released code. That changes the estimator:
    /// likely lists lose the weight that their repetition gives them.
    pub distinct: bool,
    /// No weight above this many times the mean weight, before normalising (truncated importance sampling, Ionides 2008,
    /// which suggests sqrt(m)); at least 1. The paper has none.
    pub clip: Option<f64>,
}

impl Default for Weighting {
    /// The posterior of the paper's equations.
    fn default() -> Self {
        Self { length: Length::Sum, correction: true, distinct: false, clip: None }
    }
}

impl Weighting {
    /// Refuses a clip that would make all weights equal.
    pub fn check(&self) -> Result<()> {
        match self.clip {
            Some(clip) if !(clip >= 1.0 && clip.is_finite()) => {
                Err(Error::new(format!("weights are clipped at `{clip}` times their mean, expected at least 1"))
                    .hint("leave the clip out, or set it to the square root of the number of lists drawn"))
            }
            _ => Ok(()),
        }
    }

    /// Normalised weights of the different lists of one question, in their order: their sum is 1. Empty for no list. `scoring`
    /// says what p(z|x) is.
    ///
    /// A likelihood or probability that is no number, or not known, is an error.
    pub fn weights(&self, lists: &[Drawn], scoring: Scoring) -> Result<Vec<f64>> {
        self.check()?;
        let mut logs = Vec::with_capacity(lists.len());
        for drawn in lists {
            let log = self.log_weight(drawn, scoring)?;
            if !log.is_finite() {
                return Err(Error::new(format!(
                    "the list `{:?}` has the log-weight `{log}`, expected a number",
                    drawn.list
                ))
                .hint("the selector or the generator has diverged: lower its learning rate"));
            }
            logs.push(log);
        }
        let counts: Vec<f64> =
            lists.iter().map(|drawn| if self.distinct { 1.0 } else { f64::from(drawn.count) }).collect();
        Ok(normalised(&logs, &counts, self.clip))
    }

    /// log w of one drawing of a list, up to a constant of the question.
    fn log_weight(&self, drawn: &Drawn, scoring: Scoring) -> Result<f64> {
        let likelihood = match self.length {
            Length::Sum => drawn.log_likelihood,
            Length::Mean => drawn.log_likelihood / f64::from(drawn.answer_tokens.max(1)),
        };
        if !self.correction {
            return Ok(likelihood);
        }
        let prior = drawn.log_prob_by(scoring).ok_or_else(|| {
            Error::new(format!(
                "the list `{:?}` was not scored by `{}` before it was weighed: this is a defect of ragtune",
                drawn.list,
                scoring.name()
            ))
        })?;
        Ok(likelihood + prior - drawn.log_proposal)
    }
}

/// `c_i min(e^l_i, clip · mean) / sum` with the mean over all drawings: weights of lists drawn c_i times.
pub fn normalised(logs: &[f64], counts: &[f64], clip: Option<f64>) -> Vec<f64> {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
    if let Some(clip) = clip {
        let all: f64 = counts.iter().sum();
        let mean = weights.iter().zip(counts).map(|(weight, count)| weight * count).sum::<f64>() / all;
        weights.iter_mut().for_each(|weight| *weight = weight.min(clip * mean));
    }
    weights.iter_mut().zip(counts).for_each(|(weight, count)| *weight *= count);
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The equation of either term alone: `-(1/B) sum_i w_i log p_i`.
///
/// `log_probs` (M) in nats, of all lists of B questions; `weights` as many, those of a question with the sum 1. Scalar.
pub fn weighted_loss(log_probs: &Tensor, weights: &[f64], questions: usize) -> Result<Tensor> {
    let weights: Vec<f32> = weights.iter().map(|weight| *weight as f32).collect();
    let weights = Tensor::from_vec(weights, log_probs.dim(0)?, log_probs.device())?;
    Ok(((log_probs * weights)?.sum_all()? * (-1.0 / questions as f64))?)
}

choice! {
    /// Which of the two terms are minimised: the paper's ablations freeze one of the models.
    Mode ("mode of DRO") {
        /// Both.
        Joint = "joint",
        /// The selector's; the generator is frozen.
        Selector = "selector",
        /// The generator's; the selector is frozen.
        Generator = "generator",
    }
}

/// The M-step over the lists of a step ([`Step::expect`] or [`Step::give`]).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dro {
    /// What a weight is made of.
    pub weighting: Weighting,
    /// Which terms there are.
    pub mode: Mode,
    /// What p(z|x) is, in the selector's term and in the weights.
    pub scoring: Scoring,
}

impl Default for Dro {
    fn default() -> Self {
        Self { weighting: Weighting::default(), mode: Mode::Joint, scoring: Scoring::Trie }
    }
}

impl Objective for Dro {
    fn name(&self) -> &'static str {
        "dro"
    }

    fn equation(&self) -> &'static str {
        "-sum_i w_i [log p(z_i|x) + log p(y|x,d_zi)], w_i self-normalised over the lists drawn, tokens summed, mean over \
         questions (arXiv 2505.03075, equation 19)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        let Weighting { length, correction, distinct, clip } = self.weighting;
        let yes = |on: bool| if on { "yes" } else { "no" }.to_owned();
        vec![
            ("mode", self.mode.name().to_owned()),
            ("length normalisation of weights", length.name().to_owned()),
            ("corrected for the proposal", if correction { self.corrected().to_owned() } else { yes(false) }),
            ("equal lists count once", yes(distinct)),
            ("weights clipped at times their mean", clip.map_or("no".to_owned(), |clip| clip.to_string())),
            ("scoring of lists", self.scoring.name().to_owned()),
        ]
    }

    fn needs(&self) -> Needs {
        Needs {
            answers: true,
            retrieval: true,
            concat: true,
            moves_selector: self.mode != Mode::Generator,
            moves_generator: self.mode != Mode::Selector,
            ..Needs::default()
        }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn observe(&self, step: &Step<'_>) -> Result<BTreeMap<String, f64>> {
        self.measure(step.selections()?)
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        if self.weighting.correction && self.scoring == Scoring::Free {
            step.score_as_free_text()?;
        }
        let selections = step.selections()?;
        let (questions, mut flat) = (selections.len(), 0);
        let (mut named, mut weights) = (Vec::with_capacity(questions), Vec::new());
        for selection in selections {
            let all = self.weighting.weights(&selection.lists, self.scoring)?;
            flat += usize::from(self.is_flat(&selection.lists)?);
            // A weight that f32 holds as 0 has no gradient: its list need not be read.
            let kept: Vec<usize> = (0..all.len()).filter(|&place| all[place] as f32 > 0.0).collect();
            weights.extend(kept.iter().map(|&place| all[place]));
            named.push(kept);
        }
        step.note_flat(questions, flat);
        let selector = match self.mode {
            Mode::Joint | Mode::Selector => {
                Some(weighted_loss(&step.selector_log_probs(&named, self.scoring)?, &weights, questions)?)
            }
            Mode::Generator => None,
        };
        let generator = match self.mode {
            Mode::Joint | Mode::Generator => {
                Some(weighted_loss(&step.selected_answer_log_probs(&named)?, &weights, questions)?)
            }
            Mode::Selector => None,
        };
        match (selector, generator) {
            (Some(selector), Some(generator)) => Ok((selector + generator)?),
            (Some(one), None) | (None, Some(one)) => Ok(one),
            (None, None) => Err(Error::new("an M-step without any term")),
        }
    }
}

impl Dro {
    /// Whether nothing tells a question's lists apart.
    fn is_flat(&self, lists: &[Drawn]) -> Result<bool> {
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for drawn in lists {
            let log = self.weighting.log_weight(drawn, self.scoring)?;
            (least, most) = (least.min(log), most.max(log));
        }
        Ok(lists.len() < 2 || most - least < 1e-6)
    }

    /// How weights are corrected, for reports.
    fn corrected(&self) -> &'static str {
        match self.scoring {
            Scoring::Trie => "yes",
            Scoring::Free => "yes, with p(z|x) as free text",
        }
    }

    /// What an E-step is worth telling, means over its questions: `effective_samples` (1 / sum w², at most the number of
    /// different lists), `distinct_lists`, `weight_entropy` in nats, `answer_log_likelihood` of a drawn list in nats, and
    /// `no_signal`, the share of questions whose lists all weigh the same.
    pub fn measure(&self, selections: &[Selection]) -> Result<BTreeMap<String, f64>> {
        let mut sums = BTreeMap::new();
        let mut add = |name: &str, value: f64| *sums.entry(name.to_owned()).or_insert(0.0) += value;
        for Selection { lists, .. } in selections {
            let weights = self.weighting.weights(lists, self.scoring)?;
            let drawn: f64 = lists.iter().map(|drawn| f64::from(drawn.count)).sum();
            add("effective_samples", 1.0 / weights.iter().map(|weight| weight * weight).sum::<f64>());
            add("distinct_lists", lists.len() as f64);
            add("weight_entropy", weights.iter().filter(|w| **w > 0.0).map(|weight| -weight * weight.ln()).sum());
            let likelihoods = lists.iter().map(|drawn| f64::from(drawn.count) * drawn.log_likelihood);
            add("answer_log_likelihood", likelihoods.sum::<f64>() / drawn);
            add("no_signal", f64::from(u8::from(self.is_flat(lists)?)));
        }
        sums.values_mut().for_each(|sum| *sum /= selections.len().max(1) as f64);
        Ok(sums)
    }
}

/// The warm-up: the selector learns to write given lists ([`Step::teach`]).
///
/// `L = -(1/B) sum_b log p(z_b|x_b)`, tokens summed: supervised fine-tuning on rankings, which DRO's released code does before
/// it begins (there on RankZephyr's). Trains: selector. Labels: gold passages or answers, as the teacher wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorSft {
    /// Whose lists they are.
    pub teacher: Teacher,
    /// What p(z|x) is.
    pub scoring: Scoring,
}

impl Objective for SelectorSft {
    fn name(&self) -> &'static str {
        "selector-sft"
    }

    fn equation(&self) -> &'static str {
        "-log p(z|x) of a given list of passages, tokens summed, mean over questions (arXiv 2505.03075, released code)"
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![("lists by", self.teacher.name().to_owned()), ("scoring of lists", self.scoring.name().to_owned())]
    }

    fn needs(&self) -> Needs {
        let gold = self.teacher == Teacher::GoldFirst;
        Needs { answers: !gold, gold, retrieval: true, moves_selector: true, single_prompts: !gold, ..Needs::default() }
    }

    fn per_question(&self) -> bool {
        true
    }

    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor> {
        let questions = step.selections()?.len();
        let log_probs = step.selector_log_probs(&vec![vec![0]; questions], self.scoring)?;
        weighted_loss(&log_probs, &vec![1.0; questions], questions)
    }
}

#[cfg(test)]
mod tests;
