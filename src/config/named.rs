//! What is wrong with one of many settings, said with its name, its value, what was expected and what is nearest to that: serde
//! names a type.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::{Map, Value};

use super::{REQUIRED, TrainConfig};
use crate::cli::TrainArgs;
use crate::error::{Error, Result};

/// Flags of `ragtune train` that are no settings.
const ACTIONS: [&str; 4] = ["config", "resume", "dry-run", "json"];
/// From this likeness on (Jaro, 0 to 1) a name is taken for a misspelt one, as the command line's own suggestions are.
const LIKE: f64 = 0.7;

/// The settings that may be typed.
fn names() -> Vec<String> {
    let command = TrainArgs::augment_args(clap::Command::new("train"));
    let longs = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
    longs.filter(|name| !ACTIONS.contains(&name.as_str())).collect()
}

/// The one of these names that was probably meant.
fn nearest<'n>(name: &str, among: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let likeness = |one: &str| strsim::jaro(&name.to_lowercase(), one);
    let near = among.into_iter().filter(|one| likeness(one) > LIKE);
    near.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
}

/// Refuses a setting that there is not, with the one that was probably meant.
pub(super) fn known(settings: &Map<String, Value>) -> Result<()> {
    let names = names();
    let unknown = |key: &&String| !names.contains(*key) && !is_read(key);
    let Some(key) = settings.keys().find(unknown) else { return Ok(()) };
    Err(Error::new(format!("there is no setting `{key}`")).hint(match nearest(key, names.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => "`ragtune train --help` lists them all: every flag is a setting".to_owned(),
    }))
}

/// Whether there is such a setting, typed or not: some are in run folders only.
fn is_read(key: &str) -> bool {
    let alone = Value::Object(Map::from_iter([(key.to_owned(), Value::Null)]));
    let read = serde_json::from_value::<TrainConfig>(alone);
    !read.is_err_and(|error| error.to_string().starts_with("unknown field"))
}

/// Refuses NaN and infinity, which TOML can write.
pub(super) fn finite(settings: &toml::Table) -> Result<()> {
    for (key, value) in settings {
        match value {
            toml::Value::Float(number) if !number.is_finite() => {
                return Err(Error::new(format!("`{key} = {number}` is not a finite number"))
                    .hint(format!("give a number, or leave `{key}` out for the default")));
            }
            toml::Value::Table(inner) => finite(inner)?,
            _ => {}
        }
    }
    Ok(())
}

/// The first setting whose value cannot be read, with what was expected; `typed` are those that were flags.
pub(super) fn wrong(settings: &Map<String, Value>, typed: &BTreeSet<String>) -> Option<Error> {
    settings.iter().find_map(|(key, value)| {
        // Alone among settings that can be read: what is refused then is this one.
        let mut alone: Map<String, Value> = REQUIRED.iter().map(|name| ((*name).to_owned(), "any".into())).collect();
        alone.insert(key.clone(), value.clone());
        let reason = serde_json::from_value::<TrainConfig>(Value::Object(alone)).err()?;
        Some(told(key, value, &reason.to_string(), typed.contains(key)))
    })
}

/// `reason` is serde's: it is given as the cause where the message does not say all of it.
fn told(key: &str, value: &Value, reason: &str, flag: bool) -> Error {
    let name = if flag { format!("--{key}") } else { key.to_owned() };
    let quoted: Vec<&str> = reason.split('`').skip(1).step_by(2).collect();
    // Of a table it is a setting within, which serde names.
    if value.is_object() {
        let meant = quoted.split_first().and_then(|(wrong, known)| nearest(wrong, known.iter().copied()));
        return Error::new(format!("`{name}` is not as expected")).because(reason).hint(match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("`ragtune train --help` says what `--{key}` takes"),
        });
    }
    let shown = match value {
        Value::String(text) if flag => text.clone(),
        other => other.to_string(),
    };
    let written = |value: &str| if flag { format!("--{key} {value}") } else { format!("{key} = {value}") };
    if reason.starts_with("unknown variant") {
        let known = quoted.get(1..).unwrap_or_default();
        let plain = value.as_str().unwrap_or_default();
        let named = |value: &str| if flag { written(value) } else { written(&format!("{value:?}")) };
        let meant = nearest(plain, known.iter().copied());
        return Error::new(format!("`{name}` is `{plain}`, expected one of `{}`", known.join("`, `"))).hint(
            match (meant, known.first()) {
                (Some(meant), _) => format!("did you mean `{}`?", named(meant)),
                (None, Some(first)) => format!("for instance `{}`", named(first)),
                (None, None) => format!("`ragtune train --help` says what `--{key}` takes"),
            },
        );
    }
    let expected = match reason.rsplit_once(", expected ").map(|(_, expected)| expected) {
        Some("f64") => "a number",
        Some("u64" | "usize" | "u32") => "a whole number that is not negative",
        Some("a boolean") => "true or false",
        Some("a sequence") => "a list",
        Some("a string" | "path string") => "a text",
        _ => {
            return Error::new(format!("`{}` is not as expected", written(&shown)))
                .because(reason)
                .hint(format!("leave `{name}` out for the default; `ragtune train --help` says what it takes"));
        }
    };
    let number = value.as_str().filter(|text| text.parse::<f64>().is_ok());
    let hint = match number {
        Some(number) => format!("without quotes: `{}`", written(number)),
        None => format!("leave `{name}` out for the default; `ragtune train --help` says what it takes"),
    };
    Error::new(format!("`{}` is not as expected: it takes {expected}", written(&shown))).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> Map<String, Value> {
        match serde_json::to_value(text.parse::<toml::Table>().unwrap()).unwrap() {
            Value::Object(settings) => settings,
            _ => panic!("a table"),
        }
    }

    #[test]
    fn every_flag_is_a_setting() {
        let names = names();
        assert!(names.len() > 50 && names.iter().all(|name| is_read(name)), "{names:?}");
        assert!(is_read("only-stages") && !names.iter().any(|name| name == "only-stages" || name == "resume"));
        assert!(!is_read("no-such"));
    }

    #[test]
    fn a_misspelt_setting_is_answered_with_the_nearest() {
        for (typed, hint) in
            [("lr-genrator", "`lr-generator`"), ("top_k", "`top-k`"), ("stepz", "`steps`"), ("xyzzy", "--help")]
        {
            let error = known(&settings(&format!("{typed} = 1"))).unwrap_err();
            assert!(error.to_string().contains(typed) && !error.to_string().contains("only-stages"), "{error}");
            assert!(error.find_hint().unwrap().contains(hint), "{typed}: {:?}", error.find_hint());
        }
        known(&settings("only-stages = 0\nsteps = 3")).unwrap();
    }

    #[test]
    fn a_wrong_value_is_said_with_its_setting_and_what_it_takes() {
        let none = BTreeSet::new();
        for (text, says, hint) in [
            ("steps = 1.5", "`steps = 1.5` is not as expected: it takes a whole number", "steps"),
            ("steps = -2", "`steps = -2` is not as expected: it takes a whole number", "steps"),
            ("lr-generator = \"1e-4\"", "lr-generator = \"1e-4\"", "`lr-generator = 1e-4`"),
            ("exact = 3", "true or false", "exact"),
            ("lora-targets = \"q\"", "a list", "lora-targets"),
            ("objective = \"rag_token\"", "`objective` is `rag_token`, expected one of `rag-token`", "rag-token"),
            ("[dro]\nsampels = 2", "`dro`", "`samples`"),
        ] {
            let error = wrong(&settings(text), &none).unwrap();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(error.find_hint().unwrap().contains(hint), "{text}: {:?}", error.find_hint());
        }
        let typed = BTreeSet::from(["refresh".to_owned()]);
        let error = wrong(&settings("refresh = \"ful\""), &typed).unwrap();
        assert!(error.to_string().starts_with("`--refresh` is `ful`, expected one of `full`, `full-reuse`"), "{error}");
        assert_eq!(error.find_hint().unwrap(), "did you mean `--refresh full`?");
        assert!(wrong(&settings("steps = 2"), &none).is_none());
        for text in ["lr-generator = nan", "[dro]\nclip = inf"] {
            assert!(finite(&text.parse().unwrap()).unwrap_err().to_string().contains("not a finite number"), "{text}");
        }
    }
}
