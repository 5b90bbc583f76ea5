//! `ragtune train`: one run, begun or gone on with.

use std::collections::BTreeSet;
use std::path::Path;

use ragtune_index::Corpus;

use super::training::{self, Ended};
use super::{out, print_json, print_text};
use crate::cli::TrainArgs;
use crate::config::{TrainConfig, given, refuse_idle};
use crate::cost::units;
use crate::error::{Error, Result};
use crate::report::files::RECORD_FILE;
use crate::report::record::{RunRecord, Status, reading};
use crate::train::run::RunFolder;

pub fn run(args: &TrainArgs) -> Result<u8> {
    let (config, run, resumed) = match &args.resume {
        Some(dir) => {
            let run = RunFolder::open(dir)?;
            // The folder may have been moved since.
            let mut config = TrainConfig { out: dir.clone(), ..TrainConfig::of_run(dir)? };
            // Killed before it wrote anything but its settings: it begins.
            let record = dir
                .join(RECORD_FILE)
                .is_file()
                .then(|| RunRecord::load(dir))
                .transpose()
                .map_err(super::damaged_run)?;
            if record.as_ref().is_some_and(|record| record.status == Status::Finished) {
                return Err(Error::new(format!("the run `{}` is finished, there is nothing to resume", dir.display()))
                    .hint(format!("ragtune compare {}", dir.display())));
            }
            training::pin_models(&mut config)?;
            (config, run, record)
        }
        None => {
            let mut config = TrainConfig::resolve(args)?;
            refuse_idle(&config, &given(args)?, false)?;
            if args.dry_run {
                let mut located = config.clone();
                training::pin_models(&mut located)?;
                return super::dry_run::run(&config, &located, args.json);
            }
            out::check_run(&config.out)?;
            training::pin_models(&mut config)?;
            let run = RunFolder::create(&config.out)?;
            run.write("config.toml", config.to_toml()?.as_bytes())?;
            (config, run, None)
        }
    };
    let interrupted = training::interruptible()?;
    let ended = retained(&config)
        .and_then(|before| Ok((training::once(&config, &run, resumed, &interrupted, &|_| {})?, before)));
    let (ended, before) = match ended {
        Err(error) => {
            if args.resume.is_none() && !run.dir().join(RECORD_FILE).exists() {
                // Refused before it began: the folder must not stand in the way of the corrected command. What was wrong is
                // said in any case, also where the folder cannot be removed.
                let _ = run.discard();
            }
            return Err(error);
        }
        Ok(ended) => ended,
    };
    let record = match ended {
        Ended::Finished(record) => record,
        Ended::Interrupted { done, asked } => {
            eprintln!(
                "interrupted after {done} of {asked} steps; a checkpoint is written\nnext: ragtune train --resume {}",
                run.dir().display()
            );
            return Ok(130);
        }
    };
    if args.json {
        print_json(&record)?;
    } else {
        let mut lines = summary(&record, run.dir());
        if config.trains_passages()? {
            lines.insert(lines.len() - 1, followed(&record, &before, &retained(&config)?));
        }
        print_text(&lines.join("\n"))?;
    }
    Ok(0)
}

fn summary(record: &RunRecord, run: &Path) -> Vec<String> {
    let percent = |value: Option<f64>| value.map_or("none".to_owned(), |value| format!("{:.1}", 100.0 * value));
    let mut lines = Vec::new();
    if let Some(last) = record.evaluation("final") {
        lines.push(format!(
            "{}: EM {} F1 {} recall@5 {} MRR@10 {} on {} questions ({} reader)",
            record.name(),
            percent(last.em),
            percent(last.f1),
            percent(last.recall.get(&5).copied()),
            percent(last.mrr10),
            last.n,
            reading(&record.training_reader, &last.reader_mode)
        ));
    }
    lines.push(format!(
        "{} in all, {} of it for {} index refreshes; not attributed: {}",
        units::seconds(record.ledger.wall_seconds),
        units::share(record.ledger.refresh_share()),
        record.refreshed(),
        units::share(record.ledger.unattributed_share())
    ));
    lines.push(format!("run folder: {}\nnext: ragtune compare {} <other runs>", run.display(), run.display()));
    lines
}

/// The generations that the index retains.
fn retained(config: &TrainConfig) -> Result<BTreeSet<u32>> {
    Ok(Corpus::open(&config.index)?.generations()?.iter().map(|info| info.number).collect())
}

/// What became of the index that a run embedded anew, from what it retained before this session and after it.
fn followed(record: &RunRecord, before: &BTreeSet<u32>, after: &BTreeSet<u32>) -> String {
    let list = |numbers: Vec<u32>| match numbers.as_slice() {
        [] => "none".to_owned(),
        some => some.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
    };
    let made: BTreeSet<u32> = record.refreshes.iter().map(|refresh| refresh.generation).filter(|it| *it > 0).collect();
    let gone = before.union(&made).filter(|number| !after.contains(number)).copied().collect();
    format!(
        "index: generation {} is this run's, {} was searched before; no longer retained: {}; retained: {}",
        record.index.final_generation,
        record.index.base_generation,
        list(gone),
        list(after.iter().copied().collect())
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::record::RefreshRecord;

    #[test]
    fn generations_that_came_and_went_are_named() {
        let mut record = RunRecord::new("joint", 0);
        (record.index.base_generation, record.index.final_generation) = (1, 4);
        record.refreshes = [3, 4].map(|generation| RefreshRecord { generation, ..RefreshRecord::default() }).into();
        let said = followed(&record, &[1, 2].into(), &[1, 4].into());
        assert!(said.contains("generation 4 is this run's, 1 was searched before"), "{said}");
        assert!(said.contains("no longer retained: 2, 3; retained: 1, 4"), "{said}");
        assert!(followed(&record, &[1].into(), &[1, 3, 4].into()).contains("no longer retained: none"));
    }
}
