//! `mnrl`: one step of fine-tuning every weight of the encoder: questions and passages forward, backward, AdamW.

use candle_core::{DType, Tensor};
use ragtune::error::Result;
use ragtune::models::Grad;
use ragtune::models::encoder::Encoder;
use ragtune::objectives::mnrl_loss;
use ragtune::train::optimizer::{self, AdamW, AdamWConfig};

use crate::Common;
use crate::inputs::{self, Pairs};
use crate::measure::Line;

/// Measures it.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("mnrl", "steps");
    let inputs: Pairs = inputs::read(&common.inputs, "mnrl.json")?;
    let device = common.device()?;
    let encoder = Encoder::load(&common.encoder, &device)?;
    let mut adamw = AdamW::new(AdamWConfig::default())?;
    let mut losses = Vec::new();
    let times = common.repeats.run(|repetition| {
        let batch = inputs::batch(&inputs.batches, repetition)?;
        let questions = encoder.forward(&batch.questions, Grad::On)?;
        let passages = encoder.forward(&batch.passages, Grad::On)?;
        let scores = questions.matmul(&passages.t()?)?;
        let count = batch.questions.len();
        let gold = Tensor::arange(0, count as u32, &device)?;
        let excluded = Tensor::zeros((count, count), DType::F32, &device)?;
        let loss = mnrl_loss(&scores, &gold, &excluded, inputs.scale)?;
        let gradients = optimizer::gradients(encoder.params(), &loss.backward()?)?;
        adamw.step(encoder.params(), &gradients, inputs.learning_rate)?;
        losses.push(loss.to_scalar::<f32>()?);
        Ok(())
    })?;
    Ok(line.times(&times, 1.0).found("losses", losses))
}
