//! What an objective needs and moves, so that a strategy can refuse data that lacks its labels, choose what it trains, and
//! print both.

use serde::Serialize;

use crate::data::Question;

/// What an objective reads of a question, asks of the pipeline, and moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// Label: an answer.
    pub answers: bool,
    /// Label: a gold passage.
    pub gold: bool,
    /// Label: scores of passages by a teacher, two passages at least.
    pub teacher_scores: bool,
    /// Wrong passages of each question, from the question file or mined by the trainer.
    pub hard_negatives: bool,
    /// Whether K passages are retrieved for a question (else its labels name the passages).
    pub retrieval: bool,
    /// Whether retrieval scores get a gradient: something is there for the encoder to learn from.
    pub moves_retriever: bool,
    /// Whether answer likelihoods get one: something is there for the generator to learn from.
    pub moves_generator: bool,
    /// Whether the probabilities of lists of passages get one: something is there for a selector to learn from.
    pub moves_selector: bool,
    /// Whether the generator reads a prompt for each passage.
    pub single_prompts: bool,
    /// Whether it reads all passages in one prompt (where the generator trains, for objectives that train both).
    pub concat: bool,
    /// Whether it reads K prompts, each without one of the passages.
    pub leave_one_out: bool,
    /// Whether its attention is looked at.
    pub attention: bool,
    /// Whether the encoder as it was at the beginning of the stage is asked too.
    pub reference: bool,
}

impl Needs {
    /// The labels by name, for tables and messages.
    pub fn labels(&self) -> Vec<&'static str> {
        let named = [
            (self.answers, "answers"),
            (self.gold, "gold passages"),
            (self.teacher_scores, "teacher scores"),
            (self.hard_negatives, "hard negatives (given or mined)"),
        ];
        named.into_iter().filter(|(needed, _)| *needed).map(|(_, name)| name).collect()
    }

    /// The first label that a question lacks. Hard negatives may be missing from single questions, or mined: that some question
    /// has any is a matter of the whole set (`train::labels`).
    pub fn lacking(&self, question: &Question) -> Option<&'static str> {
        if self.answers && question.answers.is_empty() {
            return Some("answer");
        }
        if self.gold && question.gold_passages.is_empty() {
            return Some("gold passage");
        }
        (self.teacher_scores && question.teacher_scores.len() < 2).then_some("teacher scores of two passages")
    }

    /// Whether one passage a question leaves the retriever without a gradient: the objective compares passages that were
    /// retrieved.
    pub fn compares_retrieved(&self) -> bool {
        self.retrieval && self.moves_retriever && !self.gold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lacking_label_is_named() {
        let needs = Needs { answers: true, teacher_scores: true, ..Needs::default() };
        let mut question = Question::default();
        assert_eq!(needs.lacking(&question), Some("answer"));
        question.answers.push("a".into());
        question.teacher_scores.push(("1".into(), 0.5));
        assert_eq!(needs.lacking(&question), Some("teacher scores of two passages"));
        question.teacher_scores.push(("2".into(), 0.5));
        assert_eq!(needs.lacking(&question), None);
        assert_eq!(needs.labels(), ["answers", "teacher scores"]);
    }
}
