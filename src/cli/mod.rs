//! What was typed. Every training flag exists in the configuration file under the same name; [`crate::config`] says what
//! the two mean together.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod index;
mod parse;
mod retriever;
mod train;

pub use index::{
    IndexAppendArgs, IndexArgs, IndexDeleteArgs, IndexGcArgs, IndexRefreshArgs, IndexReleaseArgs, IndexRollbackArgs,
};
pub use parse::{number_hint, parse};
pub use retriever::RetrieverArgs;
pub use train::TrainArgs;

/// Fine-tune a retrieval-augmented generation pipeline and compare strategies with their whole cost.
#[derive(Parser)]
#[command(name = "ragtune", version, about, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Subcommand)]
pub enum Command {
    /// Build, search, change and check an index of passages.
    #[command(subcommand)]
    Index(IndexCommand),
    /// Train a pipeline by a strategy and evaluate it.
    Train(Box<TrainArgs>),
    /// Evaluate a run, or an index and a generator.
    Eval(Box<EvalArgs>),
    /// Compare runs: quality with intervals, cost by phase.
    Compare(CompareArgs),
    /// Turn texts into vectors.
    Embed(EmbedArgs),
    /// Say what a model folder holds and what of it would train.
    Inspect(InspectArgs),
    /// Write the models that a run trained as folders for other programs.
    Export(ExportArgs),
    /// Look at question sets and corpora.
    #[command(subcommand)]
    Data(DataCommand),
    /// List the training strategies.
    Strategies {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What can be done with an index.
#[derive(Subcommand)]
pub enum IndexCommand {
    /// Read a corpus, embed it and build its graph; an interrupted build goes on where it stopped.
    Build(IndexBuildArgs),
    /// Find the passages nearest to a text, or those that share its words.
    Search(IndexSearchArgs),
    /// Embed new passages and add them; they are found at once.
    Append(IndexAppendArgs),
    /// Delete passages by id; they are in no result any more, and leave the disk with `compact` and `gc`.
    Delete(IndexDeleteArgs),
    /// Drop deleted passages, merge small fragments, build the graph over all passages.
    Compact(IndexArgs),
    /// Remove versions, generations and files that nobody needs; the newest state, the generation before, protected ones and
    /// interrupted work stay.
    Gc(IndexGcArgs),
    /// Embed all passages again as a new generation; an interrupted refresh goes on where it stopped.
    Refresh(IndexRefreshArgs),
    /// List the retained states: what was done, when, and what can be gone back to.
    Versions(IndexArgs),
    /// Let go of a generation that a run, a stage or the base of strategies keeps, so that `gc` may remove it.
    Release(IndexReleaseArgs),
    /// Make an earlier generation or state the newest again, under a new number.
    Rollback(IndexRollbackArgs),
    /// Print passages, generation, encoder fingerprint, bytes, graph recall and build times.
    Stats {
        /// The index folder.
        #[arg(long)]
        index: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Walk every file; exit code 0 when clean, 1 with a list of defects.
    Check {
        /// The index folder.
        #[arg(long)]
        index: PathBuf,
        /// Repair first what can be: rebuild graphs, remove what killed processes left.
        #[arg(long)]
        mend: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// `ragtune index build`.
#[derive(Args)]
pub struct IndexBuildArgs {
    /// Passages: JSONL `{id, title, text}`, a BEIR folder, or SQuAD JSON.
    #[arg(long)]
    pub corpus: PathBuf,
    /// Encoder: a sentence-transformers folder, or its name on the hub (`owner/name`, `owner/name@revision`).
    #[arg(long)]
    pub encoder: PathBuf,
    /// The index folder to make.
    #[arg(long)]
    pub out: PathBuf,
    /// Links of a passage in the graph's base layer are twice this many.
    #[arg(long, default_value_t = 16)]
    pub links: usize,
    /// Candidates kept while the graph is built: more is slower and finds better.
    #[arg(long, default_value_t = 200)]
    pub ef_construction: usize,
    /// The most tokens of one encoder batch.
    #[arg(long, default_value_t = 8192)]
    pub batch_tokens: usize,
    /// Also collect the words of all passages, for `--retriever bm25` and `hybrid`; without it the first search that needs them
    /// does.
    #[arg(long)]
    pub lexical: bool,
    /// Also make the files that `index search --vectors` and `eval --vectors` of this name map: `mapped`, `f16` or `int8`; without
    /// it the first of them does.
    #[arg(long)]
    pub vectors: Option<String>,
    /// What the encoder's matrices are rounded to while passages are embedded: `f32` (not at all), `bf16` or `int8`.
    #[arg(long, default_value = "f32")]
    pub precision: String,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index search`.
#[derive(Args)]
pub struct IndexSearchArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// The text to look for.
    #[arg(long)]
    pub query: String,
    /// How many passages to return.
    #[arg(long, default_value_t = 5)]
    pub top_k: usize,
    /// The encoder, a folder or a name on the hub; without it, the one the index was built with.
    #[arg(long)]
    pub encoder: Option<PathBuf>,
    /// Compare with every passage instead of walking the graph.
    #[arg(long)]
    pub exact: bool,
    /// Only passages that meet this condition over `id`, `title` and `text`, as in SQL: `title LIKE 'A%'`.
    #[arg(long = "where", value_name = "CONDITION")]
    pub condition: Option<String>,
    /// Only passages whose ids are in this file, one a line.
    #[arg(long)]
    pub ids: Option<PathBuf>,
    /// Candidates kept while the graph is searched.
    #[arg(long, default_value_t = 64)]
    pub ef: usize,
    /// How the vectors are held: `memory` (read from the dataset), `mapped` (float32 mapped from a file beside the graph, which
    /// opens faster), `f16` or `int8` (mapped; the graph is walked by these and what it finds is scored again by float32, so that
    /// scores are the same; `index stats` says what part of the nearest they find). What is not there is made and kept
    /// [default: memory].
    #[arg(long)]
    pub vectors: Option<String>,
    /// What finds passages.
    #[command(flatten)]
    pub retriever: RetrieverArgs,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune eval`.
#[derive(Args)]
pub struct EvalArgs {
    /// A run folder: its encoder, generator and generation are evaluated.
    #[arg(long, conflicts_with_all = ["index", "generator", "encoder", "adapter"])]
    pub run: Option<PathBuf>,
    /// An index folder.
    #[arg(long, requires = "generator")]
    pub index: Option<PathBuf>,
    /// A generator, as a folder or by its name on the hub.
    #[arg(long)]
    pub generator: Option<PathBuf>,
    /// An encoder, likewise; without it, the one the index was built with.
    #[arg(long)]
    pub encoder: Option<PathBuf>,
    /// A PEFT adapter for the generator, likewise.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// A selector, as a model or adapter folder or by its name on the hub: it chooses the passages that are read from what
    /// was retrieved [default: the run's, if it trained one].
    #[arg(long)]
    pub selector: Option<PathBuf>,
    /// The model that an adapter given as `--selector` belongs on [default: the one its adapter_config.json names].
    #[arg(long, requires = "selector")]
    pub selector_base: Option<PathBuf>,
    /// Passages the selector chooses from [default: 20].
    #[arg(long)]
    pub candidates: Option<usize>,
    /// Questions: JSONL, BEIR folder or SQuAD JSON.
    #[arg(long)]
    pub questions: PathBuf,
    /// Passages read for an answer; 0 answers without any [default: the run's, or 5].
    #[arg(long)]
    pub top_k: Option<usize>,
    /// `mixture`, `concat`, `sequence-thorough` or `sequence-fast` [default: the run's, or mixture; concat with a
    /// selector].
    #[arg(long)]
    pub reader: Option<String>,
    /// Order of the passages in a prompt of all of them (concat): `best-first`, or `both-ends`, ranks 1, 3, 5, ..., 6, 4, 2
    /// [default: the run's, or best-first].
    #[arg(long)]
    pub order: Option<String>,
    /// Hypotheses followed at a time when an answer is searched; 1: greedy [default: the run's, or 1].
    #[arg(long)]
    pub beams: Option<usize>,
    /// Compare the hypotheses of a beam search by log-probability / tokens^penalty; 0: by probability [default: the run's,
    /// or 0].
    #[arg(long, allow_hyphen_values = true)]
    pub length_penalty: Option<f64>,
    /// Temperature of the prior over passages [default: the run's, or 0.05].
    #[arg(long)]
    pub temperature: Option<f64>,
    /// Candidates kept while the graph is searched [default: the run's, or 64].
    #[arg(long)]
    pub ef: Option<usize>,
    /// Compare with every passage instead of walking the graph.
    #[arg(long)]
    pub exact: bool,
    /// How the vectors are held: `memory`, `mapped`, `f16` or `int8`, as `index search` does [default: memory].
    #[arg(long)]
    pub vectors: Option<String>,
    /// What finds passages [default: the run's, or dense].
    #[command(flatten)]
    pub retriever: RetrieverArgs,
    /// The most tokens of a prompt; passages are shortened to fit [default: the run's, or the prompt template's].
    #[arg(long)]
    pub max_prompt_tokens: Option<usize>,
    /// The most tokens of an answer [default: the run's, or 32].
    #[arg(long)]
    pub max_answer_tokens: Option<usize>,
    /// Keep the generator's matrices as f32, bf16, f16, q8_0, q4_0 or q4_k [default: the run's, or f32].
    #[arg(long)]
    pub generator_dtype: Option<String>,
    /// Evaluate on the first so many questions only; 0: on all.
    #[arg(long, default_value_t = 0)]
    pub limit: usize,
    /// Write scores of single questions to this JSONL file.
    #[arg(long)]
    pub scores: Option<PathBuf>,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune compare`.
#[derive(Args)]
pub struct CompareArgs {
    /// Run folders; differences and ratios are to the first.
    #[arg(required_unless_present = "config")]
    pub runs: Vec<PathBuf>,
    /// A comparison to make: strategies, seeds and learning rates to try (TOML). Each distinct stage is trained once; the same
    /// command goes on where it was stopped. Then its runs are compared.
    #[arg(long, conflicts_with = "runs")]
    pub config: Option<PathBuf>,
    /// Put runs that differ in their seed only into one row.
    #[arg(long)]
    pub group_seeds: bool,
    /// Resamples of the bootstrap.
    #[arg(long, default_value_t = 10_000)]
    pub resamples: usize,
    /// Print Markdown.
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Also write a report page (HTML) to this file.
    #[arg(long)]
    pub html: Option<PathBuf>,
}

/// `ragtune embed`.
#[derive(Args)]
pub struct EmbedArgs {
    /// The encoder: a sentence-transformers folder, or its name on the hub.
    #[arg(long)]
    pub encoder: PathBuf,
    /// Texts, one JSON value a line: a string, `{id, text}` (with a `title`: a passage) or `{id, question}`.
    #[arg(long)]
    pub file: PathBuf,
    /// Which prompt is put before them: `question` or `passage`.
    #[arg(long)]
    pub role: String,
    /// Where the vectors go: `.jsonl` (`{id, vector}`) or `.npy` (f32, a row a text); without it JSON Lines are printed.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// The most tokens of one batch.
    #[arg(long, default_value_t = 8192)]
    pub batch_tokens: usize,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print what was done as JSON; needs `--out`.
    #[arg(long, requires = "out")]
    pub json: bool,
}

/// `ragtune inspect`.
#[derive(Args)]
pub struct InspectArgs {
    /// An encoder, a generator or a PEFT adapter: a folder, or a name on the hub.
    pub model: PathBuf,
    /// Say what would train under this strategy only.
    #[arg(long)]
    pub strategy: Option<String>,
    /// Count what trains of a generator with a LoRA adapter of this rank.
    #[arg(long)]
    pub lora_rank: Option<usize>,
    /// Modules with an adapter [default: as `ragtune train`].
    #[arg(long, value_delimiter = ',', requires = "lora_rank")]
    pub lora_targets: Option<Vec<String>>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune export`.
#[derive(Args)]
pub struct ExportArgs {
    /// The folder of a finished run.
    #[arg(long)]
    pub run: PathBuf,
    /// The folder to make: of the part named, or with one folder for each part that was trained.
    #[arg(long)]
    pub out: PathBuf,
    /// `encoder` or `generator`; without it, everything that was trained.
    #[arg(long)]
    pub part: Option<String>,
    /// Add a LoRA adapter to the weights it was trained on, and write the whole generator.
    #[arg(long)]
    pub merge: bool,
    /// How weights are stored: `f32`, `f16` or `bf16`.
    #[arg(long, default_value = "f32")]
    pub dtype: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// What can be done with data.
#[derive(Subcommand)]
pub enum DataCommand {
    /// Say what was understood of a question file or corpus.
    Check {
        /// The file or folder.
        file: PathBuf,
        /// A corpus that must hold every gold passage of the questions.
        #[arg(long)]
        corpus: Option<PathBuf>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}
