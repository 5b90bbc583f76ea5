//! What was typed to change an index.

use std::path::PathBuf;

use clap::Args;

/// `ragtune index append`.
#[derive(Args)]
pub struct IndexAppendArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// New passages: JSONL `{id, title, text}`, a BEIR folder, or SQuAD JSON. Their ids must not be taken.
    #[arg(long)]
    pub corpus: PathBuf,
    /// The encoder that embedded the newest generation, a folder or a name on the hub [default: the one the index was built
    /// with].
    #[arg(long)]
    pub encoder: Option<PathBuf>,
    /// The most tokens of one encoder batch.
    #[arg(long, default_value_t = 8192)]
    pub batch_tokens: usize,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index delete`.
#[derive(Args)]
pub struct IndexDeleteArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// Id of a passage to delete; may be given several times.
    #[arg(long, required_unless_present = "ids")]
    pub id: Vec<String>,
    /// A file with one id a line.
    #[arg(long)]
    pub ids: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index compact`, `ragtune index versions`.
#[derive(Args)]
pub struct IndexArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index gc`.
#[derive(Args)]
pub struct IndexGcArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index refresh`.
#[derive(Args)]
pub struct IndexRefreshArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// The encoder to embed all passages with, a folder or a name on the hub [default: the one the index was built with].
    #[arg(long)]
    pub encoder: Option<PathBuf>,
    /// What the encoder's matrices are rounded to while passages are embedded: `f32` (not at all), `bf16` or `int8` [default:
    /// as the newest generation].
    #[arg(long)]
    pub precision: Option<String>,
    /// Keep the edges of the graph there is, if no more than this share of recall@10 is lost by it; without it the graph is
    /// built anew.
    #[arg(long, value_name = "LOSS")]
    pub reuse_graph: Option<f32>,
    /// The most tokens of one encoder batch.
    #[arg(long, default_value_t = 8192)]
    pub batch_tokens: usize,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal`.
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index release`.
#[derive(Args)]
pub struct IndexReleaseArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// The generation that need not be kept any longer.
    #[arg(long, required_unless_present = "owner")]
    pub generation: Option<u32>,
    /// Who is to keep nothing any longer, as `index versions` names it: a run, a stage, or `base`, what strategies start from.
    #[arg(long)]
    pub owner: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// `ragtune index rollback`.
#[derive(Args)]
pub struct IndexRollbackArgs {
    /// The index folder.
    #[arg(long)]
    pub index: PathBuf,
    /// The generation to go back to.
    #[arg(long, required_unless_present = "to_version", conflicts_with = "to_version")]
    pub generation: Option<u32>,
    /// The version of the dataset to go back to, which undoes an append or a deletion as well; `index versions` lists them.
    #[arg(long, value_name = "VERSION")]
    pub to_version: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
