//! `limit`: embedding held against the matrix products alone, in turn and in one process, so that both meet the same machine.
//!
//! The share is what the products of the embedded passages would take at the rate of candle's product, over what embedding
//! took: in wall time by the fastest repetition of each side, and in CPU time by the sums over all repetitions. On a machine
//! that others use the second is the one to trust.

use candle_core::Device;
use ragtune::error::Result;
use ragtune::models::encoder::Encoder;
use ragtune::models::{Precision, Role};

use crate::Common;
use crate::embed::embed;
use crate::inputs::{self, Texts};
use crate::matmul::Operands;
use crate::measure::{Line, Times};

/// What `limit` takes beside the common flags.
#[derive(clap::Args)]
pub struct LimitArgs {
    /// Every Nth passage only.
    #[arg(long, default_value_t = 32)]
    every: usize,
    /// The most tokens of one batch, as `ragtune index build` has it.
    #[arg(long, default_value_t = 8192)]
    batch_tokens: usize,
}

/// Measures it.
pub fn measure(common: &Common, args: &LimitArgs) -> Result<Line> {
    let line = Line::begin("limit", "passages");
    let texts: Texts = inputs::read(&common.inputs, "embed.json")?;
    let passages: Vec<String> = texts.passages.into_iter().step_by(args.every.max(1)).collect();
    let operands = Operands::read(&common.inputs)?;
    let encoder = Encoder::load(&common.encoder, &Device::Cpu)?;
    let (mut alone, mut times, mut flops) = (Times::default(), Times::default(), 0.0);
    common.repeats.run(|repetition| {
        let mut discarded = Times::default();
        let (alone, times) = match common.repeats.is_warm_up(repetition) {
            true => (&mut discarded, &mut Times::default()),
            false => (&mut alone, &mut times),
        };
        for _ in 0..8 {
            alone.take(|| operands.through_candle())?;
        }
        times.take(|| {
            flops = embed(&encoder, Precision::F32, &passages, Role::Passage, args.batch_tokens)?.flops;
            Ok(())
        })
    })?;
    let giga = flops * 1e-9;
    let limit = operands.giga() / alone.least();
    // Products and embedding were repeated differently often.
    let (of_products, of_embedding) = (operands.giga() * alone.count(), giga * times.count());
    Ok(line
        .times(&times, passages.len() as f64)
        .found("limit_gflops_per_second", limit)
        .found("share_of_wall", giga / limit / times.least())
        .found("share_of_cpu", of_embedding / times.cpu_seconds() / (of_products / alone.cpu_seconds()))
        .found("flops", flops))
}
