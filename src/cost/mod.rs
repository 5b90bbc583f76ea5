//! Where time, tokens, FLOPs, bytes and memory were spent: the ledger, the machine, and how quantities are written.
//!
//! This is the only room that reads a clock. It is a leaf: it knows no model, no index and no file format but its own.

mod beside;
mod clock;
mod ledger;
pub mod machine;
mod record;
pub mod units;

pub use beside::Beside;
pub use clock::now_utc;
pub use ledger::{ActivityGuard, Ledger, Span};
pub use machine::Machine;
pub use record::{Amounts, Counts, LedgerEntry, LedgerRecord};

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why something was done: the purpose that a second is charged to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// Before the first step: reading files, loading models, building a first index.
    Setup,
    /// Optimiser steps and what they need.
    Train,
    /// Embedding the corpus anew with the live encoder and putting it to use.
    Refresh,
    /// Measuring quality.
    Evaluate,
}

impl Activity {
    /// Every activity, in the order of the cost table.
    pub const ALL: [Activity; 4] = [Activity::Setup, Activity::Train, Activity::Refresh, Activity::Evaluate];

    /// The lower-case name used in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Activity::Setup => "setup",
            Activity::Train => "train",
            Activity::Refresh => "refresh",
            Activity::Evaluate => "evaluate",
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What was done: the kind of work that a second went into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Reading and checking input: corpora, questions, weights, stored vectors.
    Load,
    /// The encoder's forward pass, over questions or passages.
    Embed,
    /// Building the nearest-neighbour graph and measuring its recall.
    Graph,
    /// Making vectors and passages durable.
    Write,
    /// Putting new vectors in the place of those that were searched; fitting a map of them.
    Swap,
    /// Searching the index.
    Retrieve,
    /// The selector's forward pass: lists of passages drawn, chosen or scored.
    Select,
    /// Scoring answers under passages with the generator's forward pass.
    Score,
    /// Decoding answers.
    Generate,
    /// The backward pass.
    Backward,
    /// Clipping and the optimiser's update.
    Optimise,
    /// Writing and reading checkpoints.
    Checkpoint,
    /// Computing metrics from answers and retrieved passages.
    Evaluate,
}

impl Phase {
    /// Every phase, in the order of the cost table.
    pub const ALL: [Phase; 13] = [
        Phase::Load,
        Phase::Embed,
        Phase::Graph,
        Phase::Write,
        Phase::Swap,
        Phase::Retrieve,
        Phase::Select,
        Phase::Score,
        Phase::Generate,
        Phase::Backward,
        Phase::Optimise,
        Phase::Checkpoint,
        Phase::Evaluate,
    ];

    /// The lower-case name used in records and tables.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Embed => "embed",
            Phase::Graph => "graph",
            Phase::Write => "write",
            Phase::Swap => "swap",
            Phase::Retrieve => "retrieve",
            Phase::Select => "select",
            Phase::Score => "score",
            Phase::Generate => "generate",
            Phase::Backward => "backward",
            Phase::Optimise => "optimise",
            Phase::Checkpoint => "checkpoint",
            Phase::Evaluate => "evaluate",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
