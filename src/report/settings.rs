//! Settings of runs side by side: which differ, and how to call runs that share a name.

use super::record::RunRecord;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// One setting that two runs have differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// Its name; a nested one with dots between its levels.
    pub name: String,
    /// Its value in the reference run, as JSON; `-` where it is not set.
    pub reference: String,
    /// Its value in the other run.
    pub other: String,
}

/// What names a run or a file it writes, and changes no result.
const NO_SETTING: [&str; 9] = ["seed", "out", "run", "resume", "label", "strategy", "config", "json", "dry_run"];

/// Settings of a run that can change its result or its cost, by name. `-` and `_` in names are the same.
pub(super) fn settings(record: &RunRecord) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    flatten("", &record.config, &mut all);
    all.retain(|name, value| !NO_SETTING.contains(&name.as_str()) && value != "null");
    // Not written down where it is the encoder alone.
    all.entry("retriever".to_owned()).or_insert_with(|| "dense".to_owned());
    all
}

/// The settings in which `other` differs from `reference`, by name.
pub(super) fn differences(reference: &RunRecord, other: &RunRecord) -> Vec<Differing> {
    let (ours, theirs) = (settings(reference), settings(other));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let shown = |settings: &BTreeMap<String, String>, name: &String| {
        settings.get(name).cloned().unwrap_or_else(|| "-".to_owned())
    };
    let pairs = names.into_iter().map(|name| Differing {
        name: name.clone(),
        reference: shown(&ours, name),
        other: shown(&theirs, name),
    });
    pairs.filter(|pair| pair.reference != pair.other).collect()
}

/// A name for each record: its own; where several share it, with the settings that tell them apart; then with the seed;
/// then with a number.
pub(super) fn labels(records: &[&RunRecord], with_seeds: bool) -> Vec<String> {
    let mut labels: Vec<String> = records.iter().map(|record| record.name().to_owned()).collect();
    let add = |labels: &mut Vec<String>, extra: &dyn Fn(usize, &[usize]) -> String| {
        let before = labels.clone();
        for (at, label) in labels.iter_mut().enumerate() {
            let same: Vec<usize> =
                before.iter().enumerate().filter(|(_, other)| Some(*other) == before.get(at)).map(|(i, _)| i).collect();
            let extra = if same.len() > 1 { extra(at, &same) } else { String::new() };
            if !extra.is_empty() {
                *label = format!("{label} {extra}");
            }
        }
    };
    let all: Vec<BTreeMap<String, String>> = records.iter().map(|record| settings(record)).collect();
    add(&mut labels, &|at, same| {
        let names: BTreeSet<&String> = same.iter().filter_map(|&i| all.get(i)).flat_map(BTreeMap::keys).collect();
        let value =
            |i: usize, name: &String| all.get(i).and_then(|settings| settings.get(name)).map_or("-", String::as_str);
        let telling = names.into_iter().filter(|name| same.iter().any(|&i| value(i, name) != value(at, name)));
        telling.map(|name| format!("{name}={}", value(at, name))).collect::<Vec<_>>().join(" ")
    });
    if with_seeds {
        add(&mut labels, &|at, _| records.get(at).map(|record| format!("seed={}", record.seed)).unwrap_or_default());
    }
    add(&mut labels, &|at, same| format!("#{}", same.iter().position(|&i| i == at).map_or(0, |place| place + 1)));
    labels
}

fn flatten(prefix: &str, value: &Value, into: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let name = name.replace('-', "_");
                let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
                flatten(&path, value, into);
            }
        }
        Value::String(text) if !prefix.is_empty() => drop(into.insert(prefix.to_owned(), text.clone())),
        other if !prefix.is_empty() => drop(into.insert(prefix.to_owned(), other.to_string())),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(seed: u64, config: Value) -> RunRecord {
        RunRecord { strategy: "joint".to_owned(), seed, config, ..RunRecord::default() }
    }

    #[test]
    fn only_what_can_change_a_result_is_a_difference() {
        let a = run(1, json!({"seed": 1, "out": "a", "top-k": 5, "lora": {"rank": 4}, "x": null}));
        let b = run(2, json!({"seed": 2, "out": "b", "top_k": 8, "lora": {"rank": 4}, "steps": 7}));
        let found: Vec<(String, String, String)> =
            differences(&a, &b).into_iter().map(|d| (d.name, d.reference, d.other)).collect();
        let expected = [("steps", "-", "7"), ("top_k", "5", "8")];
        assert_eq!(found, expected.map(|(name, ours, theirs)| (name.to_owned(), ours.to_owned(), theirs.to_owned())));
    }

    #[test]
    fn runs_of_one_name_are_told_apart_by_what_differs() {
        let every = |n: u64, seed| run(seed, json!({"refresh_every": n, "top_k": 5}));
        let runs = [every(0, 1), every(50, 1), every(50, 2), every(50, 2)];
        let named = labels(&runs.iter().collect::<Vec<_>>(), true);
        assert_eq!(
            named,
            [
                "joint refresh_every=0",
                "joint refresh_every=50 seed=1",
                "joint refresh_every=50 seed=2 #1",
                "joint refresh_every=50 seed=2 #2"
            ]
        );
        let labelled = RunRecord { label: "mine".to_owned(), ..every(0, 1) };
        assert_eq!(labels(&[&labelled, &every(0, 1)], false), ["mine", "joint"]);
    }
}
