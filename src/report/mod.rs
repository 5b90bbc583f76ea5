//! What a run leaves behind and how runs are compared. Needs no model and no index.
//!
//! A run folder holds `record.json` (a [`RunRecord`], replaced atomically), `metrics.jsonl` (one [`CurvePoint`] a line) and
//! one JSON Lines file of [`QuestionScore`] for each evaluation.

pub mod compare;
pub mod cost;
pub mod evaluation;
pub mod files;
pub mod html;
pub mod record;
pub mod refresh;
pub mod scores;
mod search;
pub mod selection;
pub mod settings;
pub mod table;
pub mod warnings;

pub use compare::{CompareOptions, Comparison, Measured, Row, compare};
pub use cost::{Cost, CostLine, Spread};
pub use files::{METRICS_FILE, RECORD_FILE, append_line, keep_lines, read_lines, write_atomic, write_lines};
pub use html::html;
pub use record::{
    CurvePoint, DataFile, DataRecord, EvaluationSummary, IndexRecord, ModelRecord, RefreshAction, RefreshRecord,
    RunRecord, SCHEMA, Status, reading,
};
pub use scores::{QuestionScore, RetrievedPassage};
pub use selection::{SelectionScore, SelectionSummary};
pub use table::{markdown, text};
pub use warnings::Warning;
