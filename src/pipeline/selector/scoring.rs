//! log p(z|x) of given lists, with a gradient.

use candle_core::Tensor;

use super::{Selector, SelectorInput};
use crate::error::{Error, Result};
use crate::models::Grad;
use crate::models::generator::Branched;

/// What a list's probability is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scoring {
    /// Every token among those that may follow: a distribution over ordered choices of K passages. Its own sampling
    /// distribution.
    #[default]
    Trie,
    /// Every token, and the end of the list, among the whole vocabulary: what a language model gives the text. As in DRO's
    /// released code; it also teaches the model to write lists unaided.
    Free,
}

impl Scoring {
    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Scoring::Trie => "trie",
            Scoring::Free => "free",
        }
    }

    /// The scoring of that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "trie" => Ok(Scoring::Trie),
            "free" => Ok(Scoring::Free),
            other => Err(Error::new(format!("unknown scoring of lists `{other}`; expected `trie` or `free`"))
                .hint("`trie`: among the identifiers that may follow; `free`: among the whole vocabulary")),
        }
    }
}

impl Selector {
    /// log p(z|x) of every list after its question's prompt, (M) f32 in nats, in the order of questions and lists. With
    /// [`Grad::On`] the gradient reaches every trainable weight. A prompt is read once for all its lists.
    pub fn log_probs(
        &self,
        questions: &[(&SelectorInput, &[Vec<u32>])],
        scoring: Scoring,
        grad: Grad,
    ) -> Result<Tensor> {
        self.generator.branch_log_probs(&self.branched(questions, scoring)?, grad)
    }

    /// Tokens read and floating point operations of a forward pass of [`Selector::log_probs`].
    pub fn cost(&self, questions: &[(&SelectorInput, &[Vec<u32>])], scoring: Scoring) -> Result<(u64, f64)> {
        let batch = self.branched(questions, scoring)?;
        let tokens = |prompt: &Branched| {
            prompt.prompt.len() + prompt.branches.iter().map(|branch| branch.ids.len()).sum::<usize>()
        };
        Ok((batch.iter().map(tokens).sum::<usize>() as u64, self.generator.branch_flops(&batch)))
    }

    fn branched(&self, questions: &[(&SelectorInput, &[Vec<u32>])], scoring: Scoring) -> Result<Vec<Branched>> {
        let mut batch = Vec::with_capacity(questions.len());
        for (input, lists) in questions {
            let mut branches = Vec::with_capacity(lists.len());
            for list in *lists {
                branches.push(match scoring {
                    Scoring::Trie => self.identifiers.branch(input.passages, list)?,
                    Scoring::Free => self.identifiers.free_branch(list, self.prompt.end())?,
                });
            }
            batch.push(Branched { prompt: input.ids.clone(), branches });
        }
        Ok(batch)
    }
}
