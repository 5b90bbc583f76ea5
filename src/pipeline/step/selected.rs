//! What a selector's objectives ask of a step: lists drawn or taught (no gradient, no loss), then their probabilities and
//! those of the answers after them, with gradients.
//!
//! Dimensions: B questions, n candidates, K passages of a list, m lists drawn for a question, M lists of all questions that
//! are asked for.

use candle_core::Tensor;
use ragtune_index::Passage;

use super::score::Asked;
use super::{Step, ToGenerator};
use crate::cost::Phase;
use crate::data::Question;
use crate::error::{Error, Result};
use crate::models::Grad;
use crate::pipeline::selector::{
    Drawn, Expectation, SampleKey, Scoring, Selection, Selector, SelectorInput, Teacher, Teaching, by_likelihood,
    distinct, gold_first, inject,
};

/// The lists of a step.
#[derive(Clone, Debug, Default)]
pub(super) struct Selected {
    selections: Option<Vec<Selection>>,
    /// What the selector reads, a question each; empty until it is needed.
    inputs: Vec<SelectorInput>,
}

impl Step<'_> {
    /// The E-step: retrieves n candidates for each question, draws m lists of K with the selector, and scores the answer
    /// after each different one with the generator; nothing gets a gradient. Charges retrieval, `select` and `score`; a
    /// frozen generator's likelihoods are taken from the step's memo where it knows them.
    pub fn expect(&mut self, settings: &Expectation, key: SampleKey) -> Result<()> {
        settings.check(self.trains.selector)?;
        self.candidates(settings.candidates, settings.choose, settings.gold_injection)?;
        let drawn = {
            let span = self.ledger.span(Phase::Select);
            let inputs: Vec<(&str, &SelectorInput)> =
                self.questions.iter().map(|question| question.id.as_str()).zip(&self.selected.inputs).collect();
            self.selector()?.sample(&inputs, settings.choose, settings.samples, settings.sampling, key, &span)?
        };
        let mut selections = self.selected.selections.take().unwrap_or_default();
        for (selection, drawn) in selections.iter_mut().zip(drawn) {
            selection.lists = distinct(drawn);
        }
        let asked = asked(&selections, |selection| selection.lists.iter().map(|drawn| drawn.list.as_slice()));
        let (log_probs, mask) = self.log_probs(&asked, ToGenerator::Stopped)?;
        let (sums, tokens) = (log_probs.sum(1)?.to_vec1::<f32>()?, mask.sum(1)?.to_vec1::<f32>()?);
        let lists = selections.iter_mut().flat_map(|selection| &mut selection.lists);
        for ((drawn, sum), tokens) in lists.zip(sums).zip(tokens) {
            drawn.log_likelihood = f64::from(sum);
            drawn.answer_tokens = tokens as u32;
        }
        self.selected.selections = Some(selections);
        Ok(())
    }

    /// A warm-up's lists: one for each question, by the teacher. Charges retrieval and, where the generator teaches, `score`.
    pub fn teach(&mut self, settings: &Teaching) -> Result<()> {
        self.candidates(settings.candidates, settings.choose, settings.gold_injection)?;
        let mut selections = self.selected.selections.take().unwrap_or_default();
        let likelihoods = match settings.teacher {
            Teacher::GoldFirst => Vec::new(),
            Teacher::Likelihood => {
                let of = |(question, selection): (usize, &Selection)| -> Vec<Asked> {
                    let candidates = selection.candidates.iter();
                    candidates.map(|ordinal| Asked { question, passages: vec![*ordinal] }).collect()
                };
                let alone: Vec<Asked> = selections.iter().enumerate().flat_map(of).collect();
                self.log_probs(&alone, ToGenerator::Stopped)?.0.sum(1)?.to_vec1::<f32>()?
            }
        };
        let mut likelihoods = likelihoods.as_slice();
        for (question, selection) in self.questions.iter().zip(&mut selections) {
            let list = match settings.teacher {
                Teacher::GoldFirst => gold_first(&selection.candidates, &self.gold_or_none(question)?, settings.choose),
                Teacher::Likelihood => {
                    let (own, rest) = likelihoods.split_at(selection.candidates.len().min(likelihoods.len()));
                    likelihoods = rest;
                    by_likelihood(own, settings.choose)
                }
            };
            selection.lists = vec![Drawn::once(list)];
        }
        self.selected.selections = Some(selections);
        Ok(())
    }

    /// Takes the lists of an earlier E-step, one selection for each question of the step in its order.
    pub fn give(&mut self, selections: Vec<Selection>, choose: usize) -> Result<()> {
        let same = selections.len() == self.questions.len()
            && selections.iter().zip(self.questions).all(|(selection, question)| selection.question == question.id);
        if !same {
            return Err(Error::new("the lists of an E-step belong to other questions than those of this step"));
        }
        self.take(selections, choose)
    }

    /// The lists that were drawn, taught or given, a selection a question.
    pub fn selections(&self) -> Result<&[Selection]> {
        self.selected.selections.as_deref().ok_or_else(|| {
            Error::new("a loss over lists of passages was asked for before any list: this is a defect of ragtune")
        })
    }

    /// Gives every list the probability that the selector gives it as free text ([`Scoring::Free`]), where it is not known: an
    /// E-step draws among well-formed lists and knows another. Without gradient. Charged to `select`.
    pub fn score_as_free_text(&mut self) -> Result<()> {
        let known = |selection: &Selection| selection.lists.iter().all(|drawn| drawn.log_free.is_some());
        if self.selections()?.iter().all(known) {
            return Ok(());
        }
        let named: Vec<Vec<usize>> =
            self.selections()?.iter().map(|selection| (0..selection.lists.len()).collect()).collect();
        let log_probs = self.list_log_probs(&named, Scoring::Free, Grad::Off)?.to_vec1::<f32>()?;
        let lists = self.selected.selections.iter_mut().flatten().flat_map(|selection| &mut selection.lists);
        for (drawn, log_prob) in lists.zip(log_probs) {
            drawn.log_free = Some(f64::from(log_prob));
        }
        Ok(())
    }

    /// (M) log p(z|x) of the named lists of each question (places in [`Selection::lists`]), in their order, in nats. Gradient
    /// to the selector. Charged to `select`.
    pub fn selector_log_probs(&mut self, named: &[Vec<usize>], scoring: Scoring) -> Result<Tensor> {
        self.list_log_probs(named, scoring, Grad::On)
    }

    fn list_log_probs(&mut self, named: &[Vec<usize>], scoring: Scoring, grad: Grad) -> Result<Tensor> {
        let span = self.ledger.span(Phase::Select);
        let selections = self.selections()?;
        let lists: Vec<Vec<Vec<u32>>> = selections
            .iter()
            .zip(named)
            .map(|(selection, named)| lists(selection, named).map(<[u32]>::to_vec).collect())
            .collect();
        let inputs = self.selected.inputs.iter().zip(lists.iter().map(Vec::as_slice));
        let questions: Vec<(&SelectorInput, &[Vec<u32>])> = inputs.filter(|(_, lists)| !lists.is_empty()).collect();
        let selector = self.selector()?;
        let (tokens, flops) = selector.cost(&questions, scoring)?;
        span.tokens(tokens);
        span.flops(flops);
        let log_probs = selector.log_probs(&questions, scoring, grad)?;
        if grad == Grad::On {
            self.observed.selector_flops += flops;
        }
        Ok(log_probs)
    }

    /// (M) log p(y|x, d_z) of the named lists of each question, tokens summed, in nats: all passages of a list in one prompt,
    /// in its order. Gradient to the generator where it trains. Charged to `score`.
    pub fn selected_answer_log_probs(&mut self, named: &[Vec<usize>]) -> Result<Tensor> {
        let mut named = named.iter();
        let asked = asked(self.selections()?, |selection| lists(selection, named.next().map_or(&[], Vec::as_slice)));
        Ok(self.log_probs(&asked, ToGenerator::Flows)?.0.sum(1)?)
    }

    /// Retrieves the candidates of every question and writes the selector's prompts over them.
    fn candidates(&mut self, candidates: usize, choose: usize, gold_injection: bool) -> Result<()> {
        self.settings.top_k = candidates;
        let retrieved = self.retrieved_ordinals()?;
        let mut selections = Vec::with_capacity(retrieved.len());
        for (question, mut candidates) in self.questions.iter().zip(retrieved) {
            if gold_injection {
                inject(&mut candidates, &self.gold_or_none(question)?);
            }
            selections.push(Selection { question: question.id.clone(), candidates, lists: Vec::new() });
        }
        self.take(selections, choose)
    }

    fn take(&mut self, selections: Vec<Selection>, choose: usize) -> Result<()> {
        {
            let _span = self.ledger.span(Phase::Retrieve);
            let all: Vec<u32> = selections.iter().flat_map(|selection| &selection.candidates).copied().collect();
            self.read_passages(&all)?;
        }
        let _span = self.ledger.span(Phase::Select);
        let mut inputs = Vec::with_capacity(selections.len());
        for (question, selection) in self.questions.iter().zip(&selections) {
            let passages = self.read(&selection.candidates)?;
            inputs.push(self.selector()?.input(&question.question, &passages, choose)?);
        }
        self.observed.selector_prompts += inputs.len() as u64;
        self.observed.truncated_selector_prompts += inputs.iter().filter(|input| input.truncated).count() as u64;
        (self.selected.selections, self.selected.inputs) = (Some(selections), inputs);
        Ok(())
    }

    fn selector(&self) -> Result<&Selector> {
        self.pipeline.selector.as_ref().ok_or_else(|| {
            Error::new("the pipeline has no selector, but its strategy trains one")
                .hint("name a language model for it, or take another strategy")
        })
    }

    /// The passages of these ordinals, which have been read.
    fn read(&self, ordinals: &[u32]) -> Result<Vec<&Passage>> {
        let of = |ordinal: &u32| self.passages.get(ordinal).ok_or_else(|| Error::new("a candidate was not read"));
        ordinals.iter().map(of).collect()
    }

    /// Ordinals of the question's gold passages; a question may have none.
    fn gold_or_none(&self, question: &Question) -> Result<Vec<u32>> {
        if question.gold_passages.is_empty() { Ok(Vec::new()) } else { self.gold(question) }
    }
}

/// The prompts of each selection's lists, their passages in the order of the list.
fn asked<'s, L: Iterator<Item = &'s [u32]>>(
    selections: &'s [Selection],
    mut lists: impl FnMut(&'s Selection) -> L,
) -> Vec<Asked> {
    let mut asked = Vec::new();
    for (question, selection) in selections.iter().enumerate() {
        for list in lists(selection) {
            let ordinals = list.iter().filter_map(|place| selection.candidates.get(*place as usize));
            asked.push(Asked { question, passages: ordinals.copied().collect() });
        }
    }
    asked
}

/// The named lists of a selection.
fn lists<'s>(selection: &'s Selection, named: &'s [usize]) -> impl Iterator<Item = &'s [u32]> {
    named.iter().filter_map(|place| selection.lists.get(*place)).map(|drawn| drawn.list.as_slice())
}

#[cfg(test)]
mod tests;
