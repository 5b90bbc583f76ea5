//! `ragtune eval`: evaluate a run, or an index with a generator, on any questions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ragtune_index::{Corpus, Keep, Search, Vectors};
use serde::Serialize;

use super::{
    announce_graph, announce_vectors, announce_words, default_encoder, finished_run, locate, print_json, print_text,
    progress,
};
use crate::cli::EvalArgs;
use crate::config::{at_least_one, generator_format, positive};
use crate::cost::{Activity, Ledger, LedgerRecord, Phase, units};
use crate::error::{Error, Result};
use crate::eval::evaluate::{EvaluateSettings, Searcher, evaluate};
use crate::hub::Origin;
use crate::models::Role;
use crate::models::encoder::Encoder;
use crate::models::generator::Generator;
use crate::pipeline::Pipeline;
use crate::pipeline::answer::{AnswerReader, AnswerSettings, Order, check_order, check_search};
use crate::pipeline::held;
use crate::pipeline::identity::searched_with;
use crate::pipeline::prompt::{Prompt, PromptTemplate};
use crate::pipeline::retriever::{Retriever, RetrieverSettings};
use crate::pipeline::selector::{CANDIDATES, Kind, Selector};
use crate::report::record::EvaluationSummary;
use crate::report::{reading, write_lines};
use crate::train::session::{EVALUATION_SEQUENCES, prompt_limit, read_questions};

/// What `eval --json` prints.
#[derive(Serialize)]
struct Evaluated {
    index: PathBuf,
    encoder: PathBuf,
    generator: PathBuf,
    adapter: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selector: Option<PathBuf>,
    /// Models of the hub, by part.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    hub: BTreeMap<String, Origin>,
    questions: PathBuf,
    questions_hash: String,
    top_k: usize,
    /// What found the passages.
    retriever: String,
    temperature: f64,
    /// How the generator of the run was trained to read; none where no answer was learnt.
    #[serde(skip_serializing_if = "String::is_empty")]
    training_reader: String,
    summary: EvaluationSummary,
    /// Share of prompts whose passages were shortened.
    truncated_prompts: f64,
    /// Share of questions cut to the encoder's length.
    truncated_questions: f64,
    ledger: LedgerRecord,
}

/// Which parts are evaluated, and how.
struct Parts {
    index: PathBuf,
    encoder: Option<PathBuf>,
    generator: PathBuf,
    adapter: Option<PathBuf>,
    selector: Option<PathBuf>,
    selector_base: Option<PathBuf>,
    candidates: usize,
    top_k: usize,
    reader: AnswerReader,
    order: Order,
    beams: usize,
    length_penalty: f64,
    training_reader: String,
    temperature: f64,
    ef: usize,
    exact: bool,
    vectors: Vectors,
    retriever: RetrieverSettings,
    max_prompt_tokens: Option<usize>,
    max_answer_tokens: usize,
    generator_dtype: String,
}

pub fn run(args: &EvalArgs) -> Result<u8> {
    let ledger = Ledger::new();
    let parts = parts(args)?;
    if parts.selector.is_some() && parts.top_k == 0 {
        return Err(Error::new("`--top-k 0` reads no passage, so there is nothing for a selector to choose")
            .hint("set `--top-k` to the number of passages to choose, or leave `--selector` out"));
    }
    if parts.selector.is_none() && args.candidates.is_some() {
        return Err(Error::new("`--candidates` is what a selector chooses from, but there is no selector")
            .hint("name one with `--selector`, or leave `--candidates` out"));
    }
    if parts.max_answer_tokens == 0 {
        return Err(Error::new("`--max-answer-tokens 0` leaves no room for an answer; expected at least 1")
            .hint("leave it out for the run's own, or 32"));
    }
    check_order(parts.reader, parts.order)?;
    check_search(parts.beams, parts.length_penalty)?;
    positive("--temperature", parts.temperature)?;
    at_least_one("--ef", parts.ef)?;
    if let Some(limit) = parts.max_prompt_tokens {
        at_least_one("--max-prompt-tokens", limit)?;
    }
    let setup = ledger.activity(Activity::Setup);
    let load = ledger.span(Phase::Load);
    let mut hub = BTreeMap::new();
    let mut found = |part: &str, typed: &Path| -> Result<PathBuf> {
        let located = locate(typed)?;
        if let Some(origin) = located.origin {
            hub.insert(part.to_owned(), origin);
        }
        Ok(located.folder)
    };
    let corpus = Corpus::open(&parts.index)?.holding(parts.vectors);
    let questions = read_questions(&args.questions, &corpus)?;
    if parts.top_k > corpus.passages() {
        return Err(Error::new(format!(
            "`--top-k {}` is more than the {} passages of the corpus",
            parts.top_k,
            corpus.passages()
        ))
        .hint(format!("choose at most `--top-k {}`", corpus.passages())));
    }
    if questions.without_answers().min(questions.without_gold()) == questions.questions.len() {
        eprintln!(
            "warning: no question of `{}` has an answer or a gold passage, so nothing can be scored; is it a corpus?",
            args.questions.display()
        );
    }
    let encoder_name = match &parts.encoder {
        Some(folder) => folder.clone(),
        None => default_encoder(&corpus)?,
    };
    let encoder_folder = found("encoder", &encoder_name)?;
    let device = crate::models::device::open(&args.device)?;
    let encoder = Encoder::load(&encoder_folder, &device)?;
    let (corpus, generation, by) = searched_with(&corpus, &encoder, &encoder_folder)?;
    let generator_folder = found("generator", &parts.generator)?;
    let mut generator = Generator::load_as(&generator_folder, &device, generator_format(&parts.generator_dtype)?)?;
    if let Some(adapter) = &parts.adapter {
        generator.load_adapter(&found("adapter", adapter)?)?;
    }
    let selector = match &parts.selector {
        Some(typed) => {
            let folder = found("selector", typed)?;
            let base = match (&parts.selector_base, Selector::kind(&folder)?) {
                (Some(base), _) => Some(base.clone()),
                (None, Kind::Adapter(base)) => base.map(PathBuf::from),
                (None, Kind::Whole) => None,
            };
            let base = base.map(|base| found("selector-base", &base)).transpose()?;
            let format = generator_format(&parts.generator_dtype)?;
            Some(Selector::load(&folder, base.as_deref(), parts.candidates, format, &device)?)
        }
        None => None,
    };
    let template = PromptTemplate::of_generator(&generator_folder)?;
    let limit = parts.max_prompt_tokens.unwrap_or(template.max_prompt_tokens);
    let max_prompt_tokens = prompt_limit(&generator, limit, parts.max_answer_tokens)?;
    let prompt = Prompt::new(template, generator.special().bos, generator.special().eos.first().copied())?;
    let search = if parts.exact { Search::Exact } else { Search::Graph { ef: parts.ef } };
    let retriever = Retriever::open(parts.retriever, &corpus, Keep::IfFree)?;
    announce_graph(&generation, search);
    announce_vectors(&generation);
    announce_words(&retriever);
    let pipeline = Pipeline { corpus, generation, encoder, generator, prompt, search, retriever, selector };
    drop(load);
    drop(setup);

    let settings = EvaluateSettings {
        top_k: parts.top_k,
        answer: AnswerSettings {
            reader: parts.reader,
            order: parts.order,
            beams: parts.beams,
            length_penalty: parts.length_penalty,
            temperature: parts.temperature,
            max_prompt_tokens,
            max_answer_tokens: parts.max_answer_tokens,
        },
        limit: args.limit,
        sequences: EVALUATION_SEQUENCES,
    };
    let bar = progress("evaluate", questions.questions.len() as u64, "questions");
    let evaluation = {
        let _activity = ledger.activity(Activity::Evaluate);
        evaluate(&pipeline, &questions.questions, &Searcher::Same(by), &settings, "eval", &ledger, &mut |done| {
            bar.set_position(done);
        })?
    };
    bar.finish_and_clear();
    let asked: Vec<&str> =
        questions.questions.iter().take(evaluation.scores.len()).map(|question| question.question.as_str()).collect();
    let truncated_questions = {
        let _activity = ledger.activity(Activity::Evaluate);
        let _span = ledger.span(Phase::Embed);
        pipeline.encoder.tokenize(&asked, Role::Question)?.truncated as f64 / asked.len().max(1) as f64
    };
    let mut summary = evaluation.summary;
    if let Some(path) = &args.scores {
        write_lines(path, &evaluation.scores)?;
        summary.scores_file = path.display().to_string();
    }
    let evaluated = Evaluated {
        index: parts.index,
        encoder: encoder_name,
        generator: parts.generator,
        adapter: parts.adapter,
        selector: parts.selector,
        hub,
        questions: args.questions.clone(),
        questions_hash: questions.hash,
        top_k: parts.top_k,
        retriever: parts.retriever.label(),
        temperature: parts.temperature,
        training_reader: parts.training_reader,
        summary,
        truncated_prompts: evaluation.truncated as f64 / evaluation.prompts.max(1) as f64,
        truncated_questions,
        ledger: ledger.snapshot(),
    };
    if args.json {
        print_json(&evaluated)?;
    } else {
        print_text(&describe(&evaluated))?;
    }
    Ok(0)
}

/// Of a run: what it trained, else what it began with. Flags win.
fn parts(args: &EvalArgs) -> Result<Parts> {
    let reader = args.reader.as_deref().map(AnswerReader::parse).transpose()?;
    let order = args.order.as_deref().map(Order::parse).transpose()?;
    if let Some(run) = &args.run {
        let (config, record) = finished_run(run)?;
        let trained = |name: &str| Some(run.join(name)).filter(|folder: &PathBuf| folder.is_dir());
        let base_encoder =
            record.models.iter().find(|model| model.role == "encoder").map(|model| PathBuf::from(&model.name));
        let selector = args.selector.clone().or_else(|| trained("selector"));
        let retriever = RetrieverSettings::new(args.retriever.wanted()?.or(config.retriever_wanted()))?;
        let exact = args.exact || config.exact;
        let reader = match (reader, selector.is_some()) {
            (Some(reader), _) => reader,
            (None, true) => AnswerReader::Concat,
            (None, false) => config.eval_reader()?,
        };
        return Ok(Parts {
            reader,
            order: order.map_or_else(|| config.order_of(reader), Ok)?,
            selector,
            selector_base: args.selector_base.clone(),
            candidates: args.candidates.unwrap_or(config.dro.candidates),
            vectors: held::wanted(args.vectors.as_deref(), retriever.kind, exact)?,
            retriever,
            encoder: trained("encoder").or(base_encoder),
            generator: trained("generator").unwrap_or_else(|| config.pinned("generator", &config.generator)),
            adapter: trained("adapter"),
            index: config.index,
            top_k: args.top_k.unwrap_or(config.top_k),
            beams: args.beams.unwrap_or(config.beams),
            length_penalty: args.length_penalty.unwrap_or(config.length_penalty),
            training_reader: record.training_reader,
            temperature: args.temperature.unwrap_or(config.temperature),
            ef: args.ef.unwrap_or(config.ef),
            exact,
            max_prompt_tokens: args.max_prompt_tokens.or(config.max_prompt_tokens),
            max_answer_tokens: args.max_answer_tokens.unwrap_or(config.max_answer_tokens),
            generator_dtype: args.generator_dtype.clone().unwrap_or_else(|| config.generator_dtype.clone()),
        });
    }
    let (Some(index), Some(generator)) = (args.index.clone(), args.generator.clone()) else {
        return Err(Error::new("nothing to evaluate: neither `--run` nor `--index` with `--generator` is given").hint(
            "ragtune eval --run RUN --questions FILE, or ragtune eval --index DIR --generator DIR --questions FILE",
        ));
    };
    let retriever = args.retriever.settings()?;
    Ok(Parts {
        index,
        generator,
        vectors: held::wanted(args.vectors.as_deref(), retriever.kind, args.exact)?,
        retriever,
        encoder: args.encoder.clone(),
        adapter: args.adapter.clone(),
        top_k: args.top_k.unwrap_or(5),
        order: order.unwrap_or_default(),
        reader: reader.unwrap_or(if args.selector.is_some() { AnswerReader::Concat } else { AnswerReader::default() }),
        selector: args.selector.clone(),
        selector_base: args.selector_base.clone(),
        candidates: args.candidates.unwrap_or(CANDIDATES),
        beams: args.beams.unwrap_or(1),
        length_penalty: args.length_penalty.unwrap_or(0.0),
        training_reader: String::new(),
        temperature: args.temperature.unwrap_or(0.05),
        ef: args.ef.unwrap_or(64),
        exact: args.exact,
        max_prompt_tokens: args.max_prompt_tokens,
        max_answer_tokens: args.max_answer_tokens.unwrap_or(32),
        generator_dtype: args.generator_dtype.clone().unwrap_or_else(|| "f32".to_owned()),
    })
}

fn describe(evaluated: &Evaluated) -> String {
    let summary = &evaluated.summary;
    let percent = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{:.1}", 100.0 * value));
    let row = |name: &str, recall: &std::collections::BTreeMap<u32, f64>| {
        let cells: Vec<String> = recall.iter().map(|(k, value)| format!("@{k} {:.1}", 100.0 * value)).collect();
        format!("{name:<14}{}", if cells.is_empty() { "none".to_owned() } else { cells.join("  ") })
    };
    let mut lines = vec![
        format!("questions     {} of {}", summary.n, display(&evaluated.questions)),
        format!("retriever     {}", evaluated.retriever),
        format!("exact match   {}", percent(summary.em)),
        format!("token F1      {}", percent(summary.f1)),
        row("recall", &summary.recall),
        row("answer recall", &summary.answer_recall),
        format!("MRR@10        {}", percent(summary.mrr10)),
        format!("nDCG@10       {}", percent(summary.ndcg10)),
        format!(
            "reader        {}, top {}, temperature {}",
            reading(&evaluated.training_reader, &summary.reader_mode),
            evaluated.top_k,
            evaluated.temperature
        ),
        format!(
            "shortened     {} of prompts, {} of questions to the encoder's length",
            units::share(evaluated.truncated_prompts),
            units::share(evaluated.truncated_questions)
        ),
        format!("time          {}", units::seconds(evaluated.ledger.wall_seconds)),
    ];
    if summary.filled_questions > 0 {
        lines.push(format!(
            "filled up     {} of the questions share a word with fewer passages than were retrieved; the first of the corpus follow",
            summary.filled_questions
        ));
    }
    if let Some(selection) = &summary.selection {
        lines.push(row("selected", &selection.recall));
        lines.push(row("  of retrieved", &selection.retriever_recall));
        lines.push(row("  by answer", &selection.answer_recall));
        lines.push(row("  of retrieved", &selection.retriever_answer_recall));
        lines.push(format!(
            "selection MRR {}, of retrieved {}; from {} candidates, {} of prompts shortened",
            percent(selection.mrr),
            percent(selection.retriever_mrr),
            selection.candidates,
            units::share(selection.truncated_prompts)
        ));
    }
    lines.join("\n")
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
