//! Makes the runs of a comparison: searches learning rates where it is asked to, trains every strategy with every seed, and
//! leaves alone what is done already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::commands::training::{self, Ended};
use crate::comparison::{Comparing, Part, Point, Rates, Row, Search, choose, points};
use crate::config::{TrainConfig, refuse_idle};
use crate::error::{Error, Result};
use crate::report::files::RECORD_FILE;
use crate::report::record::{PointStage, RunRecord, SearchPoint, StageCharge, Status};
use crate::train::check_metric;
use crate::train::run::RunFolder;
use crate::train::unchanged::Present;

/// What all runs of a comparison are made with.
struct Making {
    /// Set by a signal.
    interrupted: Arc<AtomicBool>,
    /// What is there now of what runs read that are done already.
    present: Present,
}

/// The run folders of a comparison in the order of its rows, or none when a signal stopped it.
pub fn make(file: &Path) -> Result<Option<Vec<PathBuf>>> {
    let comparing = read(file)?;
    let mut rows = comparing.resolve()?;
    comparing.check_questions(&rows)?;
    refuse_idle_rows(&comparing, &rows)?;
    let mut making = Making { interrupted: training::interruptible()?, present: Present::default() };
    let mut searched: Vec<Vec<SearchPoint>> = Vec::with_capacity(rows.len());
    let mut notes: Vec<Vec<String>> = vec![Vec::new(); rows.len()];
    let mut folders = Vec::new();
    for number in 0..rows.len() {
        let mut points = Vec::new();
        if let Some(source) = rows[number].borrow {
            for part in Part::ALL.into_iter().filter(|part| !rows[number].given.contains(part)).collect::<Vec<_>>() {
                let rate = part.rate(&rows[source].config);
                part.set_rate(&mut rows[number].config, rate);
            }
            points.clone_from(&searched[source]);
            if comparing.search.is_some() {
                notes[number].push(format!(
                    "its learning rates are those found for `{}`: its own best may be better, and the search is charged as if it were its own",
                    rows[source].label
                ));
                notes[number].extend(unsearched(&rows[number], &rows[source].label, &points)?);
            }
        } else if let Some(search) = &comparing.search {
            match search_rates(&comparing, search, &mut rows[number], &mut notes[number], &mut making)? {
                Some(found) => points = found,
                None => return Ok(None),
            }
        }
        searched.push(points);
        let row = &rows[number];
        for seed in &comparing.seeds {
            let folder = comparing.run(row, *seed);
            let config = TrainConfig { seed: *seed, out: folder.clone(), ..row.config.clone() };
            let what = format!("{} seed {seed}", row.label);
            let dress = |record: &mut RunRecord| {
                record.label.clone_from(&row.label);
                record.search.clone_from(&searched[number]);
                record.notes.extend(
                    notes[number].iter().filter(|note| !record.notes.contains(note)).cloned().collect::<Vec<_>>(),
                );
            };
            if run(&config, &what, &mut making, &dress)?.is_none() {
                return Ok(None);
            }
            folders.push(folder);
        }
    }
    warn_of_idle_questions(&comparing, &rows);
    Ok(Some(folders))
}

/// Reads the comparison; where its rows are not written as such, that is said in the hint.
fn read(file: &Path) -> Result<Comparing> {
    Comparing::read(file).map_err(|error| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let single = text.lines().any(|line| line.trim_start().starts_with("[strategies]"));
        let doubled = text.lines().any(|line| line.trim_start().starts_with("[[strategies]]"));
        match single && !doubled {
            true => error.hint("write [[strategies]], with two brackets, before each row: there may be several"),
            false => error,
        }
    })
}

/// Refuses settings of single rows that cannot have an effect.
fn refuse_idle_rows(comparing: &Comparing, rows: &[Row]) -> Result<()> {
    let searches = comparing.search.is_some();
    for (row, own) in rows.iter().zip(&comparing.rows) {
        let given = own.settings.keys().cloned().collect();
        refuse_idle(&row.config, &given, searches).map_err(|error| {
            let hint = error.find_hint().unwrap_or_default();
            Error::new(format!("row `{}`: {error}", row.label)).hint(hint)
        })?;
    }
    Ok(())
}

/// Says of selection questions that all rows share and none decides by that they had no effect.
fn warn_of_idle_questions(comparing: &Comparing, rows: &[Row]) {
    if let Some(questions) = comparing.settings.get("selection-questions")
        && comparing.search.is_none()
        && rows.iter().all(|row| row.config.early_stop == 0)
    {
        eprintln!(
            "warning: `selection-questions = {questions}` decides nothing: there is no [search] and no row with `early-stop`"
        );
    }
}

/// Chooses the learning rates of a row, stage by stage, and puts them into its settings. None: interrupted.
fn search_rates(
    comparing: &Comparing,
    search: &Search,
    row: &mut Row,
    notes: &mut Vec<String>,
    making: &mut Making,
) -> Result<Option<Vec<SearchPoint>>> {
    let mut found: Vec<SearchPoint> = Vec::new();
    // The parts whose rate is known by now, and the stage that it was searched for, where it was.
    let mut settled: BTreeMap<Part, Option<&str>> = row.given.iter().map(|part| (*part, None)).collect();
    for (number, stage) in row.config.stages()?.iter().enumerate() {
        let moving: Vec<Part> = Part::ALL.into_iter().filter(|part| part.moves(&stage.trains)).collect();
        for part in &moving {
            let rate = part.rate(&row.config);
            let note = match settled.get(part) {
                Some(Some(earlier)) => format!(
                    "stage `{}` trains the {} with the learning rate found for stage `{earlier}`, {rate:e}: its own best may be another",
                    stage.name,
                    part.name()
                ),
                Some(None) => given(*part, &row.config),
                None if search.rates(*part).is_empty() => format!(
                    "the learning rate of the {}, {rate:e}, was not searched: [search] lists no `{}`",
                    part.name(),
                    part.setting()
                ),
                None => continue,
            };
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
        let open = |part: &Part| !settled.contains_key(part) && !search.rates(*part).is_empty();
        let parts: Vec<Part> = moving.into_iter().filter(open).collect();
        if parts.is_empty() {
            continue;
        }
        // A stage that only ranks passages is chosen by how it ranks; answers would follow a generator that it never sees.
        let needs = stage.objective.needs();
        let ranks = !needs.answers && !stage.trains.generator && !stage.trains.selector;
        let metric = if ranks { search.select_ranking_by.clone() } else { row.config.select_by.clone() };
        check_metric(&metric)?;
        let tried = points(search, &parts);
        let mut alive: Vec<Point> = tried.clone();
        let rounds = search.rounds(tried.len(), row.config.steps);
        for (round, (count, steps)) in rounds.iter().enumerate() {
            alive.truncate(*count);
            let mut scores = Vec::with_capacity(alive.len());
            let first = found.len();
            for point in &alive {
                let mut config = row.config.clone();
                // The stages before it are what they are in the end: a stage is not chosen by how it follows a shortened one.
                config.last_steps = Some(*steps).filter(|steps| *steps != config.steps);
                (config.only_stages, config.seed) = (number + 1, comparing.seeds[0]);
                point.iter().for_each(|(part, rate)| part.set_rate(&mut config, *rate));
                config.eval_questions = config.selection_questions.take().unwrap_or_default();
                // Early stopping by the very questions that the point is scored on would favour whoever looks more often.
                (config.early_stop, config.eval_every) = (0, 0);
                config.out = search_folder(&comparing.out, &config)?;
                let what = format!("{}: stage {} with {}", row.label, stage.name, shown(point));
                let Some(record) = run(&config, &what, making, &|_| {})? else { return Ok(None) };
                let score = match record.evaluation("final") {
                    Some(summary) => crate::train::metric_of(summary, &metric)?,
                    None => None,
                };
                scores.push(score.unwrap_or(f64::NEG_INFINITY));
                found.push(SearchPoint {
                    stage: stage.name.to_owned(),
                    // A point that diverged has no such stage.
                    id: record.stages.get(number).map(|stage| stage.id.clone()).unwrap_or_default(),
                    learning_rates: point.iter().map(|(part, rate)| (part.name().to_owned(), *rate)).collect(),
                    steps: *steps,
                    score,
                    chosen: false,
                    run: config.out.display().to_string(),
                    ledger: record.ledger.clone(),
                    stages: record.stages.iter().map(of_point).collect(),
                    training: None,
                });
            }
            let order = choose(&scores);
            if scores.iter().all(|score| *score == f64::NEG_INFINITY) {
                return Err(Error::new(format!(
                    "no learning rate of stage `{}` of `{}` gave a score: all diverged, or no question has a `{metric}`",
                    stage.name, row.label
                ))
                .hint("list smaller rates in [search], or another `select-by`"));
            }
            if round + 1 == rounds.len()
                && let Some(best) = order.first()
            {
                found[first + best].chosen = true;
                alive[*best].iter().for_each(|(part, rate)| part.set_rate(&mut row.config, *rate));
                for (part, rate) in crate::comparison::search::on_the_edge(search, &alive[*best]) {
                    let note = format!(
                        "the best learning rate of the {} in stage `{}`, {rate:e}, is at the edge of those tried: the best may lie beyond",
                        part.name(),
                        stage.name
                    );
                    eprintln!("warning: {}: {note}", row.label);
                    notes.push(note);
                }
            }
            alive = order.into_iter().map(|at| alive[at].clone()).collect();
        }
        settled.extend(parts.into_iter().map(|part| (part, Some(stage.name))));
    }
    Ok(Some(found))
}

/// What is said of the rates of a row that borrows, where the row it borrows from has not searched them.
fn unsearched(row: &Row, source: &str, points: &[SearchPoint]) -> Result<Vec<String>> {
    let stages = row.config.stages()?;
    let moving = Part::ALL.into_iter().filter(|part| stages.iter().any(|stage| part.moves(&stage.trains)));
    let notes = moving.filter_map(|part| {
        if row.given.contains(&part) {
            return Some(given(part, &row.config));
        }
        let searched = points.iter().any(|point| point.learning_rates.contains_key(part.name()));
        (!searched).then(|| {
            let (name, rate) = (part.name(), part.rate(&row.config));
            format!("the learning rate of the {name}, {rate:e}, was not searched: `{source}` does not search it")
        })
    });
    Ok(notes.collect())
}

/// That a rate is a setting of the row.
fn given(part: Part, config: &TrainConfig) -> String {
    format!("the learning rate of the {} is given, {:e}: it was not searched", part.name(), part.rate(config))
}

fn of_point(stage: &StageCharge) -> PointStage {
    PointStage { id: stage.id.clone(), reused: stage.reused, ledger: stage.ledger.clone() }
}

fn shown(point: &Rates) -> String {
    let rates: Vec<String> = point.iter().map(|(part, rate)| format!("{} {rate:e}", part.setting())).collect();
    rates.join(", ")
}

/// The folder of a search point: its settings decide its name, so that equal points of several rows are one run.
fn search_folder(out: &Path, config: &TrainConfig) -> Result<PathBuf> {
    let plain = TrainConfig { out: PathBuf::new(), strategy: String::new(), ..config.clone() };
    // Strategies that begin with the same stages share the search for them: what those are is in the name, the strategy is not.
    let stages = config.stages()?;
    let spelled = stages.iter().map(|stage| {
        let (name, settings) = (stage.objective.name(), stage.objective.settings());
        format!("{} {:?} {:?} {:?} {name} {settings:?}", stage.name, stage.trains, stage.passages, stage.mining)
    });
    let spelled: Vec<String> = spelled.collect();
    let text = format!("{}\n{}", plain.to_toml()?, spelled.join("\n"));
    let name: String = blake3::hash(text.as_bytes()).to_hex().chars().take(16).collect();
    Ok(out.join("search").join(name))
}

/// Does a run, goes on with it, or takes its record when it is done; `what` is said when there is something to do. None:
/// interrupted.
fn run(
    config: &TrainConfig,
    what: &str,
    making: &mut Making,
    dress: &dyn Fn(&mut RunRecord),
) -> Result<Option<Box<RunRecord>>> {
    if making.interrupted.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let mut config = config.clone();
    training::pin_models(&mut config)?;
    let dir = config.out.clone();
    let begun = dir.join("config.toml").is_file();
    let folder = if begun { RunFolder::open(&dir)? } else { RunFolder::create(&dir)? };
    let mut resumed = None;
    if begun {
        let was = TrainConfig { out: dir.clone(), ..TrainConfig::of_run(&dir)? };
        // Strategies that begin with the same stages share the search for them.
        if config.only_stages > 0 {
            config.strategy.clone_from(&was.strategy);
        }
        if was != config {
            return Err(Error::new(format!("the run `{}` was made with other settings than the comparison has now", dir.display()))
                .hint("choose another `out` for the changed comparison, or remove that run; stages that did not change are taken from the old `stages`"));
        }
        if dir.join(RECORD_FILE).is_file() {
            let mut record = RunRecord::load(&dir).map_err(crate::commands::damaged_run)?;
            if matches!(record.status, Status::Finished | Status::Diverged) {
                making.present.check(&config, &dir, &record)?;
                // The search may have been done by a call before this one: what it cost stays on the bill.
                dress(&mut record);
                record.save(&dir)?;
                return Ok(Some(Box::new(record)));
            }
            resumed = Some(record);
        }
    } else {
        folder.write("config.toml", config.to_toml()?.as_bytes())?;
    }
    eprintln!("{what}");
    match training::once(&config, &folder, resumed, &making.interrupted, dress) {
        Ok(Ended::Finished(record)) => Ok(Some(record)),
        Ok(Ended::Interrupted { .. }) => Ok(None),
        // A run that diverges is a result, of a search or of the comparison, and its cost is part of it: the others go on.
        Err(error) if error.is_divergence() => {
            eprintln!("diverged: {error}");
            Ok(Some(Box::new(RunRecord::load(&dir)?)))
        }
        Err(error) => Err(error),
    }
}
