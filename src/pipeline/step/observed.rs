//! What was seen while a step's quantities were computed: for reports, never for losses.

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use super::Step;
use crate::error::Result;
use crate::pipeline::memo::MemoUse;

/// Numbers of a question that differ by no more than this are all equal: nothing is to be learnt from them. Likelihoods are in
/// nats, targets are logarithms of probabilities.
const FLAT: f32 = 1e-6;

/// How many questions gave their passages different marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Questions looked at.
    pub questions: u64,
    /// Those whose passages all got the same.
    pub flat: u64,
}

impl Signal {
    /// The share of questions without a signal, 0 where none was looked at.
    pub fn flat_share(&self) -> f64 {
        if self.questions == 0 { 0.0 } else { self.flat as f64 / self.questions as f64 }
    }

    /// Adds what another step saw.
    pub fn add(&mut self, other: Self) {
        self.questions += other.questions;
        self.flat += other.flat;
    }

    pub(super) fn note(&mut self, questions: usize, flat: usize) {
        self.questions += questions as u64;
        self.flat += flat as u64;
    }
}

/// What one step saw.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// Ordinals of the retrieved passages, a row a question.
    pub retrieved: Vec<Vec<u32>>,
    /// Prompts with a shortened passage, those whose likelihood was remembered included.
    pub truncated_prompts: u64,
    /// Prompts asked for, those whose likelihood was remembered included.
    pub prompts: u64,
    /// Answers cut to the limit of answer tokens, once for every time one is asked for.
    pub truncated_answers: u64,
    /// Mean entropy of the prior is computed from these scores: (B, K) row-major.
    pub scores: Vec<Vec<f32>>,
    /// FLOPs of forward passes that a backward pass will follow: encoder.
    pub encoder_flops: f64,
    /// The same for the generator.
    pub generator_flops: f64,
    /// Whether an encoder that trains was given one passage a question: whatever compares retrieved passages has no gradient
    /// then.
    pub single_passage: bool,
    /// Questions by whether their answer is as likely after each passage alone (or without it).
    pub likelihoods: Signal,
    /// Questions by whether a target distribution, a teacher or a preference tells their passages apart.
    pub targets: Signal,
    /// Hard negatives that were candidates, each question's counted by itself.
    pub hard_negatives: u64,
    /// What the memo saved.
    pub memo: MemoUse,
    /// FLOPs of forward passes that a backward pass will follow: selector.
    pub selector_flops: f64,
    /// Prompts that the selector read.
    pub selector_prompts: u64,
    /// Those with a shortened passage.
    pub truncated_selector_prompts: u64,
}

impl Step<'_> {
    /// Notes for how many of some questions a target gives no direction.
    pub fn note_flat(&mut self, questions: usize, flat: usize) {
        self.observed.targets.note(questions, flat);
    }

    /// Notes which rows of a target (B, K) are all equal.
    pub fn note_target(&mut self, target: &Tensor) -> Result<()> {
        let rows = target.to_vec2::<f32>()?;
        self.note_flat(rows.len(), rows.iter().filter(|row| is_flat(row)).count());
        Ok(())
    }

    /// The same for targets (B, C) of which only the entries with `mask` 1 are there.
    pub fn note_target_among(&mut self, target: &Tensor, mask: &Tensor) -> Result<()> {
        let (rows, mask) = (target.to_vec2::<f32>()?, mask.to_vec2::<f32>()?);
        let there = |row: &[f32], mask: &[f32]| -> Vec<f32> {
            row.iter().zip(mask).filter(|(_, there)| **there == 1.0).map(|(value, _)| *value).collect()
        };
        let flat = rows.iter().zip(&mask).filter(|(row, mask)| is_flat(&there(row, mask))).count();
        self.note_flat(rows.len(), flat);
        Ok(())
    }
}

/// Whether a row's numbers differ too little to tell passages apart; one alone never does.
pub(super) fn is_flat(row: &[f32]) -> bool {
    let (least, most) = row
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)));
    row.len() < 2 || most - least <= FLAT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_flat_when_nothing_tells_them_apart() {
        assert!(is_flat(&[]) && is_flat(&[3.0]) && is_flat(&[-2.0, -2.0, -2.0]));
        assert!(!is_flat(&[-2.0, -2.001]));
        let mut signal = Signal::default();
        assert_eq!(signal.flat_share(), 0.0);
        signal.note(4, 1);
        signal.add(Signal { questions: 4, flat: 3 });
        assert_eq!(signal.flat_share(), 0.5);
    }
}
