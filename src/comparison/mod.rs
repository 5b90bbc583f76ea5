//! A comparison as it was meant: which runs make it up, and which learning rates are tried for them. `commands::compare` runs
//! them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::TrainConfig;
use crate::data::{self, QuestionSet, questions, splits};
use crate::error::{Context, Error, Result};

pub mod search;

pub use search::{Method, Part, Point, Search, choose, points};

/// Seeds of a comparison that names none: fewer say nothing about luck.
const SEEDS: [u64; 3] = [0, 1, 2];

/// `compare.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Comparing {
    /// The folder for everything: `stages`, `search` and `runs`.
    pub out: PathBuf,
    /// Every strategy is trained with each of them.
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// What all strategies have in common: any setting of `ragtune train`.
    pub settings: toml::Table,
    /// How learning rates are searched; without it they are those of the settings.
    #[serde(default)]
    pub search: Option<Search>,
    /// The strategies, in the order of the table; the first is the reference.
    #[serde(rename = "strategies")]
    pub rows: Vec<RowSettings>,
}

/// One strategy of a comparison, with the settings that are its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RowSettings {
    /// Its name in tables; the strategy's where it is not given.
    #[serde(default)]
    pub label: Option<String>,
    /// The label of another row whose learning rates it takes instead of searching its own, as Lawton et al. did for joint
    /// training. What that hides is said with the results.
    #[serde(default)]
    pub borrow: Option<String>,
    /// Any setting of `ragtune train`, `strategy` among them.
    #[serde(flatten)]
    pub settings: toml::Table,
}

fn default_seeds() -> Vec<u64> {
    SEEDS.to_vec()
}

/// A row whose settings are resolved, apart from its seed and folder.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name in tables.
    pub label: String,
    /// The number of the row whose learning rates it takes.
    pub borrow: Option<usize>,
    /// Its settings, with the first seed.
    pub config: TrainConfig,
    /// The parts whose learning rate it gives itself: they are not searched.
    pub given: Vec<Part>,
}

impl Comparing {
    /// Reads `compare.toml`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| {
            Error::new(format!("the comparison file `{}` cannot be read", path.display()))
                .because(source)
                .hint("`--config` takes a TOML file with `out`, [settings] and a [[strategies]] for each row")
        })?;
        let comparing: Self = toml::from_str(&text).map_err(|source| {
            Error::new(format!("the comparison file `{}` cannot be understood", path.display()))
                .because(source)
                .hint("it needs `out`, a table [settings] and a [[strategies]] for each row; see README")
        })?;
        if comparing.rows.is_empty() || comparing.seeds.is_empty() {
            return Err(Error::new(format!("`{}` names no strategy or no seed", path.display())).hint(
                "write at least one [[strategies]] with `strategy = \"...\"`, and leave `seeds` out for 0, 1 and 2",
            ));
        }
        if let Some(search) = &comparing.search {
            search.check()?;
        }
        Ok(comparing)
    }

    /// The rows with all of their settings, checked before anything runs.
    pub fn resolve(&self) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let mut settings = self.settings.clone();
            settings.extend(row.settings.clone());
            let of = |part: Part| row.settings.contains_key(part.setting());
            let given = Part::ALL.into_iter().filter(|part| of(*part)).collect();
            for (name, value) in [("out", self.out.join("runs")), ("stages", self.out.join("stages"))] {
                if settings.contains_key(name) {
                    return Err(Error::new(format!("a comparison decides `{name}` itself")).hint(format!(
                        "remove `{name}` from the settings; `out` of the comparison is the folder for all"
                    )));
                }
                settings.insert(name.into(), value.display().to_string().into());
            }
            let seed = i64::try_from(self.seeds[0]).context(|| format!("the seed {} is too large", self.seeds[0]))?;
            settings.insert("seed".into(), seed.into());
            let config = TrainConfig::of_settings(settings)?;
            let label = row.label.clone().unwrap_or_else(|| config.strategy.clone());
            if let Some(twin) = rows.iter().find(|other| other.label == label) {
                return Err(Error::new(format!("two rows are called `{}`", twin.label))
                    .hint("give each row of the same strategy a `label` of its own"));
            }
            rows.push(Row { label, borrow: None, config, given });
        }
        for number in 0..rows.len() {
            let Some(from) = &self.rows[number].borrow else { continue };
            let source = rows.iter().position(|row| &row.label == from).filter(|source| *source < number);
            rows[number].borrow = Some(source.ok_or_else(|| {
                Error::new(format!(
                    "row `{}` borrows the learning rates of `{from}`, which is no row before it",
                    rows[number].label
                ))
                .hint("name the label of an earlier row, for instance `borrow = \"two-phase\"`")
            })?);
        }
        let searches = self.search.is_some();
        if searches && let Some(row) = rows.iter().find(|row| row.config.selection_questions.is_none()) {
            return Err(Error::new(format!(
                "row `{}` has no `selection-questions`, by which learning rates are chosen",
                row.label
            ))
            .hint("give questions that are neither trained on nor reported: what is chosen by the reported ones looks too good"));
        }
        Ok(rows)
    }

    /// Refuses rows whose selection questions are trained on or reported, before the first run: a search scores its points on
    /// them, and only the last run of a row would notice.
    pub fn check_questions(&self, rows: &[Row]) -> Result<()> {
        let mut known: BTreeMap<&Path, QuestionSet> = BTreeMap::new();
        for row in rows {
            let TrainConfig { questions, eval_questions, selection_questions, .. } = &row.config;
            let Some(selection) = selection_questions else { continue };
            for path in [questions, eval_questions, selection] {
                if !known.contains_key(path.as_path()) {
                    known.insert(path, questions::read(path).map_err(data::expected)?);
                }
            }
            let of = |path: &PathBuf| known.get(path.as_path());
            if let (Some(questions), Some(reported), Some(selection)) =
                (of(questions), of(eval_questions), of(selection))
            {
                splits::refuse_trained(questions, selection, "selection", "selection-questions")?;
                splits::refuse_reported(selection, reported)?;
            }
        }
        Ok(())
    }

    /// The folder of one run.
    pub fn run(&self, row: &Row, seed: u64) -> PathBuf {
        let label: String =
            row.label.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        self.out.join("runs").join(format!("{label}-seed{seed}"))
    }
}

/// Learning rates by part, chosen or given.
pub type Rates = BTreeMap<Part, f64>;

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> Result<Vec<Row>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compare.toml");
        std::fs::write(&path, text).unwrap();
        Comparing::read(&path)?.resolve()
    }

    const HEAD: &str =
        "out = \"o\"\n[settings]\nindex = \"i\"\nquestions = \"q\"\neval-questions = \"e\"\ngenerator = \"g\"\n";

    #[test]
    fn rows_have_common_and_own_settings() {
        let text = format!(
            "{HEAD}top-k = 3\n[[strategies]]\nstrategy = \"frozen\"\n[[strategies]]\nstrategy = \"joint\"\nlabel = \"j\"\ntop-k = 4\nlr-encoder = 1e-6\nborrow = \"frozen\"\n"
        );
        let rows = written(&text).unwrap();
        assert_eq!((rows[0].label.as_str(), rows[0].config.top_k, rows[0].config.seed), ("frozen", 3, 0));
        assert_eq!((rows[1].label.as_str(), rows[1].config.top_k, rows[1].borrow), ("j", 4, Some(0)));
        assert_eq!(rows[1].given, [Part::Encoder]);
        assert_eq!(rows[1].config.stages.as_deref(), Some(Path::new("o/stages")));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let row = "[[strategies]]\nstrategy = \"joint\"\n";
        for (text, named) in [
            (HEAD.to_owned(), "strategies"),
            (format!("{HEAD}{row}{row}"), "two rows are called `joint`"),
            (format!("{HEAD}out = \"elsewhere\"\n{row}"), "decides `out` itself"),
            (format!("{HEAD}{row}borrow = \"later\"\n"), "`later`, which is no row before it"),
            (format!("{HEAD}{row}[search]\nlr-encoder = [1e-5]\n"), "selection-questions"),
            (format!("{HEAD}{row}nonsense = 1\n"), "nonsense"),
        ] {
            let error = written(&text).unwrap_err();
            assert!(format!("{error:?}").contains(named), "{named}: {error:?}");
        }
    }
}
