//! `ragtune train`: prepare, train (or go on), evaluate, save, record.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::ProgressBar;
use ragtune_index::Corpus;

use super::{announce_graph, locate, print_json, print_text, progress};
use crate::cli::TrainArgs;
use crate::config::TrainConfig;
use crate::cost::{Ledger, Phase, machine, units};
use crate::error::{Context, Error, Result};
use crate::models::device;
use crate::pipeline::identity::encoder_of;
use crate::report::files::RECORD_FILE;
use crate::report::record::{RunRecord, Status};
use crate::train::run::RunFolder;
use crate::train::session::Session;
use crate::train::{Event, Outcome, checkpoint, finish, memory};

pub fn run(args: &TrainArgs) -> Result<u8> {
    let (config, run, resumed) = match &args.resume {
        Some(dir) => {
            let run = RunFolder::open(dir)?;
            // The folder may have been moved since.
            let mut config = TrainConfig { out: dir.clone(), ..TrainConfig::of_run(dir)? };
            // Killed before it wrote anything but its settings: it begins.
            let record = dir
                .join(RECORD_FILE)
                .is_file()
                .then(|| RunRecord::load(dir))
                .transpose()
                .map_err(super::damaged_run)?;
            if record.as_ref().is_some_and(|record| record.status == Status::Finished) {
                return Err(Error::new(format!("the run `{}` is finished, there is nothing to resume", dir.display()))
                    .hint(format!("ragtune compare {}", dir.display())));
            }
            pin_models(&mut config)?;
            (config, run, record)
        }
        None => {
            let mut config = TrainConfig::resolve(args)?;
            if args.dry_run {
                print_text(&super::dry_run::describe(&config)?)?;
                return Ok(0);
            }
            pin_models(&mut config)?;
            let run = RunFolder::create(&config.out)?;
            run.write("config.toml", config.to_toml()?.as_bytes())?;
            (config, run, None)
        }
    };
    let ended = train(&config, &run, resumed, args.json).map_err(|error| resumable(error, run.dir()));
    if ended.is_err() && args.resume.is_none() && !run.dir().join(RECORD_FILE).exists() {
        // Refused before it began: the folder must not stand in the way of the corrected command. What was wrong is said
        // in any case, also where the folder cannot be removed.
        let _ = run.discard();
    }
    ended
}

/// Fetches models of the hub, before signals are taken for the loop, and notes their commits in the settings: a run goes on,
/// and is run again from its settings, with the very same files.
fn pin_models(config: &mut TrainConfig) -> Result<()> {
    let encoder = match &config.encoder {
        Some(typed) => typed.clone(),
        None => encoder_of(&Corpus::open(&config.index)?)?,
    };
    for (part, typed) in [("encoder", encoder), ("generator", config.generator.clone())] {
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

fn train(config: &TrainConfig, run: &RunFolder, resumed: Option<RunRecord>, json: bool) -> Result<u8> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The first signal asks for a checkpoint after the step; a second one leaves at once, which loses no more than
        // `kill -9` does: the work since the last checkpoint.
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&interrupted)))
            .context(|| format!("signal {signal} cannot be handled"))?;
    }
    let stages = config.stages()?;
    let found = match resumed {
        Some(_) => checkpoint::latest(&run.checkpoints())?,
        None => None,
    };
    let ledger = match &found {
        Some((_, state)) => Ledger::resume(state.ledger.clone()),
        None => Ledger::new(),
    };
    let session = Session::prepare(config, &stages, &ledger)?;
    let mut record = ledger.charge(Phase::Load, || match resumed {
        Some(record) => session.check_unchanged(record),
        None => session.record(config),
    })?;
    let estimate = memory::estimate(&session, config, &stages)?;
    let available = match estimate.on_device {
        true => device::free_bytes(session.pipeline.encoder.device()),
        false => machine::available_bytes(),
    };
    if let Some(available) = available {
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
    record.status = Status::Running;
    record.save(run.dir())?;
    let mut trainer = session.trainer(config, run, &stages, &ledger, found)?;
    announce_graph(&trainer.pipeline.generation, trainer.pipeline.search);
    let mut bars = Bars::default();
    let outcome = trainer.train(&stages, &interrupted, &mut |event| bars.show(event));
    bars.clear();
    match outcome {
        Ok(Outcome::Finished) => {}
        Ok(Outcome::Interrupted) => {
            finish::note_progress(&mut record, &trainer, Status::Interrupted).save(run.dir())?;
            eprintln!(
                "interrupted after {} of {} steps; a checkpoint is written\nnext: ragtune train --resume {}",
                trainer.steps_done(),
                config.steps,
                run.dir().display()
            );
            return Ok(130);
        }
        Err(error) => {
            // What went wrong is what is said, also where a full disk keeps the record from being written.
            let _ = finish::note_progress(&mut record, &trainer, Status::Interrupted).save(run.dir());
            return Err(error);
        }
    }
    finish::finish(&mut trainer, &stages, &mut record, &mut |event| bars.show(event))?;
    bars.clear();
    record.save(run.dir())?;
    finish::tidy(&trainer)?;
    if json {
        print_json(&record)?;
    } else {
        print_text(&summary(&record, run.dir()))?;
    }
    Ok(0)
}

fn summary(record: &RunRecord, run: &Path) -> String {
    let percent = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{:.1}", 100.0 * value));
    let mut lines = Vec::new();
    if let Some(last) = record.evaluation("final") {
        lines.push(format!(
            "{}: EM {} F1 {} recall@5 {} MRR@10 {} on {} questions ({} reader)",
            record.name(),
            percent(last.em),
            percent(last.f1),
            percent(last.recall.get(&5).copied()),
            percent(last.mrr10),
            last.n,
            last.reader_mode
        ));
    }
    lines.push(format!(
        "{} in all, {} of it for {} index refreshes; not attributed: {}",
        units::seconds(record.ledger.wall_seconds),
        units::share(record.ledger.refresh_share()),
        record.refreshes.len(),
        units::share(record.ledger.unattributed_share())
    ));
    lines.push(format!("run folder: {}\nnext: ragtune compare {} <other runs>", run.display(), run.display()));
    lines.join("\n")
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
