//! `embed`: passages to vectors with everything a user waits for: tokenizer, sorting by length, forward passes.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use ragtune::config;
use ragtune::error::{Context, Result};
use ragtune::models::encoder::Encoder;
use ragtune::models::{Precision, Role};
use ragtune::pipeline::embed::by_length;

use crate::Common;
use crate::inputs::{self, Texts};
use crate::measure::Line;

/// Passages embedded before those that are measured.
const WARM_UP: usize = 64;

/// What `embed` takes beside the common flags.
#[derive(Args)]
pub struct EmbedArgs {
    /// The first N passages only; 0 takes all.
    #[arg(long, default_value_t = 0)]
    passages: usize,
    /// The most tokens of one batch, as `ragtune index build` has it.
    #[arg(long, default_value_t = 8192)]
    batch_tokens: usize,
    /// What the encoder's matrices are rounded to: f32 (not at all), bf16 or int8. Questions are never rounded.
    #[arg(long, default_value = "f32")]
    precision: String,
    /// Write `passages.f32` and `questions.f32` to this folder: vectors as little-endian f32, a row a text.
    #[arg(long)]
    vectors: Option<PathBuf>,
}

/// Measures it.
pub fn measure(common: &Common, args: &EmbedArgs) -> Result<Line> {
    let precision = config::precision(&args.precision)?;
    let line = Line::begin("embed", "passages").side(match precision {
        Precision::F32 => "ragtune",
        Precision::Bf16 => "ragtune-bf16",
        Precision::Int8 => "ragtune-int8",
    });
    let mut texts: Texts = inputs::read(&common.inputs, "embed.json")?;
    if args.passages > 0 {
        texts.passages.truncate(args.passages);
    }
    let encoder = Encoder::load(&common.encoder, &common.device()?)?;
    let few = &texts.passages[..texts.passages.len().min(WARM_UP)];
    embed(&encoder, precision, few, Role::Passage, args.batch_tokens)?;
    let mut embedded = Embedded::default();
    let times = common.repeats.run_warm(|_| {
        embedded = embed(&encoder, precision, &texts.passages, Role::Passage, args.batch_tokens)?;
        Ok(())
    })?;
    if let Some(folder) = &args.vectors {
        let questions = embed(&encoder, Precision::F32, &texts.questions, Role::Question, args.batch_tokens)?;
        write(folder, "passages.f32", &embedded.vectors)?;
        write(folder, "questions.f32", &questions.vectors)?;
    }
    Ok(line
        .times(&times, texts.passages.len() as f64)
        .found("dim", encoder.dim())
        .found("tokens", embedded.tokens)
        .found("flops", embedded.flops)
        .found("tokenize_seconds", embedded.tokenize_seconds))
}

/// What embedding gave.
#[derive(Default)]
pub struct Embedded {
    /// In the order of the texts.
    vectors: Vec<f32>,
    /// Without padding.
    tokens: usize,
    /// Of the matrix products, without padding.
    pub flops: f64,
    tokenize_seconds: f64,
}

/// Embeds `texts` from their characters on.
pub fn embed(
    encoder: &Encoder,
    precision: Precision,
    texts: &[String],
    role: Role,
    batch_tokens: usize,
) -> Result<Embedded> {
    let started = Instant::now();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let ids = encoder.tokenize(&texts, role)?.ids;
    let tokenize_seconds = started.elapsed().as_secs_f64();
    let lengths: Vec<usize> = ids.iter().map(Vec::len).collect();
    let rounded = encoder.rounded(precision)?;
    let dim = encoder.dim();
    let mut vectors = vec![0f32; ids.len() * dim];
    for batch in by_length(&ids, batch_tokens) {
        let sequences: Vec<Vec<u32>> = batch.iter().map(|&row| ids[row].clone()).collect();
        let rows = rounded.forward(&sequences, role)?.flatten_all()?.to_vec1::<f32>()?;
        for (&row, vector) in batch.iter().zip(rows.chunks_exact(dim)) {
            vectors[row * dim..(row + 1) * dim].copy_from_slice(vector);
        }
    }
    Ok(Embedded { vectors, tokens: lengths.iter().sum(), flops: encoder.forward_flops(&lengths), tokenize_seconds })
}

fn write(folder: &Path, file: &str, vectors: &[f32]) -> Result<()> {
    let path = folder.join(file);
    let bytes: Vec<u8> = vectors.iter().flat_map(|value| value.to_le_bytes()).collect();
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&path, bytes))
        .context(|| format!("cannot write `{}`", path.display()))
}
