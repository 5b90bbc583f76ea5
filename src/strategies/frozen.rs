//! Nothing trains: the reference every other strategy is measured against ("No Ft." in Lawton et al. 2025).

use super::{Recipe, Stage, Strategy};
use crate::error::{Error, Result};

pub(super) const STRATEGY: Strategy = Strategy {
    name: "frozen",
    about: "nothing trains: the pipeline as it is",
    source: "Lawton et al. 2025, arXiv 2510.01600, \"No Ft.\"",
    stages,
};

fn stages(recipe: &Recipe) -> Result<Vec<Stage>> {
    if recipe.train_passages {
        return Err(Error::new("`--train-passages true` contradicts `--strategy frozen`, which trains nothing")
            .hint("drop `--train-passages`, or choose `--strategy embedder` or `--strategy joint`"));
    }
    Ok(Vec::new())
}
