//! What a run should say of itself besides its numbers: parts without a signal, labels that are mostly missing, a retriever that
//! collapsed.

use serde::{Deserialize, Serialize};

use super::{Trainer, labels};
use crate::pipeline::selector::GOLD_WARNING;
use crate::pipeline::step::{Observed, Signal};
use crate::report::record::RunRecord;
use crate::strategies::{Lists, Stage};

/// From this share of questions without a direction on, a run says so.
const FLAT: f64 = 0.5;
/// Below this share of the passages that could have been read, retrieval has collapsed.
const COLLAPSED: f64 = 0.05;

/// What the questions that a stage looked at gave to learn from; a question counts once for every step it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// By whether a target tells their passages or lists apart.
    pub targets: Signal,
    /// By whether the generator's likelihoods of the answer do.
    pub likelihoods: Signal,
}

impl Signals {
    /// Adds what a step saw.
    pub fn add(&mut self, observed: &Observed) {
        self.targets.add(observed.targets);
        self.likelihoods.add(observed.likelihoods);
    }
}

/// Adds the notes of a finished run.
pub(super) fn add(record: &mut RunRecord, trainer: &Trainer<'_>, stages: &[Stage]) {
    let mut note = |text: String| {
        if !record.notes.contains(&text) {
            record.notes.push(text);
        }
    };
    if let Some(text) = single_passage(trainer.config.top_k, stages) {
        note(text);
    }
    if let Some(text) = gold_injection(stages) {
        note(text);
    }
    for (stage, signals) in stages.iter().zip(&trainer.state.signals_before) {
        without_signal(stage, signals, trainer.config.top_k).into_iter().for_each(&mut note);
    }
    stages.iter().filter_map(|stage| labels::without_negatives(stage, &trainer.questions)).for_each(&mut note);
    if let Some(last) = record.evaluations.last() {
        let passages = trainer.pipeline.generation.len() as u64;
        if let Some(text) = collapse(last.distinct_passages, last.n, trainer.config.top_k as u64, passages) {
            note(text);
        }
    }
}

/// What K = 1 means for objectives that compare retrieved passages.
pub fn single_passage(top_k: usize, stages: &[Stage]) -> Option<String> {
    let stage = stages.iter().find(|stage| stage.trains.encoder() && stage.objective.needs().compares_retrieved())?;
    (top_k == 1).then(|| {
        format!(
            "with `--top-k 1` stage `{}` compares a passage with nothing: the encoder's gradient is zero",
            stage.name
        )
    })
}

/// What it means for the parts of a stage that few of its questions told their passages, or lists of them, apart.
fn without_signal(stage: &Stage, signals: &Signals, top_k: usize) -> Vec<String> {
    let mut notes = Vec::new();
    let name = stage.name;
    let flat = |signal: &Signal| signal.questions > 0 && signal.flat_share() >= FLAT;
    let of = |signal: &Signal| format!("{} of the {} questions looked at", signal.flat, signal.questions);
    // One passage is compared with nothing, which is said by itself.
    let compares = top_k > 1 || stage.lists.is_some();
    if flat(&signals.targets) && (compares || !stage.objective.needs().compares_retrieved()) {
        let count = of(&signals.targets);
        notes.push(match (stage.lists.is_some(), stage.trains.selector) {
            (false, _) => format!(
                "in stage `{name}` the target gave all passages the same weight for {count}: the retriever had nothing to learn \
                 from them"
            ),
            (true, true) => format!(
                "in stage `{name}` all lists drawn weighed the same for {count}: the selector had nothing to tell them apart by"
            ),
            (true, false) => format!(
                "in stage `{name}` all lists drawn weighed the same for {count}: the generator learnt from good and bad ones alike"
            ),
        });
    }
    if flat(&signals.likelihoods) && compares {
        let retriever =
            if stage.trains.encoder() { ", so that the retriever had nothing to learn from them" } else { "" };
        notes.push(format!(
            "in stage `{name}` the answer was as likely whichever passage the generator read for {}{retriever}",
            of(&signals.likelihoods)
        ));
    }
    notes
}

/// What gold passages among the candidates mean.
pub fn gold_injection(stages: &[Stage]) -> Option<String> {
    let injects = |stage: &Stage| match stage.lists {
        Some(Lists::Drawn(expectation)) => expectation.gold_injection,
        Some(Lists::Taught(teaching)) => teaching.gold_injection,
        None => false,
    };
    stages.iter().any(injects).then(|| GOLD_WARNING.to_owned())
}

/// Whether few passages answer all questions.
fn collapse(distinct: u64, questions: u64, top_k: u64, passages: u64) -> Option<String> {
    let possible = (questions * top_k).min(passages);
    (possible > 0 && (distinct as f64) < COLLAPSED * possible as f64).then(|| {
        format!(
            "retrieval collapsed: {:.0} distinct passages per 1000 questions, of {:.0} that could have been read",
            1000.0 * distinct as f64 / questions as f64,
            1000.0 * possible as f64 / questions as f64
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategies::STRATEGIES;

    /// The last stage of a strategy with its usual settings.
    fn last(strategy: &str) -> Stage {
        let strategy = STRATEGIES.iter().find(|one| one.name == strategy).unwrap();
        strategy.usual().pop().unwrap()
    }

    #[test]
    fn either_signal_is_missed_by_itself_and_for_the_part_that_learns_from_it() {
        let signal = |flat| Signal { questions: 100, flat };
        let said = |strategy: &str, targets: u64, likelihoods: u64, top_k: usize| {
            let signals = Signals { targets: signal(targets), likelihoods: signal(likelihoods) };
            without_signal(&last(strategy), &signals, top_k)
        };
        // However many likelihoods differ, a target that does not is noticed.
        let replug = said("replug", 99, 0, 5);
        assert_eq!(replug.len(), 1);
        assert!(
            replug[0].contains("stage `retriever`")
                && replug[0].contains("99 of the 100")
                && replug[0].contains("the retriever")
        );
        assert!(said("replug", 49, 49, 5).is_empty());
        let joint = said("joint", 0, 50, 5);
        assert!(joint.len() == 1 && joint[0].contains("whichever passage") && joint[0].contains("the retriever"));
        // No retriever trains here.
        let generator = said("generator", 0, 100, 5);
        assert!(generator.len() == 1 && !generator[0].contains("retriever"), "{generator:?}");
        let dro = said("dro", 100, 0, 1);
        assert!(dro.len() == 1 && dro[0].contains("the selector") && !dro[0].contains("retriever"), "{dro:?}");
        // One passage alone is another note.
        assert!(said("joint", 100, 100, 1).is_empty());
        assert!(without_signal(&last("joint"), &Signals::default(), 5).is_empty());
    }

    #[test]
    fn a_collapse_is_relative_to_what_could_be_read() {
        assert!(collapse(10, 1000, 5, 50_000).unwrap().contains("10 distinct passages per 1000 questions"));
        assert!(collapse(1500, 1000, 5, 50_000).is_none());
        // A corpus of 100 passages cannot give more.
        assert!(collapse(60, 1000, 5, 100).is_none());
        assert!(collapse(3, 1000, 5, 100).is_some());
        assert!(collapse(0, 0, 5, 100).is_none());
    }
}
