//! `joint`: one RAG-Token step that trains encoder and adapter together, with every passage embedded live.

use ragtune::error::Result;
use ragtune::models::Grad;
use ragtune::models::encoder::Encoder;
use ragtune::objectives::rag_token_loss;
use ragtune::train::optimizer::{self, AdamW, AdamWConfig};

use crate::Common;
use crate::generator;
use crate::inputs::{self, Readings};
use crate::measure::Line;

/// Measures it.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("joint", "steps");
    let inputs: Readings = inputs::read(&common.inputs, "reading.json")?;
    let device = common.device()?;
    let encoder = Encoder::load(&common.encoder, &device)?;
    let generator = generator::load(common, &device)?;
    let mut encoder_adamw = AdamW::new(AdamWConfig::default())?;
    let mut generator_adamw = AdamW::new(AdamWConfig::default())?;
    let mut losses = Vec::new();
    let times = common.repeats.run(|repetition| {
        let batch = inputs::batch(&inputs.batches, repetition)?;
        let questions = encoder.forward(&batch.questions, Grad::On)?;
        let passages = encoder.forward(&batch.passages, Grad::On)?;
        let (log_probs, mask) = generator::read(&generator, batch)?;
        let (b, k, _) = log_probs.dims3()?;
        let passages = passages.reshape((b, k, encoder.dim()))?;
        let scores = questions.unsqueeze(1)?.broadcast_mul(&passages)?.sum(2)?;
        let loss = rag_token_loss(&scores, inputs.temperature, &log_probs, &mask)?;
        let store = loss.backward()?;
        let gradients = optimizer::gradients(encoder.params(), &store)?;
        encoder_adamw.step(encoder.params(), &gradients, inputs.learning_rate_encoder)?;
        let gradients = optimizer::gradients(generator.params(), &store)?;
        generator_adamw.step(generator.params(), &gradients, inputs.learning_rate_generator)?;
        losses.push(loss.to_scalar::<f32>()?);
        Ok(())
    })?;
    Ok(line.times(&times, 1.0).found("losses", losses))
}
