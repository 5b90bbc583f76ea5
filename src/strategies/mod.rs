//! The recipes. A strategy is a list of stages, each saying which parts train under which objective; adding one needs one
//! file and one line in [`STRATEGIES`].

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::objectives::Objective;

mod embedder;
mod frozen;
mod generator;
mod joint;

/// Which parts of the pipeline a stage moves. Decides optimisers, staleness of the index and the cost table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trains {
    /// The encoder as it embeds questions.
    pub questions: bool,
    /// The encoder as it embeds passages: every stored vector goes stale with each step.
    pub passages: bool,
    /// The generator (all weights, or its adapter).
    pub generator: bool,
}

impl Trains {
    /// Whether any encoder weight moves.
    pub fn encoder(&self) -> bool {
        self.questions || self.passages
    }
}

/// How a reader uses the retrieved passages, in training (generator losses) and in evaluation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reader {
    /// One prompt a passage; next-token probabilities are mixed with the retrieval prior (RAG-Token decoding).
    #[default]
    Mixture,
    /// All passages in one prompt.
    Concat,
}

impl Reader {
    /// The name in configurations and reports.
    pub fn name(self) -> &'static str {
        match self {
            Reader::Mixture => "mixture",
            Reader::Concat => "concat",
        }
    }

    /// The reader of that name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "mixture" => Ok(Reader::Mixture),
            "concat" => Ok(Reader::Concat),
            other => Err(Error::new(format!("unknown reader `{other}`; expected `mixture` or `concat`"))
                .hint("use `--reader mixture` (one prompt a passage) or `--reader concat` (all in one prompt)")),
        }
    }
}

/// The settings a recipe may depend on.
pub struct Recipe {
    /// Temperature of the prior over retrieved passages.
    pub temperature: f64,
    /// Scale of cosine scores in MNRL.
    pub scale: f64,
    /// Whether passage vectors are live and trained.
    pub train_passages: bool,
    /// How the reader sees the passages.
    pub reader: Reader,
}

/// One unit of training.
pub struct Stage {
    /// Name of the stage within its strategy.
    pub name: &'static str,
    /// The equation it minimises.
    pub objective: Box<dyn Objective>,
    /// The parts it moves.
    pub trains: Trains,
    /// Whether every question needs a gold passage.
    pub needs_gold: bool,
}

/// A recipe: where it comes from, what it needs, and its stages in order.
pub struct Strategy {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// The paper it follows.
    pub source: &'static str,
    /// Its stages; refused where the settings contradict it.
    pub stages: fn(&Recipe) -> Result<Vec<Stage>>,
}

/// Every strategy there is.
pub const STRATEGIES: &[Strategy] = &[frozen::STRATEGY, embedder::STRATEGY, generator::STRATEGY, joint::STRATEGY];

/// The strategy of that name; an unknown one is refused with the list.
pub fn find(name: &str) -> Result<&'static Strategy> {
    STRATEGIES.iter().find(|strategy| strategy.name == name).ok_or_else(|| {
        let known: Vec<&str> = STRATEGIES.iter().map(|strategy| strategy.name).collect();
        Error::new(format!("unknown strategy `{name}`; expected one of {}", known.join(", ")))
            .hint(format!("for instance `--strategy {}`", known.last().copied().unwrap_or("joint")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_names_its_source_and_builds_its_stages() {
        for strategy in STRATEGIES {
            assert!(strategy.source.contains("arXiv") || strategy.source.contains("section"), "{}", strategy.name);
            assert!(find(strategy.name).is_ok());
            for reader in [Reader::Mixture, Reader::Concat] {
                for train_passages in [false, true] {
                    let recipe = Recipe { temperature: 0.05, scale: 20.0, train_passages, reader };
                    // A contradiction between settings and recipe is an error, never an empty list.
                    if let Ok(stages) = (strategy.stages)(&recipe) {
                        assert_eq!(stages.is_empty(), strategy.name == "frozen");
                        for stage in stages {
                            assert!(!stage.trains.passages || train_passages, "{}", strategy.name);
                            assert!(stage.trains.encoder() || stage.trains.generator);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_unknown_strategy_is_refused_with_the_list() {
        let error = find("jiont").err().expect("refused");
        assert!(error.to_string().contains("`jiont`") && error.to_string().contains("joint"));
    }
}
