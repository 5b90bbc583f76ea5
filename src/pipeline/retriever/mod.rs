//! How passages are found: by the nearest vectors, by the words they share with the question (BM25), or by both.
//!
//! A retriever only finds. What passages weigh - the prior of a mixture, the scores that a strategy trains - is the encoder's
//! inner product whatever found them: BM25's scores are no logits and have no gradient.

use ragtune_index::{Allowed, Corpus, Generation, Hit, Keep, Lexical, Ranked, Search, Trust};
use serde::{Deserialize, Serialize};

use super::Pipeline;
use crate::error::{Error, Result};

mod fusion;

pub use fusion::Fusion;

/// Passages of each list that a hybrid looks at unless told otherwise.
const DEPTH: usize = 100;
/// What dense scores count in a weighted sum unless told otherwise.
const WEIGHT: f64 = 0.5;

/// What finds passages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The encoder: nearest vectors.
    #[default]
    Dense,
    /// Shared words: BM25.
    Bm25,
    /// Both lists in one.
    Hybrid,
}

impl Kind {
    /// Whether it is the encoder alone, as it is where nothing is said.
    pub fn is_dense(&self) -> bool {
        *self == Kind::Dense
    }

    /// The name in settings and reports.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dense => "dense",
            Kind::Bm25 => "bm25",
            Kind::Hybrid => "hybrid",
        }
    }

    /// The retriever of that name.
    pub fn parse(name: &str) -> Result<Self> {
        [Kind::Dense, Kind::Bm25, Kind::Hybrid].into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            Error::new(format!("unknown retriever `{name}`, expected one of: dense, bm25, hybrid"))
                .hint("leave `--retriever` out for dense")
        })
    }
}

/// What was said of the retriever, nothing where defaults hold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wanted {
    /// What finds passages.
    pub kind: Option<Kind>,
    /// How a hybrid puts two lists together.
    pub fusion: Option<Fusion>,
    /// What dense scores count in a weighted sum, 0 to 1.
    pub weight: Option<f64>,
    /// Passages of each list that a hybrid looks at.
    pub depth: Option<usize>,
}

impl Wanted {
    /// What is said here, and of what is not said there: options of a hybrid go with the retriever they were said of.
    pub fn or(self, other: Wanted) -> Wanted {
        if self.kind.is_some_and(|kind| Some(kind) != other.kind) {
            return self;
        }
        Wanted {
            kind: self.kind.or(other.kind),
            fusion: self.fusion.or(other.fusion),
            weight: self.weight.or(other.weight),
            depth: self.depth.or(other.depth),
        }
    }
}

/// How passages are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetrieverSettings {
    /// What finds them.
    pub kind: Kind,
    /// How a hybrid puts two lists together.
    pub fusion: Fusion,
    /// What dense scores count in a weighted sum, 0 to 1.
    pub weight: f64,
    /// Passages of each list that a hybrid looks at, at least.
    pub depth: usize,
}

impl RetrieverSettings {
    /// The settings with their defaults. Options that say nothing about this retriever are refused, and so are those out of range.
    pub fn new(wanted: Wanted) -> Result<Self> {
        let Wanted { kind, fusion, weight, depth } = wanted;
        let settings = Self {
            kind: kind.unwrap_or_default(),
            fusion: fusion.unwrap_or_default(),
            weight: weight.unwrap_or(WEIGHT),
            depth: depth.unwrap_or(DEPTH),
        };
        let said = [
            fusion.map(|fusion| format!("--hybrid {}", fusion.name())),
            weight.map(|weight| format!("--hybrid-weight {weight}")),
            depth.map(|depth| format!("--hybrid-depth {depth}")),
        ];
        if let (true, Some(said)) = (settings.kind != Kind::Hybrid, said.into_iter().flatten().next()) {
            return Err(Error::new(format!(
                "`{said}` is about two lists put together, and `--retriever {}` has one",
                settings.kind.name()
            ))
            .hint(format!("leave `{said}` out, or use `--retriever hybrid`")));
        }
        if let (Some(weight), Fusion::Rrf) = (weight, settings.fusion) {
            return Err(Error::new(format!(
                "`--hybrid-weight {weight}` weighs scores, and `--hybrid rrf` looks at ranks"
            ))
            .hint("leave `--hybrid-weight` out, or use `--hybrid weighted`"));
        }
        if !(0.0..=1.0).contains(&settings.weight) {
            return Err(Error::new(format!("`--hybrid-weight {}` is out of range, expected 0 to 1", settings.weight))
                .hint("0 is BM25 alone, 1 the encoder alone; leave it out for 0.5"));
        }
        if settings.depth == 0 {
            return Err(Error::new("`--hybrid-depth 0` looks at no passage of either list; expected at least 1")
                .hint("leave `--hybrid-depth` out for 100"));
        }
        Ok(settings)
    }

    /// How reports call it: `dense`, `bm25`, `hybrid rrf depth 100`, `hybrid weighted 0.5 depth 100`.
    pub fn label(&self) -> String {
        match (self.kind, self.fusion) {
            (Kind::Hybrid, Fusion::Rrf) => format!("hybrid rrf depth {}", self.depth),
            (Kind::Hybrid, Fusion::Weighted) => format!("hybrid weighted {} depth {}", self.weight, self.depth),
            (kind, _) => kind.name().to_owned(),
        }
    }
}

/// What finds passages, ready to do so.
pub struct Retriever {
    /// How they are found.
    pub settings: RetrieverSettings,
    /// The words of the passages, where they are looked at.
    lexical: Option<Lexical>,
}

impl Retriever {
    /// Opens what the retriever needs: the words of all passages, unless it is the encoder alone.
    pub fn open(settings: RetrieverSettings, corpus: &Corpus, keep: Keep<'_>) -> Result<Self> {
        let lexical = (!settings.kind.is_dense()).then(|| corpus.lexical(keep)).transpose()?;
        Ok(Self { settings, lexical })
    }

    /// The encoder alone.
    pub fn dense() -> Self {
        let settings = RetrieverSettings { kind: Kind::Dense, fusion: Fusion::default(), weight: WEIGHT, depth: DEPTH };
        Self { settings, lexical: None }
    }

    /// Whether it is the encoder alone.
    pub fn is_dense(&self) -> bool {
        self.settings.kind.is_dense()
    }

    /// Whether it needs the vectors of questions.
    pub fn embeds_questions(&self) -> bool {
        self.settings.kind != Kind::Bm25
    }

    /// The words it looks at.
    pub fn lexical(&self) -> Option<&Lexical> {
        self.lexical.as_ref()
    }

    /// What BM25 finds, for a retriever that looks at words; among some passages only where they are given.
    pub fn by_words(&self, questions: &[&str], k: usize, among: Option<&Allowed>) -> Result<Vec<Ranked>> {
        self.ranked(questions, k, &[], among)
    }

    /// The same with the scores of other passages, a row a question.
    fn ranked(&self, questions: &[&str], k: usize, also: &[Vec<u32>], among: Option<&Allowed>) -> Result<Vec<Ranked>> {
        let lexical = self.lexical.as_ref().ok_or_else(|| Error::new("the words of the passages were not opened"))?;
        Ok(match among {
            None => lexical.search(questions, k, also)?,
            Some(allowed) => lexical.search_among(questions, k, also, allowed)?,
        })
    }
}

/// Passages found for some questions.
pub struct Found {
    /// For each question its passages, best first, ties by ordinal; scores are the retriever's.
    pub hits: Vec<Vec<Hit>>,
    /// Questions that share a word with fewer passages than were asked for, by BM25 alone: what was missing was filled up in the
    /// order of the corpus.
    pub filled: u64,
}

impl Pipeline {
    /// The `k` passages of each question; see [`Retriever::find`].
    pub fn find(&self, questions: &[&str], vectors: Option<&[f32]>, k: usize, trust: Trust<'_>) -> Result<Found> {
        let by = ByVectors { generation: &self.generation, search: self.search, trust, vectors };
        self.retriever.find(questions, by, k, None)
    }
}

/// What is searched by vectors, and how.
#[derive(Clone, Copy)]
pub struct ByVectors<'a> {
    /// The passages' vectors.
    pub generation: &'a Generation,
    /// How they are searched.
    pub search: Search,
    /// Whose vectors the questions may be compared with.
    pub trust: Trust<'a>,
    /// The questions' vectors, (B, D) row-major.
    pub vectors: Option<&'a [f32]>,
}

impl ByVectors<'_> {
    fn vectors(&self) -> Result<&[f32]> {
        self.vectors.ok_or_else(|| Error::new("the questions were not embedded"))
    }

    fn nearest(&self, k: usize, among: Option<&Allowed>) -> Result<Vec<Vec<Hit>>> {
        let vectors = self.vectors()?;
        Ok(match among {
            None => self.generation.search(vectors, k, self.search, self.trust)?,
            Some(allowed) => self.generation.search_among(vectors, k, self.search, self.trust, allowed)?,
        })
    }
}

impl Retriever {
    /// The `k` passages of each question, among some only where they are given. Vectors of questions are needed unless the
    /// retriever [does without](Retriever::embeds_questions).
    pub fn find(&self, questions: &[&str], by: ByVectors<'_>, k: usize, among: Option<&Allowed>) -> Result<Found> {
        let hits = match self.settings.kind {
            Kind::Dense => by.nearest(k, among)?,
            Kind::Bm25 => {
                let ranked = self.by_words(questions, k, among)?;
                let filled = ranked.iter().filter(|ranked| ranked.matched < ranked.hits.len()).count() as u64;
                return Ok(Found { hits: ranked.into_iter().map(|ranked| ranked.hits).collect(), filled });
            }
            Kind::Hybrid => self.fused(questions, by, k, among)?,
        };
        Ok(Found { hits, filled: 0 })
    }

    /// The dense list of each question and that of its words, put together.
    fn fused(&self, questions: &[&str], by: ByVectors<'_>, k: usize, among: Option<&Allowed>) -> Result<Vec<Vec<Hit>>> {
        let settings = self.settings;
        let depth = settings.depth.max(k).min(self.lexical.as_ref().map_or(0, Lexical::len)).max(k);
        let dense = by.nearest(depth, among)?;
        let near: Vec<Vec<u32>> = dense.iter().map(|row| row.iter().map(|hit| hit.ordinal).collect()).collect();
        let words = self.ranked(questions, depth, &near, among)?;
        let rows = by.vectors()?.chunks_exact(by.generation.dim().max(1));
        let mut found = Vec::with_capacity(questions.len());
        for ((dense, words), vector) in dense.iter().zip(&words).zip(rows) {
            let matched = words.hits.get(..words.matched).unwrap_or_default();
            found.push(match settings.fusion {
                Fusion::Rrf => fusion::by_rank(dense, matched, k),
                Fusion::Weighted => {
                    let also: Vec<u32> = matched.iter().map(|hit| hit.ordinal).collect();
                    let near = inner_products(by.generation, vector, &also)?;
                    fusion::weighted(settings.weight, (dense, &words.also), (matched, &near), norm(vector), k)
                }
            });
        }
        Ok(found)
    }
}

/// Inner products of a question with the stored vectors of some passages.
pub fn inner_products(generation: &Generation, question: &[f32], passages: &[u32]) -> Result<Vec<f32>> {
    let product = |ordinal: &u32| Ok(question.iter().zip(generation.vector(*ordinal)?).map(|(q, p)| q * p).sum());
    passages.iter().map(product).collect()
}

fn norm(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[cfg(test)]
mod tests;
