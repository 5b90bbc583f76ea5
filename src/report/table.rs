//! Writes a comparison as plain text and as Markdown. No colours: the text is the same in a terminal and in a file.

use super::compare::{Comparison, Row};
use super::cost::Spread;
use crate::cost::{Activity, Phase, units};
use crate::eval::statistics::Difference;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use std::collections::BTreeSet;

/// Runs side by side in one table; further ones go into a table below.
const COLUMNS: usize = 6;

/// A line below the header and nothing else, in comfy-table's order of parts.
const HEADER_LINE: &str = "     ──            ";

/// One table: the first column names the rows, the first row the columns.
pub(super) struct Grid {
    pub(super) title: String,
    pub(super) header: Vec<String>,
    pub(super) rows: Vec<Vec<String>>,
}

/// A comparison as text for a terminal.
pub fn text(comparison: &Comparison) -> String {
    let mut out = String::new();
    for line in preamble(comparison) {
        out.push_str(&format!("{line}\n"));
    }
    for grid in grids(comparison) {
        out.push_str(&format!("\n{}\n{}\n", grid.title, draw(&grid, HEADER_LINE)));
    }
    for warning in &comparison.warnings {
        out.push_str(&format!("\nwarning: {warning}"));
    }
    out.push_str(if comparison.warnings.is_empty() { "" } else { "\n" });
    out
}

/// A comparison as Markdown, for a README.
pub fn markdown(comparison: &Comparison) -> String {
    let mut out = String::new();
    for grid in grids(comparison) {
        let escape = |cells: &[String]| cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let escaped = Grid {
            title: String::new(),
            header: escape(&grid.header),
            rows: grid.rows.iter().map(|row| escape(row)).collect(),
        };
        out.push_str(&format!("**{}**\n\n{}\n\n", grid.title, draw(&escaped, presets::ASCII_MARKDOWN)));
    }
    for line in preamble(comparison) {
        out.push_str(&format!("- {line}\n"));
    }
    for warning in &comparison.warnings {
        out.push_str(&format!("- warning: {warning}\n"));
    }
    out
}

/// What a reader must know to read the numbers.
pub(super) fn preamble(comparison: &Comparison) -> Vec<String> {
    let hash = comparison.questions_hash.get(..12).unwrap_or(&comparison.questions_hash);
    let mut lines = vec![
        format!(
            "{} questions of `{}` (blake3 {hash}), evaluation `{}`, reader `{}`",
            comparison.questions, comparison.questions_path, comparison.evaluation, comparison.reader_mode
        ),
        format!(
            "quality in per cent ± half of the 95 % bootstrap interval over questions ({} resamples); differences are paired by question, `*` where the interval leaves zero out",
            comparison.resamples
        ),
    ];
    if !comparison.recall_definition.is_empty() {
        lines.push(format!("recall: {}", comparison.recall_definition));
    }
    lines.push(format!("cost: wall time of everything the run did, on {}", comparison.machine));
    let spent = &comparison.spent;
    if spent.alone_seconds > 1.001 * spent.seconds || spent.taken_over_seconds > 0.0 {
        let taken_over = match spent.taken_over_seconds > 0.0 {
            true => {
                format!(", {} by runs outside of it, in stages taken over", units::seconds(spent.taken_over_seconds))
            }
            false => String::new(),
        };
        lines.push(format!(
            "spent in all: {} ({} of it on learning rates{taken_over}); one by one, with nothing shared, the same would have cost {}",
            units::seconds(spent.seconds),
            units::seconds(spent.search_seconds),
            units::seconds(spent.alone_seconds)
        ));
    }
    if comparison.rows.iter().any(|row| row.seeds.len() > 1) {
        lines.push("rows over several seeds: mean of each question's score and of the cost; ± on time is the standard deviation over seeds".to_owned());
    }
    lines
}

/// Every table of a comparison.
pub(super) fn grids(comparison: &Comparison) -> Vec<Grid> {
    let mut all = vec![summary(comparison)];
    for rows in comparison.rows.chunks(COLUMNS) {
        all.push(grid("quality", rows, &comparison.metrics, &|row, metric| {
            row.metrics.get(metric).map(|measured| quality(&measured.interval))
        }));
    }
    let others = comparison.rows.get(1..).unwrap_or_default();
    for rows in others.chunks(COLUMNS) {
        let title = format!("difference to `{}` in points [95 % interval]", comparison.reference);
        all.push(grid(&title, rows, &comparison.metrics, &|row, metric| row.differences.get(metric).map(difference)));
    }
    for rows in comparison.rows.chunks(COLUMNS) {
        all.push(time(comparison, rows));
    }
    for rows in comparison.rows.chunks(COLUMNS) {
        all.push(work(rows));
    }
    all.extend(stages(comparison));
    all.extend(training(comparison));
    all
}

/// The stages of every row: what each is charged, and which were taken from another run. Nothing where no row has several, shares
/// one or was stopped early.
fn stages(comparison: &Comparison) -> Option<Grid> {
    let told = |stage: &super::cost::StageCost| stage.reused || stage.steps_saved > 0.0;
    let worth = comparison.rows.iter().any(|row| row.cost.stages.len() > 1 || row.cost.stages.iter().any(told));
    let cells = |row: &Row, stage: &super::cost::StageCost| {
        let saved = if stage.steps_saved > 0.0 { format!(" ({} saved)", stage.steps_saved) } else { String::new() };
        vec![
            row.label.clone(),
            stage.name.clone(),
            format!("{}{saved}", stage.steps),
            units::seconds(stage.seconds),
            if stage.reused { "another run's" } else { "its own" }.to_owned(),
        ]
    };
    let rows: Vec<Vec<String>> =
        comparison.rows.iter().flat_map(|row| row.cost.stages.iter().map(move |stage| cells(row, stage))).collect();
    let header = ["run", "stage", "steps", "time charged", "trained by"].map(str::to_owned).to_vec();
    worth.then(|| Grid { title: "stages".to_owned(), header, rows })
}

/// How every stage was trained, with the settings of its equation as they took effect, and how its run is evaluated. Nothing where no
/// row trains.
fn training(comparison: &Comparison) -> Option<Grid> {
    let cells = |row: &Row, stage: &super::cost::StageCost| {
        let settings: Vec<String> = stage.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let settings = if settings.is_empty() { "-".to_owned() } else { settings.join(", ") };
        vec![row.label.clone(), stage.name.clone(), row.reader.clone(), settings, stage.equation.clone()]
    };
    let rows: Vec<Vec<String>> =
        comparison.rows.iter().flat_map(|row| row.cost.stages.iter().map(move |stage| cells(row, stage))).collect();
    let header = ["run", "stage", "evaluated by", "settings of the equation", "equation"].map(str::to_owned).to_vec();
    (!rows.is_empty()).then(|| Grid { title: "training and evaluation".to_owned(), header, rows })
}

/// One row a run: the few numbers that decide.
fn summary(comparison: &Comparison) -> Grid {
    let has = |name: &str| comparison.metrics.iter().any(|metric| metric == name);
    let recall = if has("recall@5") {
        Some("recall@5".to_owned())
    } else {
        comparison.metrics.iter().find(|metric| metric.starts_with("recall@")).cloned()
    };
    let mut chosen: Vec<String> = ["em", "f1"].iter().filter(|name| has(name)).map(|&name| name.to_owned()).collect();
    chosen.extend(recall);
    chosen.extend(has("mrr@10").then(|| "mrr@10".to_owned()));
    let mut header = vec!["run".to_owned(), "reader".to_owned(), "seeds".to_owned()];
    header.extend(chosen.iter().map(|name| title(name)));
    header.extend(["time", "of it refresh", "time ratio"].map(str::to_owned));
    let rows = comparison.rows.iter().map(|row| {
        let seeds = match row.seeds.len() {
            all if row.scored < all => format!("{} of {all}", row.scored),
            all => all.to_string(),
        };
        let mut cells = vec![row.label.clone(), row.reader.clone(), seeds];
        for name in &chosen {
            cells.push(row.metrics.get(name).map_or("-".to_owned(), |measured| quality(&measured.interval)));
        }
        cells.push(format!("{}{}", spread_seconds(&row.cost.seconds), if row.finished { "" } else { " (unfinished)" }));
        cells.push(units::share(row.cost.refresh_share));
        cells.push(row.cost.ratio.as_ref().map_or("-".to_owned(), ratio));
        cells
    });
    Grid { title: "summary".to_owned(), header, rows: rows.collect() }
}

/// Wall time by activity and phase, refresh on its own line whether there was one or not.
fn time(comparison: &Comparison, rows: &[Row]) -> Grid {
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut add = |name: String, cell: &dyn Fn(&Row) -> String| {
        lines.push(std::iter::once(name).chain(rows.iter().map(cell)).collect());
    };
    let everywhere: BTreeSet<(Activity, Option<Phase>)> =
        comparison.rows.iter().flat_map(|row| &row.cost.lines).map(|line| (line.activity, line.phase)).collect();
    for activity in Activity::ALL {
        let seconds = |row: &Row, phase| row.cost.line(activity, phase).map(|line| line.amounts.seconds);
        if activity != Activity::Refresh && !everywhere.contains(&(activity, None)) {
            continue;
        }
        add(activity.to_string(), &|row| match seconds(row, None) {
            Some(seconds) if activity == Activity::Refresh => {
                format!("{} ({})", units::seconds(seconds), units::share(row.cost.refresh_share))
            }
            Some(seconds) => units::seconds(seconds),
            None => "-".to_owned(),
        });
        for phase in Phase::ALL.into_iter().filter(|&phase| everywhere.contains(&(activity, Some(phase)))) {
            add(format!("  {phase}"), &|row| seconds(row, Some(phase)).map_or("-".to_owned(), units::seconds));
        }
    }
    add("unattributed".to_owned(), &|row| {
        format!("{} ({})", units::seconds(row.cost.unattributed_seconds), units::share(row.cost.unattributed_share))
    });
    add("total".to_owned(), &|row| spread_seconds(&row.cost.seconds));
    if comparison.rows.iter().any(|row| row.cost.search_points > 0) {
        add("learning-rate search".to_owned(), &|row| match row.cost.search_points {
            0 => "-".to_owned(),
            points => format!("{} ({points} points)", units::seconds(row.cost.search_seconds)),
        });
        add("total with search".to_owned(), &|row| units::seconds(row.cost.seconds.mean + row.cost.search_seconds));
    }
    add(format!("ratio to `{}`", comparison.reference), &|row| row.cost.ratio.as_ref().map_or("-".to_owned(), ratio));
    let header = std::iter::once("time".to_owned()).chain(rows.iter().map(|row| row.label.clone())).collect();
    Grid { title: "cost by activity and phase".to_owned(), header, rows: lines }
}

fn work(rows: &[Row]) -> Grid {
    let mut lines: Vec<Vec<String>> = Vec::new();
    let mut add = |name: &str, cell: &dyn Fn(&Row) -> String| {
        lines.push(std::iter::once(name.to_owned()).chain(rows.iter().map(cell)).collect());
    };
    let refresh = |row: &Row| row.cost.line(Activity::Refresh, None).map(|line| line.amounts).unwrap_or_default();
    add("CPU time", &|row| units::seconds(row.cost.total.cpu_seconds));
    add("peak memory", &|row| units::bytes(row.cost.total.peak_memory_bytes));
    add("tokens through models", &|row| units::count(row.cost.total.counts.tokens));
    add("FLOPs (by formula)", &|row| units::flops(row.cost.total.counts.flops));
    add("  of them in refreshes", &|row| units::flops(refresh(row).counts.flops));
    add("refreshes", &|row| format!("{}", row.cost.refreshes));
    add("passages re-embedded", &|row| units::count(refresh(row).counts.passages));
    add("bytes written", &|row| units::bytes(row.cost.total.counts.bytes));
    add("searches", &|row| units::count(row.cost.total.counts.searches));
    add("index (vectors, graph)", &|row| units::bytes(row.cost.index_bytes));
    if rows.iter().any(|row| row.cost.remembered_prompts > 0.0) {
        add("prompts remembered", &|row| units::count(row.cost.remembered_prompts.round() as u64));
        add("  FLOPs that saved", &|row| units::flops(row.cost.remembered_flops));
    }
    // Of nothing at all the sum is -0.
    let saved = |row: &Row| row.cost.stages.iter().map(|stage| stage.steps_saved).sum::<f64>() + 0.0;
    if rows.iter().any(|row| saved(row) > 0.0) {
        add("steps saved by early stopping", &|row| format!("{:.0}", saved(row)));
    }
    let header = std::iter::once("work".to_owned()).chain(rows.iter().map(|row| row.label.clone())).collect();
    Grid { title: "work".to_owned(), header, rows: lines }
}

/// Metrics down, runs across; a metric that none of these runs has is left out.
fn grid(name: &str, rows: &[Row], metrics: &[String], cell: &dyn Fn(&Row, &str) -> Option<String>) -> Grid {
    let lines = metrics.iter().filter_map(|metric| {
        let cells: Vec<Option<String>> = rows.iter().map(|row| cell(row, metric)).collect();
        let any = cells.iter().any(Option::is_some);
        let shown = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".to_owned()));
        any.then(|| std::iter::once(title(metric)).chain(shown).collect())
    });
    let header = std::iter::once("metric".to_owned()).chain(rows.iter().map(|row| row.label.clone())).collect();
    Grid { title: name.to_owned(), header, rows: lines.collect() }
}

fn draw(grid: &Grid, preset: &str) -> String {
    let mut table = Table::new();
    table.load_preset(preset).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(&grid.header);
    for row in &grid.rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn title(metric: &str) -> String {
    match metric {
        "em" => "EM".to_owned(),
        "f1" => "F1".to_owned(),
        "mrr@10" => "MRR@10".to_owned(),
        "ndcg@10" => "nDCG@10".to_owned(),
        other => other.to_owned(),
    }
}

fn quality(interval: &crate::eval::Interval) -> String {
    format!("{:.1} ± {:.1}", 100.0 * interval.mean, 50.0 * (interval.high - interval.low))
}

fn difference(found: &Difference) -> String {
    let points = |value: f64| format!("{:+.1}", 100.0 * value).replace("-0.0", "+0.0");
    let interval = &found.interval;
    let mark = if found.is_clear() { " *" } else { "" };
    format!("{} [{}, {}]{mark}", points(interval.mean), points(interval.low), points(interval.high))
}

fn spread_seconds(spread: &Spread) -> String {
    match spread.deviation {
        Some(deviation) => format!("{} ± {}", units::seconds(spread.mean), units::seconds(deviation)),
        None => units::seconds(spread.mean),
    }
}

fn ratio(spread: &Spread) -> String {
    match spread.deviation {
        Some(deviation) => format!("{:.2} ± {deviation:.2}", spread.mean),
        None => format!("{:.2}", spread.mean),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
