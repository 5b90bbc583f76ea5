//! What stands before the loop: load and check everything, begin or go on. `recording` writes down what was loaded.

use std::path::{Path, PathBuf};

use ragtune_index::{Corpus, Fingerprint, Generation, GraphParams, Keep, Search, WriterLock};

use super::checkpoint::State;
use super::context::Context;
use super::labels;
use super::optimizer::AdamW;
use super::parts::{self, Bases};
use super::refresh::RefreshSettings;
use super::run::RunFolder;
use super::spec::{Content, Planned, plan};
use super::stage::Holds;
use super::stages::Store;
use super::{Trainer, adamw};
use crate::config::TrainConfig;
use crate::cost::{Activity, Ledger, Phase};
use crate::data::splits::{refuse_reported, refuse_trained};
use crate::data::{self, QuestionSet, questions};
use crate::error::{Error, Result};
use crate::eval::evaluate::EvaluateSettings;
use crate::hub;
use crate::models::Precision;
use crate::models::device::check_precision;
use crate::models::files::settings_digest;
use crate::models::generator::Generator;
use crate::pipeline::Pipeline;
use crate::pipeline::answer::AnswerSettings;
use crate::pipeline::contents::{Contents, contents};
use crate::pipeline::embed::EmbedSettings;
use crate::pipeline::identity::{encoder_of, graph_params, precision_of, searched_by};
use crate::pipeline::prompt::{Prompt, PromptTemplate};
use crate::pipeline::retriever::Retriever;
use crate::pipeline::step::{StepSettings, check_answers};
use crate::strategies::Stage;

/// The models and data of a run, loaded and checked.
pub struct Session {
    /// The pipeline at the weights the run starts from.
    pub pipeline: Pipeline,
    /// Training questions.
    pub questions: QuestionSet,
    /// Evaluation questions.
    pub eval_questions: QuestionSet,
    /// What the encoder was loaded from: a folder, or a model of the hub by its commit.
    pub encoder: PathBuf,
    /// The same of the generator.
    pub generator: PathBuf,
    /// The folders of the base models.
    pub bases: Bases,
    /// The vectors that the base encoder searches.
    pub base: Fingerprint,
    /// The stages of the strategy, by id.
    pub plan: Vec<Planned>,
    /// The questions that decide, where the settings name any: learning rates, and when to stop where `early_stop` is set.
    pub selection: Option<QuestionSet>,
    /// The passages of the index, by content.
    pub contents: Contents,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The index's writer lock, held when passages move.
    pub lock: Option<WriterLock>,
}

impl Session {
    /// Loads everything a run needs and refuses what cannot work before any work is done.
    pub fn prepare(config: &TrainConfig, stages: &[Stage], ledger: &Ledger) -> Result<Self> {
        Self::load(config, stages, ledger, true)
    }

    /// [`Session::prepare`] without a lock: to look at, not to train.
    pub fn look(config: &TrainConfig, stages: &[Stage], ledger: &Ledger) -> Result<Self> {
        Self::load(config, stages, ledger, false)
    }

    fn load(config: &TrainConfig, stages: &[Stage], ledger: &Ledger, hold: bool) -> Result<Self> {
        let _activity = ledger.activity(Activity::Setup);
        let _span = ledger.span(Phase::Load);
        let device = crate::models::device::open(&config.device)?;
        let corpus = Corpus::open(&config.index)?;
        let questions = read_questions(&config.questions, &corpus)?;
        let eval_questions = read_questions(&config.eval_questions, &corpus)?;
        refuse_trained(&questions, &eval_questions, "evaluation", "--eval-questions")?;
        // Looked at whether this run stops early or not: its learning rates may have been chosen by them.
        let selection = config.selection_questions.as_ref().map(|path| read_questions(path, &corpus)).transpose()?;
        if let Some(selection) = &selection {
            refuse_trained(&questions, selection, "selection", "--selection-questions")?;
            refuse_reported(selection, &eval_questions)?;
        }
        labels::check(&questions, config, stages)?;
        if config.top_k > corpus.passages() {
            return Err(Error::new(format!(
                "`--top-k {}` is more than the {} passages of the corpus",
                config.top_k,
                corpus.passages()
            ))
            .hint(format!("choose at most `--top-k {}`", corpus.passages())));
        }
        if stages.iter().any(|stage| stage.lists.is_some()) && config.dro.candidates > corpus.passages() {
            return Err(Error::new(format!(
                "`--dro candidates={}` is more than the {} passages of the corpus",
                config.dro.candidates,
                corpus.passages()
            ))
            .hint(format!("choose at most `--dro candidates={}`", corpus.passages())));
        }
        let lock = match hold && stages.iter().any(|stage| stage.trains.passages) {
            true => Some(corpus.lock(&format!("ragtune train --out {}", config.out.display()))?),
            false => None,
        };
        let encoder_name = match &config.encoder {
            Some(folder) => folder.clone(),
            None => encoder_of(&corpus)?,
        };
        // Commands have fetched what was missing and shown it; here it is found.
        let located = hub::locate(&config.pinned("encoder", &encoder_name), &mut |_progress| {})?;
        let encoder = parts::encoder(config, &located.folder, &device)?;
        let (generation, base) = searched_by(&corpus, &encoder, &located.folder)?;
        if stages.iter().any(|stage| stage.trains.passages) {
            // Refreshes embed as the index was embedded.
            check_precision(&config.device, precision_of(&base)?)?;
        }
        let (encoder_name, encoder_folder) = (located.name(), located.folder.clone());
        let located = hub::locate(&config.pinned("generator", &config.generator), &mut |_progress| {})?;
        let mut generator = parts::generator(config, &located.folder, None, &device)?;
        let weights = (encoder.params().digest()?, generator.params().digest()?);
        let selector_folder = match stages.iter().any(|stage| stage.lists.is_some()) {
            true => {
                let typed = config.selector.clone().unwrap_or_else(|| config.generator.clone());
                let part = if config.selector.is_some() { "selector" } else { "generator" };
                Some(hub::locate(&config.pinned(part, &typed), &mut |_progress| {})?.folder)
            }
            false => None,
        };
        let mut selector =
            selector_folder.as_ref().map(|folder| parts::selector(config, folder, None, &device)).transpose()?;
        let selector_weights = selector.as_ref().map(|one| one.generator.params().digest()).transpose()?;
        if let (Some(selector), true) = (&mut selector, stages.iter().any(|stage| stage.trains.selector)) {
            parts::adapt(config, &mut selector.generator)?;
        }
        if stages.iter().any(|stage| stage.trains.generator) {
            parts::adapt(config, &mut generator)?;
        }
        let template = PromptTemplate::of_generator(&located.folder)?;
        let max_prompt_tokens = prompt_limit(
            &generator,
            config.max_prompt_tokens.unwrap_or(template.max_prompt_tokens),
            config.max_answer_tokens,
        )?;
        let special = generator.special();
        let prompt = Prompt::new(template, special.bos, special.eos.first().copied())?;
        if stages.iter().any(|stage| stage.objective.needs().answers) {
            let max_answer_tokens = config.max_answer_tokens;
            let settings = StepSettings { top_k: config.top_k, max_prompt_tokens, max_answer_tokens };
            check_answers(&generator, &prompt, &questions.questions, &settings)?;
        }
        let whole = |weights: String, folder: &Path| -> Result<String> {
            Ok(format!("{weights} {}", settings_digest(folder)?))
        };
        let contents = contents(&corpus)?;
        let graph = generation.graph().filter(|_| !config.exact);
        let content = Content {
            encoder: whole(weights.0, &encoder_folder)?,
            generator: whole(weights.1, &located.folder)?,
            selector: match (selector_weights, &selector_folder) {
                (Some(weights), Some(folder)) => Some(whole(weights, folder)?),
                _ => None,
            },
            passages: contents.passages.clone(),
            gaps: contents.gaps.clone(),
            graph: graph.map(|graph| format!("links {} ef {}", graph.links, graph.ef_construction)),
            vectors: base.id(),
            questions: questions.hash.clone(),
            selection: selection.as_ref().filter(|_| config.early_stop > 0).map(|set| set.hash.clone()),
            prompt: serde_json::to_string(&prompt.template)?,
        };
        let plan = plan(config, stages, &content)?;
        let search = if config.exact { Search::Exact } else { Search::Graph { ef: config.ef } };
        let keep = match (hold, &lock) {
            (false, _) => Keep::No,
            (true, Some(lock)) => Keep::Under(lock),
            (true, None) => Keep::IfFree,
        };
        let retriever = Retriever::open(config.retriever_settings()?, &corpus, keep)?;
        let pipeline = Pipeline { corpus, generation, encoder, generator, prompt, search, retriever, selector };
        let generator = located.name();
        Ok(Self {
            pipeline,
            questions,
            eval_questions,
            encoder: encoder_name,
            generator,
            bases: Bases { encoder: encoder_folder, generator: located.folder, selector: selector_folder },
            base,
            plan,
            selection,
            contents,
            max_prompt_tokens,
            lock,
        })
    }
}

impl Session {
    /// What passages are embedded in: refreshes go on as the index began.
    pub fn precision(&self) -> Result<Precision> {
        precision_of(&self.base)
    }

    /// The trainer of a run, at its beginning or at a checkpoint.
    pub fn trainer<'a>(
        self,
        config: &'a TrainConfig,
        run: &'a RunFolder,
        ledger: &'a Ledger,
        found: Option<(PathBuf, State)>,
    ) -> Result<Trainer<'a>> {
        let _activity = ledger.activity(Activity::Setup);
        let _span = ledger.span(Phase::Load);
        let embed_settings = EmbedSettings {
            batch_tokens: config.batch_tokens,
            graph: graph_params_as(&self.pipeline.generation),
            precision: self.precision()?,
        };
        let (found, state) = match found {
            None => (None, State::at_start(self.pipeline.generation.number())),
            Some((folder, state)) => (Some(folder), state),
        };
        // Later stages start from it, and so does a run that is resumed: refreshes must not push it out.
        if let Some(lock) = &self.lock {
            let corpus = &self.pipeline.corpus;
            // One that is gone was released, and what is resumed needs no more of it than the vectors, which were found.
            match corpus.protect(lock, state.base_generation, &run.id()) {
                Err(ragtune_index::Error::NoGeneration { .. }) => {
                    corpus.protect(lock, self.pipeline.generation.number(), &run.id())?;
                }
                other => other?,
            }
        }
        let selector = self.pipeline.selector.as_ref();
        let holds = Holds {
            adapter: self.pipeline.generator.lora().is_some(),
            selector_adapter: selector.is_some_and(|selector| selector.generator.lora().is_some()),
            ..Holds::default()
        };
        Ok(Trainer {
            config,
            step_settings: StepSettings {
                top_k: config.top_k,
                max_prompt_tokens: self.max_prompt_tokens,
                max_answer_tokens: config.max_answer_tokens,
            },
            evaluate_settings: EvaluateSettings {
                top_k: config.top_k,
                answer: AnswerSettings {
                    reader: config.eval_reader()?,
                    order: config.eval_order()?,
                    beams: config.beams,
                    length_penalty: config.length_penalty,
                    temperature: config.temperature,
                    max_prompt_tokens: self.max_prompt_tokens,
                    max_answer_tokens: config.max_answer_tokens,
                },
                limit: config.eval_limit,
                sequences: EVALUATION_SEQUENCES,
            },
            embed_settings,
            pipeline: self.pipeline,
            questions: self.questions,
            eval_questions: self.eval_questions,
            run,
            lock: self.lock,
            ledger,
            state,
            encoder_optimizer: AdamW::new(adamw(config))?,
            generator_optimizer: AdamW::new(adamw(config))?,
            selector_optimizer: AdamW::new(adamw(config))?,
            plan: self.plan,
            store: Store::at(config.stages_folder()),
            bases: self.bases,
            selection: self.selection.filter(|_| config.early_stop > 0),
            following: RefreshSettings::of(config)?,
            background: None,
            stored: None,
            map: None,
            context: Context::default(),
            holds,
            found,
        })
    }
}

/// Sequences decoded at a time in evaluations.
pub const EVALUATION_SEQUENCES: usize = 40;

/// Reads a question set and refuses it when it names a gold passage that the corpus lacks.
pub fn read_questions(path: &Path, corpus: &Corpus) -> Result<QuestionSet> {
    let set = questions::read(path).map_err(data::expected)?;
    corpus.ids()?;
    data::validate_gold(&set, |id| matches!(corpus.ordinal(id), Ok(Some(_))))?;
    Ok(set)
}

/// The prompt limit, refused where prompt and answer together do not fit the generator's positions.
pub fn prompt_limit(generator: &Generator, prompt: usize, answer: usize) -> Result<usize> {
    // One more for the end-of-sequence token.
    let needed = prompt + answer + 1;
    if needed > generator.max_positions() {
        return Err(Error::new(format!(
            "prompts of {prompt} tokens and answers of {answer} need {needed} positions, the generator has {}",
            generator.max_positions()
        ))
        .hint(match generator.max_positions().saturating_sub(answer + 1) {
            0 => "choose a smaller `--max-answer-tokens`, or a generator with more positions".to_owned(),
            room => format!(
                "train with `--max-prompt-tokens {room}` or fewer, or set `max_prompt_tokens` in the generator's prompt.json"
            ),
        }));
    }
    Ok(prompt)
}

/// The graph settings a refresh uses: those of the generation the run began with.
fn graph_params_as(generation: &Generation) -> GraphParams {
    generation.graph().map_or_else(GraphParams::default, |graph| graph_params(graph, generation.len()))
}

/// Gives up this run's protection of all generations but those still needed.
pub fn release_generations(corpus: &Corpus, lock: &WriterLock, owner: &str, needed: &[u32]) -> Result<()> {
    for info in corpus.generations()? {
        if info.protected_by.iter().any(|by| by == owner) && !needed.contains(&info.number) {
            corpus.unprotect(lock, info.number, owner)?;
        }
    }
    Ok(())
}
