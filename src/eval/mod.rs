//! Quality: answers against accepted answers, retrieved passages against gold passages, and how sure the means are.
//!
//! Pure functions (no model, no index, no file, no clock), but for `evaluate`, which drives a pipeline over questions. Questions that cannot be scored (no accepted answer, no gold
//! passage) give `None`, so that they cannot slip into a mean as zeros.

pub mod answers;
pub mod evaluate;
pub mod retrieval;
pub mod statistics;

pub use answers::{exact_match, normalize_answer, token_f1};
pub use retrieval::{hit_at, ndcg, recall_at, recall_by_answer, reciprocal_rank};
pub use statistics::{Difference, Interval, mean_interval, paired_bootstrap};
