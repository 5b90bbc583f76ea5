//! Whether a question set has the labels that a strategy learns from, and which strategies would do with those it has.

use crate::config::TrainConfig;
use crate::data::{Question, QuestionSet};
use crate::error::{Error, Result};
use crate::strategies::{Passages, Recipe, STRATEGIES, Stage};

/// Refuses questions that lack a label, with the strategies that would work.
pub fn check(set: &QuestionSet, config: &TrainConfig, stages: &[Stage]) -> Result<()> {
    for stage in stages {
        let lacking: Vec<(&Question, &str)> =
            set.questions.iter().filter_map(|question| Some((question, lacking(stage, question)?))).collect();
        let Some((first, label)) = lacking.first() else { continue };
        let possible = possible(set);
        let hint = match possible.is_empty() {
            true => "remove those questions, or add what they lack".to_owned(),
            false => format!("remove those questions, or use a strategy that does without: {}", possible.join(", ")),
        };
        return Err(Error::new(format!(
            "`--strategy {}` needs {} for every question in stage `{}`; {} of {} in `{}` have none, the first is `{}`",
            config.strategy,
            with_article(label),
            stage.name,
            lacking.len(),
            set.questions.len(),
            config.questions.display(),
            first.id
        ))
        .hint(hint));
    }
    check_negatives(set, config, stages)
}

/// Refuses to train without any of the hard negatives that were asked for: the loss would be another, with other questions'
/// passages alone.
fn check_negatives(set: &QuestionSet, config: &TrainConfig, stages: &[Stage]) -> Result<()> {
    let Some(stage) = stages.iter().find(|stage| reads_negatives(stage)) else { return Ok(()) };
    if with_negatives(set) > 0 {
        return Ok(());
    }
    Err(Error::new(format!(
        "`--hard-negatives {}` asks for hard negatives in stage `{}`, and none of the {} questions in `{}` has any",
        config.hard_negatives,
        stage.name,
        set.questions.len(),
        config.questions.display()
    ))
    .hint(
        "add `\"hard_negatives\": [\"passage id\", ..]` to the questions, let `--strategy ance` mine them, or leave \
         `--hard-negatives` out",
    ))
}

/// How many questions lack the hard negatives that a stage was asked to read, where any do.
pub fn without_negatives(stage: &Stage, set: &QuestionSet) -> Option<String> {
    let (with, all) = (with_negatives(set), set.questions.len());
    (reads_negatives(stage) && with < all).then(|| {
        format!(
            "stage `{}` was to read hard negatives, and {} of {all} questions have none: those learn from other passages alone",
            stage.name,
            all - with
        )
    })
}

/// Whether a stage takes hard negatives from the question file.
fn reads_negatives(stage: &Stage) -> bool {
    stage.objective.needs().hard_negatives && stage.mining.is_none()
}

/// Questions with a hard negative that is not gold.
fn with_negatives(set: &QuestionSet) -> usize {
    let has = |question: &&Question| question.hard_negatives.iter().any(|id| !question.gold_passages.contains(id));
    set.questions.iter().filter(has).count()
}

/// `a gold passage`, `an answer`, and what is many as it is.
fn with_article(label: &str) -> String {
    match label {
        "answer" => format!("an {label}"),
        "gold passage" => format!("a {label}"),
        many => many.to_owned(),
    }
}

fn lacking(stage: &Stage, question: &Question) -> Option<&'static str> {
    let gold = stage.passages == Passages::GoldFirst && question.gold_passages.is_empty();
    stage.objective.needs().lacking(question).or(gold.then_some("gold passage"))
}

/// Names of the strategies that train on these questions as they are.
fn possible(set: &QuestionSet) -> Vec<&'static str> {
    let learns = |recipe: &Recipe, stages: fn(&Recipe) -> Result<Vec<Stage>>| {
        stages(recipe).is_ok_and(|stages| {
            !stages.is_empty()
                && stages.iter().all(|stage| set.questions.iter().all(|question| lacking(stage, question).is_none()))
        })
    };
    let plain = Recipe::default();
    let both = Recipe { train_passages: true, ..plain.clone() };
    let usable = STRATEGIES.iter().filter(|it| learns(&plain, it.stages) || learns(&both, it.stages));
    usable.map(|strategy| strategy.name).collect()
}
