//! Settings that were given and cannot have an effect. What several runs have in common - a settings file, the shared table of a
//! comparison - may hold settings that some of them do not look at; what is typed for one run is meant for it.

use std::collections::BTreeSet;

use super::TrainConfig;
use crate::cli::TrainArgs;
use crate::error::{Error, Result};
use crate::train::refresh::{Policy, RefreshSettings};

/// The settings that were given as flags.
pub fn given(args: &TrainArgs) -> Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> = match serde_json::to_value(args)? {
        serde_json::Value::Object(flags) => flags.into_iter().map(|(name, _)| name).collect(),
        _ => BTreeSet::new(),
    };
    if !args.dro.is_empty() {
        names.insert("dro".to_owned());
    }
    Ok(names)
}

/// Refuses what was `given` for this very run and nothing in it looks at. `searches`: learning rates are searched for it, by its
/// selection questions.
pub fn refuse_idle(config: &TrainConfig, given: &BTreeSet<String>, searches: bool) -> Result<()> {
    let values = serde_json::to_value(config)?;
    let typed = |name: &str| match values.get(name) {
        Some(serde_json::Value::String(text)) => format!("--{name} {text}"),
        Some(serde_json::Value::Object(_)) | None => format!("--{name}"),
        Some(other) => format!("--{name} {other}"),
    };
    let strategy = &config.strategy;
    let stages = config.stages()?;
    if !config.trains_passages()?
        && let Some(name) = following(config).into_iter().find(|name| given.contains(*name))
    {
        let could = TrainConfig { train_passages: true, ..config.clone() }.trains_passages().unwrap_or(false);
        return Err(Error::new(format!(
            "`{}` says how the index follows passages that move, and `--strategy {strategy}` moves none here",
            typed(name)
        ))
        .hint(match could {
            true => format!("add `--train-passages true`, or leave `--{name}` out"),
            false => format!("leave `--{name}` out"),
        }));
    }
    if given.contains("refresh-schedule")
        && let Some(schedule) = &config.refresh_schedule
        && RefreshSettings::of(config)?.points.count_before(config.steps) == 0
    {
        return Err(Error::new(format!(
            "`--refresh-schedule {schedule}` has no point before the last of {} steps",
            config.steps
        ))
        .hint("let it begin earlier, or train for more `--steps`; the index is refreshed at the end in any case"));
    }
    if config.lora_rank.is_none()
        && let Some(name) = ["lora-alpha", "lora-targets"].into_iter().find(|name| given.contains(*name))
    {
        return Err(Error::new(format!("`--{name}` is about an adapter, and none trains"))
            .hint("train one, for instance with `--lora-rank 16`, or leave it out"));
    }
    if stages.iter().all(|stage| stage.lists.is_none())
        && let Some(name) = ["dro", "selector"].into_iter().find(|name| given.contains(*name))
    {
        return Err(Error::new(format!("`{}` is about a selector, and `--strategy {strategy}` has none", typed(name)))
            .hint(format!("leave `--{name}` out, or use `--strategy dro`")));
    }
    if config.early_stop == 0
        && !searches
        && let Some(name) = ["selection-questions", "select-by"].into_iter().find(|name| given.contains(*name))
    {
        return Err(Error::new(format!(
            "`{}` decides when to stop or which learning rate to take, and nothing asks for either",
            typed(name)
        ))
        .hint(format!("add for instance `--early-stop 3 --eval-every 50`, or leave `--{name}` out")));
    }
    Ok(())
}

/// The settings of refreshes that say something under these settings: no refresh at all is also what stands where nothing moves.
fn following(config: &TrainConfig) -> Vec<&'static str> {
    let said = [
        ("refresh", !matches!(config.refresh, Policy::Question | Policy::Never)),
        ("refresh-every", config.refresh_every > 0),
        ("refresh-schedule", config.refresh_schedule.is_some()),
        ("refresh-lag", config.refresh_lag.is_some()),
        ("refresh-threads", config.refresh_threads.is_some()),
        ("refresh-depth", config.refresh_depth.is_some()),
        ("refresh-age", config.refresh_age.is_some()),
        ("refresh-rows", config.refresh_rows.is_some()),
        ("refresh-by", config.refresh_by.is_some()),
        ("refresh-sample", config.refresh_sample.is_some()),
        ("refresh-target", config.refresh_target.is_some()),
    ];
    said.into_iter().filter(|(_, said)| *said).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of flags; of a settings file with the same nothing is.
    #[test]
    fn what_has_no_effect_is_refused_where_it_was_typed_and_accepted_where_it_was_inherited() {
        type Change = fn(&mut TrainArgs);
        let cases: [(Change, &str, &str); 8] = [
            (
                |a| (a.train_passages, a.refresh_every) = (Some(false), Some(2)),
                "`--refresh-every 2`",
                "--train-passages true",
            ),
            (|a| a.refresh = Some("full".into()), "`--refresh full`", "--train-passages true"),
            (
                |a| (a.train_passages, a.refresh_schedule) = (Some(true), Some("600-900:100".into())),
                "600-900:100",
                "earlier",
            ),
            (|a| a.lora_alpha = Some(8.0), "`--lora-alpha`", "--lora-rank"),
            (|a| a.dro = vec![("samples".into(), 2.into())], "`--dro`", "--strategy dro"),
            (|a| a.selector = Some("model".into()), "`--selector model`", "--strategy dro"),
            (|a| a.selection_questions = Some("nofile".into()), "nofile", "--early-stop"),
            (|a| (a.strategy, a.refresh_every) = (Some("generator".into()), Some(2)), "generator", "leave"),
        ];
        for (change, says, hint) in cases {
            let mut args = TrainArgs::of_tests();
            change(&mut args);
            let config = TrainConfig::resolve(&args).unwrap();
            let error = refuse_idle(&config, &given(&args).unwrap(), false).unwrap_err();
            assert!(error.to_string().contains(says), "{says}: {error}");
            assert!(error.find_hint().unwrap().contains(hint), "{says}: {:?}", error.find_hint());
            refuse_idle(&config, &BTreeSet::from(["steps".to_owned()]), false).unwrap();
        }
        // The same questions where a search is decided by them, and no refresh where nothing moves.
        let searched = |name: &str| BTreeSet::from([name.to_owned()]);
        let args = TrainArgs {
            refresh: Some("question".into()),
            selection_questions: Some("selection.jsonl".into()),
            ..TrainArgs::of_tests()
        };
        let config = TrainConfig::resolve(&args).unwrap();
        refuse_idle(&config, &searched("selection-questions"), true).unwrap();
        refuse_idle(&config, &searched("refresh"), false).unwrap();
    }
}
