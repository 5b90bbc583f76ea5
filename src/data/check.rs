//! `ragtune data check`: reads a whole file and says what was understood of it.

use super::facts::{CorpusFacts, CorpusTally, NAMED, QuestionFacts};
use super::fields::Fields;
use super::lines::Lines;
use super::recognise::recognise;
use super::{Format, beir, corpus, questions};
use crate::cost::units;
use crate::error::Result;
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// What was understood of a file or folder. `Display` writes it for people, serde for programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Understanding {
    /// What was looked at.
    pub path: PathBuf,
    /// What it holds: `corpus`, `questions`, or `corpus and questions`.
    pub kind: String,
    /// What it was recognised as.
    pub format: Format,
    /// Splits of a BEIR folder.
    pub splits: Vec<String>,
    /// Fields of the JSON objects and in how many records each occurs (JSON Lines only).
    pub fields: BTreeMap<String, u64>,
    /// Its passages, where it holds any.
    pub corpus: Option<CorpusFacts>,
    /// Hex blake3 of the corpus file.
    pub corpus_hash: Option<String>,
    /// Its questions, where it holds any; of a BEIR folder with several splits, of the last in name order.
    pub questions: Option<QuestionFacts>,
    /// Hash of the question set.
    pub questions_hash: Option<String>,
    /// What stands in the way of using it; nothing when empty.
    pub problems: Vec<String>,
    /// What a reader of the numbers should know.
    pub notes: Vec<String>,
}

/// Reads all of a file or folder and says what was understood.
///
/// # Errors
/// The same as reading it: the first damaged record is named by file and line.
pub fn check(path: &Path) -> Result<Understanding> {
    let recognised = recognise(path)?;
    let mut found = Understanding {
        path: path.to_owned(),
        kind: String::new(),
        format: recognised.format,
        splits: Vec::new(),
        fields: BTreeMap::new(),
        corpus: None,
        corpus_hash: None,
        questions: None,
        questions_hash: None,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    match recognised.format {
        Format::Jsonl => {
            found.fields = fields(path)?;
            if holds_questions(recognised.first.as_ref()) {
                found.take_questions(path)?;
            } else {
                found.take_corpus(path)?;
                if !found.fields.contains_key("title") {
                    found
                        .notes
                        .push("read as a corpus; read as questions it would hold one question a `text`".to_owned());
                }
            }
        }
        Format::Squad => {
            found.take_corpus(path)?;
            found.take_questions(path)?;
        }
        Format::Beir => found.take_folder(path)?,
    }
    found.kind = match (&found.corpus, &found.questions) {
        (Some(_), Some(_)) => "corpus and questions",
        (Some(_), None) => "corpus",
        (None, _) => "questions",
    }
    .to_owned();
    Ok(found)
}

impl Understanding {
    /// Whether nothing stands in the way of using it.
    pub fn is_usable(&self) -> bool {
        self.problems.is_empty()
    }

    fn take_corpus(&mut self, path: &Path) -> Result<()> {
        let mut tally = CorpusTally::default();
        let mut reader = corpus::open(path)?;
        for passage in &mut reader {
            tally.take(&passage?);
        }
        let facts = tally.finish();
        if let Some(id) = &facts.first_duplicate {
            let count = facts.duplicate_ids;
            let occur = if count == 1 { "passage id occurs" } else { "passage ids occur" };
            self.problems.push(format!("{count} {occur} more than once, the first is `{id}`"));
            let more = if facts.duplicates.len() == NAMED { ", and perhaps more" } else { "" };
            self.notes.push(format!("ids of several passages: `{}`{more}", facts.duplicates.join("`, `")));
        }
        self.corpus = Some(facts);
        self.corpus_hash = Some(reader.hash().to_owned());
        Ok(())
    }

    fn take_questions(&mut self, path: &Path) -> Result<()> {
        let set = questions::read(path)?;
        self.questions = Some(QuestionFacts::of(&set.questions));
        self.questions_hash = Some(set.hash);
        self.notes.extend(set.notes);
        Ok(())
    }

    fn take_folder(&mut self, path: &Path) -> Result<()> {
        let folder = beir::folder(path);
        if folder.join("corpus.jsonl").is_file() {
            self.take_corpus(&folder)?;
        } else {
            self.notes.push("the folder has no `corpus.jsonl`".to_owned());
        }
        if !folder.join("queries.jsonl").is_file() {
            self.notes.push("the folder has no `queries.jsonl`".to_owned());
            return Ok(());
        }
        let splits = beir::splits(&folder)?;
        let name = |split: &PathBuf| split.file_stem().map(|name| name.to_string_lossy().into_owned());
        self.splits = splits.iter().filter_map(name).collect();
        let chosen = if super::recognise::is_split(path) { Some(path) } else { splits.last().map(PathBuf::as_path) };
        match chosen {
            Some(split) => self.take_questions(split),
            None => {
                self.problems.push("the folder has no split, expected qrels/<split>.tsv".to_owned());
                Ok(())
            }
        }
    }
}

impl fmt::Display for Understanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} ({})", self.path.display(), self.kind, self.format)?;
        if let Some(corpus) = &self.corpus {
            let words = &corpus.words;
            writeln!(f, "  passages            {}", corpus.passages)?;
            writeln!(f, "  with a title        {}", corpus.with_title)?;
            writeln!(
                f,
                "  words a passage     median {}, longest {} (`{}`)",
                words.median, words.longest, corpus.longest_passage
            )?;
            writeln!(f, "  words in all        {}", units::count(words.total))?;
            writeln!(f, "  first passage       {}", corpus.example)?;
        }
        if let Some(questions) = &self.questions {
            let (words, answers) = (&questions.words, &questions.answer_words);
            writeln!(f, "  questions           {}", questions.questions)?;
            writeln!(
                f,
                "  answers             {}, {} questions without",
                questions.answers, questions.without_answers
            )?;
            writeln!(
                f,
                "  gold passages       {}, {} questions without",
                questions.gold_passages, questions.without_gold
            )?;
            writeln!(f, "  words a question    median {}, longest {}", words.median, words.longest)?;
            writeln!(f, "  words an answer     median {}, longest {}", answers.median, answers.longest)?;
            writeln!(f, "  first question      {}", questions.example)?;
        }
        if !self.splits.is_empty() {
            writeln!(f, "  splits              {}", self.splits.join(", "))?;
        }
        if !self.fields.is_empty() {
            let fields: Vec<String> = self.fields.iter().map(|(name, count)| format!("{name} ({count})")).collect();
            writeln!(f, "  fields              {}", fields.join(", "))?;
        }
        for (name, hash) in [("corpus", &self.corpus_hash), ("questions", &self.questions_hash)] {
            if let Some(hash) = hash {
                writeln!(f, "  blake3 of {name:<9} {hash}")?;
            }
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))?;
        self.problems.iter().try_for_each(|problem| writeln!(f, "  problem: {problem}"))
    }
}

/// A question file has a question, answers or gold passages; what has only a text is taken for a corpus.
fn holds_questions(first: Option<&Value>) -> bool {
    let names = ["question", "query"].iter().chain(questions::ANSWERS).chain(questions::GOLD);
    names.into_iter().any(|name| first.is_some_and(|object| object.get(name).is_some()))
}

fn fields(path: &Path) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let mut lines = Lines::open(path)?;
    while let Some(line) = lines.next()?.map(str::to_owned) {
        for name in Fields::parse(&line, &lines.place())?.names() {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
    }
    Ok(counts)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
