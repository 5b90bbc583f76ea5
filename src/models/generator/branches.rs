//! Log-probabilities of several continuations of one prompt, which is read once.
//!
//! A prompt and its first branch are one sequence. The other branches follow it: their queries see copies of the prompt's
//! keys and values, whose gradients add up in the prompt. Against m whole sequences this saves m - 1 passes over the prompt;
//! the numbers are the same. Where rotations depend on the length of a sequence (LongRoPE) and the branches of a prompt lie
//! on both sides of the limit, each has a prompt of its own.
//!
//! Dimensions: M branches of all prompts, N tokens read, R tokens scored, U tokens that may be chosen among, V vocabulary.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::super::Grad;
use super::super::checkpointing::Tape;
use super::super::nn::{self, Piece};
use super::rope::Rope;
use super::{Generator, Network, Place, too_long};
use crate::error::{Error, Result};

/// One token of a branch that is scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its place in the branch.
    pub at: usize,
    /// The tokens it was chosen among, itself included: its probability is that of a softmax over their logits. `None`: the
    /// whole vocabulary.
    pub among: Option<Vec<u32>>,
}

/// A continuation of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Those that are scored, by place. Tokens after the last of them are not read.
    pub scored: Vec<Choice>,
}

impl Branch {
    /// Tokens that must be read to score it.
    fn read(&self) -> usize {
        self.scored.iter().map(|choice| choice.at).max().unwrap_or(0)
    }
}

/// A prompt and its continuations, each by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branched {
    /// What all branches continue.
    pub prompt: Vec<u32>,
    /// The branches; at least one.
    pub branches: Vec<Branch>,
}

impl Generator {
    /// Σ log p of the scored tokens of each branch, (M) f32 in nats, in the order of prompts and branches; 0 for a branch
    /// without scored tokens. With [`Grad::On`] the gradient reaches every trainable weight.
    ///
    /// Prompts and branches without tokens, sequences beyond [`Generator::max_positions`], ids outside the vocabulary and
    /// a scored token that is not among its choices are errors.
    pub fn branch_log_probs(&self, batch: &[Branched], grad: Grad) -> Result<Tensor> {
        self.check_branches(batch)?;
        let network = self.network(grad)?;
        let (layout, places) = Layout::of(batch, &network.rope);
        let branches: usize = batch.iter().map(|prompt| prompt.branches.len()).sum();
        if layout.rows.is_empty() {
            return Ok(Tensor::zeros(branches, candle_core::DType::F32, self.device())?);
        }
        let rows = Tensor::from_vec(layout.rows.clone(), layout.rows.len(), self.device())?;
        let network = self.network(grad)?;
        let states = network.branch_states(&layout, &rows, self.tape().filter(|_| grad == Grad::On), self.device())?;
        let picked = self.pick(&states, &layout, grad)?;
        // One more entry, 0, is what the places beyond a branch's scored tokens take.
        let extended = Tensor::cat(&[&picked, &picked.zeros_like()?.narrow(0, 0, 1)?.detach()], 0)?;
        let width = places.len() / branches;
        let places = Tensor::from_vec(places, branches * width, self.device())?;
        Ok(extended.index_select(&places, 0)?.reshape((branches, width))?.sum(1)?)
    }

    /// Floating point operations of a forward pass of [`Generator::branch_log_probs`] with shared prompts; conventions as in
    /// [`Generator::forward_flops`].
    pub fn branch_flops(&self, batch: &[Branched]) -> f64 {
        let of = |length: usize| self.forward_flops(&[length], 0);
        let row = |among: usize| 2.0 * (among * self.config().hidden) as f64;
        batch
            .iter()
            .map(|prompt| {
                let alone = of(prompt.prompt.len());
                let branch = |branch: &Branch| {
                    let head: f64 = branch
                        .scored
                        .iter()
                        .map(|choice| row(choice.among.as_ref().map_or(self.config().vocabulary, Vec::len)))
                        .sum();
                    of(prompt.prompt.len() + branch.read()) - alone + head
                };
                alone + prompt.branches.iter().map(branch).sum::<f64>()
            })
            .sum()
    }

    /// log p of each of the R scored tokens, (R), from states (R, D).
    fn pick(&self, states: &Tensor, layout: &Layout<'_>, grad: Grad) -> Result<Tensor> {
        let head = self.head(grad)?;
        let whole: Vec<u32> = layout.indices(|among| among.is_none());
        let given: Vec<u32> = layout.indices(|among| among.is_some());
        let targets = |indices: &[u32]| -> Vec<u32> { indices.iter().map(|&i| layout.targets[i as usize]).collect() };
        let mut parts = Vec::new();
        if !whole.is_empty() {
            let rows = Tensor::from_vec(whole.clone(), whole.len(), self.device())?;
            let targets = Tensor::from_vec(targets(&whole), whole.len(), self.device())?;
            parts.push(head.log_probs(&states.index_select(&rows, 0)?, &targets)?);
        }
        if !given.is_empty() {
            let union: BTreeSet<u32> = layout.among.iter().copied().flatten().flatten().copied().collect();
            let union: Vec<u32> = union.into_iter().collect();
            let place = |token: u32| union.binary_search(&token).unwrap_or_default();
            let mut mask = vec![f32::NEG_INFINITY; given.len() * union.len()];
            for (row, &index) in mask.chunks_exact_mut(union.len()).zip(&given) {
                for &token in layout.among[index as usize].into_iter().flatten() {
                    row[place(token)] = 0.0;
                }
            }
            let mask = Tensor::from_vec(mask, (given.len(), union.len()), self.device())?;
            let targets: Vec<u32> = targets(&given).into_iter().map(|token| place(token) as u32).collect();
            let targets = Tensor::from_vec(targets, given.len(), self.device())?;
            let rows = Tensor::from_vec(given.clone(), given.len(), self.device())?;
            let union = Tensor::from_vec(union.clone(), union.len(), self.device())?;
            let logits = head.among(&union)?.logits(&states.index_select(&rows, 0)?)?;
            parts.push(nn::log_prob_of(&(logits + mask)?, &targets)?);
        }
        if parts.len() == 1 {
            return Ok(parts.remove(0));
        }
        // Back into the order of the scored tokens.
        let mut order = vec![0u32; layout.targets.len()];
        for (place, &index) in whole.iter().chain(&given).enumerate() {
            order[index as usize] = place as u32;
        }
        let order = Tensor::from_vec(order, layout.targets.len(), self.device())?;
        Ok(Tensor::cat(&parts, 0)?.index_select(&order, 0)?)
    }

    fn check_branches(&self, batch: &[Branched]) -> Result<()> {
        if batch.is_empty() {
            return Err(Error::new("there is no prompt whose continuations are to be scored, expected at least one"));
        }
        self.check_sequences(batch.iter().map(|prompt| prompt.prompt.as_slice()))?;
        for (index, prompt) in batch.iter().enumerate() {
            if prompt.branches.is_empty() {
                return Err(Error::new(format!("prompt {index} has no continuation to score")));
            }
            for branch in &prompt.branches {
                super::check_ids(&branch.ids, self.config().vocabulary)?;
                let length = prompt.prompt.len() + branch.ids.len();
                if length > self.max_positions() {
                    return Err(too_long(index, length, self.max_positions()));
                }
                for Choice { at, among } in &branch.scored {
                    let token = branch.ids.get(*at).copied();
                    let known = |among: &Vec<u32>| {
                        super::check_ids(among, self.config().vocabulary).is_ok()
                            && token.is_some_and(|token| among.contains(&token))
                    };
                    if token.is_none() || !among.as_ref().is_none_or(known) {
                        return Err(Error::new(format!(
                            "token `{at}` of a continuation of prompt {index} is not among what it is chosen from"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Network {
    /// States after the last norm of the tokens named by `rows` (R) u32: (R, D).
    fn branch_states(
        &self,
        layout: &Layout<'_>,
        rows: &Tensor,
        tape: Option<&Tape>,
        device: &Device,
    ) -> Result<Tensor> {
        let tables = self.rope.tables(&layout.tokens, device)?;
        let ids: Vec<u32> = layout.ids.clone();
        let mut x = self.embed(&Tensor::from_vec(ids, layout.tokens.len(), device)?)?;
        // Without a second branch every token is a key once, where it stands.
        let copied = layout.keys.len() > layout.ids.len();
        let keys = match copied {
            true => Some(Tensor::from_vec(layout.keys.clone(), layout.keys.len(), device)?),
            false => None,
        };
        let config = Arc::new(self.config.clone());
        for (index, layer) in self.layers.iter().enumerate() {
            let how = self.attend(layer, layout.pieces.clone());
            let rows = (index + 1 == self.layers.len()).then(|| rows.clone());
            let (config, layer, tables, keys) = (Arc::clone(&config), layer.clone(), tables.clone(), keys.clone());
            let block = move |x: &Tensor| {
                let (query, mut key, mut value) = layer.attention_inputs(&config, x, &tables)?;
                if let Some(keys) = &keys {
                    (key, value) = (nn::embedding(&key, keys)?, nn::embedding(&value, keys)?);
                }
                layer.on_rows(&config, x, nn::attention(&query, &key, &value, &how)?, rows.as_ref())
            };
            x = match tape {
                Some(tape) => tape.run(&x, block)?,
                None => block(&x)?,
            };
        }
        self.finish(&x)
    }
}

/// Where everything stands among the tokens that are read.
struct Layout<'a> {
    /// N tokens: each prompt with its first branch, then its other branches.
    ids: Vec<u32>,
    tokens: Vec<Place>,
    /// The token that each row of keys and values is a copy of.
    keys: Vec<u32>,
    pieces: Vec<Piece>,
    /// The tokens before the R scored ones.
    rows: Vec<u32>,
    /// The R scored tokens.
    targets: Vec<u32>,
    among: Vec<Option<&'a Vec<u32>>>,
}

impl<'a> Layout<'a> {
    /// The layout, and for each branch the scored tokens that belong to it, filled up with R to the longest.
    fn of(batch: &'a [Branched], rope: &Rope) -> (Self, Vec<u32>) {
        let mut layout = Self {
            ids: Vec::new(),
            tokens: Vec::new(),
            keys: Vec::new(),
            pieces: Vec::new(),
            rows: Vec::new(),
            targets: Vec::new(),
            among: Vec::new(),
        };
        let mut owned = Vec::new();
        for Branched { prompt, branches } in batch {
            let lengths = branches.iter().map(|branch| prompt.len() + branch.ids.len());
            let (shortest, longest) = (lengths.clone().min().unwrap_or(0), lengths.max().unwrap_or(0));
            let shared = !rope.changes(shortest, longest);
            let mut first = layout.ids.len();
            for (index, branch) in branches.iter().enumerate() {
                let length = if shared { longest } else { prompt.len() + branch.ids.len() };
                let begin = layout.ids.len();
                if index == 0 || !shared {
                    first = begin;
                    layout.push(prompt, 0, length);
                }
                let start = layout.ids.len();
                layout.push(&branch.ids[..branch.read()], prompt.len(), length);
                let queries = begin..layout.ids.len();
                if !queries.is_empty() {
                    let keys = layout.keys.len();
                    layout.keys.extend((first..first + prompt.len()).map(|token| token as u32));
                    layout.keys.extend((start..layout.ids.len()).map(|token| token as u32));
                    layout.pieces.push(Piece { queries, keys: keys..layout.keys.len() });
                }
                let scored = layout.rows.len() as u32;
                for Choice { at, among } in &branch.scored {
                    let before = if *at == 0 { first + prompt.len() } else { start + at } - 1;
                    layout.rows.push(before as u32);
                    layout.targets.push(branch.ids[*at]);
                    layout.among.push(among.as_ref());
                }
                owned.push(scored..layout.rows.len() as u32);
            }
        }
        let longest = owned.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let none = layout.rows.len() as u32;
        let filled = |of: std::ops::Range<u32>| of.chain(std::iter::repeat(none)).take(longest);
        (layout, owned.into_iter().flat_map(filled).collect())
    }

    fn push(&mut self, ids: &[u32], position: usize, length: usize) {
        self.ids.extend_from_slice(ids);
        self.tokens.extend((0..ids.len()).map(|at| Place { position: position + at, length }));
    }

    /// The scored tokens of one kind.
    fn indices(&self, kind: impl Fn(&Option<&Vec<u32>>) -> bool) -> Vec<u32> {
        (0..).zip(&self.among).filter(|(_, among)| kind(among)).map(|(index, _)| index).collect()
    }
}

#[cfg(test)]
mod tests;
