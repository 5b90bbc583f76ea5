//! Speed and memory of one piece of work, as one line: what `benches/speed.sh` runs beside the same work in Python.
//!
//! ```text
//! cargo bench --profile release --bench speed -- mnrl --inputs FOLDER --generator FOLDER --json
//! ```
//!
//! One process does one work, so that the peak of its memory is this work's. Inputs are token ids that
//! `benches/peers/inputs.py` wrote, so that both sides do the same; losses, tokens and vectors are given out to be compared.

mod decode;
mod embed;
mod generator;
mod inputs;
mod joint;
mod limit;
mod matmul;
mod measure;
mod mnrl;
mod parity;
mod process;

use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::{Args, Parser, Subcommand};
use ragtune::config::generator_format;
use ragtune::error::{Error, Result};
use ragtune::models::generator::Generator;
use ragtune::models::{device, nn};

use measure::{Line, Repeats};

/// What was typed.
#[derive(Parser)]
#[command(about = "Measure the speed and memory of one piece of work")]
struct Cli {
    #[command(subcommand)]
    work: Work,
    #[command(flatten)]
    common: Common,
}

/// What can be measured, in the order of the table.
#[derive(Subcommand)]
enum Work {
    /// Passages to vectors: texts in, tokenizer included.
    Embed(embed::EmbedArgs),
    /// One step of fine-tuning the whole encoder on question-passage pairs.
    Mnrl,
    /// One step of training the generator's adapter on answers.
    Generator,
    /// One step of training encoder and adapter together, passages embedded live.
    Joint,
    /// Greedy continuation of a batch of prompts.
    Decode,
    /// Matrix products alone, in the shapes of the encoder's layers.
    Matmul,
    /// The golden numbers of the tests on the chosen device; no speed.
    Parity,
    /// Embedding held against the matrix products alone, in turn.
    Limit(limit::LimitArgs),
}

/// What every work takes.
#[derive(Args)]
struct Common {
    /// The folder that benches/peers/inputs.py filled.
    #[arg(long, global = true, default_value = "target/speed/inputs")]
    inputs: PathBuf,
    /// A sentence-transformers folder.
    #[arg(long, global = true, default_value = "../shared/models/all-MiniLM-L6-v2")]
    encoder: PathBuf,
    /// The folder that benches/peers/random_llama.py made: the model in `model`, the adapter in `adapter`.
    #[arg(long, global = true, default_value = "target/speed/generator")]
    generator: PathBuf,
    #[command(flatten)]
    repeats: Repeats,
    /// Where to compute: cpu, cuda, cuda:N or metal.
    #[arg(long, global = true, default_value = "cpu")]
    device: String,
    /// How the generator's frozen matrices are kept: f32, bf16, f16, q8_0, q4_0 or q4_k.
    #[arg(long, global = true, default_value = "f32")]
    generator_dtype: String,
    /// Let CUDA round the inputs of f32 products to TF32.
    #[arg(long, global = true)]
    tf32: bool,
    /// Compute on the CPU as on another device: out of candle's operations.
    #[arg(long, global = true)]
    portable: bool,
    /// Print the whole result as one line of JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What `cargo bench` adds.
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

impl Common {
    /// Opens the device; once, because tensors of two do not meet.
    fn device(&self) -> Result<Device> {
        if self.tf32 {
            device::allow_tf32()?;
        }
        device::open(&self.device)
    }

    /// The generator's base.
    fn generator(&self, device: &Device) -> Result<Generator> {
        Generator::load_as(&self.generator.join("model"), device, generator_format(&self.generator_dtype)?)
    }
}

fn main() -> ExitCode {
    let threads = process::prepare();
    let cli = Cli::parse();
    let measure = || match &cli.work {
        Work::Embed(args) => embed::measure(&cli.common, args),
        Work::Mnrl => mnrl::measure(&cli.common),
        Work::Generator => generator::measure(&cli.common),
        Work::Joint => joint::measure(&cli.common),
        Work::Decode => decode::measure(&cli.common),
        Work::Matmul => matmul::measure(&cli.common),
        Work::Parity => parity::measure(&cli.common),
        Work::Limit(args) => limit::measure(&cli.common, args),
    };
    let measured = if cli.common.portable { nn::portably(measure) } else { measure() };
    match measured.and_then(|line| print(line, threads, cli.common.json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                eprintln!("  because: {inner}");
                cause = inner.source();
            }
            if let Some(hint) = error.find_hint() {
                eprintln!("\nhint: {hint}");
            }
            ExitCode::from(2)
        }
    }
}

fn print(line: Line, threads: usize, json: bool) -> Result<()> {
    let line = line.finish(threads);
    if json {
        println!("{}", serde_json::to_string(&line).map_err(Error::from)?);
    } else {
        println!("{line}");
    }
    Ok(())
}
