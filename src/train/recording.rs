//! What a run writes down about itself when it begins, and whether that still holds when it goes on.

use std::collections::BTreeMap;
use std::path::Path;

use super::session::Session;
use crate::config::TrainConfig;
use crate::data::QuestionSet;
use crate::error::{Error, Result};
use crate::models::params::Params;
use crate::models::{Role, files};
use crate::pipeline::identity::build_note;
use crate::report::record::{DataFile, DataRecord, IndexRecord, ModelRecord, RunRecord};

impl Session {
    /// The record of a run that begins.
    pub fn record(&self, config: &TrainConfig) -> Result<RunRecord> {
        let mut record = RunRecord::new(&config.strategy, config.seed);
        let pipeline = &self.pipeline;
        record.commit = option_env!("RAGTUNE_COMMIT").map(str::to_owned);
        record.command = std::env::args().collect();
        record.config = serde_json::to_value(config)?;
        record.source = config.strategy()?.source.to_owned();
        let stages = config.stages()?.len();
        record.steps_total = (0..stages).map(|number| config.steps_of(number, stages)).sum();
        record.data = DataRecord {
            corpus: DataFile {
                path: pipeline.corpus.source().name.clone(),
                hash: pipeline.corpus.source().blake3.clone(),
                count: pipeline.corpus.passages() as u64,
            },
            questions: Some(data_file(&self.questions)),
            eval_questions: data_file(&self.eval_questions),
            selection: self.selection.as_ref().map(data_file),
            passages: Some(self.contents.passages.clone()),
        };
        record.index = IndexRecord {
            dir: config.index.display().to_string(),
            base_generation: pipeline.generation.number(),
            final_generation: pipeline.generation.number(),
            fingerprint: pipeline.generation.fingerprint().id(),
            base_fingerprint: Some(self.base.id()),
            ..IndexRecord::default()
        };
        let bases = &self.bases;
        record.models = vec![
            model_record("encoder", &self.encoder, &bases.encoder, pipeline.encoder.params())?,
            model_record("generator", &self.generator, &bases.generator, pipeline.generator.params())?,
        ];
        if let (Some(selector), Some(folder)) = (&pipeline.selector, &bases.selector) {
            record.models.push(model_record("selector", folder, folder, selector.generator.params())?);
        }
        record.truncated = self.truncated(config)?;
        record.prompt_template = serde_json::to_string(&pipeline.prompt.template)?;
        record.reader_mode = config.eval_reader()?.label(config.eval_order()?, config.beams, config.length_penalty);
        record.training_reader = config.training_reader()?.unwrap_or_default().to_owned();
        record.top_k = config.top_k as u64;
        record.retriever = pipeline.retriever.settings.label();
        record.recall_definition = "recall@k: share of a question's gold passage ids among its k nearest; answer \
             recall@k: an accepted answer occurs, normalised, in title or text of one of them"
            .to_owned();
        Ok(record)
    }

    /// Shares of texts that a length limit cuts however long training goes on, 0 to 1: questions and passages at the encoder's
    /// length, their ends lost, and the answers that are learnt at `--max-answer-tokens`.
    fn truncated(&self, config: &TrainConfig) -> Result<BTreeMap<String, f64>> {
        let pipeline = &self.pipeline;
        let share = |cut: usize, of: usize| cut as f64 / of.max(1) as f64;
        let mut shares = BTreeMap::new();
        let sets = [("training questions", &self.questions), ("evaluation questions", &self.eval_questions)];
        for (name, set) in sets {
            let texts: Vec<&str> = set.questions.iter().map(|question| question.question.as_str()).collect();
            let cut = pipeline.encoder.tokenize(&texts, Role::Question)?.truncated;
            shares.insert(name.to_owned(), share(cut, texts.len()));
        }
        if config.stages()?.iter().any(|stage| stage.trains.generator) {
            let (mut cut, mut all) = (0, 0);
            // The first answer is the one that is learnt.
            for answer in self.questions.questions.iter().filter_map(|question| question.answers.first()) {
                let ids = pipeline.prompt.answer_ids(pipeline.generator.text(), answer, config.max_answer_tokens)?;
                cut += usize::from(ids.truncated);
                all += 1;
            }
            shares.insert("training answers".to_owned(), share(cut, all));
        }
        if let Some(note) = build_note(&pipeline.corpus)?.filter(|note| note.embedded > 0) {
            shares.insert("passages".to_owned(), note.truncated as f64 / note.embedded as f64);
        }
        Ok(shares)
    }

    /// The record of a run that goes on; refused when models or data are not what it began with.
    pub fn check_unchanged(&self, record: RunRecord) -> Result<RunRecord> {
        let config: TrainConfig = serde_json::from_value(record.config.clone())?;
        let now = self.record(&config)?;
        let changed = |what: &str, was: &str, is: &str| {
            Error::new(format!("the {what} changed since the run began: it was `{was}`, now it is `{is}`"))
                .hint("put the old one back, or begin a new run with another `--out`")
        };
        for (was, is) in record.models.iter().zip(&now.models) {
            if was.fingerprint != is.fingerprint {
                return Err(changed(&was.role, &was.fingerprint, &is.fingerprint));
            }
            if let (Some(was_files), Some(is_files)) = (&was.files, &is.files)
                && was_files != is_files
            {
                return Err(changed(&format!("{} folder's files", was.role), was_files, is_files));
            }
        }
        let (was, is) = record.data.searched(&now.data);
        if was != is {
            return Err(changed("corpus", was, is));
        }
        let (was, is) = (&record.data, &now.data);
        let sets = [
            ("evaluation", Some(&was.eval_questions), Some(&is.eval_questions)),
            ("training", was.questions.as_ref(), is.questions.as_ref()),
            ("selection", was.selection.as_ref(), is.selection.as_ref()),
        ];
        for (what, was, is) in sets {
            if let (Some(was), Some(is)) = (was, is)
                && was.hash != is.hash
            {
                return Err(changed(&format!("set of {what} questions"), &was.hash, &is.hash));
            }
        }
        Ok(record)
    }
}

fn data_file(set: &QuestionSet) -> DataFile {
    DataFile { path: set.path.display().to_string(), hash: set.hash.clone(), count: set.questions.len() as u64 }
}

fn model_record(role: &str, name: &Path, folder: &Path, params: &Params) -> Result<ModelRecord> {
    Ok(ModelRecord {
        role: role.to_owned(),
        name: name.display().to_string(),
        files: Some(files::digest(folder)?),
        parameters: params.count() as u64,
        trained_parameters: 0,
        fingerprint: params.digest()?,
        final_fingerprint: None,
    })
}
