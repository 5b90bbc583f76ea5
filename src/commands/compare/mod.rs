//! `ragtune compare`: runs side by side, with their doubt and their whole cost.

mod driver;

use std::path::Path;

use super::{print_json, print_text};
use crate::cli::CompareArgs;
use crate::config::at_least_one;
use crate::error::{Error, Result};
use crate::report::{CompareOptions, RunRecord, compare, html, markdown, text, write_atomic};

/// The evaluation every finished run has.
const EVALUATION: &str = "final";

pub fn run(args: &CompareArgs) -> Result<u8> {
    at_least_one("--resamples", args.resamples)?;
    if let Some(page) = &args.html {
        check_page(page)?;
    }
    let made = match &args.config {
        None => None,
        Some(file) => match driver::make(file)? {
            Some(made) => Some(made),
            None => {
                eprintln!("interrupted; the same command goes on\nnext: ragtune compare --config {}", file.display());
                return Ok(130);
            }
        },
    };
    let folders = made.as_ref().unwrap_or(&args.runs);
    let mut runs = Vec::with_capacity(folders.len());
    for folder in folders {
        runs.push(RunRecord::load_with_scores(folder, EVALUATION).map_err(super::damaged_run)?);
    }
    let options = CompareOptions {
        evaluation: EVALUATION.to_owned(),
        group_seeds: args.group_seeds || made.is_some(),
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
    // Only those that were made here: whoever names a run that diverged knows of it.
    let diverged = comparison.warnings.iter().filter(|warning| warning.is_divergence()).count();
    Ok(u8::from(made.is_some() && diverged > 0))
}

/// Refuses a report page that could not be written, before runs are made and compared for it.
fn check_page(page: &Path) -> Result<()> {
    if page.is_dir() {
        return Err(Error::new(format!("`--html {}` is a folder, expected a file to write", page.display()))
            .hint(format!("for instance `--html {}`", page.join("report.html").display())));
    }
    match page.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.is_dir()) {
        None => Ok(()),
        Some(folder) => Err(Error::new(format!(
            "`--html {}` cannot be written: there is no folder `{}`",
            page.display(),
            folder.display()
        ))
        .hint(format!("make it first: mkdir -p {}", folder.display()))),
    }
}
