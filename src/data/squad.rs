//! SQuAD JSON, versions 1 and 2: `data[].paragraphs[].{context, qas[].{id, question, answers[].text}}`.
//!
//! A paragraph has no id of its own: ours is the first 16 hex digits of the blake3 hash of its text, so that the corpus and
//! the gold passages read out of the same file agree, and so does a paragraph that stands in two files.
//! The file is one JSON value and is read whole: memory is a small multiple of its size.

use super::excerpt;
use super::lines::{hash_file, open};
use crate::error::{Error, Result};
use ragtune_index::Passage;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::Path;

/// Whole SQuAD file: its articles and the hash of its bytes.
pub(super) struct SquadFile {
    pub(super) hash: String,
    articles: Vec<Article>,
}

/// One question with the id of the paragraph it was asked about.
pub(super) struct Asked {
    pub(super) id: String,
    pub(super) question: String,
    pub(super) answers: Vec<String>,
    pub(super) passage: String,
    pub(super) impossible: bool,
}

impl SquadFile {
    /// Reads a file. Errors name the line and column where its shape is not SQuAD's.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let hash = hash_file(path)?;
        let reader = BufReader::with_capacity(1 << 16, open(path)?);
        let file: File = serde_json::from_reader(reader).map_err(|error| {
            let place = format!("{}:{}: column {}", path.display(), error.line(), error.column());
            Error::new(format!("{place}: not SQuAD JSON, expected data[].paragraphs[].context and qas[]"))
                .because(error)
        })?;
        Ok(Self { hash, articles: file.data })
    }

    /// Every distinct paragraph, in file order; one that occurs again is left out.
    pub(super) fn passages(self) -> impl Iterator<Item = Result<Passage>> + Send + 'static {
        let mut seen = BTreeSet::new();
        let paragraphs = self.articles.into_iter().enumerate().flat_map(|(number, article)| {
            let title = article.title.replace('_', " ");
            let place = move |at: usize| format!("data[{number}].paragraphs[{at}]");
            article.paragraphs.into_iter().enumerate().map(move |(at, paragraph)| (title.clone(), place(at), paragraph))
        });
        paragraphs.filter_map(move |(title, place, paragraph)| {
            let text = paragraph.context;
            if text.trim().is_empty() {
                return Some(Err(Error::new(format!("{place}: `context` is empty, expected the text of a paragraph"))));
            }
            let id = passage_id(&text);
            seen.insert(id.clone()).then_some(Ok(Passage { id, title, text }))
        })
    }

    /// Every question, in file order.
    pub(super) fn questions(&self) -> Result<Vec<Asked>> {
        let mut asked = Vec::new();
        for paragraph in self.articles.iter().flat_map(|article| &article.paragraphs) {
            let passage = passage_id(&paragraph.context);
            for item in &paragraph.qas {
                let id = match &item.id {
                    Value::String(id) if !id.trim().is_empty() => id.clone(),
                    Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
                    other => {
                        let question = excerpt(&item.question);
                        let message =
                            format!("the question `{question}` has the id `{other}`, expected a non-empty string");
                        return Err(Error::new(message));
                    }
                };
                if item.question.trim().is_empty() {
                    return Err(Error::new(format!("question `{id}` is empty")));
                }
                let mut answers: Vec<String> = Vec::new();
                for answer in &item.answers {
                    if !answer.text.trim().is_empty() && !answers.contains(&answer.text) {
                        answers.push(answer.text.clone());
                    }
                }
                let question = item.question.trim().to_owned();
                let passage = passage.clone();
                asked.push(Asked { id, question, answers, passage, impossible: item.is_impossible });
            }
        }
        Ok(asked)
    }
}

/// The id of a paragraph: 16 hex digits of the blake3 hash of its text.
pub(super) fn passage_id(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().chars().take(16).collect()
}

#[derive(Deserialize)]
struct File {
    data: Vec<Article>,
}

#[derive(Deserialize)]
struct Article {
    #[serde(default)]
    title: String,
    paragraphs: Vec<Paragraph>,
}

#[derive(Deserialize)]
struct Paragraph {
    context: String,
    #[serde(default)]
    qas: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    id: Value,
    question: String,
    #[serde(default)]
    answers: Vec<Answer>,
    #[serde(default)]
    is_impossible: bool,
}

#[derive(Deserialize)]
struct Answer {
    text: String,
}
