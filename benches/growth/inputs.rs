//! What was typed, and real texts and vectors repeated to the size that is asked for.

use std::fs;
use std::path::{Path, PathBuf};

use ragtune_index::Passage;
use rand::{RngExt, SeedableRng};

/// The arguments, each with its default.
pub struct Arguments {
    /// What is measured: make, open or refresh.
    pub work: String,
    /// Holds passages.f32 and questions.f32.
    pub vectors: PathBuf,
    /// Texts, as JSON Lines.
    pub corpus: PathBuf,
    /// Where the index is made: an empty folder or none.
    pub out: PathBuf,
    /// Length of the vectors.
    pub dim: usize,
    /// How many passages.
    pub passages: usize,
    /// Width of the beam of the construction.
    pub ef_construction: usize,
    /// Length of the noise on a repeated vector.
    pub noise: f32,
    /// Length of the noise by which the refresh moves every vector.
    pub drift: f32,
}

impl Arguments {
    /// Reads them from the command line.
    pub fn parse() -> Result<Self, String> {
        let (vectors, corpus, out) = (PathBuf::new(), PathBuf::new(), PathBuf::new());
        let work = "make".to_string();
        let mut found = Self {
            work,
            vectors,
            corpus,
            out,
            dim: 384,
            passages: 10_000,
            ef_construction: 200,
            noise: 0.5,
            drift: 0.1,
        };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            // What `cargo bench` adds.
            if name == "--bench" {
                continue;
            }
            let value = given.next().ok_or_else(|| format!("`{name}` needs a value"))?;
            match name.as_str() {
                "--work" => found.work = value,
                "--vectors" => found.vectors = value.into(),
                "--corpus" => found.corpus = value.into(),
                "--out" => found.out = value.into(),
                "--dim" => found.dim = number(&name, &value)?,
                "--passages" => found.passages = number(&name, &value)?,
                "--ef-construction" => found.ef_construction = number(&name, &value)?,
                "--noise" => found.noise = number(&name, &value)?,
                "--drift" => found.drift = number(&name, &value)?,
                _ => return Err(format!("`{name}` is no argument")),
            }
        }
        for (name, path) in [("--vectors", &found.vectors), ("--corpus", &found.corpus), ("--out", &found.out)] {
            if path.as_os_str().is_empty() {
                return Err(format!("`{name}` is missing"));
            }
        }
        Ok(found)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is no value for `{name}`, a number was expected"))
}

/// Vectors of length one, row-major.
pub struct Vectors {
    /// Length of a row.
    pub dim: usize,
    /// (B, D).
    pub questions: Vec<f32>,
    real: Vec<f32>,
    noise: f32,
}

impl Vectors {
    /// Reads both files.
    pub fn read(arguments: &Arguments) -> Result<Self, String> {
        let read = |name| floats(&arguments.vectors.join(name), arguments.dim);
        let (real, questions) = (read("passages.f32")?, read("questions.f32")?);
        Ok(Self { dim: arguments.dim, questions, real, noise: arguments.noise })
    }

    /// The vectors of `count` passages from `first` on: each a function of its number and of the drift alone.
    pub fn rows(&self, first: usize, count: usize, drift: f32) -> Vec<f32> {
        let real = self.real.len() / self.dim;
        let mut rows = Vec::with_capacity(count * self.dim);
        for at in first..first + count {
            let from = &self.real[at % real * self.dim..][..self.dim];
            let mut row = from.to_vec();
            if at >= real {
                self.shake(&mut row, self.noise, at as u64);
            }
            if drift > 0.0 {
                self.shake(&mut row, drift, !(at as u64));
            }
            rows.extend_from_slice(&row);
        }
        rows
    }

    /// Adds noise of a length, evenly in all directions, and takes the length back to one.
    fn shake(&self, row: &mut [f32], length: f32, seed: u64) {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let each = length / (self.dim as f32).sqrt() * 3f32.sqrt();
        row.iter_mut().for_each(|value| *value += rng.random_range(-each..each));
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        row.iter_mut().for_each(|value| *value /= length);
    }
}

fn floats(path: &Path, dim: usize) -> Result<Vec<f32>, String> {
    let bytes = fs::read(path).map_err(|error| format!("`{}` cannot be read: {error}", path.display()))?;
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || numbers.is_empty() || numbers.len() % dim != 0 {
        return Err(format!("`{}` has {} bytes, rows of {dim} float32 were expected", path.display(), bytes.len()));
    }
    Ok(numbers.iter().map(|number| f32::from_le_bytes(*number)).collect())
}

/// Titles and texts.
pub struct Texts(Vec<(String, String)>);

impl Texts {
    /// Reads the corpus.
    pub fn read(arguments: &Arguments) -> Result<Self, String> {
        let shown = arguments.corpus.display();
        let text =
            fs::read_to_string(&arguments.corpus).map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
        let field = |value: &serde_json::Value, name: &str| value[name].as_str().unwrap_or_default().to_string();
        let texts = text.lines().map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).map_err(|error| format!("`{shown}`: {error}"))?;
            Ok((field(&value, "title"), field(&value, "text")))
        });
        let texts: Vec<_> = texts.collect::<Result<_, String>>()?;
        if texts.is_empty() {
            return Err(format!("`{shown}` holds no passage"));
        }
        Ok(Self(texts))
    }

    /// The passage of this number.
    pub fn passage(&self, at: usize) -> Passage {
        let (title, text) = self.0[at % self.0.len()].clone();
        Passage { id: at.to_string(), title, text }
    }
}
