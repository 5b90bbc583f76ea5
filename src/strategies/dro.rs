//! DRO: a language model selects passages among the retrieved ones; it and the generator learn from lists that it draws, weighted
//! by how likely each makes the answer. E-step and M-step alternate at every optimiser step, so that lists are always drawn by the
//! selector as it is (the paper alternates over the whole set, N = 5 times). Both models are warmed up first, as the released code
//! does: the selector on lists by a teacher, the generator on what is retrieved.

use serde::{Deserialize, Serialize};

use super::{Begins, Lists, Passages, Recipe, Stage, Strategy, Trains, leaves_passages};
use crate::error::Result;
use crate::objectives::choice::choice;
use crate::objectives::{Dro, Length, Mode, SelectorSft, SftConcat, Weighting};
use crate::pipeline::selector::{Expectation, Sampling, Scoring, Teacher, Teaching};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "dro",
    about: "a selector and the generator learn from lists of passages weighted by the answer's likelihood",
    source: "Shi et al. 2025, arXiv 2505.03075",
    cost: "one prompt of n candidates through the selector and m lists after it, m prompts of K passages through the generator forward; then both again, forward and backward (with `scoring=free` the selector reads its lists once more)",
    stages,
};

choice! {
    /// Whose lists the selector learns before it draws its own.
    WarmUp ("warm-up") {
        /// By the generator's likelihood of the answer after each candidate alone: needs answers only.
        Likelihood = "likelihood",
        /// Gold passages first.
        GoldFirst = "gold-first",
        /// None: DRO begins with the base models.
        None = "none",
    }
}

/// What DRO's paper and code leave open, or do differently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DroSettings {
    /// n: passages that the selector reads for a question.
    pub candidates: usize,
    /// m: lists drawn for a question.
    pub samples: usize,
    /// Temperature of drawing (0.7 in the released code).
    pub sampling_temperature: f64,
    /// Nucleus of drawing (0.95 in the released code).
    pub top_p: f64,
    /// `sum` or `mean` of the answer's token log-probabilities in a weight; `mean` is the released code's.
    pub length: Length,
    /// Whether weights correct for lists that were drawn from another distribution than the selector's own.
    pub correction: bool,
    /// Whether a list that was drawn twice counts once, as in the released code.
    pub distinct: bool,
    /// Weights are cut at so many times their mean; none is not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip: Option<f64>,
    /// Whether gold passages are put among the candidates, as the released code does: labels that retrieval does not give.
    pub gold_injection: bool,
    /// `joint`, or one of `selector` and `generator` alone.
    pub mode: Mode,
    /// `trie`, or `free` as the paper writes its lists: what p(z|x) is in the loss and in its weights.
    pub scoring: Scoring,
    /// Whose lists the selector learns first.
    pub warm_up: WarmUp,
}

impl Default for DroSettings {
    fn default() -> Self {
        let expectation = Expectation::default();
        let weighting = Weighting::default();
        Self {
            candidates: expectation.candidates,
            samples: expectation.samples,
            sampling_temperature: expectation.sampling.temperature,
            top_p: expectation.sampling.top_p,
            length: weighting.length,
            correction: weighting.correction,
            distinct: weighting.distinct,
            clip: weighting.clip,
            gold_injection: expectation.gold_injection,
            mode: Mode::Joint,
            scoring: Scoring::Trie,
            warm_up: WarmUp::Likelihood,
        }
    }
}

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    leaves_passages(recipe, STRATEGY.name)?;
    let (settings, choose) = (&recipe.dro, recipe.top_k);
    let expectation = Expectation {
        candidates: settings.candidates,
        choose,
        samples: settings.samples,
        sampling: Sampling { temperature: settings.sampling_temperature, top_p: settings.top_p },
        gold_injection: settings.gold_injection,
    };
    expectation.check(settings.mode != Mode::Generator)?;
    let weighting = Weighting {
        length: settings.length,
        correction: settings.correction,
        distinct: settings.distinct,
        clip: settings.clip,
    };
    weighting.check()?;
    let (mode, scoring) = (settings.mode, settings.scoring);
    let teacher = match settings.warm_up {
        WarmUp::Likelihood => Some(Teacher::Likelihood),
        WarmUp::GoldFirst => Some(Teacher::GoldFirst),
        WarmUp::None => None,
    };
    let (selector, generator) =
        (Trains { selector: true, ..Trains::default() }, Trains { generator: true, ..Trains::default() });
    let mut stages = Vec::new();
    if let Some(teacher) = teacher {
        let taught =
            Teaching { candidates: settings.candidates, choose, teacher, gold_injection: settings.gold_injection };
        stages.push(
            Stage::new("generator-warm-up", Box::new(SftConcat), generator)
                .beginning(Begins::Base, Begins::Base)
                .reading(Passages::Once),
        );
        stages.push(
            Stage::new("selector-warm-up", Box::new(SelectorSft { teacher, scoring }), selector)
                .about(Lists::Taught(taught)),
        );
    }
    let trains = match mode {
        Mode::Joint => selector.and(&generator),
        Mode::Selector => selector,
        Mode::Generator => generator,
    };
    stages.push(Stage::new("dro", Box::new(Dro { weighting, mode, scoring }), trains).about(Lists::Drawn(expectation)));
    Ok(stages)
}
