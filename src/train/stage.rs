//! Between stages: what a stage begins with, what it leaves, and stages that are taken from the store.

use super::checkpoint::restore;
use super::optimizer::AdamW;
use super::stages::StageRecord;
use super::{Trainer, adamw, parts};
use crate::cost::Phase;
use crate::error::{Error, Result};
use crate::pipeline::identity::searched_by;
use crate::report::files::{METRICS_FILE, append_line, read_lines};
use crate::report::record::{CurvePoint, RefreshRecord, StageCharge};
use crate::strategies::Stage;

/// What the pipeline in memory holds: the numbers of the stages that left its parts, none for the base models.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Holds {
    pub(super) encoder: Option<usize>,
    pub(super) generator: Option<usize>,
    /// Whether an adapter that no stage has trained yet is on the generator.
    pub(super) adapter: bool,
    pub(super) selector: Option<usize>,
    /// The same of the selector.
    pub(super) selector_adapter: bool,
}

impl Trainer<'_> {
    /// Takes a stage from the store, if it is there and was not begun here: its cost, curve and refreshes become part of this
    /// run's record. Its models are loaded by whoever needs them.
    pub(super) fn take(&mut self, stage: &Stage) -> Result<bool> {
        let planned = &self.plan[self.state.stage];
        if self.state.step > 0 || self.found.is_some() {
            return Ok(false);
        }
        let Some(record) = self.store.find(&planned.id)? else { return Ok(false) };
        let _span = self.ledger.span(Phase::Load);
        let before = self.state.before;
        let file = self.run.dir().join(METRICS_FILE);
        for point in self.store.curve(&planned.id)? {
            append_line(&file, &CurvePoint { step: before + point.step, ..point })?;
        }
        self.state.refreshes.extend(moved(&record.refreshes, |step| before + step));
        self.state.notice(&record.noticed);
        self.state.step = record.steps;
        self.state.signals = record.signals;
        self.state.stages.push(charge(&record, stage, true));
        Ok(true)
    }

    /// Makes the pipeline what a stage begins with, and takes its checkpoint over where there is one.
    pub(super) fn enter(&mut self, stage: &Stage) -> Result<()> {
        let planned = &self.plan[self.state.stage];
        let wanted = Holds {
            encoder: planned.encoder,
            generator: planned.generator,
            adapter: stage.trains.generator && planned.generator.is_none() && self.config.lora_rank.is_some(),
            selector: planned.selector,
            selector_adapter: stage.trains.selector && planned.selector.is_none() && self.config.lora_rank.is_some(),
        };
        let found = self.found.take();
        if let Some(began) = self.state.stage_id.take().filter(|began| found.is_some() && *began != planned.id) {
            return Err(Error::new(format!(
                "stage `{}` was begun by another version of ragtune, for which it was not what it is now: it began as `{began}`, \
                 and would be kept as `{}`",
                planned.spec.name, planned.id
            ))
            .hint("go on with that version, or begin a new run with another `--out`"));
        }
        self.state.stage_id = Some(planned.id.clone());
        if found.is_none() {
            self.state.began = self.ledger.snapshot();
        }
        let generation = self.state.generation;
        self.hold(wanted)?;
        self.encoder_optimizer = AdamW::new(adamw(self.config))?;
        self.generator_optimizer = AdamW::new(adamw(self.config))?;
        self.selector_optimizer = AdamW::new(adamw(self.config))?;
        let Some(folder) = found else { return self.set_context(stage) };
        // The checkpoint's negatives are taken over: mining is dear, and now would find others.
        self.context = self.context(stage)?;
        self.context.mined = self.mined_before()?;
        let _span = self.ledger.span(Phase::Load);
        if stage.trains.encoder() {
            restore(&folder, "encoder", self.pipeline.encoder.params(), &mut self.encoder_optimizer)?;
        }
        if stage.trains.generator {
            restore(&folder, "generator", self.pipeline.generator.params(), &mut self.generator_optimizer)?;
        }
        if let (true, Some(selector)) = (stage.trains.selector, &self.pipeline.selector) {
            restore(&folder, "selector", selector.generator.params(), &mut self.selector_optimizer)?;
        }
        if generation != self.pipeline.generation.number() {
            self.pipeline.generation = self.pipeline.corpus.generation(generation)?;
            self.state.generation = generation;
        }
        self.follow_from(&folder)
    }

    /// Puts a finished stage into the store and onto the bill.
    pub(super) fn publish(&mut self, stage: &Stage) -> Result<()> {
        if stage.trains.encoder() {
            self.holds.encoder = Some(self.state.stage);
        }
        if stage.trains.generator {
            (self.holds.generator, self.holds.adapter) = (Some(self.state.stage), false);
        }
        if stage.trains.selector {
            (self.holds.selector, self.holds.selector_adapter) = (Some(self.state.stage), false);
        }
        let planned = &self.plan[self.state.stage];
        let before = self.state.before;
        let span = self.ledger.span(Phase::Checkpoint);
        let mut record = StageRecord::new(planned)?;
        record.equation = stage.objective.equation().to_owned();
        (record.steps, record.steps_asked) = (self.state.step, self.steps());
        record.best_step = self.state.selection.best.map_or(self.state.step, |(step, _)| step);
        record.generation = self.pipeline.generation.number();
        record.vectors = self.pipeline.generation.fingerprint().id();
        for part in self.moving(stage) {
            record.digests.insert(part.name.to_owned(), part.params.digest()?);
        }
        let refreshes = self.state.refreshes.get(self.state.refreshes_before..).unwrap_or_default();
        record.refreshes = moved(refreshes, |step| step - before);
        record.noticed = self.state.noticed().since(&self.state.noticed_before);
        record.signals = self.state.signals;
        let file = self.run.dir().join(METRICS_FILE);
        // A stage of no steps has no curve.
        let curve: Vec<CurvePoint> = if file.is_file() { read_lines(&file)? } else { Vec::new() };
        let curve: Vec<CurvePoint> = curve
            .into_iter()
            .filter(|point| point.step > before)
            .map(|point| CurvePoint { step: point.step - before, ..point })
            .collect();
        // A stage that is shared keeps the vectors it needs.
        if let (true, Some(lock)) = (stage.trains.passages, &self.lock) {
            self.pipeline.corpus.protect(lock, record.generation, &stage_owner(&planned.id))?;
        }
        record.ledger = self.ledger.snapshot().since(&self.state.began);
        self.store.publish(&record, &curve, |dir| parts::save(self.config, &self.pipeline, stage.trains, dir))?;
        span.bytes(bytes_below(&self.store.folder(&planned.id))?);
        self.state.stages.push(charge(&record, stage, false));
        Ok(())
    }

    /// Makes the pipeline what the stages together left.
    pub(super) fn assemble(&mut self) -> Result<()> {
        let last = |trains: fn(&crate::strategies::Trains) -> bool| {
            self.plan.iter().rposition(|planned| trains(&planned.spec.trains))
        };
        let wanted = Holds {
            encoder: last(|trains| trains.encoder()),
            generator: last(|trains| trains.generator),
            selector: last(|trains| trains.selector),
            ..Holds::default()
        };
        self.hold(wanted)
    }

    /// Loads what these stages left, where the pipeline does not hold it. A part that is about to train from its base gets a
    /// new adapter where the settings ask for one.
    fn hold(&mut self, wanted: Holds) -> Result<()> {
        if self.holds == wanted {
            return Ok(());
        }
        let _span = self.ledger.span(Phase::Load);
        let device = crate::models::device::open(&self.config.device)?;
        let left = |number: usize| self.store.folder(&self.plan[number].id);
        if self.holds.encoder != wanted.encoder {
            let base = || self.bases.encoder.clone();
            let folder = wanted.encoder.map_or_else(base, |number| left(number).join(parts::ENCODER));
            self.pipeline.encoder = parts::encoder(self.config, &folder, &device)?;
            let (generation, _) = searched_by(&self.pipeline.corpus, &self.pipeline.encoder, &folder)?;
            self.pipeline.generation = generation;
            self.state.generation = self.pipeline.generation.number();
        }
        if (self.holds.generator, self.holds.adapter) != (wanted.generator, wanted.adapter) {
            let folder = wanted.generator.map(left);
            let mut generator = parts::generator(self.config, &self.bases.generator, folder.as_deref(), &device)?;
            if wanted.adapter {
                parts::adapt(self.config, &mut generator)?;
            }
            self.pipeline.generator = generator;
        }
        let selects = (self.holds.selector, self.holds.selector_adapter);
        if let (Some(base), true) = (&self.bases.selector, selects != (wanted.selector, wanted.selector_adapter)) {
            let folder = wanted.selector.map(left);
            let mut selector = parts::selector(self.config, base, folder.as_deref(), &device)?;
            if wanted.selector_adapter {
                parts::adapt(self.config, &mut selector.generator)?;
            }
            self.pipeline.selector = Some(selector);
        }
        self.holds = wanted;
        Ok(())
    }
}

/// The name under which a stage protects the generation that it needs.
pub(super) fn stage_owner(id: &str) -> String {
    format!("stage-{id}")
}

fn moved(refreshes: &[RefreshRecord], step: impl Fn(u64) -> u64) -> Vec<RefreshRecord> {
    refreshes.iter().map(|refresh| RefreshRecord { step: step(refresh.step), ..refresh.clone() }).collect()
}

fn charge(record: &StageRecord, stage: &Stage, reused: bool) -> StageCharge {
    StageCharge {
        id: record.id.clone(),
        name: stage.name.to_owned(),
        equation: record.equation.clone(),
        settings: stage.objective.settings().into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        reused,
        steps: record.steps,
        steps_asked: record.steps_asked,
        best_step: record.best_step,
        refreshes: record.refreshes.iter().filter(|refresh| refresh.changed()).count() as u64,
        ledger: record.ledger.clone(),
    }
}

/// Bytes of the files in a folder and its folders.
fn bytes_below(folder: &std::path::Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += match entry.file_type()?.is_dir() {
            true => bytes_below(&entry.path())?,
            false => entry.metadata()?.len(),
        };
    }
    Ok(bytes)
}
