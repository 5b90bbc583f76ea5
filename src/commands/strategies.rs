//! `ragtune strategies`: the recipes, where they come from, what they move, need and cost.

use serde::Serialize;

use super::{print_json, print_text};
use crate::error::Result;
use crate::strategies::{Passages, Recipe, STRATEGIES, Stage, Strategy};

#[derive(Serialize)]
struct Row {
    name: &'static str,
    about: &'static str,
    source: &'static str,
    /// Its stages in order, each with its equation.
    stages: Vec<StageRow>,
    /// Labels that every question needs.
    labels: Vec<&'static str>,
    /// Whether stored vectors go stale while it trains.
    index_goes_stale: &'static str,
    /// What a step costs, in words.
    cost: &'static str,
}

#[derive(Serialize)]
struct StageRow {
    name: &'static str,
    objective: &'static str,
    equation: &'static str,
    trains: Vec<&'static str>,
}

pub fn run(json: bool) -> Result<u8> {
    let rows: Vec<Row> = STRATEGIES.iter().map(row).collect();
    if json {
        print_json(&rows)?;
        return Ok(0);
    }
    for row in rows {
        let of_stage = |stage: &StageRow| {
            let StageRow { name, objective, equation, trains } = stage;
            format!("\n    {name} ({}) by {objective}: {equation}", trains.join(", "))
        };
        let stages: Vec<String> = row.stages.iter().map(of_stage).collect();
        let or_none = |list: Vec<String>| if list.is_empty() { "none".to_owned() } else { list.join("; ") };
        print_text(&format!(
            "{}\n  {}\n  source: {}\n  stages:{}\n  labels: {}\n  index goes stale: {}\n  cost of a step: {}",
            row.name,
            row.about,
            row.source,
            if stages.is_empty() { " none".to_owned() } else { stages.concat() },
            or_none(row.labels.iter().map(|label| (*label).to_owned()).collect()),
            row.index_goes_stale,
            row.cost
        ))?;
    }
    Ok(0)
}

fn row(strategy: &Strategy) -> Row {
    let plain = (strategy.stages)(&Recipe::default());
    let moving = (strategy.stages)(&Recipe { train_passages: true, ..Recipe::default() });
    let index_goes_stale = match (&plain, &moving) {
        (Ok(_), Ok(_)) => "only with --train-passages true",
        (Err(_), Ok(_)) => "yes: it trains passages",
        (Ok(_), Err(_)) | (Err(_), Err(_)) => "no",
    };
    let stages = plain.or(moving).unwrap_or_default();
    let mut labels: Vec<&'static str> = Vec::new();
    for stage in &stages {
        let gold = (stage.passages == Passages::GoldFirst).then_some("gold passages");
        labels.extend(stage.objective.needs().labels().into_iter().chain(gold));
    }
    labels.sort_unstable();
    labels.dedup();
    Row {
        name: strategy.name,
        about: strategy.about,
        source: strategy.source,
        stages: stages.iter().map(stage_row).collect(),
        labels,
        index_goes_stale,
        cost: strategy.cost,
    }
}

fn stage_row(stage: &Stage) -> StageRow {
    let parts = [
        (stage.trains.questions, "question encoder"),
        (stage.trains.passages, "passage encoder"),
        (stage.trains.generator, "generator"),
        (stage.trains.selector, "selector"),
    ];
    StageRow {
        name: stage.name,
        objective: stage.objective.name(),
        equation: stage.objective.equation(),
        trains: parts.into_iter().filter(|(trains, _)| *trains).map(|(_, part)| part).collect(),
    }
}
