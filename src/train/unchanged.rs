//! Whether a run that is done is still about what its settings name: questions, passages and models may have changed in place since,
//! and scores over the old ones must not stand beside scores over the new ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ragtune_index::Corpus;

use crate::config::TrainConfig;
use crate::data::{self, questions};
use crate::error::{Error, Result};
use crate::hub;
use crate::models::files;
use crate::pipeline::contents::contents;
use crate::pipeline::identity::encoder_of;
use crate::report::record::{DataFile, RunRecord};

/// What runs read, by content; each file, index and model folder is looked at once, however many runs read it.
#[derive(Default)]
pub struct Present {
    questions: BTreeMap<PathBuf, String>,
    indexes: BTreeMap<PathBuf, Searched>,
    models: BTreeMap<PathBuf, String>,
}

/// What an index has now.
#[derive(Clone)]
struct Searched {
    passages: String,
    encoder: Option<PathBuf>,
    fingerprints: Vec<String>,
}

impl Present {
    /// Refuses the record of a run in `dir` where something that it read is not what these settings name now. What the record
    /// of an earlier version does not say is not compared.
    pub fn check(&mut self, config: &TrainConfig, dir: &Path, record: &RunRecord) -> Result<()> {
        let changed = |what: &str, path: &Path| {
            Error::new(format!(
                "the {what} `{}` changed since the run `{}` was made with it: its scores are not those of what is there now",
                path.display(),
                dir.display()
            ))
            .hint(format!(
                "put the old one back; or choose another `out` for the comparison; or remove the runs that used it, this one with: rm -r {}",
                dir.display()
            ))
        };
        let data = &record.data;
        let mut sets: Vec<(&str, &Path, &DataFile)> =
            vec![("set of evaluation questions", config.eval_questions.as_path(), &data.eval_questions)];
        sets.extend(data.questions.iter().map(|was| ("set of training questions", config.questions.as_path(), was)));
        if let (Some(path), Some(was)) = (&config.selection_questions, &data.selection) {
            sets.push(("set of selection questions", path.as_path(), was));
        }
        for (what, path, was) in sets {
            if self.questions_hash(path)? != was.hash {
                return Err(changed(what, path));
            }
        }
        let searched = self.searched(&config.index)?;
        let moved = record.index.base_fingerprint.as_ref().is_some_and(|was| !searched.fingerprints.contains(was));
        if moved || data.passages.as_ref().is_some_and(|was| *was != searched.passages) {
            return Err(changed("index", &config.index));
        }
        for model in &record.models {
            let Some(was) = &model.files else { continue };
            let typed = match model.role.as_str() {
                "encoder" => config.encoder.clone().or_else(|| searched.encoder.clone()),
                "selector" => config.selector.clone().or_else(|| Some(config.generator.clone())),
                _ => Some(config.generator.clone()),
            };
            let Some(typed) = typed else { continue };
            let part = if model.role == "selector" && config.selector.is_none() { "generator" } else { &model.role };
            let folder = hub::locate(&config.pinned(part, &typed), &mut |_progress| {})?.folder;
            if self.model_digest(&folder)? != *was {
                return Err(changed(&model.role, &folder));
            }
        }
        Ok(())
    }

    fn questions_hash(&mut self, path: &Path) -> Result<String> {
        if let Some(known) = self.questions.get(path) {
            return Ok(known.clone());
        }
        let hash = questions::read(path).map_err(data::expected)?.hash;
        self.questions.insert(path.to_owned(), hash.clone());
        Ok(hash)
    }

    /// Training with moving passages adds generations; passages it does not touch.
    fn searched(&mut self, index: &Path) -> Result<Searched> {
        if let Some(known) = self.indexes.get(index) {
            return Ok(known.clone());
        }
        let corpus = Corpus::open(index)?;
        let searched = Searched {
            passages: contents(&corpus)?.passages,
            encoder: encoder_of(&corpus).ok(),
            fingerprints: corpus.generations()?.iter().map(|info| info.fingerprint.id()).collect(),
        };
        self.indexes.insert(index.to_owned(), searched.clone());
        Ok(searched)
    }

    fn model_digest(&mut self, folder: &Path) -> Result<String> {
        if let Some(known) = self.models.get(folder) {
            return Ok(known.clone());
        }
        let digest = files::digest(folder)?;
        self.models.insert(folder.to_owned(), digest.clone());
        Ok(digest)
    }
}
