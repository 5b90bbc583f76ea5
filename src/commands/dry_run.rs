//! `ragtune train --dry-run`: the resolved settings and what they would cost.

use ragtune_index::Corpus;

use crate::config::TrainConfig;
use crate::cost::units;
use crate::error::Result;
use crate::pipeline::identity::build_note;

/// Settings as TOML and an estimate of the passages that refreshes embed, with its assumptions.
pub fn describe(config: &TrainConfig) -> Result<String> {
    let corpus = Corpus::open(&config.index)?;
    let stages = config.stages()?;
    let moving = stages.iter().filter(|stage| stage.trains.passages).count() as u64;
    let during = match config.refresh_every {
        0 => 0,
        every => config.steps.saturating_sub(1) / every,
    };
    // The last one makes the index match the trained encoder before the final evaluation.
    let refreshes = moving * (during + u64::from(config.steps > 0));
    let passages = refreshes * corpus.len() as u64;
    let questions = stages.len() as u64 * config.steps * config.batch_size as u64;
    let mut text = config.to_toml()?;
    text.push_str(&format!(
        "\n# {} stages, {} optimiser steps each, {questions} questions seen\n# {refreshes} refreshes of {} passages: {passages} passages to embed",
        stages.len(),
        config.steps,
        corpus.len()
    ));
    match build_note(&corpus)? {
        Some(note) if note.passages_per_second > 0.0 => text.push_str(&format!(
            ", about {} at the {:.1} passages/s of the index build",
            units::seconds(passages as f64 / note.passages_per_second),
            note.passages_per_second
        )),
        _ => text.push_str("; the index has no record of how fast it was built, so their time is unknown"),
    }
    text.push_str(
        "\n# the time of training steps is not estimated: run a few with `--steps 10` and read the cost table",
    );
    Ok(text)
}
