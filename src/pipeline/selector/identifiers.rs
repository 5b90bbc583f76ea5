//! The texts by which a selector names passages, as tokens, and which token may follow which.
//!
//! A list is written `[9] > [20] > [3]`: the first identifier as it stands after the prompt, every later one together with the
//! ` > ` before it. Each of these pieces has one sequence of tokens, wherever it stands, taken from how the tokenizer writes
//! it after what comes before it. A token is allowed when it continues the piece of a passage that was not chosen yet, so
//! that every list that can be written is an ordered choice of different passages, and their probabilities add up to 1.
//!
//! Deviation from DRO (arXiv 2505.03075, section 3.2), whose selector writes free text that is parsed: there a malformed list
//! is dropped, here there is none. How many passages are chosen is fixed, so that the end of a list is certain and costs no
//! probability.

use std::collections::BTreeSet;

use crate::error::{Error, Result};
use crate::models::generator::{Branch, Choice};
use crate::models::text::Text;

/// Identifiers of up to n passages as tokens of one tokenizer. Passages are counted from 0 here, from 1 in the text.
#[derive(Clone, Debug)]
pub struct Identifiers {
    /// What names each passage at the beginning of a list.
    first: Vec<Vec<u32>>,
    /// What names it further on, with the separator.
    later: Vec<Vec<u32>>,
}

/// The text of a list: `[9] > [20]`.
pub fn list_text(list: &[u32]) -> String {
    let names: Vec<String> = list.iter().map(|passage| identifier(*passage)).collect();
    names.join(SEPARATOR)
}

const SEPARATOR: &str = " > ";

fn identifier(passage: u32) -> String {
    format!("[{}]", passage + 1)
}

impl Identifiers {
    /// The identifiers of `count` passages; `prefix` stands between the prompt and the first of them.
    ///
    /// A tokenizer that writes two of them alike (one that lacks digits, say) is refused.
    pub fn new(text: &Text, prefix: &str, count: usize) -> Result<Self> {
        let (mut first, mut later) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for passage in 0..count as u32 {
            let name = identifier(passage);
            // A prompt that ends in a blank line or in a chat's own tokens has no text that its tokens could join.
            let before = if prefix.is_empty() { "" } else { ":" };
            first.push(after(text, before, &format!("{prefix}{name}"))?);
            later.push(after(text, &identifier(0), &format!("{SEPARATOR}{name}"))?);
        }
        for pieces in [&first, &later] {
            check(pieces)?;
        }
        Ok(Self { first, later })
    }

    /// How many passages have an identifier.
    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// Whether no passage has one.
    pub fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    /// Every token that occurs, ascending.
    pub fn tokens(&self) -> Vec<u32> {
        let all: BTreeSet<u32> = self.first.iter().chain(&self.later).flatten().copied().collect();
        all.into_iter().collect()
    }

    /// The most tokens of a list of `choose` passages.
    pub fn longest_list(&self, choose: usize) -> usize {
        let most = |pieces: &[Vec<u32>]| pieces.iter().map(Vec::len).max().unwrap_or(0);
        most(&self.first) + choose.saturating_sub(1) * most(&self.later)
    }

    /// The tokens of a list of different passages.
    pub fn of_list(&self, list: &[u32]) -> Result<Vec<u32>> {
        let mut seen = BTreeSet::new();
        let mut ids = Vec::new();
        for (place, passage) in list.iter().enumerate() {
            let pieces = if place == 0 { &self.first } else { &self.later };
            match pieces.get(*passage as usize).filter(|_| seen.insert(*passage)) {
                Some(piece) => ids.extend_from_slice(piece),
                None => {
                    return Err(Error::new(format!(
                        "the list `{}` is no choice of different passages among {}",
                        list_text(list),
                        self.len()
                    )));
                }
            }
        }
        Ok(ids)
    }

    /// A list over `passages` passages as a branch whose probability is that of the list: scored are the tokens that leave
    /// a choice, each among those allowed there.
    pub fn branch(&self, passages: usize, list: &[u32]) -> Result<Branch> {
        let ids = self.of_list(list)?;
        let mut cursor = Cursor::new(self, passages, list.len())?;
        let mut scored = Vec::new();
        for (at, token) in ids.iter().enumerate() {
            let Some(among) = cursor.allowed() else { break };
            if !among.contains(token) {
                return Err(Error::new(format!(
                    "the list `{}` names a passage beyond the {passages} there are",
                    list_text(list)
                )));
            }
            if among.len() > 1 {
                scored.push(Choice { at, among: Some(among) });
            }
            cursor.push(*token);
        }
        Ok(Branch { ids, scored })
    }

    /// A list as free text that ends with `end`: every token scored against the whole vocabulary.
    pub fn free_branch(&self, list: &[u32], end: Option<u32>) -> Result<Branch> {
        let mut ids = self.of_list(list)?;
        ids.extend(end);
        let scored = (0..ids.len()).map(|at| Choice { at, among: None }).collect();
        Ok(Branch { ids, scored })
    }
}

/// A list being written.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    identifiers: &'a Identifiers,
    passages: usize,
    choose: usize,
    chosen: Vec<u32>,
    /// The tokens of the piece that is not complete.
    begun: Vec<u32>,
}

impl<'a> Cursor<'a> {
    /// Nothing is written yet; `choose` of `passages` passages will be (all, where there are no more).
    pub fn new(identifiers: &'a Identifiers, passages: usize, choose: usize) -> Result<Self> {
        if passages == 0 || passages > identifiers.len() || choose == 0 {
            return Err(Error::new(format!(
                "cannot choose `{choose}` of `{passages}` passages, expected at least one of 1 to {}",
                identifiers.len()
            ))
            .hint("set the number of candidates to at least the number of passages that are selected from"));
        }
        let mut cursor = Self {
            identifiers,
            passages,
            choose: choose.min(passages),
            chosen: Vec::with_capacity(choose),
            begun: Vec::new(),
        };
        cursor.settle();
        Ok(cursor)
    }

    /// The tokens that may come next, ascending and at least one; `None` when the list is complete.
    pub fn allowed(&self) -> Option<Vec<u32>> {
        if self.is_complete() {
            return None;
        }
        let next: BTreeSet<u32> =
            self.open().filter_map(|(_, piece)| piece.strip_prefix(self.begun.as_slice())?.first().copied()).collect();
        Some(next.into_iter().collect())
    }

    /// Writes an allowed token.
    pub fn push(&mut self, token: u32) {
        self.begun.push(token);
        let complete = self.open().find(|(_, piece)| **piece == self.begun).map(|(passage, _)| passage);
        if let Some(passage) = complete {
            self.chosen.push(passage);
            self.begun.clear();
            self.settle();
        }
    }

    /// Whether all passages are chosen.
    pub fn is_complete(&self) -> bool {
        self.chosen.len() >= self.choose
    }

    /// The passages chosen so far, in order.
    pub fn list(&self) -> &[u32] {
        &self.chosen
    }

    /// The only passage that is left needs no writing.
    fn settle(&mut self) {
        if !self.is_complete() && self.chosen.len() + 1 == self.passages {
            let last = self.open().map(|(passage, _)| passage).next();
            self.chosen.extend(last);
        }
    }

    /// The passages that are not chosen yet, with the pieces that name them here.
    fn open(&self) -> impl Iterator<Item = (u32, &'a Vec<u32>)> + '_ {
        let pieces = if self.chosen.is_empty() { &self.identifiers.first } else { &self.identifiers.later };
        (0..).zip(pieces.iter().take(self.passages)).filter(|(passage, _)| !self.chosen.contains(passage))
    }
}

/// The tokens that `piece` adds to `before`; where a token would span both, its tokens by itself.
fn after(text: &Text, before: &str, piece: &str) -> Result<Vec<u32>> {
    let whole = text.encode(&format!("{before}{piece}"), false)?;
    match whole.strip_prefix(text.encode(before, false)?.as_slice()) {
        Some(rest) if !rest.is_empty() => Ok(rest.to_vec()),
        _ => text.encode(piece, false),
    }
}

/// Refuses pieces of which one begins another: they could not be told apart.
fn check(pieces: &[Vec<u32>]) -> Result<()> {
    let mut sorted: Vec<(&Vec<u32>, u32)> = pieces.iter().zip(0..).collect();
    sorted.sort();
    let alike = sorted.windows(2).find(|pair| pair[1].0.starts_with(pair[0].0));
    match alike {
        None => Ok(()),
        Some(pair) => Err(Error::new(format!(
            "the selector's tokenizer writes `{}` and `{}` alike, so that passages cannot be told apart",
            identifier(pair[0].1),
            identifier(pair[1].1)
        ))
        .hint("take another generator as the selector, one whose tokenizer knows digits")),
    }
}

#[cfg(test)]
mod tests;
