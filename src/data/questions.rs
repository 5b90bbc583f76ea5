//! Question sets: what is asked, the accepted answers, and the passages that hold them.

use super::fields::Fields;
use super::lines::Lines;
use super::recognise::recognise;
use super::squad::SquadFile;
use super::{Format, beir};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub(super) const ID: &[&str] = &["id", "_id"];
pub(super) const QUESTION: &[&str] = &["question", "query", "text"];
pub(super) const ANSWERS: &[&str] = &["answers", "golden_answers", "answer"];
pub(super) const GOLD: &[&str] = &["gold_passages", "gold_passage", "gold_ids", "positive_ids"];
const NEGATIVES: &[&str] = &["hard_negatives", "negative_ids"];
const TEACHER: &[&str] = &["teacher_scores"];

/// One question.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// Unique within its set.
    pub id: String,
    /// The question itself, without spaces around it.
    pub question: String,
    /// Accepted answers (aliases); empty when none is known or the question is unanswerable.
    pub answers: Vec<String>,
    /// Ids of the passages that hold the answer; empty when not known.
    pub gold_passages: Vec<String>,
    /// Ids of passages that look right and are wrong, hardest first; empty when not known. None of them is gold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hard_negatives: Vec<String>,
    /// Scores that a teacher (a cross-encoder, say) gave to passages, by passage id, more is better, in any unit; empty when
    /// not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teacher_scores: Vec<(String, f32)>,
}

/// All questions of a file or of one split.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionSet {
    /// In file order; ids are unique and at least one question is there.
    pub questions: Vec<Question>,
    /// What the file was recognised as.
    pub format: Format,
    /// Hex blake3 of the file's bytes; of a BEIR split, over the hashes of its two files.
    pub hash: String,
    /// What was read.
    pub path: PathBuf,
    /// The split of a BEIR folder.
    pub split: Option<String>,
    /// What a reader of the numbers should know: questions without answers, judgements left out.
    pub notes: Vec<String>,
}

impl QuestionSet {
    /// Number of questions without any accepted answer: EM and F1 leave them out.
    pub fn without_answers(&self) -> usize {
        self.questions.iter().filter(|question| question.answers.is_empty()).count()
    }

    /// Number of questions without any gold passage: recall, MRR and nDCG leave them out.
    pub fn without_gold(&self) -> usize {
        self.questions.iter().filter(|question| question.gold_passages.is_empty()).count()
    }
}

/// Reads a question set, recognised by content:
///
/// - JSON Lines `{id | _id, question | query | text, answers | golden_answers | answer, gold_passages | gold_ids | ..}`, and
///   where they are known `hard_negatives` (a list of passage ids) and `teacher_scores` (`{passage id: number}`);
/// - a BEIR folder with one split, or `<folder>/qrels/<split>.tsv`;
/// - SQuAD JSON, version 1 or 2 (gold passage: the question's paragraph; a question marked impossible has no answers).
///
/// # Errors
/// When nothing of this is found; when a record is damaged (named by file and line); when an id occurs twice; when the set
/// is empty.
pub fn read(path: &Path) -> Result<QuestionSet> {
    let format = recognise(path)?.format;
    let mut set = QuestionSet {
        questions: Vec::new(),
        format,
        hash: String::new(),
        path: path.to_owned(),
        split: None,
        notes: Vec::new(),
    };
    match format {
        Format::Jsonl => read_lines(path, &mut set)?,
        Format::Squad => read_squad(path, &mut set)?,
        Format::Beir => {
            let split = beir::read(path)?;
            (set.questions, set.hash, set.split, set.notes) =
                (split.questions, split.hash, Some(split.name), split.notes);
        }
    }
    if set.questions.is_empty() {
        return Err(Error::new(format!("`{}` ({format}) holds no question", path.display())));
    }
    note(set.without_answers(), "no answer: EM and F1 leave them out", &mut set);
    note(set.without_gold(), "no gold passage: recall, MRR and nDCG leave them out", &mut set);
    let count = |has: fn(&Question) -> bool| set.questions.iter().filter(|question| has(question)).count();
    let (negatives, scored) = (count(|q| !q.hard_negatives.is_empty()), count(|q| !q.teacher_scores.is_empty()));
    note(negatives, "hard negatives", &mut set);
    note(scored, "passages scored by a teacher", &mut set);
    Ok(set)
}

/// Checks that every gold passage, hard negative and passage with a teacher's score is in the corpus.
///
/// # Errors
/// Names the first question and id that are not, and how many of that kind are missing in all.
pub fn validate_gold(set: &QuestionSet, exists: impl Fn(&str) -> bool) -> Result<()> {
    validate(set, ("gold passage", "gold passages"), &exists, |question| question.gold_passages.iter().collect())?;
    validate(set, ("hard negative", "hard negatives"), &exists, |question| question.hard_negatives.iter().collect())?;
    validate(set, ("passage", "passages scored by a teacher"), &exists, |question| {
        question.teacher_scores.iter().map(|(id, _)| id).collect()
    })
}

fn validate(
    set: &QuestionSet,
    (one, many): (&str, &str),
    exists: impl Fn(&str) -> bool,
    ids: impl Fn(&Question) -> Vec<&String>,
) -> Result<()> {
    let (mut first, mut missing, mut all) = (None, 0u64, 0u64);
    for question in &set.questions {
        for id in ids(question) {
            all += 1;
            if !exists(id) {
                missing += 1;
                first.get_or_insert((question, id.clone()));
            }
        }
    }
    let Some((question, id)) = first else { return Ok(()) };
    Err(Error::new(format!(
        "{one} `{id}` of question `{}` in `{}` is not in the corpus ({missing} of {all} {many} are missing)",
        question.id,
        set.path.display()
    ))
    .hint("build the index over the corpus that these questions were marked on, or remove the questions"))
}

fn note(count: usize, what: &str, set: &mut QuestionSet) {
    if count > 0 {
        set.notes.push(format!("{count} of {} questions have {what}", set.questions.len()));
    }
}

fn read_lines(path: &Path, set: &mut QuestionSet) -> Result<()> {
    let mut lines = Lines::open(path)?;
    let mut seen: HashMap<String, u64> = HashMap::new();
    while let Some(line) = lines.next()?.map(str::to_owned) {
        let place = lines.place();
        let fields = Fields::parse(&line, &place)?;
        let question = parse(&fields)?;
        if let Some(before) = seen.insert(question.id.clone(), lines.number()) {
            return Err(fields.error(format!("the question id `{}` stands already on line {before}", question.id)));
        }
        set.questions.push(question);
    }
    set.hash = lines.hash();
    Ok(())
}

/// One question out of one JSON object.
pub(super) fn parse(fields: &Fields<'_>) -> Result<Question> {
    let asks = [&["question", "query"][..], ANSWERS, GOLD, NEGATIVES, TEACHER].iter().any(|names| fields.has(names));
    if !asks && fields.has(&["title"]) && fields.has(&["text"]) {
        return Err(fields
            .error("a `title` and a `text`, and no question: this looks like a corpus")
            .hint("pass it as --corpus; questions have a `question`, and `answers` or `gold_passages`"));
    }
    let question = Question {
        id: fields.id(ID)?,
        question: fields.text(QUESTION)?.trim().to_owned(),
        answers: fields.texts(ANSWERS)?,
        gold_passages: fields.ids(GOLD)?,
        hard_negatives: fields.ids(NEGATIVES)?,
        teacher_scores: fields.scores(TEACHER)?,
    };
    match question.hard_negatives.iter().find(|id| question.gold_passages.contains(id)) {
        None => Ok(question),
        Some(id) => Err(fields
            .error(format!("passage `{id}` is both a gold passage and a hard negative"))
            .hint("take it out of `hard_negatives`")),
    }
}

fn read_squad(path: &Path, set: &mut QuestionSet) -> Result<()> {
    let file = SquadFile::read(path)?;
    let mut seen = HashMap::new();
    let in_file = |error: Error| Error::new(format!("`{}`: {error}", path.display()));
    let mut impossible = 0u64;
    for asked in file.questions().map_err(in_file)? {
        if seen.insert(asked.id.clone(), ()).is_some() {
            return Err(Error::new(format!("`{}`: the question id `{}` occurs twice", path.display(), asked.id)));
        }
        impossible += u64::from(asked.impossible);
        let answers = if asked.impossible { Vec::new() } else { asked.answers };
        set.questions.push(Question {
            id: asked.id,
            question: asked.question,
            answers,
            gold_passages: vec![asked.passage],
            ..Question::default()
        });
    }
    if impossible > 0 {
        set.notes.push(format!("{impossible} questions are marked unanswerable and count as having no answer"));
    }
    set.hash = file.hash;
    Ok(())
}

#[cfg(test)]
#[path = "questions_tests.rs"]
mod tests;
