//! Question sets that must have no question in common: what is trained on, what decides, what is reported.
//!
//! A question is the same under another id or in another file too: where its text and its accepted answers are the same. (Its text
//! alone does not do: `who is the author of Home?` is asked of several books.)

use std::collections::{BTreeSet, HashSet};

use super::{Question, QuestionSet};
use crate::error::{Error, Result};

/// Refuses held-out questions that are trained on. `what` they are and the `flag` that names them are for the message.
pub fn refuse_trained(questions: &QuestionSet, held_out: &QuestionSet, what: &str, flag: &str) -> Result<()> {
    let Some((count, first)) = shared(questions, held_out) else { return Ok(()) };
    Err(Error::new(format!("{count} {what} questions are also training questions, the first is `{first}`"))
        .hint(format!("give a held-out set as `{flag}`; a score on training questions says nothing")))
}

/// Refuses selection questions that are reported: what was chosen by them looks better on them than it is.
pub fn refuse_reported(selection: &QuestionSet, eval_questions: &QuestionSet) -> Result<()> {
    let Some((count, first)) = shared(selection, eval_questions) else { return Ok(()) };
    Err(Error::new(format!("{count} selection questions are also evaluation questions, the first is `{first}`"))
        .hint("split them: what is chosen by questions must be reported on others"))
}

/// How many questions of `others` are among `some`, and the id of the first of them.
fn shared<'q>(some: &QuestionSet, others: &'q QuestionSet) -> Option<(usize, &'q str)> {
    let ids: HashSet<&str> = some.questions.iter().map(|question| question.id.as_str()).collect();
    let contents: HashSet<Content> = some.questions.iter().map(content).collect();
    let known = |question: &&Question| ids.contains(question.id.as_str()) || contents.contains(&content(question));
    let shared: Vec<&Question> = others.questions.iter().filter(known).collect();
    let first = *shared.first()?;
    Some((shared.len(), first.id.as_str()))
}

type Content = (String, BTreeSet<String>);

/// What makes a question the same as another: its words and its answers, whatever their order, case and spaces.
fn content(question: &Question) -> Content {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
    (plain(&question.question), question.answers.iter().map(|answer| plain(answer)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Format;

    fn set(questions: &[(&str, &str, &str)]) -> QuestionSet {
        let question = |(id, question, answer): &(&str, &str, &str)| Question {
            id: (*id).to_owned(),
            question: (*question).to_owned(),
            answers: vec![(*answer).to_owned()],
            ..Question::default()
        };
        QuestionSet {
            questions: questions.iter().map(question).collect(),
            format: Format::Jsonl,
            hash: String::new(),
            path: "q.jsonl".into(),
            split: None,
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_question_is_the_same_by_its_id_or_by_its_words_and_answers() {
        let trained = set(&[("a", "Who wrote Home?", "Morrison"), ("b", "Where is York?", "England")]);
        let shared = |others: &[(&str, &str, &str)]| {
            let error = refuse_trained(&trained, &set(others), "evaluation", "--eval-questions").err()?;
            assert!(error.find_hint().unwrap().contains("--eval-questions"));
            Some(error.to_string())
        };
        assert_eq!(shared(&[("c", "Who wrote Home?", "Robinson"), ("d", "Where is Ely?", "England")]), None);
        let said = shared(&[("c", "who  wrote home?", "MORRISON"), ("b", "Other", "x")]).unwrap();
        assert_eq!(said, "2 evaluation questions are also training questions, the first is `c`");
        let error = refuse_reported(&trained, &set(&[("z", "Where is York?", "England")])).unwrap_err();
        assert!(error.to_string().contains("1 selection questions are also evaluation questions, the first is `z`"));
    }
}
