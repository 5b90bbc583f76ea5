//! Puts runs side by side: quality with its doubt, the whole cost, and what makes the comparison doubtful. Pure.

use super::cost::{Cost, Spread};
use super::record::{RunRecord, Status};
use super::scores::QuestionScore;
use super::search;
use super::settings::{labels, settings};
use super::warnings::{Warning, alone, beside};
use crate::error::{Error, Result};
use crate::eval::statistics::{Difference, Interval, RESAMPLES, bootstrap, deviation, mean};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// How to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct CompareOptions {
    /// Name of the evaluation whose scores were given.
    pub evaluation: String,
    /// Put runs of the same name and settings that differ by seed into one row.
    pub group_seeds: bool,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { evaluation: "final".to_owned(), group_seeds: false, resamples: RESAMPLES, seed: 0 }
    }
}

/// Runs side by side; the first row is the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Name of the evaluation.
    pub evaluation: String,
    /// Number of questions.
    pub questions: u64,
    /// File and hash of the questions.
    pub questions_path: String,
    /// Hex blake3 of the question set.
    pub questions_hash: String,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// What recall means.
    pub recall_definition: String,
    /// How answers of the reference were learnt and read off.
    pub reader_mode: String,
    /// The machine of the reference.
    pub machine: String,
    /// Names of the metrics that any row has, in the order of the tables.
    pub metrics: Vec<String>,
    /// Label of the first row.
    pub reference: String,
    /// What all of it took together.
    pub spent: Spent,
    /// One row a run, or a group of runs that differ by seed.
    pub rows: Vec<Row>,
    /// Reasons to doubt.
    pub warnings: Vec<Warning>,
}

/// What a whole comparison took, where stages and searches are shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// Wall seconds of all runs and of every learning rate that was tried, each counted once, and of the stages that were taken over.
    pub seconds: f64,
    /// Of these, seconds of runs that only searched for learning rates.
    pub search_seconds: f64,
    /// Of these, seconds of stages that runs outside of this comparison trained, each counted once.
    #[serde(default)]
    pub taken_over_seconds: f64,
    /// What the runs would have cost one by one, searches included, had nothing been shared.
    pub alone_seconds: f64,
}

/// One row: a run, or runs that differ by seed only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// How tables call it.
    pub label: String,
    /// Name of the strategy.
    pub strategy: String,
    /// How answers are read off, and how they were learnt where that was otherwise.
    pub reader: String,
    /// Seeds of its runs.
    pub seeds: Vec<u64>,
    /// How many of its runs came to the evaluation: the quality is their mean.
    #[serde(default)]
    pub scored: usize,
    /// Whether all of its runs are finished.
    pub finished: bool,
    /// Quality by metric, 0 to 1.
    pub metrics: BTreeMap<String, Measured>,
    /// Difference to the first row by metric, paired by question; empty in the first row.
    pub differences: BTreeMap<String, Difference>,
    /// What it cost.
    pub cost: Cost,
}

/// A metric of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Mean over questions (of the mean over seeds), with its 95 % bootstrap interval over questions.
    #[serde(flatten)]
    pub interval: Interval,
    /// Questions it is the mean of.
    pub n: u64,
    /// Standard deviation of the mean over seeds; none of a single run.
    pub seed_deviation: Option<f64>,
}

/// Compares runs with the first of them. A run that is not finished and has no scores is shown with its cost alone.
///
/// # Errors
/// When no run is given; when two runs were evaluated on different questions (both are named); when a question occurs twice.
pub fn compare(runs: Vec<(RunRecord, Vec<QuestionScore>)>, options: &CompareOptions) -> Result<Comparison> {
    let aligned = align(&runs)?;
    let (first, scores) = base(&runs)?;
    let groups = group(&runs, options.group_seeds);
    let leaders: Vec<&RunRecord> = groups.iter().filter_map(|group| Some(&runs.get(*group.first()?)?.0)).collect();
    let labels = labels(&leaders, !options.group_seeds);
    // A run that never came to its evaluation has a cost and no quality: the means of its row are those of the others.
    let scored = |run: &&usize| runs.get(**run).is_some_and(|(record, scores)| !is_unscored(record, scores));
    let tables: Vec<Vec<Scores>> = groups
        .iter()
        .map(|group| group.iter().filter(scored).filter_map(|&run| aligned.get(run).cloned()).collect())
        .collect();
    let means: Vec<Scores> = tables.iter().map(|runs| average(runs)).collect();

    let mut rows = Vec::new();
    for (((group, label), runs_scores), scores) in groups.iter().zip(&labels).zip(&tables).zip(&means) {
        let records: Vec<&RunRecord> = group.iter().filter_map(|&run| Some(&runs.get(run)?.0)).collect();
        rows.push(row(label, &records, runs_scores, scores));
    }
    measure(&mut rows, &means, options)?;
    let reference = rows.first().map(|row| row.cost.seconds).unwrap_or_default();
    rows.iter_mut().skip(1).for_each(|row| row.cost.compare_with(&reference));
    if let Some(first) = rows.first_mut() {
        first.cost.ratio = Some(Spread { mean: 1.0, deviation: None });
    }

    let spent = spent(&runs);
    let present: BTreeSet<&String> = rows.iter().flat_map(|row| row.metrics.keys()).collect();
    let mut metrics: Vec<String> = present.into_iter().cloned().collect();
    metrics.sort_by_key(|name| order(name));
    Ok(Comparison {
        evaluation: options.evaluation.clone(),
        questions: scores.len() as u64,
        questions_path: first.data.eval_questions.path.clone(),
        questions_hash: first.data.eval_questions.hash.clone(),
        resamples: options.resamples,
        recall_definition: first.recall_definition.clone(),
        reader_mode: first.reading(),
        machine: first.machine.to_string(),
        metrics,
        reference: labels.first().cloned().unwrap_or_default(),
        warnings: doubts(&runs, &groups, &rows),
        spent,
        rows,
    })
}

fn spent(runs: &[(RunRecord, Vec<QuestionScore>)]) -> Spent {
    let records: Vec<&RunRecord> = runs.iter().map(|(record, _)| record).collect();
    let search_seconds: f64 =
        search::points(records.iter().copied()).iter().map(|point| point.ledger.total_seconds()).sum();
    let own: f64 = records.iter().map(|record| record.ledger.total_seconds()).sum();
    let taken_over_seconds: f64 = search::taken_over(&records).iter().map(|ledger| ledger.total_seconds()).sum();
    let whole: f64 = records.iter().map(|record| record.whole().total_seconds()).sum();
    // A row is searched for once, whatever the number of its seeds.
    let searched = group(runs, true).into_iter().map(|group| {
        let of_row: Vec<&RunRecord> = group.iter().filter_map(|&run| records.get(run).copied()).collect();
        search::search_cost(&of_row).total_seconds()
    });
    Spent {
        seconds: own + search_seconds + taken_over_seconds,
        search_seconds,
        taken_over_seconds,
        alone_seconds: whole + searched.sum::<f64>(),
    }
}

/// Scores of one run by metric: one value a question in the order of the first run, none where it has no such score.
type Scores = BTreeMap<String, Vec<Option<f64>>>;

/// The run whose questions all others must have: the first that came to its evaluation.
fn base(runs: &[(RunRecord, Vec<QuestionScore>)]) -> Result<(&RunRecord, &[QuestionScore])> {
    let scored = runs.iter().find(|(record, scores)| !is_unscored(record, scores)).or(runs.first());
    let Some((record, scores)) = scored else {
        return Err(Error::new("no run was given, expected at least one").hint("ragtune compare RUN..."));
    };
    Ok((record, scores))
}

/// Whether a run stopped before its evaluation: it has a cost to show, and no quality.
fn is_unscored(record: &RunRecord, scores: &[QuestionScore]) -> bool {
    scores.is_empty() && record.status != Status::Finished
}

/// Puts the scores of every run into the question order of the first, or says which questions differ.
fn align(runs: &[(RunRecord, Vec<QuestionScore>)]) -> Result<Vec<Scores>> {
    let (first, first_scores) = base(runs)?;
    let order: HashMap<&str, usize> =
        first_scores.iter().enumerate().map(|(at, score)| (score.id.as_str(), at)).collect();
    let name = |record: &RunRecord| format!("{} (seed {})", record.name(), record.seed);
    let differ = |record: &RunRecord, how: String| {
        let message =
            format!("runs `{}` and `{}` were evaluated on different questions: {how}", name(first), name(record));
        Error::new(message).hint("evaluate both on one file: ragtune eval --run RUN --questions FILE")
    };
    let mut all = Vec::with_capacity(runs.len());
    for (record, scores) in runs {
        let (ours, theirs) = (&first.data.eval_questions, &record.data.eval_questions);
        if ours.hash != theirs.hash {
            let shown =
                |file: &super::DataFile| format!("`{}` ({})", file.path, file.hash.get(..12).unwrap_or(&file.hash));
            return Err(differ(record, format!("{} and {}", shown(ours), shown(theirs))));
        }
        let mut seen = vec![false; first_scores.len()];
        let mut table: Scores = BTreeMap::new();
        for score in scores {
            let Some(&at) = order.get(score.id.as_str()) else {
                return Err(differ(record, format!("only the second has `{}`", score.id)));
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(Error::new(format!("run `{}` has scores for question `{}` twice", name(record), score.id)));
            }
            for (metric, value) in score.metrics() {
                let column = table.entry(metric).or_insert_with(|| vec![None; first_scores.len()]);
                column[at] = Some(value);
            }
        }
        if is_unscored(record, scores) {
            all.push(table);
            continue;
        }
        if let Some((missing, _)) = first_scores.iter().zip(&seen).find(|(_, seen)| !**seen) {
            return Err(differ(record, format!("only the first has `{}`", missing.id)));
        }
        all.push(table);
    }
    Ok(all)
}

/// Indices of the runs of each row, rows in the order of their first run.
fn group(runs: &[(RunRecord, Vec<QuestionScore>)], by_seed: bool) -> Vec<Vec<usize>> {
    if !by_seed {
        return (0..runs.len()).map(|run| vec![run]).collect();
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut known = HashMap::new();
    for (at, (record, _)) in runs.iter().enumerate() {
        let key = (record.strategy.as_str(), record.name(), settings(record));
        let group = *known.entry(key).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[group].push(at);
    }
    groups
}

/// The mean over runs of each question's score; a metric or question that one run lacks is left out.
fn average(runs: &[Scores]) -> Scores {
    let Some(first) = runs.first() else { return Scores::new() };
    let in_all = first.keys().filter(|name| runs.iter().all(|run| run.contains_key(*name)));
    in_all
        .map(|name| {
            let columns: Vec<&Vec<Option<f64>>> = runs.iter().filter_map(|run| run.get(name)).collect();
            let questions = columns.first().map_or(0, |column| column.len());
            let of = |question: usize| -> Option<f64> {
                let values: Option<Vec<f64>> = columns.iter().map(|column| column.get(question).copied()?).collect();
                mean(&values?)
            };
            (name.clone(), (0..questions).map(of).collect())
        })
        .collect()
}

/// A row whose intervals are not known yet.
fn row(label: &str, records: &[&RunRecord], runs: &[Scores], scores: &Scores) -> Row {
    let mut metrics = BTreeMap::new();
    for (name, column) in scores {
        let n = column.iter().flatten().count() as u64;
        let of = |run: &Scores| mean(&run.get(name)?.iter().flatten().copied().collect::<Vec<f64>>());
        let by_run: Vec<f64> = runs.iter().filter_map(of).collect();
        if n > 0 {
            let measured = Measured { interval: Interval::default(), n, seed_deviation: deviation(&by_run) };
            metrics.insert(name.clone(), measured);
        }
    }
    Row {
        label: label.to_owned(),
        strategy: records.first().map(|record| record.strategy.clone()).unwrap_or_default(),
        reader: records.first().map(|record| record.reading()).unwrap_or_default(),
        seeds: records.iter().map(|record| record.seed).collect(),
        scored: runs.len(),
        finished: records.iter().all(|record| record.status == Status::Finished),
        metrics,
        differences: BTreeMap::new(),
        cost: Cost::of(records),
    }
}

/// Puts in the intervals of all means, and the differences to the first row over the questions that both have a score for.
/// One bootstrap serves all.
fn measure(rows: &mut [Row], scores: &[Scores], options: &CompareOptions) -> Result<()> {
    let mut columns: Vec<Vec<f64>> = Vec::new();
    let mut wanted: Vec<(usize, String, bool)> = Vec::new();
    for (at, table) in scores.iter().enumerate() {
        for (name, column) in table {
            columns.push(column.iter().flatten().copied().collect());
            wanted.push((at, name.clone(), false));
            let reference = scores.first().filter(|_| at > 0).and_then(|first| first.get(name));
            if let Some(reference) = reference {
                columns.push(reference.iter().zip(column).filter_map(|(a, b)| Some((*b)? - (*a)?)).collect());
                wanted.push((at, name.clone(), true));
            }
        }
    }
    let (columns, wanted): (Vec<_>, Vec<_>) =
        columns.iter().map(Vec::as_slice).zip(wanted).filter(|(column, _)| !column.is_empty()).unzip();
    let found = bootstrap(&columns, options.resamples, options.seed)?;
    for ((at, name, is_difference), found) in wanted.into_iter().zip(found) {
        let Some(row) = rows.get_mut(at) else { continue };
        if is_difference {
            row.differences.insert(name, found);
        } else if let Some(measured) = row.metrics.get_mut(&name) {
            measured.interval = found.interval;
        }
    }
    Ok(())
}

fn doubts(runs: &[(RunRecord, Vec<QuestionScore>)], groups: &[Vec<usize>], rows: &[Row]) -> Vec<Warning> {
    let (Some((reference, _)), Some(first_row)) = (runs.first(), rows.first()) else { return Vec::new() };
    let mut found = Vec::new();
    for (group, row) in groups.iter().zip(rows) {
        let mut seeds = BTreeSet::new();
        for &seed in row.seeds.iter().filter(|seed| !seeds.insert(**seed)) {
            found.push(Warning::RepeatedSeed { run: row.label.clone(), seed });
        }
        let sorted = |row: &Row| row.seeds.iter().copied().collect::<BTreeSet<u64>>();
        if sorted(row) != sorted(first_row) {
            let (reference, other) = (first_row.seeds.clone(), row.seeds.clone());
            found.push(Warning::OtherSeed { run: row.label.clone(), reference, other });
        }
        // What all seeds say of themselves is said of their row, once.
        let shared: BTreeSet<&String> = group
            .iter()
            .filter_map(|&run| Some(runs.get(run)?.0.notes.iter().collect::<BTreeSet<_>>()))
            .reduce(|all, notes| all.intersection(&notes).copied().collect())
            .unwrap_or_default();
        for (record, _) in group.iter().filter_map(|&run| runs.get(run)) {
            let run =
                if row.seeds.len() > 1 { format!("{} seed={}", row.label, record.seed) } else { row.label.clone() };
            found.extend(alone(&run, record).into_iter().map(|warning| match warning {
                Warning::Noted { note, .. } if shared.contains(&note) => {
                    Warning::Noted { run: row.label.clone(), note }
                }
                other => other,
            }));
            // Settings of a group are the same in all of its runs: once is enough.
            let again = |warning: &Warning| matches!(warning, Warning::OtherSettings { .. });
            let leader = group
                .first()
                .and_then(|&leader| runs.get(leader))
                .is_some_and(|(leader, _)| std::ptr::eq(leader, record));
            found.extend(beside(&row.label, record, reference).into_iter().filter(|warning| leader || !again(warning)));
        }
    }
    let mut once = Vec::new();
    found.retain(|warning| {
        !once.contains(warning) && {
            once.push(warning.clone());
            true
        }
    });
    found
}

/// Order of metrics in tables: EM, F1, recall by k, recall by answer by k, MRR, nDCG.
fn order(name: &str) -> (usize, u32) {
    let (kind, k) = name.split_once('@').unwrap_or((name, "0"));
    let kinds = ["em", "f1", "recall", "answer recall", "mrr", "ndcg"];
    (kinds.iter().position(|&known| known == kind).unwrap_or(kinds.len()), k.parse().unwrap_or(0))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
pub(super) mod tests;
