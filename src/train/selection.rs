//! Early stopping: which weights to keep and when to stop, by scores on questions that are never reported.

use serde::{Deserialize, Serialize};

use super::{Event, Trainer, checkpoint};
use crate::error::{Error, Result};
use crate::eval::evaluate::Searcher;
use crate::report::record::EvaluationSummary;
use crate::strategies::Stage;

/// What early stopping saw so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Step and score of each look, in order.
    pub looks: Vec<(u64, f64)>,
    /// Step and score of the best.
    pub best: Option<(u64, f64)>,
}

impl Selection {
    /// Takes a score down; whether it is the best so far. Of equal scores the earlier is kept: it costs less.
    fn note(&mut self, step: u64, score: f64) -> bool {
        self.looks.push((step, score));
        let better = self.best.is_none_or(|(_, best)| score > best);
        if better {
            self.best = Some((step, score));
        }
        better
    }

    /// Whether the last `patience` looks brought nothing better; 0 never stops.
    pub fn exhausted(&self, patience: u64) -> bool {
        let Some((best, _)) = self.best else { return false };
        patience > 0 && self.looks.iter().filter(|(step, _)| *step > best).count() as u64 >= patience
    }
}

/// A metric of an evaluation by its name: `em`, `f1`, `mrr`, `ndcg`, `recall@K` or `answer-recall@K`.
pub fn metric(summary: &EvaluationSummary, name: &str) -> Result<Option<f64>> {
    let unknown = || {
        Error::new(format!(
            "unknown metric `{name}`, expected em, f1, mrr, ndcg, recall@K or answer-recall@K with K of 1, 5, 10 or 20"
        ))
        .hint("for instance `--select-by f1`")
    };
    let at = |table: &std::collections::BTreeMap<u32, f64>, k: &str| -> Result<Option<f64>> {
        let k: u32 = k.parse().map_err(|_| unknown())?;
        if !crate::eval::evaluate::RECALL_AT.contains(&k) {
            return Err(unknown());
        }
        Ok(table.get(&k).copied())
    };
    match name.split_once('@') {
        None if name == "em" => Ok(summary.em),
        None if name == "f1" => Ok(summary.f1),
        None if name == "mrr" => Ok(summary.mrr10),
        None if name == "ndcg" => Ok(summary.ndcg10),
        Some(("recall", k)) => at(&summary.recall, k),
        Some(("answer-recall", k)) => at(&summary.answer_recall, k),
        _ => Err(unknown()),
    }
}

impl Trainer<'_> {
    /// Looks at the selection questions and keeps the weights where they are the best so far.
    pub(super) fn select(&mut self, stage: &Stage, observer: &mut dyn FnMut(Event<'_>)) -> Result<()> {
        let questions = self.selection.take().ok_or_else(|| Error::new("there are no selection questions"))?;
        let name = format!("select-{}", self.steps_done());
        let found = self.evaluated(&questions, &Searcher::Stale, &name, observer);
        self.selection = Some(questions);
        let found = found?;
        self.state.evaluated_prompts += found.prompts;
        self.state.evaluated_truncated += found.truncated;
        let Some(score) = metric(&found.summary, &self.config.select_by)? else {
            return Err(Error::new(format!(
                "no selection question has what `{}` is computed from",
                self.config.select_by
            ))
            .hint("choose `--select-by f1` for questions with answers, `--select-by recall@5` for gold passages"));
        };
        if self.state.selection.note(self.state.step, score) {
            checkpoint::write_best(&self.run.checkpoints(), &self.moving(stage))?;
        }
        Ok(())
    }

    /// Takes the best weights back where training went on after them.
    pub(super) fn keep_best(&mut self, stage: &Stage) -> Result<()> {
        let Some((best, _)) = self.state.selection.best else { return Ok(()) };
        if best == self.state.step {
            return Ok(());
        }
        for part in self.moving(stage) {
            checkpoint::restore_best(&self.run.checkpoints(), part.name, part.params)?;
        }
        if let Some(fresh) = &self.context.fresh {
            fresh.borrow_mut().forget_live();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_best_is_kept_and_patience_counts_looks_after_it() {
        let mut selection = Selection::default();
        assert!(!selection.exhausted(1));
        assert!(selection.note(10, 0.2));
        assert!(selection.note(20, 0.3));
        assert!(!selection.note(30, 0.3));
        assert!(selection.exhausted(1) && !selection.exhausted(2) && !selection.exhausted(0));
        assert!(!selection.note(40, 0.1));
        assert!(selection.exhausted(2));
        assert_eq!(selection.best, Some((20, 0.3)));
    }

    #[test]
    fn metrics_are_found_by_name() {
        let summary = EvaluationSummary {
            f1: Some(0.5),
            recall: [(5, 0.25)].into(),
            answer_recall: [(1, 0.75)].into(),
            ..EvaluationSummary::default()
        };
        assert_eq!(metric(&summary, "f1").unwrap(), Some(0.5));
        assert_eq!(metric(&summary, "em").unwrap(), None);
        assert_eq!(metric(&summary, "recall@5").unwrap(), Some(0.25));
        assert_eq!(metric(&summary, "answer-recall@1").unwrap(), Some(0.75));
        for wrong in ["accuracy", "recall", "recall@7", "recall@x"] {
            assert!(metric(&summary, wrong).unwrap_err().to_string().contains(wrong));
        }
    }
}
