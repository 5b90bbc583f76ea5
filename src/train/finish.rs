//! What follows the last step: the final evaluation, the trained models, the record, and an index without leftovers.

use super::stage::stage_owner;
use super::{Event, Trainer, notes, parts, session};
use crate::cost::{Activity, Phase};
use crate::error::{Context, Error, Result};
use crate::eval::evaluate::Searcher;
use crate::report::record::{ModelRecord, RunRecord, Status};
use crate::strategies::{Stage, Trains};

/// Evaluates, saves what was trained, and completes the record (which the caller writes).
pub fn finish(
    trainer: &mut Trainer<'_>,
    stages: &[Stage],
    record: &mut RunRecord,
    observer: &mut dyn FnMut(Event<'_>),
) -> Result<()> {
    // The final numbers are those of a deployable pipeline: the index must be what the trained encoder may search.
    let searches = trainer.searches(stages)?;
    if !trainer.state.evaluations.iter().any(|evaluation| evaluation.name == "final") {
        trainer.evaluate("final", &Searcher::Same(searches.clone()), observer)?;
    }
    {
        let _activity = trainer.ledger.activity(Activity::Train);
        let _span = trainer.ledger.span(Phase::Checkpoint);
        parts::save(trainer.config, &trainer.pipeline, trained(stages), trainer.run.dir())?;
        if let Some(lock) = &trainer.lock {
            trainer.pipeline.corpus.protect(lock, trainer.state.generation, &trainer.run.id())?;
        }
    }
    note_progress(record, trainer, Status::Finished);
    notes::add(record, trainer, stages);
    record.finished = Some(crate::cost::now_utc());
    let trains = trained(stages);
    for model in &mut record.models {
        let (params, trains) = match model.role.as_str() {
            "encoder" => (trainer.pipeline.encoder.params(), trains.encoder()),
            "selector" => match &trainer.pipeline.selector {
                Some(selector) => (selector.generator.params(), trains.selector),
                None => continue,
            },
            _ => (trainer.pipeline.generator.params(), trains.generator),
        };
        complete(model, params, trains)?;
    }
    Ok(())
}

/// After the record is written: the checkpoints, the stages that no other run can take, and the generations only they needed,
/// are no longer of use.
pub fn tidy(trainer: &Trainer<'_>) -> Result<()> {
    let mut folders = vec![trainer.run.checkpoints()];
    if trainer.config.stages.is_none() {
        folders.push(trainer.config.stages_folder());
    }
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        std::fs::remove_dir_all(folder).context(|| format!("`{}` cannot be removed", folder.display()))?;
    }
    if let Some(lock) = &trainer.lock {
        if trainer.config.stages.is_none() {
            for planned in trainer.plan.iter().filter(|planned| planned.spec.trains.passages) {
                session::release_generations(&trainer.pipeline.corpus, lock, &stage_owner(&planned.id), &[])?;
            }
        }
        session::release_generations(&trainer.pipeline.corpus, lock, &trainer.run.id(), &[trainer.state.generation])?;
    }
    Ok(())
}

/// Brings a record up to where the trainer stands.
pub fn note_progress<'r>(record: &'r mut RunRecord, trainer: &Trainer<'_>, status: Status) -> &'r RunRecord {
    let state = &trainer.state;
    record.status = status;
    record.steps_done = trainer.steps_done();
    record.refreshes = state.refreshes.clone();
    record.evaluations = state.evaluations.clone();
    record.ledger = trainer.ledger.snapshot();
    record.stages = state.stages.clone();
    record.remembered = state.remembered;
    record.index.final_generation = state.generation;
    let generation = &trainer.pipeline.generation;
    record.index.fingerprint = generation.fingerprint().id();
    record.index.vector_bytes = (generation.len() * generation.dim() * size_of::<f32>()) as u64;
    record.index.graph_bytes = generation.graph().map_or(0, |graph| graph.bytes);
    if state.prompts > 0 {
        record.truncated.insert("training prompts".into(), state.truncated_prompts as f64 / state.prompts as f64);
    }
    if state.evaluated_prompts > 0 {
        let share = state.evaluated_truncated as f64 / state.evaluated_prompts as f64;
        record.truncated.insert("evaluation prompts".into(), share);
    }
    record
}

/// The parts that any of the stages moves.
fn trained(stages: &[Stage]) -> Trains {
    stages.iter().fold(Trains::default(), |sum, stage| sum.and(&stage.trains))
}

fn complete(model: &mut ModelRecord, params: &crate::models::params::Params, trains: bool) -> Result<()> {
    if trains {
        model.trained_parameters = params.trainable().map(|(_, variable)| variable.elem_count() as u64).sum();
    }
    let digest = params.digest()?;
    if !trains && digest != model.fingerprint {
        return Err(Error::new(format!(
            "the frozen {} changed during training: this is a defect of ragtune",
            model.role
        ))
        .hint("report it with the run's config.toml"));
    }
    model.final_fingerprint = Some(digest);
    Ok(())
}
