//! Stages that are done: what each left, what it cost, and where it is kept for every strategy that contains it.
//!
//! A store is a folder with a folder for each stage, named by its id: `stage.json` (the record), `metrics.jsonl` (its curve) and
//! the models that it trained (`encoder`, and `generator` or `adapter`). A stage is written whole or not at all and never
//! changes; whoever needs it again takes it from there and is charged what it cost.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::notes::Signals;
use super::spec::{Planned, StageSpec};
use crate::cost::LedgerRecord;
use crate::error::{Context, Error, Result};
use crate::models::folder::replace_folder;
use crate::report::files::{METRICS_FILE, read_lines};
use crate::report::record::{CurvePoint, RefreshRecord, Remembered};

/// Version of `stage.json`.
const SCHEMA: u32 = 1;
/// The file that makes a folder a stage.
const RECORD: &str = "stage.json";

/// What one stage left and what it cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Version of this record.
    schema: u32,
    /// Its id; see [`StageSpec::id`].
    pub id: String,
    /// Name of the stage.
    pub name: String,
    /// The equation, as reports name it.
    pub equation: String,
    /// What the id stands for.
    pub spec: serde_json::Value,
    /// Optimiser steps done.
    pub steps: u64,
    /// Optimiser steps asked for; more than `steps` where it was stopped early.
    pub steps_asked: u64,
    /// The step whose weights were kept.
    pub best_step: u64,
    /// The generation that its encoder searches.
    pub generation: u32,
    /// Id of the fingerprint of those vectors.
    pub vectors: String,
    /// Digest of the trained weights by part (`encoder`, `generator`, `selector`).
    pub digests: BTreeMap<String, String>,
    /// Its refreshes; steps are counted from its own first.
    pub refreshes: Vec<RefreshRecord>,
    /// What was noticed while it trained.
    #[serde(default)]
    pub noticed: Noticed,
    /// What its questions gave to learn from.
    #[serde(default)]
    pub signals: Signals,
    /// What it cost: training, refreshes, checkpoints, and the evaluations within it.
    pub ledger: LedgerRecord,
}

/// What is noticed in training besides its cost: what was saved, and what a reader of the numbers is warned of. It belongs to the
/// stage, whoever trained it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Noticed {
    /// What was remembered of the frozen generator instead of being computed.
    pub remembered: Remembered,
    /// Prompts made.
    pub prompts: u64,
    /// Prompts with a shortened passage.
    pub truncated_prompts: u64,
}

impl Noticed {
    /// This and another together.
    pub fn and(&self, other: &Self) -> Self {
        let (ours, theirs) = (&self.remembered, &other.remembered);
        Self {
            remembered: Remembered {
                prompts: ours.prompts + theirs.prompts,
                computed: ours.computed + theirs.computed,
                tokens: ours.tokens + theirs.tokens,
                flops: ours.flops + theirs.flops,
            },
            prompts: self.prompts + other.prompts,
            truncated_prompts: self.truncated_prompts + other.truncated_prompts,
        }
    }

    /// What came after an earlier moment of the same run.
    pub fn since(&self, before: &Self) -> Self {
        let (now, then) = (&self.remembered, &before.remembered);
        Self {
            remembered: Remembered {
                prompts: now.prompts.saturating_sub(then.prompts),
                computed: now.computed.saturating_sub(then.computed),
                tokens: now.tokens.saturating_sub(then.tokens),
                flops: (now.flops - then.flops).max(0.0),
            },
            prompts: self.prompts.saturating_sub(before.prompts),
            truncated_prompts: self.truncated_prompts.saturating_sub(before.truncated_prompts),
        }
    }
}

impl StageRecord {
    /// A record of a stage that is done.
    pub fn new(planned: &Planned) -> Result<Self> {
        let StageSpec { name, .. } = &planned.spec;
        Ok(Self {
            schema: SCHEMA,
            id: planned.id.clone(),
            name: name.clone(),
            spec: serde_json::to_value(&planned.spec)?,
            ..Self::default()
        })
    }
}

/// The folder of stages.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in this folder, which need not exist yet.
    pub fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Where a stage is, or would be.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// The record of a stage, where it is done.
    ///
    /// # Errors
    /// When it cannot be read, or is not the stage that its folder names.
    pub fn find(&self, id: &str) -> Result<Option<StageRecord>> {
        let path = self.folder(id).join(RECORD);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(format!("`{}` cannot be read", path.display())).because(error)),
        };
        let damaged = |what: String| {
            Error::new(format!("the stage `{}` is damaged: {what}", self.folder(id).display())).hint(format!(
                "remove it, so that it is trained again where it is needed: rm -r {}",
                self.folder(id).display()
            ))
        };
        let record: StageRecord = serde_json::from_slice(&text)
            .map_err(|source| damaged(format!("{RECORD} cannot be understood")).because(source))?;
        if record.schema != SCHEMA {
            return Err(damaged(format!("{RECORD} has schema {}, expected {SCHEMA}", record.schema)));
        }
        if record.id != id {
            return Err(damaged(format!("{RECORD} is of the stage `{}`", record.id)));
        }
        Ok(Some(record))
    }

    /// The curve of a stage, its steps counted from its own first.
    pub fn curve(&self, id: &str) -> Result<Vec<CurvePoint>> {
        read_lines(&self.folder(id).join(METRICS_FILE))
    }

    /// Writes a stage: `models` puts the trained models into the folder it is given. Durable when it returns; a crash leaves
    /// no stage or the whole one.
    pub fn publish(
        &self,
        record: &StageRecord,
        curve: &[CurvePoint],
        models: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        std::fs::create_dir_all(&self.dir)
            .context(|| format!("the folder of stages `{}` cannot be made", self.dir.display()))?;
        replace_folder(&self.folder(&record.id), RECORD, |dir| {
            models(dir)?;
            let mut lines = Vec::new();
            for point in curve {
                serde_json::to_writer(&mut lines, point)?;
                lines.push(b'\n');
            }
            std::fs::write(dir.join(METRICS_FILE), lines)?;
            std::fs::write(dir.join(RECORD), serde_json::to_vec_pretty(record)?)?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noticed_adds_up_over_stages() {
        let noticed = |n: u64| Noticed {
            remembered: Remembered { prompts: n, computed: 3 * n, tokens: 4 * n, flops: n as f64 },
            prompts: 5 * n,
            truncated_prompts: 6 * n,
        };
        assert_eq!(noticed(2).and(&noticed(3)), noticed(5));
        assert_eq!(noticed(5).since(&noticed(3)), noticed(2));
        assert_eq!(noticed(1).since(&noticed(3)), noticed(0));
    }

    #[test]
    fn a_stage_reads_back_whole_and_a_damaged_one_is_named() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::at(root.path().join("stages"));
        assert!(store.find("ab").unwrap().is_none());
        let record = StageRecord { schema: SCHEMA, id: "ab".into(), steps: 3, ..StageRecord::default() };
        let curve = [CurvePoint { step: 1, loss: 0.5, ..CurvePoint::default() }];
        store.publish(&record, &curve, |dir| Ok(std::fs::write(dir.join("weights"), b"w")?)).unwrap();
        assert_eq!(store.find("ab").unwrap(), Some(record));
        assert_eq!(store.curve("ab").unwrap(), curve);
        assert_eq!(std::fs::read(store.folder("ab").join("weights")).unwrap(), b"w");
        // A stage under another's name, and half a record.
        std::fs::rename(store.folder("ab"), store.folder("cd")).unwrap();
        let error = store.find("cd").unwrap_err();
        assert!(error.to_string().contains("is of the stage `ab`"), "{error}");
        std::fs::write(store.folder("cd").join(RECORD), b"{").unwrap();
        assert!(store.find("cd").unwrap_err().find_hint().unwrap().contains("rm -r"));
    }
}
