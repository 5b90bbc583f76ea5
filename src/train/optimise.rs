//! One optimiser step: forward and backward in micro-batches, clip, update, and what that is worth telling.

use std::collections::BTreeMap;

use super::Trainer;
use super::batch;
use super::optimizer::{self, Gradients};
use super::schedule::Schedule;
use crate::cost::Phase;
use crate::data::Question;
use crate::error::Result;
use crate::models::dropout::Draw;
use crate::models::generator::Generator;
use crate::pipeline::selector::SampleKey;
use crate::pipeline::step::{Observed, Step};
use crate::report::record::CurvePoint;
use crate::strategies::{Lists, Stage};

impl Trainer<'_> {
    /// One optimiser step: forward and backward in micro-batches, clip, update.
    pub(super) fn step(&mut self, stage: &Stage) -> Result<CurvePoint> {
        let config = self.config;
        // The same order in every stage: a stage must not depend on its place in a strategy.
        let rows = batch::rows(self.questions.questions.len(), config.batch_size, config.seed, self.state.step);
        let batch: Vec<&Question> = rows.iter().filter_map(|row| self.questions.questions.get(*row)).collect();
        let whole = 0..batch.len();
        let longest = self.step_settings.max_prompt_tokens + self.step_settings.max_answer_tokens + 1;
        let runs = if stage.objective.per_question() {
            batch::micro_batches(&vec![self.question_tokens(stage, longest); batch.len()], config.batch_tokens)
        } else {
            vec![whole]
        };
        let stale = self.now(stage).stale();
        if let Some(fresh) = &self.context.fresh {
            fresh.borrow_mut().begin(self.state.step, stale);
        }
        let mut sums = Sums::default();
        let draw = Draw::new(config.seed).of(self.state.step);
        for (number, run) in runs.into_iter().enumerate() {
            let questions = batch.get(run).unwrap_or_default();
            let share = questions.len() as f64 / batch.len() as f64;
            self.micro_step(stage, questions, share, draw.of(number as u64), &mut sums)?;
        }
        let _span = self.ledger.span(Phase::Optimise);
        let factor = Schedule::parse(&config.schedule, config.warmup)?.factor(self.state.step, self.steps());
        let mut metrics = self.measure(&sums, &batch)?;
        let mut record = |part: &str, lr: f64, norm: f64| {
            metrics.learning_rates.insert(part.to_owned(), lr);
            metrics.gradient_norms.insert(part.to_owned(), norm);
        };
        // All gradients are looked at before the first weight moves.
        let (encoder_lr, generator_lr) = (config.lr_encoder * factor, config.lr_generator * factor);
        if stage.trains.encoder() {
            let norm = clip(&mut sums.encoder, config.clip).map_err(|error| self.diverged("encoder", error))?;
            record("encoder", encoder_lr, norm);
        }
        if stage.trains.generator {
            let norm = clip(&mut sums.generator, config.clip).map_err(|error| self.diverged("generator", error))?;
            record("generator", generator_lr, norm);
        }
        let selector_lr = config.lr_selector * factor;
        if stage.trains.selector {
            let norm = clip(&mut sums.selector, config.clip).map_err(|error| self.diverged("selector", error))?;
            record("selector", selector_lr, norm);
        }
        if stage.trains.encoder() {
            let moved = self.encoder_optimizer.step(self.pipeline.encoder.params(), &sums.encoder, encoder_lr);
            moved.map_err(|error| self.diverged("encoder", error))?;
        }
        if stage.trains.generator {
            let moved = self.generator_optimizer.step(self.pipeline.generator.params(), &sums.generator, generator_lr);
            moved.map_err(|error| self.diverged("generator", error))?;
        }
        if let (true, Some(selector)) = (stage.trains.selector, &self.pipeline.selector) {
            let moved = self.selector_optimizer.step(selector.generator.params(), &sums.selector, selector_lr);
            moved.map_err(|error| self.diverged("selector", error))?;
        }
        if let Some(fresh) = &self.context.fresh {
            self.state.ranked += fresh.borrow().used().embedded;
        }
        if stage.trains.passages {
            for ordinal in sums.observed.iter().flat_map(|observed| &observed.retrieved).flatten() {
                *self.state.retrieved.entry(*ordinal).or_default() += 1;
            }
        }
        for observed in &sums.observed {
            self.state.signals.add(observed);
            let remembered = &mut self.state.remembered;
            remembered.prompts += observed.memo.hits;
            remembered.computed += observed.memo.misses;
            remembered.tokens += observed.memo.tokens;
            remembered.flops += observed.memo.flops;
        }
        self.state.prompts += sums.observed.iter().map(|observed| observed.prompts).sum::<u64>();
        self.state.truncated_prompts += sums.observed.iter().map(|observed| observed.truncated_prompts).sum::<u64>();
        Ok(metrics)
    }

    /// Adds the loss and gradients of some of a batch's questions, weighted by their share of the batch.
    fn micro_step(
        &self,
        stage: &Stage,
        questions: &[&Question],
        share: f64,
        draw: Draw,
        sums: &mut Sums,
    ) -> Result<()> {
        let mut step = self.step_over(stage, questions, self.ledger).drawing(draw);
        self.find_lists(stage, &mut step)?;
        let loss = {
            // The objective's own arithmetic; what it pulls from the step is charged to inner spans.
            let _span = self.ledger.span(Phase::Score);
            stage.objective.loss(&mut step)?
        };
        let value = f64::from(loss.to_scalar::<f32>()?);
        if !value.is_finite() {
            return Err(self.loss_diverged(value, questions));
        }
        sums.loss += value * share;
        for (name, value) in stage.objective.observe(&step)? {
            *sums.extra.entry(name).or_insert(0.0) += value * share;
        }
        let span = self.ledger.span(Phase::Backward);
        let mut gradients = loss.backward()?;
        let again = self.pipeline.encoder.finish_backward(&mut gradients)?;
        self.pipeline.generator.finish_backward(&mut gradients)?;
        if let Some(selector) = &self.pipeline.selector {
            selector.generator.finish_backward(&mut gradients)?;
        }
        // Two forward passes' worth: gradients of activations and of weights (adapters: activations only); and what was
        // computed a second time.
        let factor = |model: &Generator| {
            let gradients = if model.lora().is_some() { 1.0 } else { 2.0 };
            gradients + f64::from(u8::from(self.config.gradient_checkpointing))
        };
        let selector = self.pipeline.selector.as_ref().map_or(0.0, |selector| factor(&selector.generator));
        span.flops(
            again
                + 2.0 * step.observed.encoder_flops
                + factor(&self.pipeline.generator) * step.observed.generator_flops
                + selector * step.observed.selector_flops,
        );
        if stage.trains.encoder() {
            let more = optimizer::gradients(self.pipeline.encoder.params(), &gradients)?;
            optimizer::accumulate(&mut sums.encoder, &more, share)?;
        }
        if stage.trains.generator {
            let more = optimizer::gradients(self.pipeline.generator.params(), &gradients)?;
            optimizer::accumulate(&mut sums.generator, &more, share)?;
        }
        if let (true, Some(selector)) = (stage.trains.selector, &self.pipeline.selector) {
            let more = optimizer::gradients(selector.generator.params(), &gradients)?;
            optimizer::accumulate(&mut sums.selector, &more, share)?;
        }
        sums.observed.push(step.observed);
        Ok(())
    }

    /// Draws or takes the lists of passages that a step of such a stage is about.
    pub fn find_lists(&self, stage: &Stage, step: &mut Step<'_>) -> Result<()> {
        match &stage.lists {
            Some(Lists::Drawn(expectation)) => {
                step.expect(expectation, SampleKey { seed: self.config.seed, step: self.state.step })
            }
            Some(Lists::Taught(teaching)) => step.teach(teaching),
            None => Ok(()),
        }
    }

    /// About how many tokens the prompts of one question hold.
    fn question_tokens(&self, stage: &Stage, longest: usize) -> usize {
        if let (Some(Lists::Drawn(expectation)), Some(selector)) = (&stage.lists, &self.pipeline.selector) {
            let list = selector.identifiers().longest_list(expectation.choose);
            return expectation.tokens(longest, selector.prompt_limit(expectation.choose), list);
        }
        let whole = usize::from(stage.objective.needs().concat);
        longest * (self.config.top_k + whole)
    }

    /// What a step is worth telling apart from its learning rates: loss, prior, what was retrieved, hard negatives a question,
    /// age of the index.
    fn measure(&self, sums: &Sums, batch: &[&Question]) -> Result<CurvePoint> {
        let retrieved: Vec<&Vec<u32>> = sums.observed.iter().flat_map(|observed| &observed.retrieved).collect();
        let scores: Vec<&Vec<f32>> = sums.observed.iter().flat_map(|observed| &observed.scores).collect();
        let mut extra = BTreeMap::from([("index_age".to_owned(), (self.state.step - self.state.embedded_at) as f64)]);
        extra.extend(sums.extra.clone());
        // What the index was found to be just before this step; seconds are in the record.
        let refreshes = self.state.refreshes.get(self.state.refreshes_before..).unwrap_or_default();
        for refresh in refreshes.iter().filter(|refresh| refresh.step == self.steps_done()) {
            extra.extend(refresh.metrics().map(|(name, value)| (name.to_owned(), value)));
        }
        if let Some(fresh) = &self.context.fresh {
            let used = fresh.borrow().used();
            extra.insert("candidates_embedded".into(), used.embedded as f64);
            extra.insert("candidates_known".into(), used.known as f64);
        }
        if !scores.is_empty() {
            let sum: f64 = scores.iter().map(|row| entropy(row, self.config.temperature)).sum();
            extra.insert("prior_entropy".into(), sum / scores.len() as f64);
        }
        let negatives: u64 = sums.observed.iter().map(|observed| observed.hard_negatives).sum();
        if negatives > 0 {
            extra.insert("hard_negatives".into(), negatives as f64 / batch.len() as f64);
        }
        if !retrieved.is_empty() {
            let mut distinct: Vec<u32> = retrieved.iter().copied().flatten().copied().collect();
            distinct.sort_unstable();
            distinct.dedup();
            extra.insert("distinct_passages".into(), distinct.len() as f64);
            let (mut named, mut found) = (0u32, 0u32);
            for (question, row) in batch.iter().zip(&retrieved).filter(|(q, _)| !q.gold_passages.is_empty()) {
                named += 1;
                for id in &question.gold_passages {
                    if self.pipeline.corpus.ordinal(id)?.is_some_and(|ordinal| row.contains(&ordinal)) {
                        found += 1;
                        break;
                    }
                }
            }
            if named > 0 {
                extra.insert("gold_retrieved".into(), f64::from(found) / f64::from(named));
            }
        }
        Ok(CurvePoint { step: self.steps_done() + 1, loss: sums.loss, extra, ..CurvePoint::default() })
    }
}

/// Clips to a norm (0: no clipping) and returns the norm before.
fn clip(gradients: &mut Gradients, max_norm: f64) -> Result<f64> {
    if max_norm > 0.0 { optimizer::clip(gradients, max_norm) } else { optimizer::global_norm(gradients) }
}

/// What the micro-batches of one step add up to.
#[derive(Default)]
struct Sums {
    loss: f64,
    extra: BTreeMap<String, f64>,
    encoder: Gradients,
    generator: Gradients,
    selector: Gradients,
    observed: Vec<Observed>,
}

/// Entropy in nats of `softmax(scores / temperature)`.
fn entropy(scores: &[f32], temperature: f64) -> f64 {
    let scaled: Vec<f64> = scores.iter().map(|score| f64::from(*score) / temperature).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scaled.iter().map(|s| (s - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|w| w / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_equal_and_of_distant_scores() {
        assert!((entropy(&[0.3, 0.3, 0.3, 0.3], 0.05) - 4f64.ln()).abs() < 1e-9);
        assert!(entropy(&[1.0, -1.0], 0.01) < 1e-9);
    }
}
