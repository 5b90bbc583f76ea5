//! What follows the last step: the final evaluation, the trained models, the record, and an index without leftovers.

use std::path::Path;

use super::{Event, Trainer, session};
use crate::cost::{Activity, Phase};
use crate::error::{Context, Error, Result};
use crate::eval::evaluate::Searcher;
use crate::hub::Origin;
use crate::models::folder::replace_file;
use crate::pipeline::identity::mark_question_side;
use crate::report::record::{ModelRecord, RunRecord, Status};
use crate::strategies::Stage;

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
        save(trainer, stages, &searches)?;
        if let Some(lock) = &trainer.lock {
            trainer.pipeline.corpus.protect(lock, trainer.state.generation, &trainer.run.id())?;
        }
    }
    note_progress(record, trainer, Status::Finished);
    record.finished = Some(crate::cost::now_utc());
    let trained = |part: fn(&Stage) -> bool| stages.iter().any(part);
    for model in &mut record.models {
        let (params, trains) = match model.role.as_str() {
            "encoder" => (trainer.pipeline.encoder.params(), trained(|stage| stage.trains.encoder())),
            _ => (trainer.pipeline.generator.params(), trained(|stage| stage.trains.generator)),
        };
        complete(model, params, trains)?;
    }
    Ok(())
}

/// After the record is written: the checkpoints, and the generations only they needed, are no longer of use.
pub fn tidy(trainer: &Trainer<'_>) -> Result<()> {
    let folder = trainer.run.checkpoints();
    if folder.is_dir() {
        std::fs::remove_dir_all(&folder).context(|| format!("`{}` cannot be removed", folder.display()))?;
    }
    if let Some(lock) = &trainer.lock {
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
    record.index.final_generation = state.generation;
    record.index.fingerprint = trainer.pipeline.generation.fingerprint().id();
    if state.prompts > 0 {
        record.truncated.insert("training prompts".into(), state.truncated_prompts as f64 / state.prompts as f64);
    }
    if state.evaluated_prompts > 0 {
        let share = state.evaluated_truncated as f64 / state.evaluated_prompts as f64;
        record.truncated.insert("evaluation prompts".into(), share);
    }
    record
}

fn save(trainer: &Trainer<'_>, stages: &[Stage], searches: &ragtune_index::Fingerprint) -> Result<()> {
    let (pipeline, run) = (&trainer.pipeline, trainer.run);
    if stages.iter().any(|stage| stage.trains.encoder()) {
        pipeline.encoder.save(&run.encoder())?;
        if !stages.iter().any(|stage| stage.trains.passages) {
            mark_question_side(&run.encoder(), searches)?;
        }
    }
    if stages.iter().any(|stage| stage.trains.generator) {
        if pipeline.generator.lora().is_some() {
            pipeline.generator.save_adapter(&run.adapter())?;
            if let Some(origin) = trainer.config.hub.get("generator") {
                name_base(&run.adapter(), origin)?;
            }
        } else {
            pipeline.generator.save(&run.generator())?;
            let template = serde_json::to_vec_pretty(&pipeline.prompt.template)?;
            run.write("generator/prompt.json", &template)?;
        }
    }
    Ok(())
}

/// Names the base of an adapter as the hub does: a folder of this machine's cache would tell others nothing.
fn name_base(adapter: &Path, origin: &Origin) -> Result<()> {
    let path = adapter.join("adapter_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["base_model_name_or_path"] = origin.repo.as_str().into();
    config["revision"] = origin.commit.as_str().into();
    let text = serde_json::to_vec_pretty(&config)?;
    replace_file(&path, |temporary| Ok(std::fs::write(temporary, &text)?))
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
