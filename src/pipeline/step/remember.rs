//! A frozen generator's likelihoods out of the memo, and into it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use candle_core::{Device, Tensor};

use super::Step;
use super::score::{Asked, first_answer};
use crate::cost::Span;
use crate::error::{Error, Result};
use crate::models::Grad;
use crate::pipeline::memo::{Key, Known, Memo};

impl Step<'_> {
    /// [`Step::log_probs`] of a frozen generator, taken from the memo where it knows them; prompts that occur twice are
    /// computed once.
    pub(super) fn remembered(
        &mut self,
        memo: &RefCell<Memo>,
        asked: &[Asked],
        span: &Span,
    ) -> Result<(Tensor, Tensor)> {
        let keys: Vec<Key> = asked.iter().map(|asked| self.key(asked)).collect::<Result<_>>()?;
        let mut known: HashMap<Key, Rc<Known>> = {
            let memo = memo.borrow();
            keys.iter().filter_map(|key| Some((*key, memo.get(key)?))).collect()
        };
        let (mut new, mut sequences, mut truncated) = (Vec::new(), Vec::new(), Vec::new());
        for (key, asked) in keys.iter().zip(asked) {
            if !known.contains_key(key) && !new.contains(key) {
                let (sequence, cut) = self.sequence(asked)?;
                new.push(*key);
                sequences.push(sequence);
                truncated.push(cut);
            }
        }
        if !new.is_empty() {
            let rows = self.score(&sequences, Grad::Off, span)?.0.to_vec2::<f32>()?;
            let mut memo = memo.borrow_mut();
            for (((key, sequence), truncated), mut row) in new.iter().zip(&sequences).zip(&truncated).zip(rows) {
                row.truncate(sequence.answer_length());
                let value = Rc::new(Known::new(row, sequence.ids.len(), *truncated));
                self.observed.memo.misses += 1;
                self.observed.memo.refused += u64::from(!memo.keep(*key, &value));
                known.insert(*key, value);
            }
        }
        let mut rows = Vec::with_capacity(keys.len());
        for key in &keys {
            let value = known.get(key).ok_or_else(|| Error::new("a likelihood was neither known nor computed"))?;
            self.observed.truncated_prompts += u64::from(value.truncated);
            // The first row of a prompt that was computed now is no saving; every other row is.
            match new.iter().position(|computed| computed == key) {
                Some(position) => {
                    new.swap_remove(position);
                }
                None => {
                    let flops = self.pipeline.generator.forward_flops(&[value.tokens], value.log_probs.len());
                    self.observed.memo.hits += 1;
                    self.observed.memo.tokens += value.tokens as u64;
                    self.observed.memo.flops += flops;
                }
            }
            rows.push(Rc::clone(value));
        }
        padded(&rows, self.pipeline.generator.device())
    }

    fn key(&self, asked: &Asked) -> Result<Key> {
        let question = self.question(asked.question)?;
        Ok(Key::of(&question.id, &question.question, first_answer(question)?, &asked.passages, &self.settings))
    }
}

/// (N, T) tensors from rows of different lengths: values, 0 beyond each row, and the mask.
fn padded(rows: &[Rc<Known>], device: &Device) -> Result<(Tensor, Tensor)> {
    let longest = rows.iter().map(|row| row.log_probs.len()).max().unwrap_or_default();
    let (mut values, mut mask) = (Vec::new(), Vec::new());
    for row in rows {
        let length = row.log_probs.len();
        values.extend_from_slice(&row.log_probs);
        values.resize(values.len() + longest - length, 0.0);
        mask.extend((0..longest).map(|t| f32::from(u8::from(t < length))));
    }
    let shape = (rows.len(), longest);
    Ok((Tensor::from_vec(values, shape, device)?, Tensor::from_vec(mask, shape, device)?))
}
