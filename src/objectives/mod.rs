//! One file per equation. An objective turns the quantities of one batch ([`Step`]) into a scalar loss and nothing else:
//! it opens no file, reads no clock, draws no randomness and never sees the index. What several of them share is in
//! [`kernel`]; what papers choose differently has a name in [`choice`] and is a field of the objective.
//!
//! Dimension letters: B questions, K retrieved passages a question, C candidates a question, T answer tokens, D vector
//! width.

use std::collections::BTreeMap;

use candle_core::Tensor;

use crate::error::Result;
use crate::pipeline::step::Step;

#[macro_use]
pub mod choice;

mod adist;
mod cl_rag;
mod dro;
mod emdr2;
#[cfg(test)]
mod golden_tests;
pub mod kernel;
mod leave_one_out;
mod mnrl;
mod needs;
mod pairwise;
mod pdist;
mod preference;
mod ra_dit;
mod rag_sequence;
mod rag_token;
mod replug;
mod sft_concat;
mod sft_separate;
mod teacher;
#[cfg(test)]
mod testing;

pub use adist::{Adist, adist_loss};
pub use choice::{Direction, Length, Value};
pub use cl_rag::{ClRag, cl_rag_loss};
pub use dro::{Dro, Mode, SelectorSft, Weighting, normalised, weighted_loss};
pub use emdr2::{Emdr2, Mixture, emdr2_retriever_loss};
pub use leave_one_out::{Loop, loop_loss};
pub use mnrl::{Mnrl, mnrl_loss};
pub use needs::Needs;
pub use pdist::{Pdist, pdist_loss};
pub use preference::{Preference, Preferred, preference_loss};
pub use ra_dit::RaDitRetriever;
pub use rag_sequence::{RagSequence, rag_sequence_loss};
pub use rag_token::{RagToken, rag_token_loss};
pub use replug::{ReplugLsr, lsr_loss};
pub use sft_concat::{SftConcat, sft_loss};
pub use sft_separate::{SftSeparate, sft_separate_loss};
pub use teacher::{Distillation, TeacherLoss, margin_mse_loss, teacher_kl_loss};

/// One equation: a loss over the quantities of one batch.
pub trait Objective {
    /// The name in configurations and reports.
    fn name(&self) -> &'static str;

    /// Equation, source and reduction, in one line, for reports.
    fn equation(&self) -> &'static str;

    /// What it was told, each with its name, for reports: temperatures, length normalisation, direction of a divergence.
    /// Nothing for an equation without settings.
    fn settings(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The labels it needs and what it moves.
    fn needs(&self) -> Needs;

    /// Whether the loss is a mean of terms of single questions, so that a batch may be cut into micro-batches whose
    /// gradients add up to the batch's. In-batch negatives make it `false`.
    fn per_question(&self) -> bool;

    /// What is worth telling about a step besides its loss, by name, means over its questions; asked for after the loss.
    fn observe(&self, _step: &Step<'_>) -> Result<BTreeMap<String, f64>> {
        Ok(BTreeMap::new())
    }

    /// The loss: a scalar f32 tensor, in nats, averaged over the B questions of the step.
    fn loss(&self, step: &mut Step<'_>) -> Result<Tensor>;
}
