//! The flags that say how passages are found, the same wherever passages are looked for.

use clap::Args;
use serde::Serialize;

use crate::error::Result;
use crate::pipeline::retriever::{Fusion, Kind, RetrieverSettings, Wanted};

/// `--retriever` and what belongs to it.
#[derive(Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RetrieverArgs {
    /// What finds passages: `dense` (nearest vectors), `bm25` (shared words; where fewer passages share one than are asked for,
    /// the first of the corpus fill up) or `hybrid` (both lists put together). It only finds: the scores that weigh passages in
    /// an answer and that a strategy trains are the encoder's in any case [default: dense; of a run that is evaluated, its own].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retriever: Option<String>,
    /// How a hybrid puts its lists together: `rrf` (reciprocal ranks) or `weighted` (sum of normalised scores) [default: rrf].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<String>,
    /// What dense scores count in `--hybrid weighted`, 0 to 1; BM25 counts the rest [default: 0.5].
    #[arg(long, allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid_weight: Option<f64>,
    /// Passages of each list that a hybrid looks at, or as many as are asked for where those are more [default: 100].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hybrid_depth: Option<usize>,
}

impl RetrieverArgs {
    /// What was typed.
    pub fn wanted(&self) -> Result<Wanted> {
        Ok(Wanted {
            kind: self.retriever.as_deref().map(Kind::parse).transpose()?,
            fusion: self.hybrid.as_deref().map(Fusion::parse).transpose()?,
            weight: self.hybrid_weight,
            depth: self.hybrid_depth,
        })
    }

    /// What was typed, with defaults, checked.
    pub fn settings(&self) -> Result<RetrieverSettings> {
        RetrieverSettings::new(self.wanted()?)
    }
}
