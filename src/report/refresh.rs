//! What one refresh of the index did, took and found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a refresh came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RefreshAction {
    /// The whole corpus was embedded by the live encoder.
    #[default]
    Embedded,
    /// A snapshot that was embedded beside training took the place of the generation before.
    Swapped,
    /// Some passages were embedded into the overlay.
    Rows,
    /// A map of the stored vectors was fitted and is searched.
    Adapter,
    /// It was measured, and what there was is searched on.
    Kept,
    /// A snapshot was embedded in part, and training ended before it was put to use.
    Dropped,
}

/// One refresh of the index, or one look at it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshRecord {
    /// Optimiser steps done before it.
    pub step: u64,
    /// Name of the policy; empty in records of versions that knew one.
    pub policy: String,
    /// What it came to.
    pub action: RefreshAction,
    /// Generation that is searched after it.
    pub generation: u32,
    /// Passages embedded for it, those that only measured included.
    pub passages: u64,
    /// How many of these had been embedded already, by an interrupted process or for a snapshot that was dropped. Their
    /// seconds are on the bill as far as a checkpoint of this run had them: what a killed process did after its last is
    /// on no bill.
    pub taken_over: u64,
    /// Passages embedded within the steps since the one before, to rank candidates.
    pub between: u64,
    /// Wall seconds that training waited, those of interrupted processes up to their last checkpoint included, by phase
    /// (`embed`, `write`, `graph`, `swap`; `retrieve` measures).
    pub seconds: BTreeMap<String, f64>,
    /// Processor seconds of all threads, those beside training included.
    pub cpu_seconds: f64,
    /// Bytes written.
    pub bytes: u64,
    /// Recall@10 on probe questions of the index as it was, by the live encoder. The stored vectors' own ranking: what `rows`
    /// and `lazy` search for candidates, never what they read.
    pub recall_before: Option<f64>,
    /// The same of the index after it; the same number where what is stored stayed as it was.
    pub recall_after: Option<f64>,
    /// The first of these where candidates are ranked by live vectors: what steps read.
    pub recall_reranked: Option<f64>,
    /// The second of these where candidates are ranked by live vectors afterwards: `rows`.
    pub recall_reranked_after: Option<f64>,
    /// `recall_before` as it was estimated to decide.
    pub estimate: Option<f64>,
    /// What stands for the truth in these; empty in records of versions that knew exact search only.
    pub measured: String,
    /// Share of the top-10 of probe questions that are the same before and after it, 0 to 1: of the index or, for `rows`, of its
    /// candidates ranked by live vectors.
    pub overlap: Option<f64>,
    /// Distinct passages read in training since the one before.
    pub distinct: u64,
    /// Optimiser steps since the encoder that embedded the generation before.
    pub age: u64,
    /// Whence the graph: `build`, `reuse:<n>`, `repair:<n>`.
    pub graph: String,
    /// Recall@10 of that graph among the vectors that it is over, whatever the encoder says of them now, on probes of its
    /// own: what keeping edges cost. None without a graph, and in records of earlier versions.
    pub graph_recall: Option<f64>,
}

impl RefreshRecord {
    /// Whether what is searched changed.
    pub fn changed(&self) -> bool {
        !matches!(self.action, RefreshAction::Kept | RefreshAction::Dropped)
    }

    /// What belongs on the training curve: no seconds, which differ from run to run.
    pub fn metrics(&self) -> impl Iterator<Item = (&'static str, f64)> {
        let values = [
            ("refresh_passages", Some(self.passages as f64)),
            ("refresh_recall_before", self.recall_before),
            ("refresh_recall_after", self.recall_after),
            ("refresh_recall_reranked", self.recall_reranked),
            ("refresh_recall_reranked_after", self.recall_reranked_after),
            ("refresh_graph_recall", self.graph_recall),
            ("refresh_overlap", self.overlap),
            ("refresh_distinct_passages", Some(self.distinct as f64)),
            ("refresh_age", Some(self.age as f64)),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_earlier_version_loads() {
        let text = r#"{"step":60,"generation":2,"passages":8100,"seconds":{"embed":1.5},"bytes":9,
            "recall_before":0.9,"recall_after":1.0,"overlap":null}"#;
        let record: RefreshRecord = serde_json::from_str(text).unwrap();
        assert_eq!((record.step, record.recall_before, record.action), (60, Some(0.9), RefreshAction::Embedded));
        assert!(record.changed() && record.policy.is_empty());
        let metrics: Vec<&str> = record.metrics().map(|(name, _)| name).collect();
        assert_eq!(
            metrics,
            [
                "refresh_passages",
                "refresh_recall_before",
                "refresh_recall_after",
                "refresh_distinct_passages",
                "refresh_age"
            ]
        );
    }
}
