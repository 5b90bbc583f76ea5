//! The recipes. A strategy is a list of stages, each saying which parts train under which objective; adding one needs one
//! file and one line in [`STRATEGIES`].

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::objectives::Objective;

use crate::objectives::{Direction, Length, Preferred, TeacherLoss, Value};
use crate::pipeline::selector::{Expectation, Teaching};

mod ance;
mod cl_rag;
mod distil;
mod dro;
mod embedder;
mod frozen;
mod generator;
mod independent;
mod joint;
mod noisy_context;
mod preference;
mod ra_dit;
mod replug;
mod self_distil;
mod two_phase;

pub use dro::{DroSettings, WarmUp};
pub use joint::JointObjective;

/// Which parts of the pipeline a stage moves. Decides optimisers, staleness of the index and the cost table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trains {
    /// The encoder as it embeds questions.
    pub questions: bool,
    /// The encoder as it embeds passages: every stored vector goes stale with each step.
    pub passages: bool,
    /// The generator (all weights, or its adapter).
    pub generator: bool,
    /// The selector, likewise.
    #[serde(default)]
    pub selector: bool,
}

impl Trains {
    /// Whether any encoder weight moves.
    pub fn encoder(&self) -> bool {
        self.questions || self.passages
    }

    /// What this and another together move.
    pub fn and(&self, other: &Trains) -> Trains {
        Trains {
            questions: self.questions || other.questions,
            passages: self.passages || other.passages,
            generator: self.generator || other.generator,
            selector: self.selector || other.selector,
        }
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
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Temperature of the prior over retrieved passages.
    pub temperature: f64,
    /// Temperature of a target distribution; none for the paper's.
    pub target_temperature: Option<f64>,
    /// Temperature of a teacher's scores; none for 1.
    pub teacher_temperature: Option<f64>,
    /// Scale of cosine scores in MNRL.
    pub scale: f64,
    /// Whether passage vectors are live and trained.
    pub train_passages: bool,
    /// How the reader sees the passages.
    pub reader: Reader,
    /// The equation of joint training.
    pub objective: JointObjective,
    /// How an answer's log-probabilities become one number in a target.
    pub length: Length,
    /// Which way a divergence is taken.
    pub direction: Direction,
    /// What of a likelihood a target is made of.
    pub value: Value,
    /// The most hard negatives of a question.
    pub hard_negatives: usize,
    /// How far a preference may leave its reference.
    pub beta: f64,
    /// What makes a passage preferred.
    pub preferred: Preferred,
    /// How a teacher's scores are learnt.
    pub teacher_loss: TeacherLoss,
    /// K, passages read for an answer.
    pub top_k: usize,
    /// What DRO's paper and code leave open.
    pub dro: DroSettings,
}

impl Default for Recipe {
    /// The program's defaults.
    fn default() -> Self {
        Self {
            temperature: 0.05,
            target_temperature: None,
            teacher_temperature: None,
            scale: 20.0,
            train_passages: false,
            reader: Reader::default(),
            objective: JointObjective::RagToken,
            length: Length::Sum,
            direction: Direction::TargetToPrior,
            value: Value::Probability,
            hard_negatives: 0,
            beta: 0.1,
            preferred: Preferred::Likelihood,
            teacher_loss: TeacherLoss::Kl,
            top_k: 5,
            dro: DroSettings::default(),
        }
    }
}

/// Which passages a stage reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passages {
    /// Those that the live encoder finds at every step.
    #[default]
    Search,
    /// Those that the encoder found when the stage began.
    Once,
    /// The same, the question's gold passage put first.
    GoldFirst,
    /// The same, every other one of them replaced by a passage drawn at random.
    Irrelevant,
    /// The same, the best at both ends: ranks 1, 3, 5, ..., 6, 4, 2.
    BothEnds,
}

/// How wrong passages are mined from the live index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mining {
    /// Passages retrieved for a question, among which negatives are drawn.
    pub depth: usize,
    /// Negatives drawn for a question.
    pub negatives: usize,
}

/// Whose weights a part of the pipeline has when a stage begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Begins {
    /// As the stages before left it; the base model's where none of them trained it.
    #[default]
    Trained,
    /// The base model's, whatever was trained before: stages that do not build on each other.
    Base,
}

/// One unit of training.
pub struct Stage {
    /// Name of the stage within its strategy.
    pub name: &'static str,
    /// Which encoder embeds and retrieves in this stage, and is trained by it where it trains.
    pub encoder: Begins,
    /// Which generator reads in this stage, and is trained by it where it trains.
    pub generator: Begins,
    /// The equation it minimises.
    pub objective: Box<dyn Objective>,
    /// The parts it moves.
    pub trains: Trains,
    /// Which passages it reads.
    pub passages: Passages,
    /// Wrong passages that it mines from the live index.
    pub mining: Option<Mining>,
    /// The lists of passages that its steps are about.
    pub lists: Option<Lists>,
}

/// Where the lists of passages come from that a stage with a selector learns from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lists {
    /// The selector draws them at every step (E-step).
    Drawn(Expectation),
    /// A teacher gives one for each question (warm-up).
    Taught(Teaching),
}

impl Stage {
    /// A stage that begins with what the stages before it left, reads what the live encoder finds, and mines nothing.
    pub fn new(name: &'static str, objective: Box<dyn Objective>, trains: Trains) -> Self {
        Self {
            name,
            encoder: Begins::Trained,
            generator: Begins::Trained,
            objective,
            trains,
            passages: Passages::Search,
            mining: None,
            lists: None,
        }
    }

    /// The same, beginning with these models.
    pub fn beginning(self, encoder: Begins, generator: Begins) -> Self {
        Self { encoder, generator, ..self }
    }

    /// The same, reading these passages.
    pub fn reading(self, passages: Passages) -> Self {
        Self { passages, ..self }
    }

    /// The same, mining negatives.
    pub fn mining(self, mining: Mining) -> Self {
        Self { mining: Some(mining), ..self }
    }

    /// The same, about lists of passages.
    pub fn about(self, lists: Lists) -> Self {
        Self { lists: Some(lists), ..self }
    }

    /// Whether every question needs a gold passage.
    pub fn needs_gold(&self) -> bool {
        self.objective.needs().gold || self.passages == Passages::GoldFirst
    }
}

/// A recipe: where it comes from, what it needs, and its stages in order.
pub struct Strategy {
    /// The name on the command line.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// The paper it follows.
    pub source: &'static str,
    /// What a step costs, in words.
    pub cost: &'static str,
    /// Its stages; refused where the settings contradict it.
    pub stages: fn(&Recipe) -> Result<Vec<Stage>>,
}

impl Strategy {
    /// Its stages with the usual settings; passages train where it does not go without.
    pub fn usual(&self) -> Vec<Stage> {
        let moving = Recipe { train_passages: true, ..Recipe::default() };
        (self.stages)(&Recipe::default()).or_else(|_| (self.stages)(&moving)).unwrap_or_default()
    }
}

/// Every strategy there is.
pub const STRATEGIES: &[Strategy] = &[
    frozen::STRATEGY,
    embedder::STRATEGY,
    generator::STRATEGY,
    independent::STRATEGY,
    two_phase::STRATEGY,
    two_phase::REVERSED,
    joint::STRATEGY,
    replug::STRATEGY,
    ra_dit::STRATEGY,
    ance::STRATEGY,
    cl_rag::STRATEGY,
    noisy_context::STRATEGY,
    self_distil::STRATEGY,
    distil::STRATEGY,
    preference::STRATEGY,
    dro::STRATEGY,
];

/// Refuses trained passages for a strategy whose encoder stays as it is, or whose passage side does.
fn leaves_passages(recipe: &Recipe, strategy: &str) -> Result<()> {
    if !recipe.train_passages {
        return Ok(());
    }
    Err(Error::new(format!(
        "`--train-passages true` contradicts `--strategy {strategy}`, which moves no passage vector"
    ))
    .hint("drop `--train-passages`, or choose `--strategy embedder` or `--strategy joint`"))
}

/// Refuses the reader that gives a retriever no gradient.
fn needs_mixture(recipe: &Recipe, strategy: &str) -> Result<()> {
    if recipe.reader != Reader::Concat {
        return Ok(());
    }
    Err(Error::new(format!(
        "`--reader concat` gives the retriever no gradient, so `--strategy {strategy}` cannot train with it"
    ))
    .hint("train with `--reader mixture`; `--eval-reader concat` can still read that way"))
}

/// The strategy of that name; an unknown one is refused with the list.
pub fn find(name: &str) -> Result<&'static Strategy> {
    STRATEGIES.iter().find(|strategy| strategy.name == name).ok_or_else(|| {
        let known: Vec<&str> = STRATEGIES.iter().map(|strategy| strategy.name).collect();
        // As near as the command line's own suggestions must be.
        let likeness = |one: &str| strsim::jaro(&name.to_lowercase(), one);
        let near = known.iter().filter(|one| likeness(one) > 0.7);
        let nearest = near.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
        let hint = match nearest {
            Some(nearest) => format!("did you mean `--strategy {nearest}`?"),
            None => "`ragtune strategies` says what each of them trains".into(),
        };
        Error::new(format!("unknown strategy `{name}`; expected one of {}", known.join(", "))).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_answered_with_the_nearest() {
        for (typed, meant) in [("jont", "joint"), ("two_phase", "two-phase"), ("DRO", "dro"), ("best", "")] {
            let hint = find(typed).err().and_then(|error| error.find_hint()).unwrap_or_default();
            match meant {
                "" => assert!(hint.contains("ragtune strategies"), "{hint}"),
                meant => assert!(hint.contains(&format!("`--strategy {meant}`")), "{typed}: {hint}"),
            }
        }
    }

    #[test]
    fn every_strategy_names_its_source_and_builds_its_stages() {
        for strategy in STRATEGIES {
            assert!(strategy.source.contains("arXiv") || strategy.source.contains("section"), "{}", strategy.name);
            assert!(find(strategy.name).is_ok());
            for reader in [Reader::Mixture, Reader::Concat] {
                for train_passages in [false, true] {
                    let recipe = Recipe { train_passages, reader, ..Recipe::default() };
                    // A contradiction between settings and recipe is an error, never an empty list.
                    if let Ok(stages) = (strategy.stages)(&recipe) {
                        assert_eq!(stages.is_empty(), strategy.name == "frozen");
                        for stage in stages {
                            assert!(!stage.trains.passages || train_passages, "{}", strategy.name);
                            assert!(stage.trains.encoder() || stage.trains.generator || stage.trains.selector);
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
