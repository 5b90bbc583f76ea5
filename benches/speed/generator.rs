//! `generator`: one step of training the adapter on answers: B questions, K prompts each, RAG-Token with an even prior.

use candle_core::{DType, Device, Tensor};
use ragtune::error::{Error, Result};
use ragtune::models::Grad;
use ragtune::models::generator::{Generator, Scored};
use ragtune::objectives::rag_token_loss;
use ragtune::train::optimizer::{self, AdamW, AdamWConfig};

use crate::Common;
use crate::inputs::{self, Reading, Readings};
use crate::measure::Line;

/// Measures it.
pub fn measure(common: &Common) -> Result<Line> {
    let line = Line::begin("generator", "steps");
    let inputs: Readings = inputs::read(&common.inputs, "reading.json")?;
    let device = common.device()?;
    let generator = load(common, &device)?;
    let mut adamw = AdamW::new(AdamWConfig::default())?;
    let mut losses = Vec::new();
    let times = common.repeats.run(|repetition| {
        let (log_probs, mask) = read(&generator, inputs::batch(&inputs.batches, repetition)?)?;
        let (questions, passages, _) = log_probs.dims3()?;
        let even = Tensor::zeros((questions, passages), DType::F32, &device)?;
        let loss = rag_token_loss(&even, inputs.temperature, &log_probs, &mask)?;
        let gradients = optimizer::gradients(generator.params(), &loss.backward()?)?;
        adamw.step(generator.params(), &gradients, inputs.learning_rate_generator)?;
        losses.push(loss.to_scalar::<f32>()?);
        Ok(())
    })?;
    Ok(line.times(&times, 1.0).found("losses", losses))
}

/// The generator with its adapter, which alone trains.
pub fn load(common: &Common, device: &Device) -> Result<Generator> {
    let mut generator = common.generator(device)?;
    generator.load_adapter(&common.generator.join("adapter"))?;
    Ok(generator)
}

/// log p(answer token | prompt), (B, K, T) with gradient, and the mask (B, T): each answer after each of its K prompts.
pub fn read(generator: &Generator, batch: &Reading) -> Result<(Tensor, Tensor)> {
    let questions = batch.answers.len();
    let passages = batch.prompts.len().checked_div(questions).unwrap_or(0);
    if passages == 0 || passages * questions != batch.prompts.len() {
        let message = format!("a batch has `{}` prompts for {questions} answers", batch.prompts.len());
        return Err(Error::new(message).hint("run benches/peers/inputs.py again"));
    }
    let answers = batch.answers.iter().flat_map(|answer| std::iter::repeat_n(answer, passages));
    let scored = |(prompt, answer): (&Vec<u32>, &Vec<u32>)| Scored {
        ids: [prompt.as_slice(), answer.as_slice()].concat(),
        answer_start: prompt.len(),
    };
    let sequences: Vec<Scored> = batch.prompts.iter().zip(answers).map(scored).collect();
    let (log_probs, mask) = generator.answer_log_probs(&sequences, Grad::On)?;
    let tokens = log_probs.dim(1)?;
    let mask = mask.reshape((questions, passages, tokens))?.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?;
    Ok((log_probs.reshape((questions, passages, tokens))?, mask))
}
