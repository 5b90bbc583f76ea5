//! `ragtune train --dry-run`: the resolved settings and what they would cost.

use ragtune_index::Corpus;
use serde_json::{Value, json};

use super::{counted, out, print_json, print_text, training};
use crate::config::TrainConfig;
use crate::cost::{Ledger, units};
use crate::error::{Error, Result};
use crate::pipeline::identity::build_note;
use crate::train::memory::{self, Estimate};
use crate::train::refresh::{Expected, RefreshSettings};
use crate::train::session::Session;

/// Prints settings, passages to embed and expected memory. The settings are those that were typed; `located` are the same
/// with models where they were found. Models and data are loaded as training loads them, so that what it would refuse is
/// refused here too, a run folder that cannot be made and memory that is not there among it; nothing is locked and nothing is
/// left behind.
pub fn run(config: &TrainConfig, located: &TrainConfig, json: bool) -> Result<u8> {
    let stages = config.stages()?;
    out::check_run(&config.out)?;
    training::foreseen(config, &stages).iter().for_each(|note| eprintln!("warning: {note}"));
    let session = Session::look(located, &stages, &Ledger::new())?;
    training::warn_of_slow_refreshes(&session, &stages)?;
    let estimate = memory::estimate(&session, located, &stages)?;
    let needed = Needed { free: training::free_bytes(&session, &estimate), estimate, config: located };
    let corpus = Corpus::open(&config.index)?;
    let following = RefreshSettings::of(config)?;
    let steps_of = |number| config.steps_of(number, stages.len());
    let moving = stages.iter().enumerate().filter(|(_, stage)| stage.trains.passages);
    let expected =
        moving.map(|(number, _)| following.expected(steps_of(number), config.batch_size, corpus.len())).collect();
    let Expected { refreshes, others, at_most } = Expected::sum(expected);
    let passages = refreshes.saturating_mul(corpus.len() as u64).saturating_add(others);
    let up_to = if at_most { "at most " } else { "" };
    let steps = (0..stages.len()).map(steps_of).fold(0, u64::saturating_add);
    let questions = steps.saturating_mul(config.batch_size as u64);
    let speed = build_note(&corpus)?.map(|note| note.passages_per_second).filter(|speed| *speed > 0.0);
    let seconds = speed.map(|speed| passages as f64 / speed);
    if json {
        print_json(&json!({
            "settings": config,
            "stages": stages.len(),
            "questions_seen": questions,
            "refreshes": refreshes,
            "passages_to_embed": passages,
            "passages_to_embed_is_upper_bound": at_most,
            "embedding_seconds": seconds,
            "expected_memory_bytes": needed.estimate.peak() as u64,
            "memory": needed.json(),
        }))?;
        return needed.refusal().map_or(Ok(0), Err);
    }
    let mut text = config.to_toml()?;
    text.push_str(&format!(
        "\n# {}, {} optimiser steps each, {questions} questions seen\n# {up_to}{refreshes} refreshes of {} passages",
        counted(stages.len() as u64, "stage"),
        config.steps,
        corpus.len()
    ));
    if others > 0 {
        text.push_str(&format!(", and {up_to}{others} passages for `--refresh {}` besides", config.refresh.name()));
    }
    text.push_str(&format!(": {up_to}{passages} passages to embed"));
    match speed.zip(seconds) {
        Some((speed, seconds)) => text
            .push_str(&format!(", about {} at the {speed:.1} passages/s of the index build", units::seconds(seconds))),
        None => text.push_str("; the index has no record of how fast it was built, so their time is unknown"),
    }
    text.push_str(
        "\n# the time of training steps is not estimated: run a few with `--steps 10` and read the cost table",
    );
    text.push_str(&needed.text());
    print_text(&text)?;
    needed.refusal().map_or(Ok(0), Err)
}

/// The memory a run is expected to take, beside what there is.
struct Needed<'a> {
    estimate: Estimate,
    free: Option<u64>,
    config: &'a TrainConfig,
}

impl Needed<'_> {
    /// Why training would refuse to begin, where it would.
    fn refusal(&self) -> Option<Error> {
        self.estimate.check(self.free? as f64, self.config).err()
    }

    /// The same in one line.
    fn refused(&self) -> Option<String> {
        let error = self.refusal()?;
        let hint = error.find_hint().map_or_else(String::new, |hint| format!("; {hint}"));
        Some(format!("{error}{hint}"))
    }

    fn json(&self) -> Value {
        let Estimate { loaded, training, activations, refresh, evaluation, .. } = self.estimate;
        json!({
            "loaded": loaded as u64,
            "training": training as u64,
            "activations": activations as u64,
            "refresh": refresh as u64,
            "evaluation": evaluation as u64,
            "free": self.free,
            "refused": self.refused(),
        })
    }

    /// Lines of comment.
    fn text(&self) -> String {
        let bytes = |value: f64| units::bytes(value as u64);
        let Estimate { loaded, training, activations, refresh, evaluation, .. } = self.estimate;
        let mut text = format!(
            "\n# expected memory: {} at its peak: {} that models and index take, {} for gradients and moments, and the largest of {} for \
             activations, {} for a refresh, {} for evaluation",
            bytes(self.estimate.peak()),
            bytes(loaded),
            bytes(training),
            bytes(activations),
            bytes(refresh),
            bytes(evaluation)
        );
        if let Some(free) = self.free {
            text.push_str(&format!("; {} are free beside what is loaded", units::bytes(free)));
        }
        if let Some(refusal) = self.refused() {
            text.push_str(&format!("\n# training would not begin: {refusal}"));
        }
        text
    }
}
