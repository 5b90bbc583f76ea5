//! One file per equation. An objective turns the quantities of one batch ([`Step`]) into a scalar loss and nothing else:
//! it opens no file, reads no clock, draws no randomness and never sees the index.
//!
//! Dimension letters: B questions, K retrieved passages a question, T answer tokens, D vector width.

use candle_core::Tensor;

use crate::error::Result;
use crate::pipeline::step::Step;

mod dro;
#[cfg(test)]
mod golden_tests;
mod mnrl;
mod rag_token;
mod sft_concat;

pub use dro::{Dro, Likelihood, Mode, SelectorSft, Weighting, normalised, weighted_loss};
pub use mnrl::{Mnrl, mnrl_loss};
pub use rag_token::{RagToken, rag_token_loss};
pub use sft_concat::{SftConcat, sft_loss};

/// One equation: a loss over the quantities of one batch.
pub trait Objective {
    /// The name in configurations and reports.
    fn name(&self) -> &'static str;

    /// Equation, source and reduction, in one line, for reports.
    fn equation(&self) -> &'static str;

    /// Whether the loss is a mean of terms of single questions, so that a batch may be cut into micro-batches whose
    /// gradients add up to the batch's. In-batch negatives make it `false`.
    fn per_question(&self) -> bool;

    /// The loss: a scalar f32 tensor, in nats, averaged over the B questions of the step.
    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor>;
}
