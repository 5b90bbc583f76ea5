//! The flags of `ragtune train`, which are also the keys of its settings file.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

/// `name=value`; a value that is no number or truth value is a word.
fn dro_setting(typed: &str) -> Result<(String, serde_json::Value), String> {
    let (name, value) = typed.split_once('=').ok_or_else(|| format!("`{typed}` is no `name=value`"))?;
    let value = serde_json::from_str(value).unwrap_or_else(|_| value.into());
    Ok((name.to_owned(), value))
}

/// `ragtune train`. Every field but `config`, `resume`, `dry_run` and `json` is also a key of the configuration file.
#[derive(Args, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub struct TrainArgs {
    /// TOML file with any of these settings; flags win over it.
    #[arg(long)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Go on with an interrupted run, bit for bit as if it had not been interrupted.
    #[arg(long, value_name = "RUN")]
    #[serde(skip)]
    pub resume: Option<PathBuf>,
    /// Print the resolved settings, the estimated cost and the expected memory; models are loaded, nothing is trained.
    #[arg(long)]
    #[serde(skip)]
    pub dry_run: bool,
    /// Print the final record, or what a dry run says, as JSON.
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
    /// One of those that `ragtune strategies` lists, such as joint, two-phase or frozen.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// The index folder.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<PathBuf>,
    /// Training questions: JSONL, BEIR folder or SQuAD JSON.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub questions: Option<PathBuf>,
    /// Evaluation questions, which must not be the training questions.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_questions: Option<PathBuf>,
    /// Encoder, a folder or a name on the hub; without it, the one the index was built with.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoder: Option<PathBuf>,
    /// Generator: a Hugging Face folder, or its name on the hub (`owner/name`, `owner/name@revision`).
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator: Option<PathBuf>,
    /// The language model that selects passages (`--strategy dro`), likewise [default: the generator's].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<PathBuf>,
    /// The run folder to make.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// A folder where stages that are done are kept for every run that names it: a stage that is there is not trained again,
    /// and its cost is charged [default: the run's own].
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stages: Option<PathBuf>,
    /// Questions that decide when to stop and which learning rate to take; never trained on and never reported.
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selection_questions: Option<PathBuf>,
    /// What decides on the selection questions: em, f1, mrr, ndcg, recall@K or answer-recall@K [default: f1].
    #[arg(long, value_name = "METRIC")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select_by: Option<String>,
    /// Stop a stage when so many looks at the selection questions, one every `--eval-every` steps, brought nothing better, and
    /// keep the best weights; 0: never [default: 0].
    #[arg(long, value_name = "LOOKS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<u64>,
    /// How the index follows an encoder whose passage side trains: full, full-reuse, background, rows, lazy, question, adapter,
    /// drift or never; before the final evaluation everything that moved is embedded anew [default: full-reuse].
    #[arg(long, value_name = "POLICY")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Let the policy act every so many optimiser steps; 0: never during training [default: 0].
    #[arg(long, value_name = "STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_every: Option<u64>,
    /// When the policy acts, in place of `--refresh-every`: `FROM-TO:EVERY` in steps, parts separated by commas, for instance
    /// 0-1000:500,1000-10000:1000.
    #[arg(long, value_name = "PARTS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_schedule: Option<String>,
    /// Steps after which a snapshot that was embedded in the background is put to use [default: half the interval].
    #[arg(long, value_name = "STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_lag: Option<u64>,
    /// Threads that embed in the background [default: 1].
    #[arg(long, value_name = "THREADS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_threads: Option<usize>,
    /// Candidates of a question that rows and lazy rank by live vectors [default: 20].
    #[arg(long, value_name = "PASSAGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_depth: Option<usize>,
    /// Steps that a live vector of a candidate is used again [default: 10 for lazy, 0 for rows].
    #[arg(long, value_name = "STEPS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_age: Option<u64>,
    /// Passages that rows embeds anew each time [default: a tenth of the corpus].
    #[arg(long, value_name = "PASSAGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_rows: Option<usize>,
    /// Which of them first: retrieved, near or drifted [default: retrieved].
    #[arg(long, value_name = "ORDER")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_by: Option<String>,
    /// Passages embedded to fit the adapter and to measure recall [default: 2048 for adapter, 512 for background, drift and rows].
    #[arg(long, value_name = "PASSAGES")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_sample: Option<usize>,
    /// Recall@10 of the stale index under which drift embeds everything anew [default: 0.95].
    #[arg(long, value_name = "RECALL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh_target: Option<f64>,
    /// Optimiser steps [default: 500].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Questions in one optimiser step [default: 8].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<usize>,
    /// The most tokens of one forward and backward pass; larger batches are cut into micro-batches, and where a loss needs
    /// its whole batch at once, the encoder computes it in chunks, twice [default: 8192].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_tokens: Option<usize>,
    /// Passages retrieved for a question [default: 5].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<usize>,
    /// Peak learning rate of the encoder [default: 2e-5].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_encoder: Option<f64>,
    /// Peak learning rate of the generator [default: 1e-4].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_generator: Option<f64>,
    /// Peak learning rate of the selector [default: 1e-4].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_selector: Option<f64>,
    /// A setting of DRO as `name=value`, as in the table `dro` of the settings file: candidates, samples,
    /// sampling-temperature, top-p, length, correction, distinct, clip, gold-injection, mode, scoring, warm-up.
    #[arg(long, value_name = "NAME=VALUE", value_parser = dro_setting)]
    #[serde(skip)]
    pub dro: Vec<(String, serde_json::Value)>,
    /// Temperature of the prior over retrieved passages [default: 0.05].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Scale of cosine scores in the embedder's ranking loss [default: 20].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// The equation of joint training: rag-token, rag-sequence, emdr2, emdr2-token, pdist, loop or adist [default: rag-token].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// Temperature of the distribution over passages that the generator's likelihoods or attention pull a retriever to [default:
    /// 1 for pdist, loop and self-distil, where Atlas has 0.01 on mean log-likelihoods; the papers' 0.1 for replug, 0.01 for
    /// ra-dit and adist].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_temperature: Option<f64>,
    /// Temperature of the scores of a teacher, for distil and the warm-up of self-distil [default: 1].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_temperature: Option<f64>,
    /// How an answer's token log-probabilities become one number in such a target: sum or mean [default: sum].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<String>,
    /// Which way a KL divergence is taken: target-to-prior or prior-to-target [default: target-to-prior].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<String>,
    /// What replug's target is the softmax of: probability or log-probability [default: probability].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The most hard negatives of a question; ance mines so many (at least 1), other strategies take those of the question file
    /// [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard_negatives: Option<usize>,
    /// How far preference training may leave the encoder it began with: DPO's beta [default: 0.1].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// What makes a passage preferred: likelihood or gold [default: likelihood].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred: Option<String>,
    /// How a teacher's scores are learnt: kl or margin-mse [default: kl].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_loss: Option<String>,
    /// MiB for likelihoods of a frozen generator, which do not change and are not computed twice; 0: none [default: 256].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memo_mib: Option<usize>,
    /// Train the passage side too: every stored vector goes stale with each step [default: true where `--refresh-every` or
    /// `--refresh-schedule` asks for refreshes and the strategy can move passages, else false].
    #[arg(long, value_name = "BOOL", num_args = 1)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_passages: Option<bool>,
    /// How passages are read in training: `mixture` (one prompt a passage) or `concat` (one for all) [default: mixture].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reader: Option<String>,
    /// How answers are read off in evaluations: `mixture`, `concat`, `sequence-thorough` or `sequence-fast` [default: as
    /// `--reader`].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_reader: Option<String>,
    /// Order of the passages in a prompt of all of them (concat) in evaluations: `best-first`, or `both-ends`, ranks 1, 3, 5,
    /// ..., 6, 4, 2, which needs no training [default: best-first; both-ends for noisy-context, which learns to read so].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_order: Option<String>,
    /// Hypotheses followed at a time when an answer is searched; 1: greedy [default: 1].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beams: Option<usize>,
    /// Compare the hypotheses of a beam search by log-probability / tokens^penalty; 0: by probability [default: 0].
    #[arg(long, allow_hyphen_values = true)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length_penalty: Option<f64>,
    /// Seed of everything random [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Learning-rate schedule: constant, linear or cosine [default: linear].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Warm-up steps [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup: Option<u64>,
    /// Decoupled weight decay [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// Largest gradient norm of each part; 0: no clipping [default: 1].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Train a LoRA adapter of this rank instead of all generator weights.
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_rank: Option<usize>,
    /// LoRA alpha [default: 16].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_alpha: Option<f64>,
    /// Scale the adapter's product by alpha / √rank instead of alpha / rank (rsLoRA) [default: false].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rslora: Option<bool>,
    /// Modules with an adapter [default: all-linear, every projection of the layers].
    #[arg(long, value_delimiter = ',')]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_targets: Option<Vec<String>>,
    /// Share of the inputs of each adapter that training drops [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora_dropout: Option<f64>,
    /// Dropout of the models while they train: `off`, `config` (what each config.json says), or a share for every place where
    /// the family has one. Off by default: in the literature, likelihoods that teach a retriever are those of the model as it
    /// answers, without dropout [default: off].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dropout: Option<String>,
    /// Keep the generator's matrices, frozen, as f32, bf16, f16, q8_0, q4_0 or q4_k; an adapter trains on top [default: f32].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_dtype: Option<String>,
    /// Compute the inside of each generator layer twice instead of keeping it: less memory, more time [default: false].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_checkpointing: Option<bool>,
    /// The most tokens of a prompt; passages are shortened to fit [default: the prompt template's].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prompt_tokens: Option<usize>,
    /// The most tokens of an answer [default: 32].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_answer_tokens: Option<usize>,
    /// Evaluate every so many steps; 0: only at the end [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_every: Option<u64>,
    /// Evaluate on the first so many questions only; 0: on all [default: 0].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_limit: Option<usize>,
    /// Write a checkpoint every so many steps; 0: none but the last [default: 100].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_every: Option<u64>,
    /// Checkpoints to keep [default: 2].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_checkpoints: Option<usize>,
    /// Candidates kept while the graph is searched [default: 64].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ef: Option<usize>,
    /// Search by comparing with every passage instead of walking the graph [default: false].
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<bool>,
    /// What finds passages.
    #[command(flatten)]
    #[serde(flatten)]
    pub retriever: super::RetrieverArgs,
    /// Where to compute: `cpu`, or, where this program was built for it, `cuda`, `cuda:N` or `metal` [default: cpu].
    #[arg(long)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
}

#[cfg(test)]
impl TrainArgs {
    /// What a run of `joint` needs to be said of, and nothing else.
    pub fn of_tests() -> Self {
        Self {
            strategy: Some("joint".into()),
            index: Some("index".into()),
            questions: Some("train.jsonl".into()),
            eval_questions: Some("dev.jsonl".into()),
            generator: Some("generator".into()),
            out: Some("run".into()),
            ..Self::default()
        }
    }
}
