//! Settings that contradict themselves or each other, refused before any work is done.

use super::{TrainConfig, generator_format};
use crate::error::{Error, Result};
use crate::models::device::Choice;
use crate::pipeline::answer::{check_order, check_search};
use crate::train::refresh::Policy;

impl TrainConfig {
    pub(super) fn check(&self) -> Result<()> {
        Choice::parse(&self.device)?;
        let stages = self.stages()?;
        let trains = stages.iter().any(|stage| stage.trains.generator);
        if generator_format(&self.generator_dtype)?.is_some() && trains && self.lora_rank.is_none() {
            return Err(Error::new(format!(
                "`--generator-dtype {}` freezes the generator's matrices, and `--strategy {}` trains them",
                self.generator_dtype, self.strategy
            ))
            .hint("train an adapter on top, for instance with `--lora-rank 16`, or leave `--generator-dtype` out"));
        }
        crate::train::refresh::RefreshSettings::of(self)?;
        crate::train::schedule::Schedule::parse(&self.schedule, self.warmup)?;
        at_least_one("--batch-size", self.batch_size)?;
        at_least_one("--batch-tokens", self.batch_tokens)?;
        at_least_one("--top-k", self.top_k)?;
        if let (1, Some(stage)) = (self.top_k, stages.iter().find(|stage| stage.objective.needs().leave_one_out)) {
            return Err(Error::new(format!(
                "`--top-k 1` leaves nothing to read in stage `{}`, whose objective `{}` leaves out one passage at a time",
                stage.name,
                stage.objective.name()
            ))
            .hint("use `--top-k 2` or more"));
        }
        at_least_one("--max-answer-tokens", self.max_answer_tokens)?;
        at_least_one("--keep-checkpoints", self.keep_checkpoints)?;
        at_least_one("--ef", self.ef)?;
        check_order(self.eval_reader()?, self.eval_order.unwrap_or_default())?;
        check_search(self.beams, self.length_penalty)?;
        let retriever = self.retriever_settings()?;
        if !retriever.kind.is_dense() && matches!(self.refresh, Policy::Rows | Policy::Lazy) {
            let (refresh, retriever) = (self.refresh.name(), retriever.kind.name());
            return Err(Error::new(format!(
                "`--refresh {refresh}` ranks the nearest passages by live vectors, and `--retriever {retriever}` does not rank by \
                 vectors alone"
            ))
            .hint("use `--retriever dense`, or another `--refresh`, for instance `full-reuse`"));
        }
        positive("--temperature", self.temperature)?;
        positive("--scale", self.scale)?;
        positive("--beta", self.beta)?;
        if let Some(temperature) = self.target_temperature {
            positive("--target-temperature", temperature)?;
        }
        if let Some(temperature) = self.teacher_temperature {
            positive("--teacher-temperature", temperature)?;
        }
        positive("--lr-encoder", self.lr_encoder)?;
        positive("--lr-generator", self.lr_generator)?;
        positive("--lr-selector", self.lr_selector)?;
        not_negative("--weight-decay", self.weight_decay)?;
        not_negative("--clip", self.clip)?;
        if let Some(rank) = self.lora_rank {
            at_least_one("--lora-rank", rank)?;
            positive("--lora-alpha", self.lora_alpha)?;
        }
        crate::train::check_metric(&self.select_by)?;
        if let (Some(steps), 0) = (self.last_steps, self.only_stages) {
            return Err(Error::new(format!(
                "`last-steps = {steps}` is about the last of `only-stages`, which is not given"
            ))
            .hint("set `steps`; `last-steps` and `only-stages` are for searches of learning rates"));
        }
        if self.early_stop > 0 {
            if self.selection_questions.is_none() {
                return Err(Error::new(format!(
                    "`--early-stop {}` needs questions to decide by, and `--selection-questions` is not given",
                    self.early_stop
                ))
                .hint("give questions that are neither trained on nor reported as `--selection-questions`"));
            }
            if self.eval_every == 0 {
                return Err(Error::new(format!(
                    "`--early-stop {}` looks every `--eval-every` steps, which is 0",
                    self.early_stop
                ))
                .hint("for instance `--eval-every 50`"));
            }
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(Error::new(format!("`--lora-dropout {}` is no share from 0 to below 1", self.lora_dropout))
                .hint("leave `--lora-dropout` out for none, or give for instance 0.05"));
        }
        if self.lora_rank.is_none() && (self.lora_dropout > 0.0 || self.rslora) {
            let asked =
                if self.rslora { "--rslora".to_owned() } else { format!("--lora-dropout {}", self.lora_dropout) };
            return Err(Error::new(format!("`{asked}` is about an adapter, and none trains"))
                .hint("train one, for instance with `--lora-rank 16`, or leave it out"));
        }
        if self.questions == self.eval_questions {
            return Err(Error::new(format!(
                "`--questions` and `--eval-questions` are both `{}`: a score on training questions says nothing",
                self.questions.display()
            ))
            .hint("give a held-out set as `--eval-questions`"));
        }
        Ok(())
    }
}

/// Refuses 0.
pub fn at_least_one(flag: &str, value: usize) -> Result<()> {
    if value >= 1 {
        return Ok(());
    }
    Err(Error::new(format!("`{flag} {value}` is too small; expected at least 1"))
        .hint(format!("for instance `{flag} 8`")))
}

/// Refuses what is not finite and above 0.
pub fn positive(flag: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::new(format!("`{flag} {value}` is not a positive number"))
        .hint(format!("leave `{flag}` out for the default")))
}

fn not_negative(flag: &str, value: f64) -> Result<()> {
    if value >= 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::new(format!("`{flag} {value}` is negative or not a number"))
        .hint(format!("leave `{flag}` out for the default")))
}
