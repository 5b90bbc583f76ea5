//! What was meant: the training settings of file and flags together, with every check that needs no work done first.

mod check;
mod defaults;
mod idle;
mod named;
mod reading;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::TrainArgs;
use crate::error::{Context, Error, Result};
use crate::hub::Origin;
use crate::models::Precision;
use crate::models::dropout::Dropping;
use crate::models::nn::Format;
use crate::objectives::{Direction, Length, Preferred, TeacherLoss, Value};
use crate::pipeline::answer::{AnswerReader, Order};
use crate::pipeline::retriever::{Fusion, Kind, RetrieverSettings, Wanted};
use crate::strategies::{self, DroSettings, JointObjective, Reader, Recipe, Stage, Strategy};
use crate::train::refresh::{By, Policy};

pub use check::{at_least_one, positive};
pub use idle::{given, refuse_idle};

/// What has no default.
const REQUIRED: [&str; 6] = ["strategy", "index", "questions", "eval-questions", "generator", "out"];

/// The resolved settings of a training run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs)] // Each setting is documented where it is typed: `cli::TrainArgs`.
pub struct TrainConfig {
    pub strategy: String,
    pub index: PathBuf,
    pub questions: PathBuf,
    pub eval_questions: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    pub generator: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<PathBuf>,
    pub out: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection_questions: Option<PathBuf>,
    #[serde(default = "defaults::select_by")]
    pub select_by: String,
    #[serde(default)]
    pub early_stop: u64,
    /// Only so many stages of the strategy, as a search for the learning rate of one of them needs; 0: all.
    #[serde(default)]
    pub only_stages: usize,
    /// Steps of the last of these stages, where a search cuts it short: those before it are as long as ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_steps: Option<u64>,
    #[serde(default = "defaults::refresh")]
    pub refresh: Policy,
    #[serde(default)]
    pub refresh_every: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_schedule: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_lag: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_threads: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_depth: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_age: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_rows: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_by: Option<By>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_sample: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh_target: Option<f64>,
    #[serde(default = "defaults::steps")]
    pub steps: u64,
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    #[serde(default = "defaults::batch_tokens")]
    pub batch_tokens: usize,
    #[serde(default = "defaults::top_k")]
    pub top_k: usize,
    #[serde(default = "defaults::lr_encoder")]
    pub lr_encoder: f64,
    #[serde(default = "defaults::lr_generator")]
    pub lr_generator: f64,
    #[serde(default = "defaults::lr_generator")]
    pub lr_selector: f64,
    #[serde(default = "defaults::temperature")]
    pub temperature: f64,
    #[serde(default = "defaults::scale")]
    pub scale: f64,
    #[serde(default)]
    pub train_passages: bool,
    #[serde(default = "defaults::objective")]
    pub objective: JointObjective,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_temperature: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_temperature: Option<f64>,
    #[serde(default = "defaults::length")]
    pub length: Length,
    #[serde(default = "defaults::direction")]
    pub direction: Direction,
    #[serde(default = "defaults::target")]
    pub target: Value,
    #[serde(default)]
    pub hard_negatives: usize,
    #[serde(default = "defaults::beta")]
    pub beta: f64,
    #[serde(default = "defaults::preferred")]
    pub preferred: Preferred,
    #[serde(default = "defaults::teacher_loss")]
    pub teacher_loss: TeacherLoss,
    #[serde(default = "defaults::memo_mib")]
    pub memo_mib: usize,
    #[serde(default)]
    pub reader: Reader,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_reader: Option<AnswerReader>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_order: Option<Order>,
    #[serde(default = "defaults::beams")]
    pub beams: usize,
    #[serde(default)]
    pub length_penalty: f64,
    #[serde(default)]
    pub seed: u64,
    #[serde(default = "defaults::schedule")]
    pub schedule: String,
    #[serde(default)]
    pub warmup: u64,
    #[serde(default)]
    pub weight_decay: f64,
    #[serde(default = "defaults::clip")]
    pub clip: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<usize>,
    #[serde(default = "defaults::lora_alpha")]
    pub lora_alpha: f64,
    #[serde(default = "defaults::lora_targets")]
    pub lora_targets: Vec<String>,
    #[serde(default)]
    pub rslora: bool,
    #[serde(default)]
    pub lora_dropout: f64,
    #[serde(default)]
    pub dropout: Dropping,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<usize>,
    #[serde(default = "defaults::max_answer_tokens")]
    pub max_answer_tokens: usize,
    #[serde(default)]
    pub eval_every: u64,
    #[serde(default)]
    pub eval_limit: usize,
    #[serde(default = "defaults::checkpoint_every")]
    pub checkpoint_every: u64,
    #[serde(default = "defaults::keep_checkpoints")]
    pub keep_checkpoints: usize,
    #[serde(default = "defaults::ef")]
    pub ef: usize,
    #[serde(default)]
    pub exact: bool,
    // Not written down where they are not said, so that runs of the encoder alone are what they were before there was a choice.
    #[serde(default, skip_serializing_if = "Kind::is_dense")]
    pub retriever: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid: Option<Fusion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid_weight: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hybrid_depth: Option<usize>,
    #[serde(default = "defaults::generator_dtype")]
    pub generator_dtype: String,
    #[serde(default)]
    pub gradient_checkpointing: bool,
    #[serde(default = "defaults::device")]
    pub device: String,
    /// What DRO leaves open. A table, so it comes after the values.
    #[serde(default)]
    pub dro: DroSettings,
    /// By part (`encoder`, `generator`): which commit of the hub a model's name stood for when the run began. Last, because
    /// TOML puts tables after values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hub: BTreeMap<String, Origin>,
}

impl TrainConfig {
    /// File, then flags: a flag wins; an unknown key of the file is refused with the list of known ones, and a flag that no
    /// stage of the strategy reads with those that do.
    pub fn resolve(args: &TrainArgs) -> Result<Self> {
        let mut typed: Vec<String> = Vec::new();
        let mut settings = match &args.config {
            Some(path) => read_settings(path)?,
            None => serde_json::Map::new(),
        };
        if let serde_json::Value::Object(flags) = serde_json::to_value(args)? {
            // JSON has neither NaN nor infinity; a flag that was not given is not in it.
            if let Some((name, _)) = flags.iter().find(|(_, value)| value.is_null()) {
                let value = toml::Table::try_from(args).ok().and_then(|flags| flags.get(name)?.as_float());
                let value = value.unwrap_or(f64::NAN);
                return Err(Error::new(format!("`--{name} {value}` is not a finite number"))
                    .hint(format!("give a number, or leave `--{name}` out for the default")));
            }
            typed = flags.keys().cloned().collect();
            settings.extend(flags);
        }
        if !args.dro.is_empty() {
            let table = settings.entry("dro").or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
            if let serde_json::Value::Object(table) = table {
                table.extend(args.dro.iter().cloned());
            }
        }
        let config = Self::complete(settings, &given(args)?)?;
        config.check_typed(&typed)?;
        Ok(config)
    }

    /// Settings given as TOML alone, as one row of a comparison is.
    pub fn of_settings(settings: toml::Table) -> Result<Self> {
        named::finite(&settings)?;
        match serde_json::to_value(settings)? {
            serde_json::Value::Object(settings) => Self::complete(settings, &BTreeSet::new()),
            _ => Err(Error::new("the settings are not a table")),
        }
    }

    /// The settings, of which those named in `typed` are flags.
    fn complete(settings: serde_json::Map<String, serde_json::Value>, typed: &BTreeSet<String>) -> Result<Self> {
        named::known(&settings)?;
        if let Some(name) = settings.get("strategy").and_then(|name| name.as_str()) {
            strategies::find(name)?;
        }
        let settings = following(settings);
        let missing: Vec<String> =
            REQUIRED.iter().filter(|name| !settings.contains_key(**name)).map(|name| format!("`{name}`")).collect();
        let config: Self = serde_json::from_value(serde_json::Value::Object(settings.clone())).map_err(|source| {
            // Of what is missing serde names the first only.
            if source.to_string().starts_with("missing field") && !missing.is_empty() {
                return Error::new(format!("the training settings lack {}", missing.join(", ")))
                    .hint("give them as flags or in `--config FILE`; `ragtune train --help` says what they are");
            }
            named::wrong(&settings, typed).unwrap_or_else(|| {
                Error::new("the training settings are not valid")
                    .because(source)
                    .hint("`ragtune train --help` lists them all, with their values")
            })
        })?;
        config.check()?;
        Ok(config)
    }

    /// Reads the settings a run was started with.
    pub fn of_run(run: &Path) -> Result<Self> {
        let path = run.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(|source| {
            Error::new(format!("`{}` is not a run folder: its config.toml cannot be read", run.display()))
                .because(source)
                .hint("give the folder that `ragtune train --out` made")
        })?;
        let not_ours = |source| {
            Error::new(format!("`{}` cannot be understood", path.display()))
                .because(source)
                .hint("it was written by another version or changed by hand; train again into a new folder")
        };
        let mut settings: toml::Table = toml::from_str(&text).map_err(not_ours)?;
        // A run of a version that knew one policy goes on with it.
        settings.entry("refresh").or_insert_with(|| Policy::Full.name().into());
        let config: Self = settings.try_into().map_err(not_ours)?;
        config.check()?;
        Ok(config)
    }

    /// The settings as TOML, as they are kept in the run folder.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).context(|| "the settings cannot be written as TOML".into())
    }

    /// What a part's model is loaded from: what was typed, or the commit that a model's name stood for when the run began.
    pub fn pinned(&self, part: &str, typed: &Path) -> PathBuf {
        let origin = self.hub.get(part).filter(|origin| origin.answers(typed));
        origin.map_or_else(|| typed.to_path_buf(), Origin::pinned)
    }

    /// The folder where stages that are done are kept.
    pub fn stages_folder(&self) -> PathBuf {
        self.stages.clone().unwrap_or_else(|| self.out.join("stages"))
    }

    /// The strategy named.
    pub fn strategy(&self) -> Result<&'static Strategy> {
        strategies::find(&self.strategy)
    }

    /// The stages of the strategy under these settings.
    pub fn stages(&self) -> Result<Vec<Stage>> {
        let mut stages = (self.strategy()?.stages)(&self.recipe())?;
        if self.only_stages > 0 {
            stages.truncate(self.only_stages);
        }
        Ok(stages)
    }

    /// What stages are made from.
    fn recipe(&self) -> Recipe {
        Recipe {
            temperature: self.temperature,
            scale: self.scale,
            train_passages: self.train_passages,
            reader: self.reader,
            target_temperature: self.target_temperature,
            teacher_temperature: self.teacher_temperature,
            objective: self.objective,
            length: self.length,
            direction: self.direction,
            value: self.target,
            hard_negatives: self.hard_negatives,
            beta: self.beta,
            preferred: self.preferred,
            teacher_loss: self.teacher_loss,
            top_k: self.top_k,
            dro: self.dro.clone(),
        }
    }

    /// Optimiser steps of a stage, by its number among so many.
    pub fn steps_of(&self, number: usize, stages: usize) -> u64 {
        self.last_steps.filter(|_| number + 1 == stages).unwrap_or(self.steps)
    }

    /// What was said of the retriever.
    pub fn retriever_wanted(&self) -> Wanted {
        Wanted { kind: Some(self.retriever), fusion: self.hybrid, weight: self.hybrid_weight, depth: self.hybrid_depth }
    }

    /// How passages are found.
    pub fn retriever_settings(&self) -> Result<RetrieverSettings> {
        RetrieverSettings::new(self.retriever_wanted())
    }

    /// Whether any stage moves passage vectors.
    pub fn trains_passages(&self) -> Result<bool> {
        Ok(self.stages()?.iter().any(|stage| stage.trains.passages))
    }
}

/// Whoever asks for refreshes means passages to move: where nothing is said of them, they do, if the strategy can move any.
fn following(mut settings: serde_json::Map<String, serde_json::Value>) -> serde_json::Map<String, serde_json::Value> {
    let every = settings.get("refresh-every").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let asked = every > 0 || settings.contains_key("refresh-schedule");
    let strategy = settings.get("strategy").and_then(|name| name.as_str()).and_then(|name| strategies::find(name).ok());
    let moves = |strategy: &Strategy| {
        let stages = (strategy.stages)(&Recipe { train_passages: true, ..Recipe::default() });
        stages.is_ok_and(|stages| stages.iter().any(|stage| stage.trains.passages))
    };
    if asked && !settings.contains_key("train-passages") && strategy.is_some_and(moves) {
        settings.insert("train-passages".to_owned(), true.into());
    }
    settings
}

/// The modules that get an adapter unless others are named.
pub fn lora_targets() -> Vec<String> {
    defaults::lora_targets()
}

/// How the generator's frozen matrices are kept; `f32` is as they are.
pub fn generator_format(name: &str) -> Result<Option<Format>> {
    if name == "f32" {
        return Ok(None);
    }
    Format::parse(name).map(Some).ok_or_else(|| {
        let known = Format::ALL.map(Format::name).join(", ");
        Error::new(format!("unknown type `{name}` of generator weights, expected one of: f32, {known}"))
            .hint("leave `--generator-dtype` out for f32")
    })
}

/// The rounding of that name; see [`Precision`].
pub fn precision(name: &str) -> Result<Precision> {
    Precision::ALL.into_iter().find(|precision| precision.name() == name).ok_or_else(|| {
        let known = Precision::ALL.map(Precision::name).join(", ");
        Error::new(format!("unknown precision `{name}`, expected one of: {known}"))
            .hint("leave `--precision` out for f32, or use `--precision bf16`")
    })
}

fn read_settings(path: &Path) -> Result<serde_json::Map<String, serde_json::Value>> {
    let text = std::fs::read_to_string(path).map_err(|source| {
        Error::new(format!("the settings file `{}` cannot be read", path.display()))
            .because(source)
            .hint("`--config` takes a TOML file")
    })?;
    let value: toml::Table = toml::from_str(&text).map_err(|source| {
        Error::new(format!("the settings file `{}` is not TOML", path.display()))
            .because(source)
            .hint("write one `name = value` a line, for instance `steps = 500`")
    })?;
    named::finite(&value).map_err(|error| {
        let hint = error.find_hint().unwrap_or_default();
        Error::new(format!("`{}`: {error}", path.display())).hint(hint)
    })?;
    match serde_json::to_value(value)? {
        serde_json::Value::Object(settings) => Ok(settings),
        _ => Err(Error::new(format!("the settings file `{}` is not a table", path.display()))),
    }
}

#[cfg(test)]
mod tests;
