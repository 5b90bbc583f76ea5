//! What a stage's result depends on, and the id that stands for it: two stages with one id leave the same weights, so that
//! one of them need not be run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::TrainConfig;
use crate::error::Result;
use crate::pipeline::answer::Order;
use crate::strategies::{Begins, Mining, Passages, Stage, Trains};
use crate::train::refresh::Policy;

/// Version of everything that training computes. To be raised with every change after which the same settings lead to other
/// weights, be it by one rounding: stages that are kept under the version before are then trained again instead of being put beside
/// new ones. `tests/it/trajectory.rs` notices changes that are larger than the differences between processors; smaller ones it cannot.
const CODE: u32 = 2;

/// Settings that no weight depends on: names and places, how often a run is recorded, and what only evaluations look at.
/// Every other setting is part of a stage's id, so that one that is forgotten here costs time and never a wrong result.
const IRRELEVANT: [&str; 18] = [
    "strategy",
    "index",
    "questions",
    "eval-questions",
    "selection-questions",
    "encoder",
    "generator",
    "selector",
    "out",
    "stages",
    "only-stages",
    // In `steps`, for the stage that it is about.
    "last-steps",
    "hub",
    "checkpoint-every",
    "keep-checkpoints",
    "train-passages",
    // A snapshot is put to use at its step, however fast it was embedded.
    "refresh-threads",
    // What the equation takes from it is in the equation's own settings.
    "scale",
];

/// Settings of evaluations: weights depend on them where evaluations decide which are kept.
const EVALUATION: [&str; 9] = [
    "eval-every",
    "early-stop",
    "select-by",
    "eval-limit",
    "reader",
    "eval-reader",
    "eval-order",
    "beams",
    "length-penalty",
];

/// Settings of the retriever: weights depend on them where a stage looks for passages, or evaluations decide.
const RETRIEVER: [&str; 4] = ["retriever", "hybrid", "hybrid-weight", "hybrid-depth"];

/// Settings of how the index follows: nothing depends on them where the passages stand still.
const REFRESH: [&str; 10] = [
    "refresh",
    "refresh-every",
    "refresh-schedule",
    "refresh-lag",
    "refresh-depth",
    "refresh-age",
    "refresh-rows",
    "refresh-by",
    "refresh-sample",
    "refresh-target",
];

/// What a run reads, by content.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Content {
    /// Digest of the base encoder: weights, configuration, tokenizer.
    pub encoder: String,
    /// The same of the base generator, with its templates.
    pub generator: String,
    /// The same of the base selector, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Digest of the passages that are in the index, whatever file it was built from.
    pub passages: String,
    /// Digest of the places of those that were deleted, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gaps: Option<String>,
    /// How the graph over the vectors was built, where it is searched: other links find other passages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph: Option<String>,
    /// Id of the fingerprint of the vectors that the base encoder searches.
    pub vectors: String,
    /// Hash of the training questions.
    pub questions: String,
    /// Hash of the questions that early stopping looks at, where it does.
    pub selection: Option<String>,
    /// The template of prompts.
    pub prompt: String,
}

/// Everything that decides what a stage leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StageSpec {
    code: u32,
    /// Name of the stage.
    pub name: String,
    /// The equation.
    pub objective: String,
    /// Its settings.
    pub objective_settings: BTreeMap<String, String>,
    /// Which passages it reads.
    pub passages: Passages,
    /// Wrong passages that it mines.
    pub mining: Option<Mining>,
    /// The lists of passages it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<String>,
    /// Digest of the base selector, or id of the stage that left the selector it has; none without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// The parts it moves.
    pub trains: Trains,
    /// Digest of the base encoder, or id of the stage that left the encoder it begins with.
    pub encoder: String,
    /// The same of the generator.
    pub generator: String,
    content: Content,
    /// Settings that weights depend on.
    pub settings: Value,
}

impl StageSpec {
    /// The name of a stage's result: 32 hexadecimal digits of the blake3 of its specification.
    pub fn id(&self) -> Result<String> {
        // Keys of objects are sorted (serde_json's map is a BTreeMap), so equal settings are equal text.
        let text = serde_json::to_vec(self)?;
        Ok(blake3::hash(&text).to_hex().chars().take(32).collect())
    }
}

/// One stage of a strategy with its place among the others.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its id; see [`StageSpec::id`].
    pub id: String,
    /// What the id stands for.
    pub spec: StageSpec,
    /// Number of the stage that left the encoder it begins with; none for the base encoder.
    pub encoder: Option<usize>,
    /// The same of the generator.
    pub generator: Option<usize>,
    /// The same of the selector.
    pub selector: Option<usize>,
}

/// The stages of a strategy in their order. What a stage begins with is known by id before anything has run.
pub fn plan(config: &TrainConfig, stages: &[Stage], content: &Content) -> Result<Vec<Planned>> {
    let mut planned: Vec<Planned> = Vec::with_capacity(stages.len());
    // Evaluations decide which weights are kept, and the whole pipeline is evaluated: its selector, by the reader of the strategy.
    let selects = config.early_stop > 0;
    for (number, stage) in stages.iter().enumerate() {
        let last = |trained: fn(&Trains) -> bool| planned.iter().rposition(|before| trained(&before.spec.trains));
        let encoder = if stage.encoder == Begins::Base { None } else { last(Trains::encoder) };
        let generator = if stage.generator == Begins::Base { None } else { last(|trains| trains.generator) };
        let selector = last(|trains| trains.selector);
        let from = |source: Option<usize>, base: &String| match source {
            Some(number) => format!("stage {}", planned[number].id),
            None => format!("base {base}"),
        };
        let spec = StageSpec {
            code: CODE,
            name: stage.name.to_owned(),
            objective: stage.objective.name().to_owned(),
            objective_settings: stage
                .objective
                .settings()
                .into_iter()
                .map(|(name, value)| (name.into(), value))
                .collect(),
            passages: stage.passages,
            mining: stage.mining,
            lists: stage.lists.map(|lists| format!("{lists:?}")),
            trains: stage.trains,
            encoder: from(encoder, &content.encoder),
            generator: from(generator, &content.generator),
            // Otherwise a stage without a selector is the same stage whether its strategy has one or not.
            selector: content
                .selector
                .as_ref()
                .filter(|_| selects || stage.lists.is_some())
                .map(|base| from(selector, base)),
            content: Content {
                selector: None,
                graph: content.graph.clone().filter(|_| selects || searches(stage)),
                ..content.clone()
            },
            settings: settings(config, stage, config.steps_of(number, stages.len()), content.selector.is_some())?,
        };
        planned.push(Planned { id: spec.id()?, spec, encoder, generator, selector });
    }
    Ok(planned)
}

/// The settings that the weights of this stage of so many steps depend on. `selected`: its strategy has a selector.
fn settings(config: &TrainConfig, stage: &Stage, steps: u64, selected: bool) -> Result<Value> {
    let mut value = serde_json::to_value(config)?;
    let Some(settings) = value.as_object_mut() else { return Ok(value) };
    settings.insert("steps".into(), steps.into());
    if config.early_stop > 0 {
        // Where it is not said, it follows from the stages after this one.
        settings.insert("eval-reader".into(), config.eval_reader()?.name().into());
    }
    if stage.trains.passages && matches!(config.refresh, Policy::Adapter | Policy::Drift) {
        // What these two do follows from recall on probe questions, which once were the first of the file.
        settings.insert("refresh-probes".into(), "drawn".into());
    }
    if stage.trains.passages && config.refresh == Policy::Rows {
        // Candidates were once named by newer and stale vectors mixed.
        settings.insert("refresh-candidates".into(), "apart".into());
    }
    let mut drop = |names: &[&str]| names.iter().for_each(|name| drop_key(settings, name));
    let selects = config.early_stop > 0;
    drop(&IRRELEVANT);
    if !stage.trains.encoder() {
        drop(&["lr-encoder"]);
    }
    if !stage.trains.generator {
        drop(&["lr-generator"]);
    }
    if !stage.trains.generator && !stage.trains.selector {
        drop(&["lora-rank", "lora-alpha", "lora-targets", "lora-dropout", "rslora"]);
    }
    if !stage.trains.selector {
        drop(&["lr-selector"]);
    }
    if stage.lists.is_none() && !(selects && selected) {
        drop(&["dro"]);
    }
    if !stage.trains.passages {
        drop(&REFRESH);
    }
    if !searches(stage) && !selects {
        drop(&RETRIEVER);
    }
    if !selects {
        drop(&EVALUATION);
    }
    // Also where nobody said so: what is usual for a strategy may change.
    let order = config.eval_order()?;
    if config.early_stop > 0 && order != Order::BestFirst {
        settings.insert("eval-order".to_owned(), order.name().into());
    }
    Ok(value)
}

/// Whether the passages that a stage learns from are looked for: by its steps, before they begin, or for its negatives.
fn searches(stage: &Stage) -> bool {
    let needs = stage.objective.needs();
    needs.retrieval || stage.mining.is_some() || stage.lists.is_some() || stage.passages != Passages::Search
}

fn drop_key(settings: &mut serde_json::Map<String, Value>, name: &str) {
    settings.remove(name);
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
