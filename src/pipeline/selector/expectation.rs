//! What an E-step of DRO finds out about a question: which lists the selector drew, and how likely the answer is after each
//! (arXiv 2505.03075, section 3.3). It holds numbers only, so that it can be written down and used for several M-steps.

use serde::{Deserialize, Serialize};

use super::{CANDIDATES, Sampling, Scoring};
use crate::error::{Error, Result};

/// What to tell whoever puts gold passages among the candidates.
pub const GOLD_WARNING: &str = "gold passages are put among the candidates of training questions where the retriever missed \
     them: the selector trains on labels that retrieval does not give at evaluation, and the generator on better passages \
     than it will get";

/// How lists are drawn and scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expectation {
    /// n: passages retrieved for a question, which the selector reads.
    pub candidates: usize,
    /// K: passages of a list, which the generator reads.
    pub choose: usize,
    /// m: lists drawn for a question; at least 2 where the selector is to learn from them.
    pub samples: usize,
    /// How they are drawn.
    pub sampling: Sampling,
    /// Whether gold passages that were not retrieved take the places of the last candidates. DRO's released code does so;
    /// see [`GOLD_WARNING`].
    pub gold_injection: bool,
}

impl Default for Expectation {
    /// n = 20, K = 5, m = 8 of the paper (section 4.3), drawn from the selector's own distribution.
    fn default() -> Self {
        Self { candidates: CANDIDATES, choose: 5, samples: 8, sampling: Sampling::default(), gold_injection: false }
    }
}

impl Expectation {
    /// Refuses settings under which nothing can be learnt. One list is enough for a generator, which then learns to answer
    /// from what the selector draws.
    pub fn check(&self, trains_selector: bool) -> Result<()> {
        self.sampling.check()?;
        if self.samples == 0 {
            return Err(Error::new("`0` lists drawn for a question are nothing to learn from, expected at least 1")
                .hint("draw 4 or more: DRO uses 8, and finds 4 the best for its cost"));
        }
        if self.samples < 2 && trains_selector {
            return Err(Error::new(format!(
                "`{}` list drawn for a question teaches a selector nothing: its normalised weight is 1 whatever the answer's \
                 likelihood, so that the expected gradient is zero; expected at least 2",
                self.samples
            ))
            .hint("draw 4 or more: DRO uses 8, and finds 4 the best for its cost"));
        }
        if self.choose == 0 || self.candidates < 2 || self.choose > self.candidates {
            return Err(Error::new(format!(
                "cannot select `{}` of `{}` candidates, expected 1 or more of at least 2 and as many",
                self.choose, self.candidates
            ))
            .hint("lower `--top-k` or raise `--dro candidates=..`"));
        }
        Ok(())
    }

    /// About how many tokens the forward passes with gradients of one question hold: m prompts of the generator with their
    /// answers, and one of the selector with m lists.
    pub fn tokens(&self, generator_longest: usize, selector_prompt: usize, longest_list: usize) -> usize {
        self.samples * (generator_longest + longest_list) + selector_prompt
    }
}

/// One list, and what is known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drawn {
    /// K candidates, counted from 0, in order.
    pub list: Vec<u32>,
    /// How often it was drawn.
    pub count: u32,
    /// log p(z|x) of the selector that drew it among the lists it can draw ([`Scoring::Trie`]), in nats.
    pub log_prob: f64,
    /// The same as free text ([`Scoring::Free`]), where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_free: Option<f64>,
    /// log of the probability that it was drawn with.
    pub log_proposal: f64,
    /// log p(y|x, d_z) of the generator, summed over the answer's tokens, in nats.
    pub log_likelihood: f64,
    /// Tokens of the answer, its end included.
    pub answer_tokens: u32,
}

impl Drawn {
    /// A list of which nothing is known yet but that it is there.
    pub(in crate::pipeline) fn once(list: Vec<u32>) -> Self {
        let (log_prob, log_proposal, log_likelihood) = (0.0, 0.0, 0.0);
        Self { list, count: 1, log_prob, log_free: None, log_proposal, log_likelihood, answer_tokens: 0 }
    }

    /// log p(z|x) in nats by this scoring, where it is known.
    pub fn log_prob_by(&self, scoring: Scoring) -> Option<f64> {
        match scoring {
            Scoring::Trie => Some(self.log_prob),
            Scoring::Free => self.log_free,
        }
    }
}

/// The different lists that were drawn for one question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Id of the question.
    pub question: String,
    /// Ordinals of its n candidates in the corpus, in the order of their numbers.
    pub candidates: Vec<u32>,
    /// The lists, in the order in which they were first drawn.
    pub lists: Vec<Drawn>,
}

/// Whose order a selector learns in its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Teacher {
    /// Gold passages first, in the order in which the question names them, then the others as retrieved. A question whose
    /// gold passages are not among the candidates teaches the retriever's order.
    GoldFirst,
    /// By log p(y|x, d_i) of the generator after each candidate alone, needing answers only. In place of DRO's rankings by
    /// RankZephyr.
    Likelihood,
}

impl Teacher {
    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Teacher::GoldFirst => "gold-first",
            Teacher::Likelihood => "likelihood",
        }
    }

    /// The teacher of that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "gold-first" => Ok(Teacher::GoldFirst),
            "likelihood" => Ok(Teacher::Likelihood),
            other => Err(Error::new(format!(
                "unknown order for the selector's warm-up `{other}`; expected `gold-first` or `likelihood`"
            ))
            .hint(
                "`gold-first` needs gold passages, `likelihood` needs answers and n passes of the generator a question",
            )),
        }
    }
}

/// A warm-up: one list for each question, which the selector learns to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Teaching {
    /// n: passages retrieved for a question.
    pub candidates: usize,
    /// K: passages of a list.
    pub choose: usize,
    /// Whose order is taught.
    pub teacher: Teacher,
    /// As in [`Expectation::gold_injection`].
    pub gold_injection: bool,
}

/// Counts equal lists; the order is that of their first appearance.
pub(in crate::pipeline) fn distinct(written: Vec<super::Written>) -> Vec<Drawn> {
    let mut lists: Vec<Drawn> = Vec::new();
    for super::Written { list, log_prob, log_proposal } in written {
        match lists.iter_mut().find(|drawn| drawn.list == list) {
            Some(drawn) => drawn.count += 1,
            None => lists.push(Drawn { log_prob, log_proposal, ..Drawn::once(list) }),
        }
    }
    lists
}

/// Puts the gold passages that are missing in the places of the last candidates that are not gold.
pub(in crate::pipeline) fn inject(candidates: &mut [u32], gold: &[u32]) {
    let mut missing: Vec<u32> = gold.iter().copied().filter(|ordinal| !candidates.contains(ordinal)).collect();
    missing.dedup();
    for place in candidates.iter_mut().rev() {
        if gold.contains(place) {
            continue;
        }
        let Some(ordinal) = missing.pop() else { return };
        *place = ordinal;
    }
}

/// Places of the candidates with the gold ones first, in the order of `gold`, cut to `choose`.
pub(in crate::pipeline) fn gold_first(candidates: &[u32], gold: &[u32], choose: usize) -> Vec<u32> {
    let place = |ordinal: &u32| candidates.iter().position(|candidate| candidate == ordinal);
    let mut order: Vec<usize> = Vec::new();
    for found in gold.iter().filter_map(place).chain(0..candidates.len()) {
        if !order.contains(&found) {
            order.push(found);
        }
    }
    order.into_iter().take(choose).map(|place| place as u32).collect()
}

/// Places by likelihood, the largest first, the earlier of equal ones first, cut to `choose`.
pub(in crate::pipeline) fn by_likelihood(log_likelihoods: &[f32], choose: usize) -> Vec<u32> {
    let mut order: Vec<usize> = (0..log_likelihoods.len()).collect();
    order.sort_by(|&a, &b| log_likelihoods[b].total_cmp(&log_likelihoods[a]).then(a.cmp(&b)));
    order.into_iter().take(choose).map(|place| place as u32).collect()
}
