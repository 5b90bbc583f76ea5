//! Settings of equations that no stage of the strategy reads: who types one expects it to do something. A file may be shared by
//! several strategies, so that only flags are looked at.

use super::TrainConfig;
use crate::error::{Error, Result};
use crate::objectives::{Direction, Length, Preferred, TeacherLoss, Value};
use crate::strategies::{self, JointObjective, Recipe, STRATEGIES, Strategy};

/// A flag, and a change of what it sets: a strategy that reads it has other stages then.
type Setting = (&'static str, fn(&mut Recipe));

const SETTINGS: [Setting; 11] = [
    ("scale", |recipe| recipe.scale += 1.0),
    ("objective", |recipe| recipe.objective = other(JointObjective::ALL, recipe.objective)),
    ("target-temperature", |recipe| recipe.target_temperature = Some(1.0 + recipe.target_temperature.unwrap_or(1.0))),
    ("teacher-temperature", |recipe| {
        recipe.teacher_temperature = Some(1.0 + recipe.teacher_temperature.unwrap_or(1.0))
    }),
    ("length", |recipe| recipe.length = other(Length::ALL, recipe.length)),
    ("direction", |recipe| recipe.direction = other(Direction::ALL, recipe.direction)),
    ("target", |recipe| recipe.value = other(Value::ALL, recipe.value)),
    // Nought and one are the same to a strategy that needs one.
    ("hard-negatives", |recipe| recipe.hard_negatives += 2),
    ("beta", |recipe| recipe.beta += 1.0),
    ("preferred", |recipe| recipe.preferred = other(Preferred::ALL, recipe.preferred)),
    ("teacher-loss", |recipe| recipe.teacher_loss = other(TeacherLoss::ALL, recipe.teacher_loss)),
];

impl TrainConfig {
    /// Refuses a setting among those `typed` for this strategy (names as in a settings file) that none of its stages reads, with
    /// the strategies that do.
    pub fn check_typed(&self, typed: &[String]) -> Result<()> {
        check(&self.strategy, &self.recipe(), typed)
    }
}

fn check(strategy: &str, recipe: &Recipe, typed: &[String]) -> Result<()> {
    let strategy = strategies::find(strategy)?;
    let asked = SETTINGS.iter().filter(|(name, _)| typed.iter().any(|typed| typed == name));
    for (name, change) in asked {
        if reads(strategy, recipe, *change) {
            continue;
        }
        return Err(Error::new(format!(
            "no stage of `--strategy {}` reads `--{name}` as it is set up here",
            strategy.name
        ))
        .hint(format!("leave `--{name}` out; it is read by {}", readers(*change).join(", "))));
    }
    Ok(())
}

/// Whether another value of a setting makes other stages. What cannot be told from stages is taken to be read.
fn reads(strategy: &Strategy, recipe: &Recipe, change: fn(&mut Recipe)) -> bool {
    let mut changed = recipe.clone();
    change(&mut changed);
    match (described(strategy, recipe), described(strategy, &changed)) {
        (Ok(as_it_is), Ok(changed)) => as_it_is != changed,
        _ => true,
    }
}

/// Everything that a strategy's stages say of themselves.
fn described(strategy: &Strategy, recipe: &Recipe) -> Result<Vec<String>> {
    let stages = (strategy.stages)(recipe)?;
    Ok(stages
        .iter()
        .map(|stage| {
            let (objective, lists) = (&stage.objective, &stage.lists);
            let equation = (objective.name(), objective.equation(), objective.settings(), objective.needs());
            format!("{} {equation:?} {:?} {:?} {:?} {lists:?}", stage.name, stage.trains, stage.passages, stage.mining)
        })
        .collect())
}

/// The strategies that read a setting, each with what it takes besides.
fn readers(change: fn(&mut Recipe)) -> Vec<String> {
    let plain = Recipe::default();
    let gold = Recipe { preferred: Preferred::Gold, ..plain.clone() };
    let mut forms = vec![(" --preferred gold".to_owned(), gold)];
    for objective in JointObjective::ALL {
        forms.push((format!(" --objective {}", objective.name()), Recipe { objective: *objective, ..plain.clone() }));
    }
    let mut readers = Vec::new();
    for strategy in STRATEGIES {
        // One that trains passages only says nothing of itself without them.
        let form = |recipe: &Recipe| match (strategy.stages)(recipe) {
            Ok(_) => recipe.clone(),
            Err(_) => Recipe { train_passages: true, ..recipe.clone() },
        };
        if reads(strategy, &form(&plain), change) {
            readers.push(strategy.name.to_owned());
            continue;
        }
        let with = forms.iter().filter(|(_, recipe)| reads(strategy, &form(recipe), change));
        readers.extend(with.map(|(words, _)| format!("{}{words}", strategy.name)));
    }
    readers
}

/// Another one of all.
fn other<T: Copy + PartialEq>(all: &[T], one: T) -> T {
    all.iter().copied().find(|other| *other != one).unwrap_or(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(strategy: &str, recipe: &Recipe, flag: &str) -> Option<String> {
        check(strategy, recipe, &["steps".to_owned(), flag.to_owned()]).err().map(|error| {
            let hint = error.find_hint().unwrap();
            format!("{error}; {hint}")
        })
    }

    #[test]
    fn a_flag_that_nothing_reads_is_refused_with_who_would_read_it() {
        let plain = Recipe::default();
        let said = refused("ra-dit", &plain, "direction").unwrap();
        assert!(said.contains("`--strategy ra-dit`") && said.contains("`--direction`"), "{said}");
        assert!(said.contains("read by replug, self-distil, distil"), "{said}");
        assert!(refused("generator", &plain, "objective").unwrap().contains("joint"));
        let said = refused("joint", &plain, "target-temperature").unwrap();
        assert!(said.contains("joint --objective pdist") && !said.contains("rag-token"), "{said}");
        assert!(refused("preference", &plain, "hard-negatives").unwrap().contains("preference --preferred gold"));
        // Every refusal knows at least one remedy.
        for (flag, change) in SETTINGS {
            assert!(!readers(change).is_empty(), "{flag}");
        }
    }

    #[test]
    fn a_flag_that_is_read_in_this_form_is_not_refused() {
        let plain = Recipe::default();
        let moving = Recipe { train_passages: true, ..plain.clone() };
        let gold = Recipe { preferred: Preferred::Gold, ..plain.clone() };
        let pdist = Recipe { objective: JointObjective::Pdist, ..plain.clone() };
        for (strategy, recipe, flags) in [
            ("replug", &plain, &["direction", "target", "length", "target-temperature"][..]),
            ("ance", &moving, &["hard-negatives", "scale"]),
            ("preference", &gold, &["hard-negatives", "preferred", "beta"]),
            ("joint", &plain, &["objective"]),
            ("joint", &pdist, &["target-temperature", "length"]),
            ("self-distil", &plain, &["target-temperature", "teacher-temperature", "direction"]),
            ("frozen", &plain, &["steps"]),
        ] {
            for flag in flags {
                assert_eq!(refused(strategy, recipe, flag), None, "{strategy} {flag}");
            }
        }
        // The same strategy in another form.
        let margin = Recipe { teacher_loss: TeacherLoss::MarginMse, ..plain };
        assert!(refused("distil", &margin, "direction").is_some());
    }
}
