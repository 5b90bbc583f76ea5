//! The two models and what they are made of: token ids in, tensors out.
//!
//! `nn` holds every layer together with its backward pass; nothing else in the program builds a norm, a softmax or a
//! rotary embedding. `params` owns the weights and decides what trains, `weights` reads them from disk, `folder` writes
//! model folders so that a crash leaves the old one or the new one, `text` turns words into ids, `batch` packs them one
//! sequence after the other, `checkpointing` computes the inside of blocks twice, `dropout` says what passes in training
//! drop. Arithmetic is f32, on the CPU unless `device` says otherwise; frozen matrices may be kept, and passes without gradients computed, in fewer bits where
//! the settings say so. The same inputs on the same number of threads give the same bits.

pub mod batch;
pub mod checkpointing;
pub mod decoding;
pub mod device;
pub mod dropout;
pub mod encoder;
pub mod files;
pub mod folder;
pub mod generator;
pub mod lora;
pub mod nn;
pub mod params;
pub mod text;
pub mod weights;

#[cfg(test)]
mod oracle_tests;

use serde::{Deserialize, Serialize};

/// Whether a forward pass records the graph that `backward` walks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grad {
    /// Weights are detached: nothing is recorded and no memory is kept for a backward pass.
    Off,
    /// Trainable weights are variables; frozen ones are detached all the same, and no work is done for their gradient.
    On,
}

/// Which side of the retriever a text is on: it selects the prompt put before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// What is asked.
    Question,
    /// What is searched.
    Passage,
}

/// What the matrices of a pass without gradients are rounded to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Not at all.
    #[default]
    F32,
    /// bf16, sums in f32.
    Bf16,
    /// 8-bit integers: weights by output, inputs by row.
    Int8,
}

impl Precision {
    /// All of them.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

    /// Its name in settings, fingerprints and reports.
    pub fn name(self) -> &'static str {
        match self {
            Precision::F32 => "f32",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}
