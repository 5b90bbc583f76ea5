//! The training loop. There is one, and every strategy runs in it, on the same clock, with the same evaluation and the same
//! checkpoints: it is the measuring instrument of a comparison.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use ragtune_index::{Generation, Search, Trust, WriterLock};

pub mod batch;
pub mod checkpoint;
pub mod finish;
pub mod optimizer;
pub mod refresh;
pub mod run;
pub mod schedule;
pub mod session;

use checkpoint::{Part, State};
use optimizer::{AdamW, AdamWConfig, Gradients};
use refresh::{Decision, Refresh, Staleness};
use run::RunFolder;
use schedule::Schedule;

use crate::config::TrainConfig;
use crate::cost::{Activity, Ledger, Phase};
use crate::data::{Question, QuestionSet};
use crate::error::{Error, Result};
use crate::eval::evaluate::{EvaluateSettings, Evaluation, Searcher, evaluate};
use crate::models::{Grad, Role};
use crate::pipeline::Pipeline;
use crate::pipeline::embed::{EmbedSettings, embed_corpus, fingerprint_of};
use crate::pipeline::step::{Observed, Step, StepSettings};
use crate::report::files::{METRICS_FILE, append_line, keep_lines, write_lines};
use crate::report::record::CurvePoint;
use crate::strategies::Stage;

/// Training questions on which a refresh measures how stale the index was.
const PROBES: usize = 64;
/// Passages compared for each of them.
const PROBE_DEPTH: usize = 10;

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
}

impl Trainer<'_> {
    /// Runs the stages from where the state stands to their end, or until `interrupted` is set.
    pub fn train(
        &mut self,
        stages: &[Stage],
        interrupted: &AtomicBool,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<Outcome> {
        let metrics_file = self.run.dir().join(METRICS_FILE);
        // Steps after the checkpoint are done again; so are their lines.
        let done = self.steps_done();
        keep_lines(&metrics_file, |point: &CurvePoint| point.step <= done)?;
        let policy = Refresh::every(self.config.refresh_every);
        while let Some(stage) = stages.get(self.state.stage) {
            let _activity = self.ledger.activity(Activity::Train);
            while self.state.step < self.config.steps {
                if interrupted.load(Ordering::Relaxed) {
                    self.checkpoint(stage)?;
                    return Ok(Outcome::Interrupted);
                }
                if policy.decide(&self.staleness(stage)) == Decision::EmbedAll {
                    self.refresh(observer)?;
                }
                let metrics = self.step(stage)?;
                self.state.step += 1;
                append_line(&metrics_file, &metrics)?;
                observer(Event::Step { steps: self.config.steps, metrics: &metrics });
                let last = self.state.step == self.config.steps;
                if !last && due(self.config.eval_every, self.state.step) {
                    self.evaluate(&format!("step-{}", self.steps_done()), &Searcher::Stale, observer)?;
                }
                if !last && due(self.config.checkpoint_every, self.state.step) {
                    self.checkpoint(stage)?;
                }
            }
            // What follows may be killed too: the training before it is kept.
            self.checkpoint(stage)?;
            if Refresh::decide_at_end(&self.staleness(stage)) == Decision::EmbedAll {
                self.refresh(observer)?;
            }
            if self.state.stage + 1 < stages.len() {
                self.encoder_optimizer = AdamW::new(adamw(self.config))?;
                self.generator_optimizer = AdamW::new(adamw(self.config))?;
                self.state.step = 0;
                self.state.embedded_at = 0;
            }
            self.state.stage += 1;
        }
        Ok(Outcome::Finished)
    }

    /// Evaluates the pipeline as it stands on the evaluation questions and keeps the scores in the run folder. Between
    /// refreshes the pipeline is evaluated as it would be deployed then: live questions, stale passages.
    pub fn evaluate(&mut self, name: &str, searcher: &Searcher, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Evaluate);
        let total = self.eval_questions.questions.len() as u64;
        let Evaluation { mut summary, scores, prompts, truncated } = evaluate(
            &self.pipeline,
            &self.eval_questions.questions,
            searcher,
            &self.evaluate_settings,
            name,
            self.ledger,
            &mut |done| observer(Event::Evaluate(done, total)),
        )?;
        summary.step = self.steps_done();
        summary.scores_file = format!("scores-{name}.jsonl");
        write_lines(&self.run.dir().join(&summary.scores_file), &scores)?;
        self.state.evaluations.push(summary);
        self.state.evaluated_prompts += prompts;
        self.state.evaluated_truncated += truncated;
        Ok(())
    }

    /// What a step is worth telling apart from its learning rates: loss, prior, what was retrieved, age of the index.
    fn measure(&self, sums: &Sums, batch: &[&Question]) -> Result<CurvePoint> {
        let retrieved: Vec<&Vec<u32>> = sums.observed.iter().flat_map(|observed| &observed.retrieved).collect();
        let scores: Vec<&Vec<f32>> = sums.observed.iter().flat_map(|observed| &observed.scores).collect();
        let mut extra = BTreeMap::from([("index_age".to_owned(), (self.state.step - self.state.embedded_at) as f64)]);
        if !scores.is_empty() {
            let sum: f64 = scores.iter().map(|row| entropy(row, self.config.temperature)).sum();
            extra.insert("prior_entropy".into(), sum / scores.len() as f64);
        }
        if !retrieved.is_empty() {
            let mut distinct: Vec<u32> = retrieved.iter().copied().flatten().copied().collect();
            distinct.sort_unstable();
            distinct.dedup();
            extra.insert("distinct_passages".into(), distinct.len() as f64);
            let (mut named, mut found) = (0u32, 0u32);
            for (question, row) in batch.iter().zip(&retrieved).filter(|(q, _)| !q.gold_passages.is_empty()) {
                named += 1;
                for id in &question.gold_passages {
                    if self.pipeline.corpus.ordinal(id)?.is_some_and(|ordinal| row.contains(&ordinal)) {
                        found += 1;
                        break;
                    }
                }
            }
            if named > 0 {
                extra.insert("gold_retrieved".into(), f64::from(found) / f64::from(named));
            }
        }
        Ok(CurvePoint { step: self.steps_done() + 1, loss: sums.loss, extra, ..CurvePoint::default() })
    }

    /// Optimiser steps done in all stages.
    pub fn steps_done(&self) -> u64 {
        self.state.stage as u64 * self.config.steps + self.state.step
    }

    fn staleness(&self, stage: &Stage) -> Staleness {
        Staleness { step: self.state.step, embedded_at: self.state.embedded_at, passages_move: stage.trains.passages }
    }

    /// One optimiser step: forward and backward in micro-batches, clip, update.
    fn step(&mut self, stage: &Stage) -> Result<CurvePoint> {
        let config = self.config;
        let seed = config.seed.wrapping_add((self.state.stage as u64) << 32);
        let rows = batch::rows(self.questions.questions.len(), config.batch_size, seed, self.state.step);
        let batch: Vec<&Question> = rows.iter().filter_map(|row| self.questions.questions.get(*row)).collect();
        let whole = 0..batch.len();
        let longest = self.step_settings.max_prompt_tokens + self.step_settings.max_answer_tokens + 1;
        let runs = if stage.objective.per_question() {
            batch::micro_batches(&vec![longest * config.top_k; batch.len()], config.batch_tokens)
        } else {
            vec![whole]
        };
        let mut sums = Sums::default();
        for run in runs {
            let questions = batch.get(run).unwrap_or_default();
            self.micro_step(stage, questions, questions.len() as f64 / batch.len() as f64, &mut sums)?;
        }
        let _span = self.ledger.span(Phase::Optimise);
        let factor = Schedule::parse(&config.schedule, config.warmup)?.factor(self.state.step, config.steps);
        let mut metrics = self.measure(&sums, &batch)?;
        let mut record = |part: &str, lr: f64, norm: f64| {
            metrics.learning_rates.insert(part.to_owned(), lr);
            metrics.gradient_norms.insert(part.to_owned(), norm);
        };
        if stage.trains.encoder() {
            let lr = config.lr_encoder * factor;
            record("encoder", lr, clip(&mut sums.encoder, config.clip)?);
            self.encoder_optimizer.step(self.pipeline.encoder.params(), &sums.encoder, lr)?;
        }
        if stage.trains.generator {
            let lr = config.lr_generator * factor;
            record("generator", lr, clip(&mut sums.generator, config.clip)?);
            self.generator_optimizer.step(self.pipeline.generator.params(), &sums.generator, lr)?;
        }
        self.state.prompts += sums.observed.iter().map(|observed| observed.prompts).sum::<u64>();
        self.state.truncated_prompts += sums.observed.iter().map(|observed| observed.truncated_prompts).sum::<u64>();
        Ok(metrics)
    }

    /// Adds the loss and gradients of some of a batch's questions, weighted by their share of the batch.
    fn micro_step(&self, stage: &Stage, questions: &[&Question], share: f64, sums: &mut Sums) -> Result<()> {
        let mut step = Step::new(&self.pipeline, questions, stage.trains, self.step_settings, self.ledger);
        let loss = {
            // The objective's own arithmetic; what it pulls from the step is charged to inner spans.
            let _span = self.ledger.span(Phase::Score);
            stage.objective.loss(&mut step)?
        };
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            let ids: Vec<&str> = questions.iter().map(|question| question.id.as_str()).collect();
            return Err(Error::new(format!(
                "the loss at step {} is {value}, expected a finite number; questions `{}`",
                self.state.step + 1,
                ids.join("`, `")
            ))
            .hint(
                "lower the learning rates; the last checkpoint is kept and `ragtune train --resume` goes on from it",
            ));
        }
        sums.loss += value * share;
        let span = self.ledger.span(Phase::Backward);
        let gradients = loss.backward()?;
        // Two forward passes' worth: gradients of activations and of weights (adapters: activations only).
        let generator_factor = if self.pipeline.generator.lora().is_some() { 1.0 } else { 2.0 };
        span.flops(2.0 * step.observed.encoder_flops + generator_factor * step.observed.generator_flops);
        if stage.trains.encoder() {
            let more = optimizer::gradients(self.pipeline.encoder.params(), &gradients)?;
            optimizer::accumulate(&mut sums.encoder, &more, share)?;
        }
        if stage.trains.generator {
            let more = optimizer::gradients(self.pipeline.generator.params(), &gradients)?;
            optimizer::accumulate(&mut sums.generator, &more, share)?;
        }
        sums.observed.push(step.observed);
        Ok(())
    }

    /// Embeds the corpus anew with the live encoder and goes on with the new generation; the old one answers until then.
    fn refresh(&mut self, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let _activity = self.ledger.activity(Activity::Refresh);
        let lock = self
            .lock
            .as_ref()
            .ok_or_else(|| Error::new("the index is not locked for writing, so it cannot be refreshed"))?;
        let before = self.ledger.snapshot();
        let total = self.pipeline.corpus.len() as u64;
        let Pipeline { encoder, corpus, .. } = &self.pipeline;
        let embedded = embed_corpus(encoder, corpus, lock, &self.embed_settings, self.ledger, &mut |done| {
            observer(Event::Refresh(done, total));
        })?;
        let (recall_before, recall_after) = self.probe(&embedded.generation)?;
        let after = self.ledger.snapshot();
        let mut record = session::refresh_record(self.steps_done(), &embedded, &before, &after);
        (record.recall_before, record.recall_after) = (recall_before, recall_after);
        self.state.refreshes.push(record);
        self.state.generation = embedded.generation.number();
        self.state.embedded_at = self.state.step;
        self.pipeline.generation = embedded.generation;
        Ok(())
    }

    /// How true the index was and is: recall@10 of the searched generation, before and after, against exact search among the
    /// new vectors, over the first training questions as the live encoder sees them.
    fn probe(&self, new: &Generation) -> Result<(Option<f64>, Option<f64>)> {
        let depth = PROBE_DEPTH.min(new.len());
        let questions: Vec<&str> =
            self.questions.questions.iter().take(PROBES).map(|question| question.question.as_str()).collect();
        let vectors = {
            let _span = self.ledger.span(Phase::Embed);
            let tokenized = self.pipeline.encoder.tokenize(&questions, Role::Question)?;
            self.pipeline.encoder.forward(&tokenized.ids, Grad::Off)?.flatten_all()?.to_vec1::<f32>()?
        };
        let _span = self.ledger.span(Phase::Retrieve);
        let truth = new.search(&vectors, depth, Search::Exact, Trust::StaleAllowed)?;
        let recall = |generation: &Generation| -> Result<Option<f64>> {
            let found = generation.search(&vectors, depth, self.pipeline.search, Trust::StaleAllowed)?;
            let hits = truth.iter().zip(&found).map(|(truth, found)| {
                truth.iter().filter(|hit| found.iter().any(|other| other.ordinal == hit.ordinal)).count()
            });
            Ok(Some(hits.sum::<usize>() as f64 / (depth * questions.len()) as f64))
        };
        Ok((recall(&self.pipeline.generation)?, recall(new)?))
    }

    /// Writes a checkpoint and protects the generation it needs until a later checkpoint needs another.
    pub fn checkpoint(&mut self, stage: &Stage) -> Result<()> {
        let span = self.ledger.span(Phase::Checkpoint);
        if let Some(lock) = &self.lock {
            self.pipeline.corpus.protect(lock, self.state.generation, &self.run.id())?;
        }
        self.state.ledger = self.ledger.snapshot();
        let mut parts = Vec::new();
        if stage.trains.encoder() {
            let params = self.pipeline.encoder.params();
            parts.push(Part { name: "encoder", params, optimizer: &self.encoder_optimizer });
        }
        if stage.trains.generator {
            let params = self.pipeline.generator.params();
            parts.push(Part { name: "generator", params, optimizer: &self.generator_optimizer });
        }
        let folder = self.run.checkpoints();
        span.bytes(checkpoint::write(&folder, &self.state, &parts, self.config.keep_checkpoints)?);
        if let Some(lock) = &self.lock {
            let mut needed = checkpoint::generations(&folder)?;
            needed.push(self.state.generation);
            session::release_generations(&self.pipeline.corpus, lock, &self.run.id(), &needed)?;
        }
        Ok(())
    }

    /// The fingerprint that questions of this pipeline may search: the encoder's own where it embedded the passages, the
    /// base encoder's where only the question side moved.
    pub fn searches(&self, stages: &[Stage]) -> Result<ragtune_index::Fingerprint> {
        let question_side_only = stages.iter().any(|stage| stage.trains.questions && !stage.trains.passages);
        if question_side_only {
            return Ok(self.pipeline.generation.fingerprint().clone());
        }
        fingerprint_of(&self.pipeline.encoder)
    }
}

/// The optimiser settings of a run.
pub fn adamw(config: &TrainConfig) -> AdamWConfig {
    AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() }
}

fn due(every: u64, step: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Clips to a norm (0: no clipping) and returns the norm before.
fn clip(gradients: &mut Gradients, max_norm: f64) -> Result<f64> {
    if max_norm > 0.0 { optimizer::clip(gradients, max_norm) } else { optimizer::global_norm(gradients) }
}

/// What the micro-batches of one step add up to.
#[derive(Default)]
struct Sums {
    loss: f64,
    encoder: Gradients,
    generator: Gradients,
    observed: Vec<Observed>,
}

/// Entropy in nats of `softmax(scores / temperature)`.
fn entropy(scores: &[f32], temperature: f64) -> f64 {
    let scaled: Vec<f64> = scores.iter().map(|score| f64::from(*score) / temperature).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scaled.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
}

/// Seconds by phase between two snapshots of a ledger, for one activity.
pub(crate) fn seconds_between(
    before: &crate::cost::LedgerRecord,
    after: &crate::cost::LedgerRecord,
    activity: Activity,
) -> BTreeMap<String, f64> {
    let mut seconds = BTreeMap::new();
    for entry in after.entries.iter().filter(|entry| entry.activity == activity) {
        let earlier = before.entry(activity, entry.phase).map_or(0.0, |amounts| amounts.seconds);
        let spent = entry.amounts.seconds - earlier;
        if spent > 0.0 {
            seconds.insert(entry.phase.name().to_owned(), spent);
        }
    }
    seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_equal_and_of_distant_scores() {
        assert!((entropy(&[0.3, 0.3, 0.3, 0.3], 0.05) - 4f64.ln()).abs() < 1e-9);
        assert!(entropy(&[1.0, -1.0], 0.01) < 1e-9);
    }
}
