//! What makes a comparison doubtful, said beside its numbers.

use super::record::{RunRecord, Status};
use super::settings::{Differing, differences};
use crate::cost::units;
use serde::{Deserialize, Serialize};
use std::fmt;

/// From this share of the wall time on, time that was charged to nothing is worth a warning.
const UNATTRIBUTED: f64 = 0.03;

/// From this share of the texts on, cutting them is worth a warning.
const TRUNCATED: f64 = 0.01;

/// One reason to doubt a comparison. `run` is the label of the run it is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[allow(missing_docs)] // the fields are told by the text of `Display`
pub enum Warning {
    /// It did not come to its end.
    Unfinished { run: String, status: Status, steps_done: u64, steps_total: u64 },
    /// Its seconds were counted on another machine than the reference's.
    OtherMachine { run: String, differences: Vec<String> },
    /// It was made by another version of the program.
    OtherProgram { run: String, reference: String, other: String },
    /// It started from another seed.
    OtherSeed { run: String, reference: Vec<u64>, other: Vec<u64> },
    /// Its quality was measured in another way.
    OtherEvaluation { run: String, what: String, reference: String, other: String },
    /// It searched another corpus.
    OtherCorpus { run: String, reference: String, other: String },
    /// It started from another model.
    OtherModel { run: String, role: String, reference: String, other: String },
    /// Some of its settings are others.
    OtherSettings { run: String, settings: Vec<Differing> },
    /// Much of its time is charged to nothing.
    Unattributed { run: String, share: f64 },
    /// Many of its texts were cut.
    Truncated { run: String, what: String, share: f64 },
    /// It ran in several sessions.
    Resumed { run: String, sessions: u32 },
    /// What the run says of itself.
    Noted { run: String, note: String },
    /// Runs that were put into one row have the same seed.
    RepeatedSeed { run: String, seed: u64 },
}

impl Warning {
    /// Whether it is about a run that left the finite numbers.
    pub fn is_divergence(&self) -> bool {
        matches!(self, Warning::Unfinished { status: Status::Diverged, .. })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::Unfinished { run, status, steps_done, steps_total } => {
                write!(
                    f,
                    "`{run}` is not finished ({}, {steps_done} of {steps_total} steps): its cost is partial",
                    status.name()
                )
            }
            Warning::OtherMachine { run, differences } => {
                let differences = differences.join(", ");
                write!(f, "`{run}` was measured on another machine ({differences}): its seconds are not comparable")
            }
            Warning::OtherProgram { run, reference, other } => {
                write!(f, "`{run}` was made by ragtune {other}, the reference by {reference}")
            }
            Warning::OtherSeed { run, reference, other } => {
                write!(
                    f,
                    "`{run}` has the seeds {other:?}, the reference {reference:?}: part of a difference is the seed's"
                )
            }
            Warning::OtherEvaluation { run, what, reference, other } => {
                write!(f, "`{run}` was evaluated in another way: {what} is `{other}`, the reference's is `{reference}`")
            }
            Warning::OtherCorpus { run, reference, other } => {
                write!(f, "`{run}` searched another corpus (`{other}`) than the reference (`{reference}`)")
            }
            Warning::OtherModel { run, role, reference, other } => {
                write!(f, "`{run}` started from another {role} (`{other}`) than the reference (`{reference}`)")
            }
            Warning::OtherSettings { run, settings } => {
                let shown = |d: &Differing| format!("{} {} instead of {}", d.name, d.other, d.reference);
                let settings: Vec<String> = settings.iter().map(shown).collect();
                write!(f, "`{run}` has other settings than the reference: {}", settings.join(", "))
            }
            Warning::Unattributed { run, share } => {
                write!(f, "{} of the time of `{run}` is charged to nothing", units::share(*share))
            }
            Warning::Truncated { run, what, share } => {
                write!(f, "{} of the {what} of `{run}` were cut at a length limit", units::share(*share))
            }
            Warning::Resumed { run, sessions } => {
                write!(
                    f,
                    "`{run}` ran in {sessions} sessions: work lost between a checkpoint and a kill is not in its cost"
                )
            }
            Warning::Noted { run, note } => write!(f, "`{run}`: {note}"),
            Warning::RepeatedSeed { run, seed } => {
                write!(f, "the seed {seed} occurs twice in the row `{run}`: its runs are not independent")
            }
        }
    }
}

/// Doubts about one run alone.
pub(super) fn alone(run: &str, record: &RunRecord) -> Vec<Warning> {
    let mut found = Vec::new();
    let run = run.to_owned();
    if record.status != Status::Finished {
        let (status, steps_done, steps_total) = (record.status, record.steps_done, record.steps_total);
        found.push(Warning::Unfinished { run: run.clone(), status, steps_done, steps_total });
    }
    found.extend(record.notes.iter().map(|note| Warning::Noted { run: run.clone(), note: note.clone() }));
    let share = record.ledger.unattributed_share();
    if share >= UNATTRIBUTED {
        found.push(Warning::Unattributed { run: run.clone(), share });
    }
    for (what, &share) in record.truncated.iter().filter(|(_, share)| **share >= TRUNCATED) {
        found.push(Warning::Truncated { run: run.clone(), what: what.clone(), share });
    }
    if record.ledger.sessions > 1 {
        found.push(Warning::Resumed { run, sessions: record.ledger.sessions });
    }
    found
}

/// Doubts about a run, called `label`, beside the reference run. Seeds are compared by row, in [`mod@super::compare`].
pub(super) fn beside(label: &str, record: &RunRecord, reference: &RunRecord) -> Vec<Warning> {
    let mut found = Vec::new();
    let run = || label.to_owned();
    let machine = reference.machine.differences(&record.machine);
    if !machine.is_empty() {
        found.push(Warning::OtherMachine { run: run(), differences: machine });
    }
    let program = |record: &RunRecord| match &record.commit {
        Some(commit) => format!("{} ({commit})", record.ragtune),
        None => record.ragtune.clone(),
    };
    if program(record) != program(reference) {
        found.push(Warning::OtherProgram { run: run(), reference: program(reference), other: program(record) });
    }
    for (what, ours, theirs) in [
        ("the reader mode", &reference.reader_mode, &record.reader_mode),
        ("the prompt template", &reference.prompt_template, &record.prompt_template),
        ("the meaning of recall", &reference.recall_definition, &record.recall_definition),
        ("the number of passages K", &reference.top_k.to_string(), &record.top_k.to_string()),
    ] {
        if ours != theirs {
            let (reference, other) = (ours.clone(), theirs.clone());
            found.push(Warning::OtherEvaluation { run: run(), what: what.to_owned(), reference, other });
        }
    }
    let (ours, theirs) = reference.data.searched(&record.data);
    if ours != theirs {
        let named = |record: &RunRecord| record.data.corpus.path.clone();
        found.push(Warning::OtherCorpus { run: run(), reference: named(reference), other: named(record) });
    }
    for theirs in &record.models {
        let ours = reference.models.iter().find(|model| model.role == theirs.role);
        if let Some(ours) = ours.filter(|ours| ours.fingerprint != theirs.fingerprint) {
            let (role, reference, other) = (theirs.role.clone(), ours.name.clone(), theirs.name.clone());
            found.push(Warning::OtherModel { run: run(), role, reference, other });
        }
    }
    // What the label tells already is the subject of the comparison, not a doubt about it.
    let told =
        |differing: &Differing| label.split(' ').any(|part| part == format!("{}={}", differing.name, differing.other));
    let settings: Vec<Differing> =
        differences(reference, record).into_iter().filter(|differing| !told(differing)).collect();
    if !settings.is_empty() {
        found.push(Warning::OtherSettings { run: run(), settings });
    }
    found
}
