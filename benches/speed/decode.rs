//! `decode`: greedy continuation of a batch of prompts, reading them included; no token ends an answer.

use ragtune::error::Result;

use crate::Common;
use crate::inputs::{self, Prompts};
use crate::measure::Line;

/// Measures it.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("decode", "tokens");
    let inputs: Prompts = inputs::read(&common.inputs, "decode.json")?;
    let generator = common.generator(&common.device()?)?;
    let mut written = Vec::new();
    let times = common.repeats.run(|_| {
        written = generator.greedy(&inputs.prompts, inputs.new_tokens, &[])?;
        Ok(())
    })?;
    let tokens: usize = written.iter().map(Vec::len).sum();
    Ok(line.times(&times, tokens as f64).found("written", written))
}
