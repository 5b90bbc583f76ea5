//! One run from its settings to its record, with what is shown meanwhile: what `train` does once and `compare` many times.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use ragtune_index::Corpus;

use super::{OF_THE_INDEX, announce_graph, announce_words, locate, progress, warn_if_slow};
use crate::config::{TrainConfig, generator_format};
use crate::cost::{Ledger, Phase, machine, units};
use crate::error::{Context, Error, Result};
use crate::models::nn::Format;
use crate::models::{Precision, device};
use crate::pipeline::identity::encoder_of;
use crate::report::files::{METRICS_FILE, RECORD_FILE, read_lines};
use crate::report::record::{CurvePoint, RunRecord, Status};
use crate::strategies::Stage;
use crate::train::memory::Estimate;
use crate::train::run::RunFolder;
use crate::train::session::Session;
use crate::train::{Event, Outcome, checkpoint, finish, health, memory, notes};

/// Fetches models of the hub, before signals are taken for the loop, and notes their commits in the settings: a run goes on,
/// and is run again from its settings, with the very same files.
pub fn pin_models(config: &mut TrainConfig) -> Result<()> {
    let encoder = match &config.encoder {
        Some(typed) => typed.clone(),
        None => encoder_of(&Corpus::open(&config.index)?)?,
    };
    let selector = config.selector.clone().map(|typed| ("selector", typed));
    for (part, typed) in [("encoder", encoder), ("generator", config.generator.clone())].into_iter().chain(selector) {
        let pinned = config.pinned(part, &typed);
        let located = locate(&pinned)?;
        if pinned != typed {
            continue;
        }
        match located.origin {
            Some(origin) => config.hub.insert(part.to_owned(), origin),
            None => config.hub.remove(part),
        };
    }
    Ok(())
}

/// What to type after an error in a run that has begun.
fn resumable(error: Error, run: &Path) -> Error {
    let command = format!("ragtune train --resume {}", run.display());
    if !run.join(RECORD_FILE).is_file() {
        return error;
    }
    if error.out_of_space() {
        return error
            .hint(format!("the disk is full: free some space, then go on from the last checkpoint: {command}"));
    }
    error.or_hint(format!("mend the cause, then go on from the last checkpoint: {command}"))
}

/// How a run ended that nothing went wrong with.
pub enum Ended {
    /// Trained, evaluated and written down.
    Finished(Box<RunRecord>),
    /// A signal stopped it; a checkpoint is written.
    Interrupted {
        /// Optimiser steps done.
        done: u64,
        /// Optimiser steps asked for.
        asked: u64,
    },
}

/// Takes signals from now on: the first asks for a checkpoint after the step.
pub fn interruptible() -> Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal asks for a checkpoint after the step; a second one leaves at once, which loses no more than
        // `kill -9` does: the work since the last checkpoint.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .context(|| format!("signal {signal} cannot be handled"))?;
    }
    Ok(interrupted)
}

/// Does one run in its folder: prepare, train (or go on), evaluate, save, record. `dress` puts into the record what only the
/// caller knows.
pub fn once(
    config: &TrainConfig,
    run: &RunFolder,
    resumed: Option<RunRecord>,
    interrupted: &AtomicBool,
    dress: &dyn Fn(&mut RunRecord),
) -> Result<Ended> {
    trained(config, run, resumed, interrupted, dress).map_err(|error| resumable(error, run.dir()))
}

/// What is said of a run before it begins.
pub fn foreseen(config: &TrainConfig, stages: &[Stage]) -> Vec<String> {
    let mut notes = health::foreseen(config, stages);
    notes.extend(notes::single_passage(config.top_k, stages));
    notes.extend(notes::gold_injection(stages));
    // A device has kernels of its own.
    if config.device == "cpu"
        && generator_format(&config.generator_dtype).is_ok_and(|format| format == Some(Format::Bf16))
    {
        notes.extend(device::slow_precision("`--generator-dtype`", Precision::Bf16));
    }
    notes
}

/// Refreshes embed as the index was embedded, whatever this processor is good at.
pub fn warn_of_slow_refreshes(session: &Session, stages: &[Stage]) -> Result<()> {
    if stages.iter().any(|stage| stage.trains.passages) {
        warn_if_slow(OF_THE_INDEX, session.precision()?);
    }
    Ok(())
}

/// Notes in the record what was foreseen, and what the curve shows now.
fn look_back(record: &mut RunRecord, run: &RunFolder, config: &TrainConfig, foreseen: &[String]) -> Result<()> {
    let file = run.dir().join(METRICS_FILE);
    // A run without a step has no curve.
    let curve: Vec<CurvePoint> = if file.is_file() { read_lines(&file)? } else { Vec::new() };
    let shown = health::shown(&curve, &record.stages, config);
    let unpaid = health::unpaid(&record.refreshes, &record.stages);
    for note in foreseen.iter().cloned().chain(shown).chain(unpaid) {
        if !record.notes.contains(&note) {
            record.notes.push(note);
        }
    }
    Ok(())
}

/// Bytes that a run may take beside what is loaded; none where nobody knows.
pub fn free_bytes(session: &Session, estimate: &Estimate) -> Option<u64> {
    match estimate.on_device {
        true => device::free_bytes(session.pipeline.encoder.device()),
        false => machine::available_bytes(),
    }
}

/// Removes what a killed session left half-written in the index. What it had embedded stays, to be taken over.
fn tidy(config: &TrainConfig) -> Result<()> {
    let corpus = Corpus::open(&config.index)?;
    let lock = corpus.lock(&format!("ragtune train --resume {}", config.out.display()))?;
    for done in corpus.mend_alike(&lock, &mut |_stage| {})? {
        eprintln!("mended: {done}");
    }
    Ok(())
}

fn trained(
    config: &TrainConfig,
    run: &RunFolder,
    resumed: Option<RunRecord>,
    interrupted: &AtomicBool,
    dress: &dyn Fn(&mut RunRecord),
) -> Result<Ended> {
    let stages = config.stages()?;
    let found = match resumed {
        Some(_) => checkpoint::latest(&run.checkpoints())?,
        None => None,
    };
    let ledger = match &found {
        Some((_, state)) => Ledger::resume(state.ledger.clone()),
        None => Ledger::new(),
    };
    let foreseen = foreseen(config, &stages);
    foreseen.iter().for_each(|note| eprintln!("warning: {note}"));
    if resumed.is_some() && stages.iter().any(|stage| stage.trains.passages) {
        ledger.charge(Phase::Load, || tidy(config))?;
    }
    let session = Session::prepare(config, &stages, &ledger)?;
    warn_of_slow_refreshes(&session, &stages)?;
    let mut record = ledger.charge(Phase::Load, || match resumed {
        Some(record) => session.check_unchanged(record),
        None => session.record(config),
    })?;
    let estimate = memory::estimate(&session, config, &stages)?;
    if let Some(available) = free_bytes(&session, &estimate) {
        estimate.check(available as f64, config)?;
    }
    // The record's memory is this machine's: of a device's there is no measurement that it could stand beside.
    if estimate.on_device {
        eprintln!(
            "about {} of the memory of `{}` are expected to be used; how much is, is not measured: peak memory in reports is this machine's",
            units::bytes(estimate.peak() as u64),
            config.device
        );
    }
    record.expected_memory_bytes = if estimate.on_device { 0 } else { estimate.peak() as u64 };
    dress(&mut record);
    record.status = Status::Running;
    record.save(run.dir())?;
    let mut trainer = session.trainer(config, run, &ledger, found)?;
    announce_graph(&trainer.pipeline.generation, trainer.pipeline.search);
    announce_words(&trainer.pipeline.retriever);
    let mut bars = Bars::default();
    let outcome = trainer.train(&stages, interrupted, &mut |event| bars.show(event));
    bars.clear();
    match outcome {
        Ok(Outcome::Finished) => {}
        Ok(Outcome::Interrupted) => {
            finish::note_progress(&mut record, &trainer, Status::Interrupted).save(run.dir())?;
            return Ok(Ended::Interrupted { done: trainer.steps_done(), asked: record.steps_total });
        }
        Err(error) => {
            // What went wrong is what is said, also where a full disk keeps the record from being written.
            let status = if error.is_divergence() { Status::Diverged } else { Status::Interrupted };
            let _ = finish::note_progress(&mut record, &trainer, status).save(run.dir());
            return Err(error);
        }
    }
    finish::finish(&mut trainer, &stages, &mut record, &mut |event| bars.show(event))?;
    bars.clear();
    look_back(&mut record, run, config, &foreseen)?;
    record.save(run.dir())?;
    record.notes.iter().filter(|note| !foreseen.contains(note)).for_each(|note| eprintln!("warning: {note}"));
    finish::tidy(&trainer)?;
    Ok(Ended::Finished(Box::new(record)))
}

/// One bar at a time: steps, or what interrupts them.
#[derive(Default)]
struct Bars {
    steps: Option<ProgressBar>,
    other: Option<ProgressBar>,
}

impl Bars {
    fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Step { steps, metrics } => {
                self.other = None;
                let bar = self.steps.get_or_insert_with(|| progress("training", steps, "steps"));
                bar.set_position(metrics.step);
                bar.set_message(format!("loss {:.3}", metrics.loss));
            }
            Event::Refresh(done, total) => self.side("refresh", "passages", done, total),
            Event::Evaluate(done, total) => self.side("evaluate", "questions", done, total),
        }
    }

    fn side(&mut self, what: &str, unit: &str, done: u64, total: u64) {
        self.other.get_or_insert_with(|| progress(what, total, unit)).set_position(done);
        if done >= total {
            self.other = None;
        }
    }

    fn clear(&mut self) {
        for bar in [self.steps.take(), self.other.take()].into_iter().flatten() {
            bar.finish_and_clear();
        }
    }
}
