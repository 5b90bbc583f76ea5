//! `ragtune compare`: runs side by side, with their doubt and their whole cost.

use super::{print_json, print_text};
use crate::cli::CompareArgs;
use crate::error::Result;
use crate::report::{CompareOptions, RunRecord, compare, html, markdown, text, write_atomic};

/// The evaluation every finished run has.
const EVALUATION: &str = "final";

pub fn run(args: &CompareArgs) -> Result<u8> {
    let mut runs = Vec::with_capacity(args.runs.len());
    for folder in &args.runs {
        runs.push(RunRecord::load_with_scores(folder, EVALUATION).map_err(super::damaged_run)?);
    }
    let options = CompareOptions {
        evaluation: EVALUATION.to_owned(),
        group_seeds: args.group_seeds,
        resamples: args.resamples,
        ..CompareOptions::default()
    };
    let comparison = compare(runs, &options)?;
    if let Some(path) = &args.html {
        write_atomic(path, html(&comparison).as_bytes())?;
        eprintln!("report written to {}", path.display());
    }
    if args.json {
        print_json(&comparison)?;
    } else if args.markdown {
        print_text(&markdown(&comparison))?;
    } else {
        print_text(&text(&comparison))?;
    }
    Ok(0)
}
