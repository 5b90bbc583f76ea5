//! What stands before the loop: load and check everything, begin or go on. `recording` writes down what was loaded.

use std::path::{Path, PathBuf};

use ragtune_index::{Corpus, Fingerprint, Generation, GraphParams, Search, WriterLock};

use super::checkpoint::{State, restore};
use super::optimizer::AdamW;
use super::run::RunFolder;
use super::{Trainer, adamw};
use crate::config::{TrainConfig, generator_format};
use crate::cost::{Activity, Ledger, Phase};
use crate::data::{self, QuestionSet, questions};
use crate::error::{Error, Result};
use crate::eval::evaluate::EvaluateSettings;
use crate::hub;
use crate::models::Precision;
use crate::models::device::check_precision;
use crate::models::encoder::Encoder;
use crate::models::generator::Generator;
use crate::models::lora::LoraConfig;
use crate::pipeline::Pipeline;
use crate::pipeline::answer::AnswerSettings;
use crate::pipeline::embed::EmbedSettings;
use crate::pipeline::identity::{encoder_of, searched_by};
use crate::pipeline::prompt::{Prompt, PromptTemplate};
use crate::pipeline::step::StepSettings;
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
    /// The vectors that the base encoder searches.
    pub base: Fingerprint,
    /// The most tokens of a prompt.
    pub max_prompt_tokens: usize,
    /// The index's writer lock, held when passages move.
    pub lock: Option<WriterLock>,
}

impl Session {
    /// Loads everything a run needs and refuses what cannot work before any work is done.
    pub fn prepare(config: &TrainConfig, stages: &[Stage], ledger: &Ledger) -> Result<Self> {
        let _activity = ledger.activity(Activity::Setup);
        let _span = ledger.span(Phase::Load);
        let device = crate::models::device::open(&config.device)?;
        let corpus = Corpus::open(&config.index)?;
        let questions = read_questions(&config.questions, &corpus)?;
        let eval_questions = read_questions(&config.eval_questions, &corpus)?;
        refuse_shared(&questions, &eval_questions)?;
        check_labels(&questions, config, stages)?;
        if config.top_k > corpus.len() {
            return Err(Error::new(format!(
                "`--top-k {}` is more than the {} passages of the corpus",
                config.top_k,
                corpus.len()
            ))
            .hint(format!("choose at most `--top-k {}`", corpus.len())));
        }
        let lock = match stages.iter().any(|stage| stage.trains.passages) {
            true => Some(corpus.lock(&format!("ragtune train --out {}", config.out.display()))?),
            false => None,
        };
        let encoder_name = match &config.encoder {
            Some(folder) => folder.clone(),
            None => encoder_of(&corpus)?,
        };
        // Commands have fetched what was missing and shown it; here it is found.
        let located = hub::locate(&config.pinned("encoder", &encoder_name), &mut |_progress| {})?;
        let mut encoder = Encoder::load(&located.folder, &device)?;
        // A ranking loss needs its whole batch at once; the encoder still takes no more tokens than that at a time.
        encoder.set_chunks(Some(config.batch_tokens));
        let (generation, base) = searched_by(&corpus, &encoder, &located.folder)?;
        if stages.iter().any(|stage| stage.trains.passages) {
            // Refreshes embed as the index was embedded.
            check_precision(&config.device, precision_of(&base)?)?;
        }
        let encoder_name = located.name();
        let located = hub::locate(&config.pinned("generator", &config.generator), &mut |_progress| {})?;
        let mut generator = Generator::load_as(&located.folder, &device, generator_format(&config.generator_dtype)?)?;
        generator.set_checkpointing(config.gradient_checkpointing);
        if let (Some(rank), true) = (config.lora_rank, stages.iter().any(|stage| stage.trains.generator)) {
            let lora = LoraConfig {
                rank,
                alpha: config.lora_alpha,
                targets: config.lora_targets.clone(),
                ..LoraConfig::default()
            };
            generator.add_lora(&lora, config.seed)?;
        }
        let template = PromptTemplate::of_generator(&located.folder)?;
        let max_prompt_tokens = prompt_limit(
            &generator,
            config.max_prompt_tokens.unwrap_or(template.max_prompt_tokens),
            config.max_answer_tokens,
        )?;
        let special = generator.special();
        let prompt = Prompt::new(template, special.bos, special.eos.first().copied())?;
        let search = if config.exact { Search::Exact } else { Search::Graph { ef: config.ef } };
        let pipeline = Pipeline { corpus, generation, encoder, generator, prompt, search };
        let generator = located.name();
        Ok(Self {
            pipeline,
            questions,
            eval_questions,
            encoder: encoder_name,
            generator,
            base,
            max_prompt_tokens,
            lock,
        })
    }
}

impl Session {
    /// The trainer of a run, at its beginning or at a checkpoint.
    pub fn trainer<'a>(
        mut self,
        config: &'a TrainConfig,
        run: &'a RunFolder,
        stages: &[Stage],
        ledger: &'a Ledger,
        found: Option<(PathBuf, State)>,
    ) -> Result<Trainer<'a>> {
        let _activity = ledger.activity(Activity::Setup);
        let _span = ledger.span(Phase::Load);
        let embed_settings = EmbedSettings {
            batch_tokens: config.batch_tokens,
            graph: graph_params(&self.pipeline.generation),
            precision: precision_of(&self.base)?,
        };
        let (mut encoder_optimizer, mut generator_optimizer) = (AdamW::new(adamw(config))?, AdamW::new(adamw(config))?);
        let state = match found {
            None => State::at_start(self.pipeline.generation.number()),
            Some((folder, state)) => {
                let trains = stages.get(state.stage).map(|stage| stage.trains).unwrap_or_default();
                if trains.encoder() {
                    restore(&folder, "encoder", self.pipeline.encoder.params(), &mut encoder_optimizer)?;
                }
                if trains.generator {
                    restore(&folder, "generator", self.pipeline.generator.params(), &mut generator_optimizer)?;
                }
                if state.generation != self.pipeline.generation.number() {
                    self.pipeline.generation = self.pipeline.corpus.generation(state.generation)?;
                }
                state
            }
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
                    reader: config.reader,
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
            encoder_optimizer,
            generator_optimizer,
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

fn refuse_shared(questions: &QuestionSet, eval_questions: &QuestionSet) -> Result<()> {
    let training: std::collections::HashSet<&str> = questions.questions.iter().map(|q| q.id.as_str()).collect();
    let shared: Vec<&str> =
        eval_questions.questions.iter().map(|q| q.id.as_str()).filter(|id| training.contains(id)).collect();
    match shared.first() {
        None => Ok(()),
        Some(first) => Err(Error::new(format!(
            "{} evaluation questions are also training questions, the first is `{first}`",
            shared.len()
        ))
        .hint("give a held-out set as `--eval-questions`; a score on training questions says nothing")),
    }
}

fn check_labels(questions: &QuestionSet, config: &TrainConfig, stages: &[Stage]) -> Result<()> {
    let without_gold = questions.without_gold();
    if without_gold > 0 && stages.iter().any(|stage| stage.needs_gold) {
        return Err(Error::new(format!(
            "`--strategy {}` needs a gold passage for every question; {without_gold} of {} in `{}` have none",
            config.strategy,
            questions.questions.len(),
            config.questions.display()
        ))
        .hint("use `--strategy generator` or `--strategy joint`, which learn from answers alone"));
    }
    let without_answers = questions.without_answers();
    if without_answers > 0 && stages.iter().any(|stage| !stage.needs_gold) {
        return Err(Error::new(format!(
            "`--strategy {}` learns from answers; {without_answers} of {} questions in `{}` have none",
            config.strategy,
            questions.questions.len(),
            config.questions.display()
        ))
        .hint("remove those questions, or use `--strategy embedder`, which learns from gold passages alone"));
    }
    Ok(())
}

/// The graph settings a refresh uses: those of the generation the run began with.
pub fn graph_params(generation: &Generation) -> GraphParams {
    let defaults = GraphParams::default();
    match generation.graph() {
        Some(graph) => GraphParams { links: graph.links, ef_construction: graph.ef_construction, ..defaults },
        None => defaults,
    }
}

/// What the passages were rounded to that the run begins with: a refresh embeds them likewise.
pub fn precision_of(base: &Fingerprint) -> Result<Precision> {
    base.get("passage_dtype").map_or(Ok(Precision::F32), crate::config::precision)
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
