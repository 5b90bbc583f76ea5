//! Every layer once more, out of candle's own operations, for tensors that are not on the CPU.
//!
//! candle computes each of those operations on every device it knows. What they are put together from keeps the promises of
//! the layers on the CPU: nothing stays in memory for the backward pass but the arguments and the result (`graft`), and
//! frozen arguments cost no backward work. Equations and shapes are said where the layers are declared; `check` and the
//! refusals of wrong shapes are theirs too.
//!
//! The same code runs on the CPU under [`portably`], which is how it is proved: against PyTorch's numbers, like the fused
//! layers, and against those.

mod activation;
mod attention;
mod frozen;
mod graft;
mod groups;
mod linear;
mod norm;
mod output;
mod pooling;
mod rows;
mod softmax;
#[cfg(test)]
mod tests;

use std::cell::Cell;

use candle_core::Tensor;

pub(super) use activation::{activate, gated};
pub(super) use attention::attention;
pub(super) use frozen::Frozen;
pub(in crate::models) use graft::graft;
pub(super) use linear::{Weights, adapted_linear, frozen_linear, linear};
pub(super) use norm::{l2_normalize, layer_norm, rms_norm};
pub(super) use output::linear_log_prob;
pub(super) use pooling::pool;
pub(super) use rows::{bert_embedding, embedding, rope_packed};
pub(super) use softmax::{log_prob_of, log_softmax, log_sum_exp, softmax};

thread_local! {
    static FORCED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` with the layers of this thread computed as on another device than the CPU, wherever their tensors are. A
/// backward pass, and whatever a tape computes again, belongs inside too.
pub fn portably<R>(work: impl FnOnce() -> R) -> R {
    /// Puts back what was there, also when `work` panics.
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            FORCED.set(self.0);
        }
    }
    let _restore = Restore(FORCED.replace(true));
    work()
}

/// Whether what is done with this tensor is put together from candle's operations: it is not on the CPU, or this thread is
/// inside [`portably`].
pub fn is_portable(x: &Tensor) -> bool {
    !x.device().is_cpu() || FORCED.get()
}
