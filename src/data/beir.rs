//! BEIR folders: `queries.jsonl` and `qrels/<split>.tsv` (a header row, then query id, passage id, score).

use super::fields::Fields;
use super::lines::{Lines, hash_file};
use super::questions::{ANSWERS, ID, QUESTION, Question};
use super::recognise::is_split;
use super::{excerpt, list};
use crate::error::{Context, Error, Result};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// The questions of one split of a BEIR folder.
pub(super) struct Split {
    pub(super) name: String,
    pub(super) questions: Vec<Question>,
    /// blake3 over the hashes of `queries.jsonl` and of the split's file.
    pub(super) hash: String,
    pub(super) notes: Vec<String>,
}

/// Reads one split. `path` is the folder, when it holds one split, or `<folder>/qrels/<split>.tsv`.
pub(super) fn read(path: &Path) -> Result<Split> {
    let (folder, judgements) = locate(path)?;
    let queries = folder.join("queries.jsonl");
    let name = judgements.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let Judgements { gold: mut by_query, mut notes, hash } = judged(&judgements)?;
    let mut lines = Lines::open(&queries)?;
    let mut seen: HashMap<String, u64> = HashMap::new();
    let (mut questions, mut without) = (Vec::new(), 0u64);
    while let Some(line) = lines.next()?.map(str::to_owned) {
        let place = lines.place();
        let fields = Fields::parse(&line, &place)?;
        let id = fields.id(ID)?;
        if let Some(before) = seen.insert(id.clone(), lines.number()) {
            return Err(fields.error(format!("the question id `{id}` stands already on line {before}")));
        }
        match by_query.remove(&id) {
            Some(gold_passages) => questions.push(Question {
                id,
                question: fields.text(QUESTION)?.trim().to_owned(),
                answers: fields.texts(ANSWERS)?,
                gold_passages,
                ..Question::default()
            }),
            None => without += 1,
        }
    }
    if let Some(id) = by_query.keys().next() {
        return Err(Error::new(format!(
            "`{}` judges question `{id}`, which `{}` does not hold ({} such questions)",
            judgements.display(),
            queries.display(),
            by_query.len()
        )));
    }
    if without > 0 {
        notes.push(format!("{without} questions of `queries.jsonl` are not in the split `{name}` and are left out"));
    }
    let both = format!("{} {hash}", lines.hash());
    Ok(Split { name, questions, hash: blake3::hash(both.as_bytes()).to_hex().to_string(), notes })
}

/// Splits of a folder, in name order: every `qrels/*.tsv`.
pub(super) fn splits(folder: &Path) -> Result<Vec<PathBuf>> {
    let qrels = folder.join("qrels");
    let entries = std::fs::read_dir(&qrels).context(|| format!("could not read the folder `{}`", qrels.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context(|| format!("could not read the folder `{}`", qrels.display()))?.path();
        if is_split(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The BEIR folder that a path names: itself, or the one whose split it is.
pub(super) fn folder(path: &Path) -> PathBuf {
    let above = if is_split(path) { path.parent().and_then(Path::parent) } else { None };
    above.unwrap_or(path).to_owned()
}

fn locate(path: &Path) -> Result<(PathBuf, PathBuf)> {
    if is_split(path) {
        return Ok((folder(path), path.to_owned()));
    }
    let mut found = splits(path)?;
    match (found.len(), found.pop()) {
        (1, Some(only)) => Ok((path.to_owned(), only)),
        (0, _) | (_, None) => {
            Err(Error::new(format!("`{}` holds no split, expected qrels/<split>.tsv", path.display())))
        }
        (count, Some(last)) => {
            found.push(last.clone());
            let names = found.iter().filter_map(|split| split.file_stem()).map(|name| name.to_string_lossy());
            Err(Error::new(format!("`{}` holds {count} splits ({}), expected one", path.display(), list(names)))
                .hint(format!("name the split by its file: {}", last.display())))
        }
    }
}

struct Judgements {
    gold: BTreeMap<String, Vec<String>>,
    notes: Vec<String>,
    hash: String,
}

/// Gold passages by question: the rows with a score above 0.
fn judged(path: &Path) -> Result<Judgements> {
    let mut lines = Lines::open(path)?;
    let header = lines.next()?.map(str::to_owned).unwrap_or_default();
    if columns(&header, &lines.place())?.2.parse::<f64>().is_ok() {
        return Err(Error::new(format!("{}: expected a header row, found `{}`", lines.place(), excerpt(&header)))
            .hint(format!("sed -i '1i query-id\\tcorpus-id\\tscore' {}", path.display())));
    }
    let mut gold: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut rejected, mut graded) = (0u64, 0u64);
    while let Some(line) = lines.next()?.map(str::to_owned) {
        let place = lines.place();
        let (query, passage, score) = columns(&line, &place)?;
        let score: f64 = score
            .trim()
            .parse()
            .ok()
            .filter(|score: &f64| score.is_finite())
            .ok_or_else(|| Error::new(format!("{place}: the score is `{}`, expected a number", excerpt(score))))?;
        if score <= 0.0 {
            rejected += 1;
            continue;
        }
        graded += u64::from(score != 1.0);
        let passages = gold.entry(query.to_owned()).or_default();
        if passages.iter().any(|known| known == passage) {
            return Err(Error::new(format!("{place}: passage `{passage}` is judged twice for question `{query}`")));
        }
        passages.push(passage.to_owned());
    }
    let mut notes = Vec::new();
    if rejected > 0 {
        notes.push(format!("{rejected} rows with a score of 0 or less are not gold"));
    }
    if graded > 0 {
        notes.push(format!("{graded} rows have a score other than 1: relevance is taken as yes or no"));
    }
    Ok(Judgements { gold, notes, hash: hash_file(path)? })
}

fn columns<'a>(line: &'a str, place: &str) -> Result<(&'a str, &'a str, &'a str)> {
    let mut parts = line.split('\t');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(query), Some(passage), Some(score), None) if !query.is_empty() && !passage.is_empty() => {
            Ok((query, passage, score.trim()))
        }
        _ => {
            let count = line.split('\t').count();
            let message = format!(
                "{place}: {count} tab-separated columns (`{}`), expected query id, passage id, score",
                excerpt(line)
            );
            Err(Error::new(message))
        }
    }
}
