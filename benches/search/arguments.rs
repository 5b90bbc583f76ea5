//! What was typed.

use std::path::PathBuf;

/// The arguments, each with its default.
pub struct Arguments {
    /// Holds passages.f32 and questions.f32.
    pub vectors: PathBuf,
    /// Length of their rows.
    pub dim: usize,
    /// How many passages: the file's are repeated with noise; 0 takes them as they are.
    pub passages: usize,
    /// Length of the noise on a repeated passage.
    pub noise: f32,
    /// Links per passage and upper layer.
    pub links: usize,
    /// Width of the beam of the construction.
    pub ef_construction: usize,
    /// Widths of the beam to measure.
    pub efs: Vec<usize>,
    /// Passes over the questions at each width, after one that warms up.
    pub passes: usize,
    /// Of `ragtune ragtune-f16 ragtune-int8 hnsw_rs exact`.
    pub engines: Vec<String>,
    /// Threads of a search.
    pub threads: usize,
    /// A file to keep the graph in, or to take it from if it is there.
    pub graph: Option<PathBuf>,
    /// Build, keep, open and search instead, once.
    pub growth: bool,
    /// Write files of this size and open them instead.
    pub opening: bool,
}

impl Arguments {
    /// Reads them from the command line.
    pub fn parse() -> Result<Self, String> {
        let mut found = Self {
            vectors: PathBuf::new(),
            dim: 384,
            passages: 0,
            noise: 0.5,
            links: 16,
            ef_construction: 200,
            efs: vec![10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256],
            passes: 5,
            engines: ["ragtune", "ragtune-f16", "ragtune-int8", "hnsw_rs", "exact"].map(str::to_string).to_vec(),
            threads: 1,
            graph: None,
            growth: false,
            opening: false,
        };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            match name.as_str() {
                // What `cargo bench` adds.
                "--bench" => continue,
                "--growth" => {
                    found.growth = true;
                    continue;
                }
                "--opening" => {
                    found.opening = true;
                    continue;
                }
                _ => {}
            }
            let value = given.next().ok_or_else(|| format!("`{name}` needs a value"))?;
            match name.as_str() {
                "--vectors" => found.vectors = value.into(),
                "--graph" => found.graph = Some(value.into()),
                "--dim" => found.dim = number(&name, &value)?,
                "--passages" => found.passages = number(&name, &value)?,
                "--noise" => found.noise = number(&name, &value)?,
                "--links" => found.links = number(&name, &value)?,
                "--ef-construction" => found.ef_construction = number(&name, &value)?,
                "--passes" => found.passes = number(&name, &value)?,
                "--threads" => found.threads = number(&name, &value)?,
                "--efs" => found.efs = value.split(',').map(|ef| number(&name, ef)).collect::<Result<_, _>>()?,
                "--engines" => found.engines = value.split(',').map(str::to_string).collect(),
                _ => return Err(format!("`{name}` is no argument")),
            }
        }
        if found.vectors.as_os_str().is_empty() {
            return Err("`--vectors FOLDER` is missing: the folder that holds passages.f32 and questions.f32".into());
        }
        Ok(found)
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("`{value}` is no value for `{name}`, a number was expected"))
}
