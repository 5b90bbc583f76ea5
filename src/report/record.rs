//! `record.json`: everything about one run that a reader of its numbers needs, versioned.

use super::files::{self, RECORD_FILE};
use super::scores::QuestionScore;
use crate::cost::{LedgerRecord, Machine};
use crate::error::{Context, Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

pub use super::evaluation::{EvaluationSummary, reading};
pub use super::refresh::{RefreshAction, RefreshRecord};

/// Version of the record's shape; a record of another version is refused.
pub const SCHEMA: u32 = 1;

/// How far a run got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Still running, or killed without a word.
    #[default]
    Running,
    /// Stopped by a signal or an error; can be resumed.
    Interrupted,
    /// Stopped because a loss or gradient was no finite number; going on would only come to it again.
    Diverged,
    /// Trained and evaluated.
    Finished,
}

impl Status {
    /// The lower-case name used in records.
    pub fn name(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Interrupted => "interrupted",
            Status::Diverged => "diverged",
            Status::Finished => "finished",
        }
    }
}

/// One run of one strategy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program.
    pub ragtune: String,
    /// Git commit of the program, where known.
    pub commit: Option<String>,
    /// What was typed.
    pub command: Vec<String>,
    /// Every setting after file, flags and defaults.
    pub config: Value,
    /// How tables call the run; empty: the strategy's name.
    #[serde(default)]
    pub label: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Where the strategy comes from (paper, section).
    pub source: String,
    /// Seed of everything random.
    pub seed: u64,
    /// How far it got.
    pub status: Status,
    /// Optimiser steps done.
    pub steps_done: u64,
    /// Optimiser steps asked for.
    pub steps_total: u64,
    /// Where it ran.
    pub machine: Machine,
    /// Start of the first session, RFC 3339.
    pub started: String,
    /// End, RFC 3339; none while it runs.
    pub finished: Option<String>,
    /// Files it read.
    pub data: DataRecord,
    /// The index it searched.
    pub index: IndexRecord,
    /// Encoder and generator.
    pub models: Vec<ModelRecord>,
    /// The template that made prompts.
    pub prompt_template: String,
    /// How answers are read off in evaluations, with the search for them: `mixture`, `sequence-thorough beam 4`, ...
    pub reader_mode: String,
    /// How the generator reads passages in training, `mixture` or `concat`; empty where no answer is learnt.
    #[serde(default)]
    pub training_reader: String,
    /// Passages retrieved for each question.
    pub top_k: u64,
    /// What retrieved them: `dense`, `bm25`, `hybrid rrf depth 100`, ...
    #[serde(default = "dense")]
    pub retriever: String,
    /// What "recall" means in this record.
    pub recall_definition: String,
    /// Peak memory in bytes as it was estimated before the first step; 0 where it was not.
    #[serde(default)]
    pub expected_memory_bytes: u64,
    /// Shares cut by a length limit, 0 to 1, by what was cut: `questions`, `passages`, `prompts`, ...
    pub truncated: BTreeMap<String, f64>,
    /// The training curve.
    #[serde(default)]
    pub curve: Vec<CurvePoint>,
    /// Every refresh of the index.
    #[serde(default)]
    pub refreshes: Vec<RefreshRecord>,
    /// Every evaluation, in order: `before`, ..., `final`.
    #[serde(default)]
    pub evaluations: Vec<EvaluationSummary>,
    /// What this run itself spent; see [`RunRecord::whole`] for what the strategy costs.
    pub ledger: LedgerRecord,
    /// Its stages in order, and what each is charged.
    #[serde(default)]
    pub stages: Vec<StageCharge>,
    /// What was remembered of the frozen generator's likelihoods.
    #[serde(default)]
    pub remembered: Remembered,
    /// What a reader of the numbers should know besides: signals that were missing, choices that hide something.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Every learning rate that was tried for it, the chosen ones included.
    #[serde(default)]
    pub search: Vec<SearchPoint>,
}

/// Work of the frozen generator that was not done again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    /// Prompts whose likelihood was known.
    pub prompts: u64,
    /// Prompts that were computed.
    pub computed: u64,
    /// Tokens that were not read again.
    pub tokens: u64,
    /// Modelled operations that were saved.
    pub flops: f64,
}

/// A stage of a strategy on its bill.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StageCharge {
    /// Its id: the same work has the same id in every strategy.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The equation it minimised.
    pub equation: String,
    /// What the equation was told, as it took effect: temperatures, length normalisation, direction of a divergence.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Whether it was taken from the store, where another run had put it, instead of being trained here.
    pub reused: bool,
    /// Optimiser steps done.
    pub steps: u64,
    /// Optimiser steps asked for; more than `steps` where it was stopped early.
    pub steps_asked: u64,
    /// The step whose weights were kept.
    pub best_step: u64,
    /// Refreshes of the index within it.
    pub refreshes: u64,
    /// What it cost, whoever paid.
    pub ledger: LedgerRecord,
}

/// One point of a search for learning rates: a run of the stages up to one, evaluated on the selection questions.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SearchPoint {
    /// Name of the stage whose learning rates were searched.
    pub stage: String,
    /// Id of the stage with these learning rates.
    pub id: String,
    /// Learning rate by part.
    pub learning_rates: BTreeMap<String, f64>,
    /// Optimiser steps of the stage.
    pub steps: u64,
    /// The metric on the selection questions.
    pub score: Option<f64>,
    /// Whether its learning rates were chosen.
    pub chosen: bool,
    /// Its run folder.
    pub run: String,
    /// What its run itself spent: every stage that it trained, and its evaluation.
    pub ledger: LedgerRecord,
    /// The stages of its run, those before the searched one included.
    #[serde(default)]
    pub stages: Vec<PointStage>,
    /// In records of earlier versions, which have no `stages`: the training of the searched stage where another run had done that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<LedgerRecord>,
}

/// A stage in a point of a search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PointStage {
    /// Its id.
    pub id: String,
    /// Whether another run had trained it, so that it is not in the point's ledger.
    pub reused: bool,
    /// What it cost, whoever paid.
    pub ledger: LedgerRecord,
}

/// The files of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataRecord {
    /// Corpus the index was built over.
    pub corpus: DataFile,
    /// Training questions; none for a strategy that trains nothing.
    pub questions: Option<DataFile>,
    /// Questions of the evaluation.
    pub eval_questions: DataFile,
    /// Questions that decide, where any were named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<DataFile>,
    /// Digest of the passages that were in the index, whatever file it was built from; none in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passages: Option<String>,
}

impl DataRecord {
    /// What names the passages: their digest, or the hash of the corpus file where one of two records has no digest.
    pub fn searched<'r>(&'r self, other: &'r DataRecord) -> (&'r str, &'r str) {
        match (&self.passages, &other.passages) {
            (Some(ours), Some(theirs)) => (ours.as_str(), theirs.as_str()),
            _ => (self.corpus.hash.as_str(), other.corpus.hash.as_str()),
        }
    }
}

/// One file that was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Path as it was given.
    pub path: String,
    /// Hex blake3 of the content.
    pub hash: String,
    /// Passages or questions.
    pub count: u64,
}

/// The index of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRecord {
    /// Its folder.
    pub dir: String,
    /// Generation at the start.
    pub base_generation: u32,
    /// Generation of the last evaluation.
    pub final_generation: u32,
    /// Id of the fingerprint of the encoder that embedded the final generation.
    pub fingerprint: String,
    /// Id of the fingerprint of the vectors that the base encoder searched; none in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_fingerprint: Option<String>,
    /// Bytes of the final generation's vectors.
    #[serde(default)]
    pub vector_bytes: u64,
    /// Bytes of its graph.
    #[serde(default)]
    pub graph_bytes: u64,
}

/// One model of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRecord {
    /// `encoder` or `generator`.
    pub role: String,
    /// Folder or name it was loaded from.
    pub name: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Number of parameters that were trained, adapters included.
    pub trained_parameters: u64,
    /// Digest of the weights at the start.
    pub fingerprint: String,
    /// Digest of the files it was loaded from: weights, configuration, tokenizer, templates; none in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<String>,
    /// Digest of the weights at the end; equal to `fingerprint` when nothing was trained.
    pub final_fingerprint: Option<String>,
}

/// One point of the training curve.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Optimiser steps done, this one included.
    pub step: u64,
    /// The objective in nats, mean over the batch.
    pub loss: f64,
    /// Learning rate by part (`encoder`, `generator`).
    pub learning_rates: BTreeMap<String, f64>,
    /// Global gradient norm by part, before clipping.
    pub gradient_norms: BTreeMap<String, f64>,
    /// Anything else worth a curve: entropy of the retrieval distribution, age of the generation, ...
    #[serde(default)]
    pub extra: BTreeMap<String, f64>,
}

/// The retriever of records from before there was a choice.
fn dense() -> String {
    "dense".to_owned()
}

impl RunRecord {
    /// An empty record of this program and machine.
    pub fn new(strategy: impl Into<String>, seed: u64) -> Self {
        Self {
            schema: SCHEMA,
            ragtune: env!("CARGO_PKG_VERSION").to_owned(),
            strategy: strategy.into(),
            seed,
            machine: Machine::here(),
            started: crate::cost::now_utc(),
            retriever: dense(),
            ..Self::default()
        }
    }

    /// What the strategy costs by itself, with learning rates given: what this run spent, and the stages that it took from
    /// others.
    pub fn whole(&self) -> LedgerRecord {
        let mut whole = self.ledger.clone();
        self.stages.iter().filter(|stage| stage.reused).for_each(|stage| whole.add(&stage.ledger));
        whole
    }

    /// How often what is searched changed: looks that left it as it was do not count.
    pub fn refreshed(&self) -> usize {
        self.refreshes.iter().filter(|refresh| refresh.changed()).count()
    }

    /// How tables call the run.
    pub fn name(&self) -> &str {
        if self.label.is_empty() { &self.strategy } else { &self.label }
    }

    /// How answers were learnt and are read off; see [`reading`].
    pub fn reading(&self) -> String {
        reading(&self.training_reader, &self.reader_mode)
    }

    /// The last evaluation of this name.
    pub fn evaluation(&self, name: &str) -> Option<&EvaluationSummary> {
        self.evaluations.iter().rev().find(|evaluation| evaluation.name == name)
    }

    /// Writes `record.json` into the run folder. When it returns, the record is durable; a crash leaves the old or the new
    /// one, whole.
    pub fn save(&self, run: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self).context(|| "could not write the run record".to_owned())?;
        text.push(b'\n');
        files::write_atomic(&run.join(RECORD_FILE), &text)
    }

    /// Reads `record.json` of a run folder.
    ///
    /// # Errors
    /// When there is none, it is damaged, or it was written by a program with another schema.
    pub fn load(run: &Path) -> Result<Self> {
        let path = run.join(RECORD_FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::new(format!("`{}` is no run: could not read `{RECORD_FILE}` in it", run.display()))
                .because(error)
                .hint("name the folder that was given as --out to ragtune train")
        })?;
        let damaged =
            |error| Error::new(format!("`{}` is damaged or was not written by ragtune", path.display())).because(error);
        let value: Value = serde_json::from_str(&text).map_err(damaged)?;
        match value.get("schema").and_then(Value::as_u64) {
            Some(schema) if schema == u64::from(SCHEMA) => serde_json::from_value(value).map_err(damaged),
            other => {
                let found = other.map_or("none".to_owned(), |schema| schema.to_string());
                let message = format!("`{}` has the schema `{found}`, expected `{SCHEMA}`", path.display());
                Err(Error::new(message).hint("read it with the version of ragtune that wrote it, or run again"))
            }
        }
    }

    /// Reads a run folder: its record and the scores by question of one evaluation. A run that is not finished and did not
    /// come to this evaluation has no scores.
    ///
    /// # Errors
    /// As [`RunRecord::load`]; and when a finished run has no evaluation of this name, or its scores cannot be read.
    pub fn load_with_scores(run: &Path, evaluation: &str) -> Result<(Self, Vec<QuestionScore>)> {
        let record = Self::load(run)?;
        let Some(summary) = record.evaluation(evaluation) else {
            if record.status != Status::Finished {
                return Ok((record, Vec::new()));
            }
            let known = record.evaluations.iter().map(|summary| summary.name.as_str()).collect::<Vec<_>>().join("`, `");
            let message = format!("run `{}` has no evaluation `{evaluation}`, found `{known}`", run.display());
            return Err(Error::new(message).hint(format!("ragtune eval --run {} --questions FILE", run.display())));
        };
        let scores = files::read_lines(&run.join(&summary.scores_file))?;
        Ok((record, scores))
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
