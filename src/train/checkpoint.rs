//! Checkpoints: everything a run needs to go on bit for bit. A folder `step-<n>` is written whole or not at all, every file
//! in it is checksummed in `state.json`, and weights are checked for finite values before they are taken over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::mining::Mined;
use super::notes::Signals;
use super::optimizer::AdamW;
use super::reindex::Pending;
use super::selection::Selection;
use super::stages::Noticed;
use crate::cost::LedgerRecord;
use crate::error::{Context, Error, Result};
use crate::models::folder::replace_folder;
use crate::models::params::Params;
use crate::models::weights::{self, Weights};
use crate::pipeline::fresh::Kept;
use crate::report::record::{EvaluationSummary, RefreshRecord, Remembered, StageCharge};

/// Version of `state.json`.
const SCHEMA: u32 = 2;

/// Where a run stands between two optimiser steps.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct State {
    schema: u32,
    /// The stage of the strategy.
    pub stage: usize,
    /// What that stage is known by; none before it is entered, and in checkpoints of versions that did not say.
    #[serde(default)]
    pub stage_id: Option<String>,
    /// Optimiser steps done in that stage.
    pub step: u64,
    /// The generation that is searched.
    pub generation: u32,
    /// The generation the run began with.
    pub base_generation: u32,
    /// Optimiser steps done when the searched generation was embedded.
    pub embedded_at: u64,
    /// Refreshes so far.
    pub refreshes: Vec<RefreshRecord>,
    /// Evaluations so far.
    pub evaluations: Vec<EvaluationSummary>,
    /// What was spent so far.
    pub ledger: LedgerRecord,
    /// Optimiser steps of the stages before this one.
    pub before: u64,
    /// The stages that are done, and what each is charged.
    pub stages: Vec<StageCharge>,
    /// What was spent when this stage began.
    pub began: LedgerRecord,
    /// Refreshes before this stage.
    pub refreshes_before: usize,
    /// The negatives that this stage trains against now.
    pub mined: Option<Mined>,
    /// A snapshot that is being embedded beside training; its weights are in the folder.
    #[serde(default)]
    pub pending: Option<Pending>,
    /// How often each passage was read since the last refresh.
    #[serde(default)]
    pub retrieved: BTreeMap<u32, u32>,
    /// Candidates that were embedded to rank them since the last refresh.
    #[serde(default)]
    pub ranked: u64,
    /// Live vectors in use; they are in the folder.
    #[serde(default)]
    pub fresh: Kept,
    /// What the questions of this stage gave to learn from so far.
    #[serde(default)]
    pub signals: Signals,
    /// The same of each stage before it, in their order.
    #[serde(default)]
    pub signals_before: Vec<Signals>,
    /// What was remembered of the frozen generator instead of being computed.
    pub remembered: Remembered,
    /// What early stopping saw in this stage.
    pub selection: Selection,
    /// Prompts with a shortened passage so far in training.
    pub truncated_prompts: u64,
    /// Prompts made so far in training.
    pub prompts: u64,
    /// The same two for evaluations.
    pub evaluated_truncated: u64,
    /// Prompts made so far in evaluations.
    pub evaluated_prompts: u64,
    /// What was noticed before this stage.
    #[serde(default)]
    pub noticed_before: Noticed,
    /// blake3 of every other file of the folder.
    files: BTreeMap<String, String>,
}

impl State {
    /// A run that has done nothing yet and searches this generation.
    pub fn at_start(generation: u32) -> Self {
        Self { schema: SCHEMA, generation, base_generation: generation, ..Self::default() }
    }

    /// What was noticed in training so far.
    pub fn noticed(&self) -> Noticed {
        Noticed { remembered: self.remembered, prompts: self.prompts, truncated_prompts: self.truncated_prompts }
    }

    /// Takes over what was noticed when a stage was trained elsewhere.
    pub fn notice(&mut self, noticed: &Noticed) {
        let Noticed { remembered, prompts, truncated_prompts } = self.noticed().and(noticed);
        self.remembered = remembered;
        (self.prompts, self.truncated_prompts) = (prompts, truncated_prompts);
    }

    /// Goes on to the stage after this one, which is done.
    pub fn next_stage(&mut self) {
        self.noticed_before = self.noticed();
        self.before += self.step;
        // A checkpoint of an earlier version knows nothing of the stages before its own.
        self.signals_before.resize(self.stage, Signals::default());
        self.signals_before.push(std::mem::take(&mut self.signals));
        self.stage += 1;
        (self.step, self.embedded_at) = (0, 0);
        self.refreshes_before = self.refreshes.len();
        self.selection = Selection::default();
        (self.mined, self.pending, self.ranked, self.fresh) = (None, None, 0, Kept::default());
        self.retrieved.clear();
    }
}

/// One part of the pipeline with its optimiser.
pub struct Part<'a> {
    /// `encoder` or `generator`.
    pub name: &'static str,
    /// Its weights; only trainable ones are kept.
    pub params: &'a Params,
    /// Its optimiser.
    pub optimizer: &'a AdamW,
}

/// Other tensors of a checkpoint, by the name of their file without its ending.
pub type Beside = BTreeMap<&'static str, BTreeMap<String, Tensor>>;

/// Writes `step-<n>` under `folder`, then removes all but the newest `keep`. Returns the bytes written. Durable when it
/// returns; a crash leaves the earlier checkpoints.
pub fn write(folder: &Path, state: &State, parts: &[Part<'_>], beside: &Beside, keep: usize) -> Result<u64> {
    std::fs::create_dir_all(folder).context(|| format!("the folder `{}` cannot be made", folder.display()))?;
    let target = folder.join(format!("step-{:02}-{:08}", state.stage, state.step));
    let mut bytes = 0;
    replace_folder(&target, "state.json", |dir| {
        let mut state = State { schema: SCHEMA, ..state.clone() };
        let mut keep = |name: String, tensors: &BTreeMap<String, Tensor>| -> Result<()> {
            let file = format!("{name}.safetensors");
            let path = dir.join(&file);
            weights::write(&path, tensors)?;
            bytes += std::fs::metadata(&path)?.len();
            state.files.insert(file, digest(&path)?);
            Ok(())
        };
        for part in parts {
            keep(part.name.to_owned(), &trained(part.params))?;
            keep(format!("{}-optimizer", part.name), &part.optimizer.state()?)?;
        }
        for (name, tensors) in beside {
            keep((*name).to_owned(), tensors)?;
        }
        let text = serde_json::to_vec_pretty(&state)?;
        bytes += text.len() as u64;
        std::fs::write(dir.join("state.json"), text)?;
        Ok(())
    })?;
    let mut all = list(folder)?;
    all.reverse();
    for old in all.into_iter().skip(keep) {
        std::fs::remove_dir_all(&old)
            .context(|| format!("the old checkpoint `{}` cannot be removed", old.display()))?;
    }
    Ok(bytes)
}

/// Where the best weights of a stage are kept while it is trained on.
const BEST: &str = "best";

/// Keeps the weights of some parts as the best so far, instead of those before.
pub fn write_best(folder: &Path, parts: &[Part<'_>]) -> Result<()> {
    std::fs::create_dir_all(folder).context(|| format!("the folder `{}` cannot be made", folder.display()))?;
    replace_folder(&folder.join(BEST), BEST, |dir| {
        for part in parts {
            weights::write(&dir.join(format!("{}.safetensors", part.name)), &trained(part.params))?;
        }
        Ok(std::fs::write(dir.join(BEST), b"")?)
    })
}

/// Takes the best weights of one part back.
pub fn restore_best(folder: &Path, name: &str, params: &Params) -> Result<()> {
    take_over(&folder.join(BEST).join(format!("{name}.safetensors")), params)
}

/// The tensors of a checkpoint folder that [`fn@write`] was given beside its parts; none where there is no such file.
pub fn beside(folder: &Path, name: &str) -> Result<BTreeMap<String, Tensor>> {
    let path = folder.join(format!("{name}.safetensors"));
    if !path.is_file() {
        return Ok(BTreeMap::new());
    }
    let mut found = Weights::read_file(&path, &Device::Cpu)?;
    let names: Vec<String> = found.names().map(str::to_owned).collect();
    let mut tensors = BTreeMap::new();
    for name in names {
        if let Some(tensor) = found.take_any(&name)? {
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}

/// The values of the weights that train.
pub fn trained(params: &Params) -> BTreeMap<String, Tensor> {
    params.trainable().map(|(name, variable)| (name.to_owned(), variable.as_detached_tensor())).collect()
}

/// The generations that the checkpoints of a run need.
pub fn generations(folder: &Path) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for path in list(folder)? {
        // A checkpoint that cannot be read needs nothing: resuming from it is refused.
        if let Some(state) =
            std::fs::read(path.join("state.json")).ok().and_then(|text| serde_json::from_slice::<State>(&text).ok())
        {
            numbers.push(state.generation);
        }
    }
    Ok(numbers)
}

/// The folder of the newest checkpoint, unchecked.
pub fn newest(folder: &Path) -> Option<PathBuf> {
    list(folder).ok()?.pop()
}

/// The newest checkpoint of a run, if it has any: its folder and state, with every checksum verified.
pub fn latest(folder: &Path) -> Result<Option<(PathBuf, State)>> {
    let Some(path) = list(folder)?.pop() else { return Ok(None) };
    let broken = |what: String| {
        Error::new(format!("the checkpoint `{}` is damaged: {what}", path.display()))
            .hint(format!("remove that folder to go on from the checkpoint before it: rm -r {}", path.display()))
    };
    let text = std::fs::read(path.join("state.json"))
        .map_err(|source| broken("state.json cannot be read".into()).because(source))?;
    let state: State = serde_json::from_slice(&text)
        .map_err(|source| broken("state.json cannot be understood".into()).because(source))?;
    if state.schema != SCHEMA {
        return Err(broken(format!("state.json has schema {}, expected {SCHEMA}", state.schema)));
    }
    for (file, expected) in &state.files {
        let found =
            digest(&path.join(file)).map_err(|source| broken(format!("`{file}` cannot be read")).because(source))?;
        if &found != expected {
            return Err(broken(format!("`{file}` has checksum {found}, expected {expected}")));
        }
    }
    Ok(Some((path, state)))
}

/// Takes the weights and optimiser state of one part over from a checkpoint folder. All names, shapes and values are
/// checked before the first weight changes.
pub fn restore(folder: &Path, name: &str, params: &Params, optimizer: &mut AdamW) -> Result<()> {
    let values = values(&folder.join(format!("{name}.safetensors")), params)?;
    let path = folder.join(format!("{name}-optimizer.safetensors"));
    let mut moments = Weights::read_file(&path, &Device::Cpu)?;
    let names: Vec<String> = moments.names().map(str::to_owned).collect();
    let mut state = BTreeMap::new();
    for name in names {
        if let Some(tensor) = moments.take_any(&name)? {
            state.insert(name, tensor);
        }
    }
    optimizer.load_state(state)?;
    for (variable, value) in values {
        variable.set(&value.to_device(variable.device())?)?;
    }
    Ok(())
}

/// The values that a file holds for exactly what trains.
fn values<'p>(path: &Path, params: &'p Params) -> Result<Vec<(&'p candle_core::Var, Tensor)>> {
    let mut found = Weights::read_file(path, &Device::Cpu)?;
    let mut values = Vec::new();
    for (name, variable) in params.trainable() {
        values.push((variable, found.take(name, variable.dims())?));
    }
    if let Some(surplus) = found.names().next() {
        return Err(Error::new(format!(
            "`{}` holds a tensor `{surplus}` that does not train in this run",
            path.display()
        ))
        .hint("resume with the models the run was started with"));
    }
    Ok(values)
}

/// Gives the weights that train the values of a file that holds exactly these.
pub fn take_over(path: &Path, params: &Params) -> Result<()> {
    for (variable, value) in values(path, params)? {
        variable.set(&value.to_device(variable.device())?)?;
    }
    Ok(())
}

/// Checkpoint folders, oldest first.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::new(format!("`{}` cannot be read", folder.display())).because(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("step-")) {
            found.push(path);
        }
    }
    // Numbers are zero-padded, so the order of names is the order of steps.
    found.sort();
    Ok(found)
}

fn digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    std::io::copy(&mut std::fs::File::open(path)?, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::optimizer::AdamWConfig;

    fn params() -> Params {
        let mut params = Params::new();
        params.insert("a", Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap(), true).unwrap();
        params.insert("b", Tensor::new(&[3f32], &Device::Cpu).unwrap(), false).unwrap();
        params
    }

    fn state(step: u64) -> State {
        State { step, ..State::default() }
    }

    #[test]
    fn the_newest_are_kept_and_damage_is_named() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("checkpoints");
        assert!(latest(&folder).unwrap().is_none());
        let params = params();
        let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
        for step in [1, 2, 10] {
            let part = Part { name: "encoder", params: &params, optimizer: &optimizer };
            write(&folder, &state(step), &[part], &Beside::new(), 2).unwrap();
        }
        assert_eq!(list(&folder).unwrap().len(), 2);
        let (path, state) = latest(&folder).unwrap().unwrap();
        assert_eq!(state.step, 10);
        restore(&path, "encoder", &params, &mut optimizer).unwrap();

        let file = path.join("encoder.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let error = latest(&folder).unwrap_err();
        assert!(error.to_string().contains("encoder.safetensors"), "{error}");
        assert!(error.find_hint().unwrap().contains("rm -r"));
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
        assert!(latest(&folder).is_err());
    }

    #[test]
    fn a_nan_is_refused_by_tensor_name_and_changes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let mut optimizer = AdamW::new(AdamWConfig::default()).unwrap();
        let poisoned = params();
        poisoned.get("a").unwrap().var.set(&Tensor::new(&[f32::NAN, 2.0], &Device::Cpu).unwrap()).unwrap();
        let part = Part { name: "encoder", params: &poisoned, optimizer: &optimizer };
        write(root.path(), &state(1), &[part], &Beside::new(), 1).unwrap();
        let (path, _) = latest(root.path()).unwrap().unwrap();
        let sound = params();
        let error = restore(&path, "encoder", &sound, &mut optimizer).unwrap_err();
        assert!(error.to_string().contains("`a`"), "{error}");
        assert_eq!(sound.get("a").unwrap().var.to_vec1::<f32>().unwrap(), vec![1.0, 2.0]);
    }
}
