//! What was meant: the training settings of file and flags together, with every check that needs no work done first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::TrainArgs;
use crate::error::{Context, Error, Result};
use crate::hub::Origin;
use crate::models::Precision;
use crate::models::device::Choice;
use crate::models::dropout::Dropping;
use crate::models::nn::Format;
use crate::objectives::{Direction, Length, Preferred, TeacherLoss, Value};
use crate::pipeline::answer::{AnswerReader, check_search};
use crate::strategies::{self, DroSettings, JointObjective, Reader, Recipe, Stage, Strategy};

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
    #[serde(default)]
    pub refresh_every: u64,
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

mod defaults {
    use crate::objectives::{Direction, Length, Preferred, TeacherLoss, Value};
    use crate::strategies::{JointObjective, Recipe};

    pub fn steps() -> u64 {
        500
    }
    pub fn batch_size() -> usize {
        8
    }
    pub fn batch_tokens() -> usize {
        8192
    }
    pub fn top_k() -> usize {
        5
    }
    pub fn lr_encoder() -> f64 {
        2e-5
    }
    pub fn lr_generator() -> f64 {
        1e-4
    }
    pub fn temperature() -> f64 {
        0.05
    }
    pub fn scale() -> f64 {
        20.0
    }
    pub fn beams() -> usize {
        1
    }
    pub fn schedule() -> String {
        "linear".into()
    }
    pub fn clip() -> f64 {
        1.0
    }
    pub fn lora_alpha() -> f64 {
        16.0
    }
    pub fn lora_targets() -> Vec<String> {
        vec!["all-linear".into()]
    }
    pub fn max_answer_tokens() -> usize {
        32
    }
    pub fn checkpoint_every() -> u64 {
        100
    }
    pub fn keep_checkpoints() -> usize {
        2
    }
    pub fn ef() -> usize {
        64
    }
    pub fn generator_dtype() -> String {
        "f32".into()
    }
    pub fn device() -> String {
        "cpu".into()
    }
    pub fn objective() -> JointObjective {
        Recipe::default().objective
    }
    pub fn length() -> Length {
        Recipe::default().length
    }
    pub fn direction() -> Direction {
        Recipe::default().direction
    }
    pub fn target() -> Value {
        Recipe::default().value
    }
    pub fn beta() -> f64 {
        Recipe::default().beta
    }
    pub fn preferred() -> Preferred {
        Recipe::default().preferred
    }
    pub fn teacher_loss() -> TeacherLoss {
        Recipe::default().teacher_loss
    }
    pub fn memo_mib() -> usize {
        256
    }
    pub fn select_by() -> String {
        "f1".into()
    }
}

impl TrainConfig {
    /// File, then flags: a flag wins; an unknown key of the file is refused with the list of known ones.
    pub fn resolve(args: &TrainArgs) -> Result<Self> {
        let mut settings = match &args.config {
            Some(path) => read_settings(path)?,
            None => serde_json::Map::new(),
        };
        if let serde_json::Value::Object(flags) = serde_json::to_value(args)? {
            // JSON has neither NaN nor infinity; a flag that was not given is not in it.
            if let Some((name, _)) = flags.iter().find(|(_, value)| value.is_null()) {
                return Err(
                    Error::new(format!("`--{name}` is not a finite number")).hint("give a number, for instance `1e-4`")
                );
            }
            settings.extend(flags);
        }
        if !args.dro.is_empty() {
            let table = settings.entry("dro").or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()));
            if let serde_json::Value::Object(table) = table {
                table.extend(args.dro.iter().cloned());
            }
        }
        Self::complete(settings)
    }

    /// Settings given as TOML alone, as one row of a comparison is.
    pub fn of_settings(settings: toml::Table) -> Result<Self> {
        match serde_json::to_value(settings)? {
            serde_json::Value::Object(settings) => Self::complete(settings),
            _ => Err(Error::new("the settings are not a table")),
        }
    }

    fn complete(settings: serde_json::Map<String, serde_json::Value>) -> Result<Self> {
        let config: Self = serde_json::from_value(serde_json::Value::Object(settings)).map_err(|source| {
            Error::new("the training settings are not complete or not valid")
                .because(source)
                .hint("give the missing setting as a flag or in `--config FILE`; `ragtune train --help` lists them all")
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
        let config: Self = toml::from_str(&text).map_err(|source| {
            Error::new(format!("`{}` cannot be understood", path.display()))
                .because(source)
                .hint("it was written by another version or changed by hand; train again into a new folder")
        })?;
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
        let mut stages = (self.strategy()?.stages)(&Recipe {
            temperature: self.temperature,
            scale: self.scale,
            train_passages: self.train_passages,
            reader: self.reader,
            target_temperature: self.target_temperature,
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
        })?;
        if self.only_stages > 0 {
            stages.truncate(self.only_stages);
        }
        Ok(stages)
    }

    /// How answers are read off in evaluations: as asked for, else as the generator was trained last: all passages in one prompt,
    /// a mixture for every token, or one for the whole answer.
    pub fn eval_reader(&self) -> Result<AnswerReader> {
        if let Some(reader) = self.eval_reader {
            return Ok(reader);
        }
        let stages = self.stages()?;
        if stages.iter().any(|stage| stage.lists.is_some()) {
            return Ok(AnswerReader::Concat);
        }
        let Some(last) = stages.iter().rfind(|stage| stage.trains.generator) else { return Ok(self.reader.into()) };
        Ok(match last.objective.name() {
            _ if last.objective.needs().concat => AnswerReader::Concat,
            "rag-sequence" => AnswerReader::SequenceThorough,
            _ => AnswerReader::Mixture,
        })
    }

    /// The name of the reader whose answers are learnt from, where any are: `concat`, `mixture`, or both.
    pub fn training_reader(&self) -> Result<Option<&'static str>> {
        let needs: Vec<_> = self.stages()?.iter().map(|stage| stage.objective.needs()).collect();
        let concat = needs.iter().any(|needs| needs.concat || needs.leave_one_out || needs.attention);
        let mixture = needs.iter().any(|needs| needs.single_prompts);
        Ok(match (concat, mixture) {
            (true, true) => Some("concat and mixture"),
            (true, false) => Some("concat"),
            (false, true) => Some("mixture"),
            (false, false) => None,
        })
    }

    fn check(&self) -> Result<()> {
        Choice::parse(&self.device)?;
        let trains = self.stages()?.iter().any(|stage| stage.trains.generator);
        if generator_format(&self.generator_dtype)?.is_some() && trains && self.lora_rank.is_none() {
            return Err(Error::new(format!(
                "`--generator-dtype {}` freezes the generator's matrices, and `--strategy {}` trains them",
                self.generator_dtype, self.strategy
            ))
            .hint("train an adapter on top, for instance with `--lora-rank 16`, or leave `--generator-dtype` out"));
        }
        self.stages()?;
        crate::train::schedule::Schedule::parse(&self.schedule, self.warmup)?;
        at_least_one("--batch-size", self.batch_size)?;
        at_least_one("--batch-tokens", self.batch_tokens)?;
        at_least_one("--top-k", self.top_k)?;
        at_least_one("--max-answer-tokens", self.max_answer_tokens)?;
        at_least_one("--keep-checkpoints", self.keep_checkpoints)?;
        at_least_one("--ef", self.ef)?;
        check_search(self.beams, self.length_penalty)?;
        positive("--temperature", self.temperature)?;
        positive("--scale", self.scale)?;
        positive("--beta", self.beta)?;
        if let Some(temperature) = self.target_temperature {
            positive("--target-temperature", temperature)?;
        }
        positive("--lr-encoder", self.lr_encoder)?;
        positive("--lr-generator", self.lr_generator)?;
        positive("--lr-selector", self.lr_selector)?;
        not_negative("--weight-decay", self.weight_decay)?;
        not_negative("--clip", self.clip)?;
        if let Some(rank) = self.lora_rank {
            at_least_one("--lora-rank", rank)?;
            positive("--lora-alpha", self.lora_alpha)?;
        }
        crate::train::check_metric(&self.select_by)?;
        if self.early_stop > 0 {
            if self.selection_questions.is_none() {
                return Err(Error::new(format!(
                    "`--early-stop {}` needs questions to decide by, and `--selection-questions` is not given",
                    self.early_stop
                ))
                .hint("give questions that are neither trained on nor reported as `--selection-questions`"));
            }
            if self.eval_every == 0 {
                return Err(Error::new(format!(
                    "`--early-stop {}` looks every `--eval-every` steps, which is 0",
                    self.early_stop
                ))
                .hint("for instance `--eval-every 50`"));
            }
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(Error::new(format!("`--lora-dropout {}` is no share from 0 to below 1", self.lora_dropout))
                .hint("leave `--lora-dropout` out for none, or give for instance 0.05"));
        }
        if self.lora_rank.is_none() && (self.lora_dropout > 0.0 || self.rslora) {
            let asked =
                if self.rslora { "--rslora".to_owned() } else { format!("--lora-dropout {}", self.lora_dropout) };
            return Err(Error::new(format!("`{asked}` is about an adapter, and none trains"))
                .hint("train one, for instance with `--lora-rank 16`, or leave it out"));
        }
        if self.questions == self.eval_questions {
            return Err(Error::new(format!(
                "`--questions` and `--eval-questions` are both `{}`: a score on training questions says nothing",
                self.questions.display()
            ))
            .hint("give a held-out set as `--eval-questions`"));
        }
        Ok(())
    }
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
    match serde_json::to_value(value)? {
        serde_json::Value::Object(settings) => Ok(settings),
        _ => Err(Error::new(format!("the settings file `{}` is not a table", path.display()))),
    }
}

fn at_least_one(flag: &str, value: usize) -> Result<()> {
    if value >= 1 {
        return Ok(());
    }
    Err(Error::new(format!("`{flag} {value}` is too small; expected at least 1"))
        .hint(format!("for instance `{flag} 8`")))
}

fn positive(flag: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::new(format!("`{flag} {value}` is not a positive number"))
        .hint(format!("leave `{flag}` out for the default")))
}

fn not_negative(flag: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::new(format!("`{flag} {value}` is negative or not a number"))
        .hint(format!("leave `{flag}` out for the default")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> TrainArgs {
        TrainArgs {
            strategy: Some("joint".into()),
            index: Some("index".into()),
            questions: Some("train.jsonl".into()),
            eval_questions: Some("dev.jsonl".into()),
            generator: Some("generator".into()),
            out: Some("run".into()),
            ..TrainArgs::default()
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_run_folder_reads_back_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.toml");
        std::fs::write(&file, "steps = 7\ntop-k = 3\nlr-encoder = 1e-6\n").unwrap();
        let args = TrainArgs { config: Some(file.clone()), top_k: Some(4), ..complete() };
        let config = TrainConfig::resolve(&args).unwrap();
        assert_eq!((config.dropout, config.lora_dropout), (Dropping::Off, 0.0));
        assert_eq!((config.steps, config.top_k, config.lr_encoder, config.batch_size), (7, 4, 1e-6, 8));
        std::fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
        assert_eq!(TrainConfig::of_run(folder.path()).unwrap(), config);
        std::fs::write(&file, "dropout = 0.2\n").unwrap();
        for (typed, dropping) in [(None, Dropping::Share(0.2)), (Some("config".into()), Dropping::Config)] {
            let config =
                TrainConfig::resolve(&TrainArgs { config: Some(file.clone()), dropout: typed, ..complete() }).unwrap();
            assert_eq!(config.dropout, dropping);
            std::fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
            assert_eq!(TrainConfig::of_run(folder.path()).unwrap(), config);
        }
        std::fs::write(&file, "stepz = 7\n").unwrap();
        let error = TrainConfig::resolve(&args).unwrap_err();
        assert!(format!("{:?}", error).contains("stepz"));
    }

    #[test]
    fn how_answers_are_learnt_and_how_they_are_read_are_two_settings() {
        let resolved = |change: fn(&mut TrainArgs)| {
            let mut args = complete();
            change(&mut args);
            let config = TrainConfig::resolve(&args).unwrap();
            let read = config.eval_reader().unwrap().label(config.beams, config.length_penalty);
            (config.training_reader().unwrap(), read)
        };
        assert_eq!(resolved(|_| {}), (Some("mixture"), "mixture".to_owned()));
        let concat = |a: &mut TrainArgs| {
            (a.strategy, a.reader) = (Some("generator".into()), Some("concat".into()));
        };
        assert_eq!(resolved(concat), (Some("concat"), "concat".to_owned()));
        let other = |a: &mut TrainArgs| {
            (a.eval_reader, a.beams) = (Some("sequence-thorough".into()), Some(4));
        };
        assert_eq!(resolved(other), (Some("mixture"), "sequence-thorough beam 4".to_owned()));
        let embedder = |a: &mut TrainArgs| {
            (a.strategy, a.eval_reader) = (Some("embedder".into()), Some("concat".into()));
            (a.beams, a.length_penalty) = (Some(2), Some(0.5));
        };
        assert_eq!(resolved(embedder), (None, "concat beam 2 penalty 0.5".to_owned()));
    }

    #[test]
    fn a_model_of_the_hub_stays_at_the_commit_the_run_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let args = TrainArgs { generator: Some("owner/name@v1".into()), ..complete() };
        let mut config = TrainConfig::resolve(&args).unwrap();
        let typed = Path::new("owner/name@v1");
        assert_eq!(config.pinned("generator", typed), typed);
        let origin = Origin { repo: "owner/name".into(), revision: "v1".into(), commit: "0f".into() };
        config.hub.insert("generator".into(), origin);
        std::fs::write(folder.path().join("config.toml"), config.to_toml().unwrap()).unwrap();
        let read = TrainConfig::of_run(folder.path()).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.pinned("generator", typed), Path::new("owner/name@0f"));
        // Another model, another revision, another part: what was typed.
        for other in ["owner/other@v1", "owner/name", "./owner"] {
            assert_eq!(read.pinned("generator", Path::new(other)), Path::new(other));
        }
        assert_eq!(read.pinned("encoder", typed), typed);
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_before_any_work() {
        let refused = |change: fn(&mut TrainArgs)| {
            let mut args = complete();
            change(&mut args);
            TrainConfig::resolve(&args).unwrap_err()
        };
        assert!(refused(|a| a.top_k = Some(0)).to_string().contains("--top-k 0"));
        assert!(refused(|a| a.temperature = Some(0.0)).to_string().contains("--temperature"));
        assert!(refused(|a| a.lr_encoder = Some(f64::NAN)).to_string().contains("not"));
        assert!(refused(|a| a.strategy = Some("best".into())).to_string().contains("`best`"));
        assert!(refused(|a| a.eval_questions = Some("train.jsonl".into())).to_string().contains("train.jsonl"));
        assert!(refused(|a| a.reader = Some("concat".into())).to_string().contains("concat"));
        assert!(refused(|a| a.beams = Some(0)).to_string().contains("--beams 0"));
        assert!(refused(|a| a.length_penalty = Some(0.5)).to_string().contains("--length-penalty 0.5"));
        assert!(format!("{:?}", refused(|a| a.eval_reader = Some("sequence".into()))).contains("`sequence-fast`"));
        assert!(refused(|a| a.lora_rank = Some(0)).to_string().contains("--lora-rank 0"));
        assert!(refused(|a| a.device = Some("tpu".into())).to_string().contains("`tpu`"));
        assert!(refused(|a| a.schedule = Some("wavy".into())).find_hint().is_some());
        let error = refused(|a| a.dropout = Some("1.5".into()));
        assert!(format!("{error:?}").contains("`1.5`"), "{error:?}");
        assert!(
            refused(|a| (a.lora_rank, a.lora_dropout) = (Some(4), Some(1.0))).to_string().contains("--lora-dropout 1")
        );
        assert!(refused(|a| a.lora_dropout = Some(0.1)).find_hint().unwrap().contains("--lora-rank"));
        assert!(refused(|a| a.rslora = Some(true)).to_string().contains("--rslora"));
        assert!(
            refused(|a| {
                a.strategy = Some("generator".into());
                a.train_passages = Some(true);
            })
            .to_string()
            .contains("contradicts")
        );
    }
}
