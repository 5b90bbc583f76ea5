//! The training loop. There is one, and every strategy runs in it, on the same clock, with the same evaluation and the same
//! checkpoints: it is the measuring instrument of a comparison.

use std::sync::atomic::{AtomicBool, Ordering};

use ragtune_index::{Generation, WriterLock};

mod adapter;
pub mod batch;
pub mod checkpoint;
mod context;
mod diverged;
pub mod finish;
pub mod health;
pub mod labels;
pub mod memory;
pub mod mining;
pub mod notes;
mod optimise;
pub mod optimizer;
pub mod parts;
mod recording;
pub mod refresh;
mod reindex;
pub mod run;
pub mod schedule;
mod selection;
pub mod session;
pub mod spec;
mod stage;
pub mod stages;
pub mod unchanged;

use checkpoint::{Part, State};
use optimizer::{AdamW, AdamWConfig};
use refresh::RefreshSettings;
use reindex::Background;
use run::RunFolder;

use crate::config::TrainConfig;
use crate::cost::{Activity, Ledger, Phase};
use crate::data::QuestionSet;
use crate::error::Result;
use crate::eval::evaluate::{EvaluateSettings, Evaluation, Searcher, evaluate};
use crate::pipeline::Pipeline;
use crate::pipeline::embed::{EmbedSettings, fingerprint_of};
use crate::pipeline::step::StepSettings;
use crate::report::files::{METRICS_FILE, append_line, keep_lines, write_lines};
use crate::report::record::CurvePoint;
use crate::strategies::Stage;
use parts::Bases;
use spec::Planned;
use stages::Store;

/// What a run tells while it works.
pub enum Event<'a> {
    /// A step is done.
    Step {
        /// Steps of the stage in all.
        steps: u64,
        /// What it measured.
        metrics: &'a CurvePoint,
    },
    /// So many of so many passages are embedded.
    Refresh(u64, u64),
    /// So many of so many evaluation questions are answered.
    Evaluate(u64, u64),
}

/// How training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// A signal stopped it after a step; a checkpoint of that step is written.
    Interrupted,
}

/// A pipeline in training: everything the loop reads and moves.
pub struct Trainer<'a> {
    /// The settings.
    pub config: &'a TrainConfig,
    /// Steps of a batch that no objective changes.
    pub step_settings: StepSettings,
    /// How evaluations are done.
    pub evaluate_settings: EvaluateSettings,
    /// How refreshes are done.
    pub embed_settings: EmbedSettings,
    /// What trains and is evaluated.
    pub pipeline: Pipeline,
    /// Training questions.
    pub questions: QuestionSet,
    /// Evaluation questions.
    pub eval_questions: QuestionSet,
    /// Where the run is kept.
    pub run: &'a RunFolder,
    /// The index's writer lock, held when passages move.
    pub lock: Option<WriterLock>,
    /// What everything is charged to.
    pub ledger: &'a Ledger,
    /// Where the run stands.
    pub state: State,
    /// The encoder's optimiser.
    pub encoder_optimizer: AdamW,
    /// The generator's optimiser.
    pub generator_optimizer: AdamW,
    /// The selector's optimiser.
    pub selector_optimizer: AdamW,
    /// The stages of the strategy, by id.
    pub plan: Vec<Planned>,
    /// Where stages that are done are kept.
    pub store: Store,
    /// The base models.
    pub bases: Bases,
    /// The questions that decide when to stop and which weights to keep, where the settings ask for that.
    pub selection: Option<QuestionSet>,
    /// How the index follows the encoder.
    pub following: RefreshSettings,
    /// A snapshot that is embedded beside training.
    background: Option<Background>,
    /// What is stored, where a map of it is searched.
    stored: Option<Generation>,
    /// That map.
    map: Option<adapter::Map>,
    /// What the steps of the present stage are given.
    context: context::Context,
    /// The stages whose encoder and generator the pipeline holds now.
    holds: stage::Holds,
    /// The checkpoint to go on from, until its stage is entered.
    found: Option<std::path::PathBuf>,
}

impl Trainer<'_> {
    /// Runs the stages from where the state stands to their end, or until `interrupted` is set. A stage that is in the store
    /// already is taken from there. Afterwards the pipeline holds what the stages left.
    pub fn train(
        &mut self,
        stages: &[Stage],
        interrupted: &AtomicBool,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        // Steps after the checkpoint are done again; so are their lines.
        let done = self.steps_done();
        keep_lines(&self.run.dir().join(METRICS_FILE), |point: &CurvePoint| point.step <= done)?;
        while let Some(stage) = stages.get(self.state.stage) {
            let _activity = self.ledger.activity(Activity::Train);
            if !self.take(stage)? {
                self.enter(stage)?;
                if self.run_stage(stage, interrupted, observer)? == Outcome::Interrupted {
                    return Ok(Outcome::Interrupted);
                }
                self.publish(stage)?;
            }
            self.state.next_stage();
        }
        self.assemble()?;
        Ok(Outcome::Finished)
    }

    /// The steps of one stage.
    fn run_stage(
        &mut self,
        stage: &Stage,
        interrupted: &AtomicBool,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let metrics_file = self.run.dir().join(METRICS_FILE);
        let selects = self.config.early_stop > 0;
        let steps = self.steps();
        while self.state.step < steps && !self.state.selection.exhausted(self.config.early_stop) {
            if interrupted.load(Ordering::Relaxed) {
                self.checkpoint(stage)?;
                return Ok(Outcome::Interrupted);
            }
            if self.follow(stage, observer)?
                && let Some(mining) = stage.mining
            {
                self.mine(mining)?;
            }
            let metrics = self.step(stage)?;
            self.state.step += 1;
            append_line(&metrics_file, &metrics)?;
            observer(Event::Step { steps, metrics: &metrics });
            let last = self.state.step == steps;
            if selects && (last || due(self.config.eval_every, self.state.step)) {
                self.select(stage, observer)?;
            } else if !selects && !last && due(self.config.eval_every, self.state.step) {
                self.evaluate(&format!("step-{}", self.steps_done()), &Searcher::Stale, observer)?;
            }
            if !last && due(self.config.checkpoint_every, self.state.step) {
                self.checkpoint(stage)?;
            }
        }
        self.keep_best(stage)?;
        // Before the last checkpoint: what goes on from that must not embed the snapshot again, in the final refresh's place.
        self.give_up();
        // What follows may be killed too: the training before it is kept.
        self.checkpoint(stage)?;
        self.follow_at_end(stage, observer)?;
        Ok(Outcome::Finished)
    }

    /// Evaluates the pipeline as it stands on the evaluation questions and keeps the scores in the run folder. Between
    /// refreshes the pipeline is evaluated as it would be deployed then: live questions, stale passages.
    pub fn evaluate(&mut self, name: &str, searcher: &Searcher, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let Evaluation { mut summary, scores, prompts, truncated } =
            self.evaluated(&self.eval_questions, searcher, name, observer)?;
        let _activity = self.ledger.activity(Activity::Evaluate);
        let _span = self.ledger.span(Phase::Evaluate);
        summary.step = self.steps_done();
        summary.scores_file = format!("scores-{name}.jsonl");
        write_lines(&self.run.dir().join(&summary.scores_file), &scores)?;
        self.state.evaluations.push(summary);
        self.state.evaluated_prompts += prompts;
        self.state.evaluated_truncated += truncated;
        Ok(())
    }

    /// Scores of the pipeline as it stands on some questions.
    fn evaluated(
        &self,
        questions: &QuestionSet,
        searcher: &Searcher,
        name: &str,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Evaluation> {
        let _activity = self.ledger.activity(Activity::Evaluate);
        let total = questions.questions.len() as u64;
        evaluate(
            &self.pipeline,
            &questions.questions,
            searcher,
            &self.evaluate_settings,
            name,
            self.ledger,
            &mut |done| observer(Event::Evaluate(done, total)),
        )
    }

    /// Optimiser steps that the present stage is asked for.
    fn steps(&self) -> u64 {
        self.config.steps_of(self.state.stage, self.plan.len())
    }

    /// Optimiser steps done in all stages.
    pub fn steps_done(&self) -> u64 {
        self.state.before + self.state.step
    }

    /// Writes a checkpoint and protects the generation it needs until a later checkpoint needs another.
    pub fn checkpoint(&mut self, stage: &Stage) -> Result<()> {
        let span = self.ledger.span(Phase::Checkpoint);
        if let Some(lock) = &self.lock {
            self.pipeline.corpus.protect(lock, self.state.generation, &self.run.id())?;
        }
        self.state.ledger = self.ledger.snapshot();
        let folder = self.run.checkpoints();
        let beside = self.beside()?;
        let parts = self.moving(stage);
        span.bytes(checkpoint::write(&folder, &self.state, &parts, &beside, self.config.keep_checkpoints)?);
        if let Some(lock) = &self.lock {
            let mut needed = checkpoint::generations(&folder)?;
            needed.extend([self.state.generation, self.state.base_generation]);
            session::release_generations(&self.pipeline.corpus, lock, &self.run.id(), &needed)?;
        }
        Ok(())
    }

    /// The parts that a stage moves, with their optimisers.
    fn moving(&self, stage: &Stage) -> Vec<Part<'_>> {
        let mut parts = Vec::new();
        if stage.trains.encoder() {
            let params = self.pipeline.encoder.params();
            parts.push(Part { name: "encoder", params, optimizer: &self.encoder_optimizer });
        }
        if stage.trains.generator {
            let params = self.pipeline.generator.params();
            parts.push(Part { name: "generator", params, optimizer: &self.generator_optimizer });
        }
        if let (true, Some(selector)) = (stage.trains.selector, &self.pipeline.selector) {
            let params = selector.generator.params();
            parts.push(Part { name: "selector", params, optimizer: &self.selector_optimizer });
        }
        parts
    }

    /// The fingerprint that questions of this pipeline may search: the encoder's own where it embedded the passages, the
    /// base encoder's where only the question side moved.
    pub fn searches(&self, stages: &[Stage]) -> Result<ragtune_index::Fingerprint> {
        let question_side_only = stages.iter().any(|stage| stage.trains.questions && !stage.trains.passages);
        if question_side_only {
            return Ok(self.pipeline.generation.fingerprint().clone());
        }
        fingerprint_of(&self.pipeline.encoder, self.embed_settings.precision)
    }
}

/// The optimiser settings of a run.
pub fn adamw(config: &TrainConfig) -> AdamWConfig {
    AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() }
}

/// Refuses a metric that no evaluation has.
pub fn check_metric(name: &str) -> Result<()> {
    selection::metric(&crate::report::record::EvaluationSummary::default(), name).map(|_| ())
}

/// A metric of an evaluation by its name; see [`check_metric`].
pub fn metric_of(summary: &crate::report::record::EvaluationSummary, name: &str) -> Result<Option<f64>> {
    selection::metric(summary, name)
}

fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}
