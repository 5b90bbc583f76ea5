//! The settings of refreshes, checked: each option belongs to some policies and is refused with the others.

use super::{By, Points, Policy};
use crate::config::TrainConfig;
use crate::error::{Error, Result};
use crate::strategies::{Passages, Stage};

/// How the index follows, with everything that the policy leaves open.
#[derive(Clone, Debug, PartialEq)]
pub struct RefreshSettings {
    /// The policy.
    pub policy: Policy,
    /// When it acts.
    pub points: Points,
    /// Steps from a snapshot to its swap; none: half the interval. `background`.
    pub lag: Option<u64>,
    /// Threads that embed a snapshot. `background`.
    pub threads: usize,
    /// Candidates of a question that are ranked by live vectors. `rows`, `lazy`.
    pub depth: usize,
    /// Steps that a live vector is used for after its own. `rows`, `lazy`.
    pub age: u64,
    /// Passages embedded anew at a point; none: a tenth of the corpus. `rows`.
    pub rows: Option<usize>,
    /// Which of them first. `rows`.
    pub by: By,
    /// Passages embedded to fit and to measure. `adapter`; `background`, `drift` and `rows` (measure only).
    pub sample: usize,
    /// Recall under which everything is embedded anew. `drift`.
    pub target: f64,
}

impl RefreshSettings {
    /// A policy with its defaults and no points.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            points: Points::default(),
            lag: None,
            threads: 1,
            depth: 20,
            // What lies in the overlay must not win by being newer: rows are ranked by what the encoder says now.
            age: if policy == Policy::Rows { 0 } else { 10 },
            rows: None,
            by: By::Retrieved,
            sample: if policy == Policy::Adapter { 2048 } else { 512 },
            target: 0.95,
        }
    }

    /// The settings of a run.
    ///
    /// # Errors
    /// An unknown name, a schedule that makes no sense, an option of another policy, a policy without the points it needs.
    pub fn of(config: &TrainConfig) -> Result<Self> {
        let policy = config.refresh;
        let points = match (&config.refresh_schedule, config.refresh_every) {
            (Some(schedule), 0) => Points::parse(schedule)?,
            (Some(schedule), every) => {
                return Err(Error::new(format!(
                    "`--refresh-schedule {schedule}` and `--refresh-every {every}` both say when the index is refreshed"
                ))
                .hint("give one of them; `--refresh-every 0` takes an earlier one back"));
            }
            (None, every) => Points::every(every),
        };
        let name = policy.name();
        match policy {
            Policy::Question | Policy::Never if !points.is_empty() => {
                return Err(Error::new(format!("`--refresh {name}` never refreshes, but it was said when"))
                    .hint("leave `--refresh-every` and `--refresh-schedule` out, or choose another `--refresh`"));
            }
            Policy::Background | Policy::Rows | Policy::Adapter | Policy::Drift
                if points.is_empty() && config.trains_passages()? =>
            {
                return Err(Error::new(format!("`--refresh {name}` was not told when"))
                    .hint(format!("for instance `--refresh {name} --refresh-every 50`")));
            }
            _ => {}
        }
        if policy == Policy::Question && config.trains_passages()? {
            return Err(Error::new("`--refresh question` leaves the passages where they are, but their side trains")
                .hint("train the question side only, without `--train-passages`, or choose another `--refresh`"));
        }
        refuse_unasked(config, policy)?;
        refuse_foreign(config, policy)?;
        positive("--refresh-depth", config.refresh_depth.unwrap_or(1))?;
        let own = Self::new(policy);
        let settings = Self {
            policy,
            lag: config.refresh_lag,
            threads: config.refresh_threads.unwrap_or(own.threads),
            // A step that reads so many ranks as many.
            depth: config.refresh_depth.unwrap_or(own.depth).max(config.top_k),
            age: config.refresh_age.unwrap_or(own.age),
            rows: config.refresh_rows,
            by: config.refresh_by.unwrap_or(own.by),
            sample: config.refresh_sample.unwrap_or(own.sample),
            target: config.refresh_target.unwrap_or(own.target),
            points,
        };
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<()> {
        positive("--refresh-threads", self.threads)?;
        if self.threads > MOST_THREADS {
            return Err(Error::new(format!(
                "`--refresh-threads {}` is more than the {MOST_THREADS} that a refresh starts at most",
                self.threads
            ))
            .hint("threads beyond the processor's cores embed nothing faster; leave some to training"));
        }
        positive("--refresh-rows", self.rows.unwrap_or(1))?;
        if self.sample < LEAST_SAMPLE {
            return Err(Error::new(format!(
                "`--refresh-sample {}` is too small to measure anything; expected at least {LEAST_SAMPLE}",
                self.sample
            ))
            .hint(format!("for instance `--refresh-sample {}`", Self::new(self.policy).sample)));
        }
        if !(self.target > 0.0 && self.target <= 1.0) {
            return Err(Error::new(format!("`--refresh-target {}` is no recall above 0 and up to 1", self.target))
                .hint("for instance `--refresh-target 0.95`"));
        }
        if let (Some(lag), Some(interval)) = (self.lag, self.points.shortest())
            && lag > interval
        {
            return Err(Error::new(format!(
                "`--refresh-lag {lag}` is longer than the {interval} steps from one snapshot to the next"
            ))
            .hint(format!("choose at most `--refresh-lag {interval}`")));
        }
        Ok(())
    }
}

fn positive(flag: &str, value: usize) -> Result<()> {
    match value {
        0 => Err(Error::new(format!("`{flag} 0` is too small; expected at least 1"))
            .hint(format!("leave `{flag}` out for the default"))),
        _ => Ok(()),
    }
}

/// The most threads that are accepted.
const MOST_THREADS: usize = 1024;

/// The smallest sample that is accepted.
const LEAST_SAMPLE: usize = 16;

/// Refuses to rank candidates by live vectors where no step looks for candidates while passages move: such a policy would do
/// nothing, at a price.
fn refuse_unasked(config: &TrainConfig, policy: Policy) -> Result<()> {
    if !matches!(policy, Policy::Rows | Policy::Lazy) || !config.trains_passages()? {
        return Ok(());
    }
    let searches = |stage: &Stage| {
        stage.trains.passages && stage.passages == Passages::Search && stage.objective.needs().retrieval
    };
    if config.stages()?.iter().any(searches) {
        return Ok(());
    }
    let (name, strategy) = (policy.name(), &config.strategy);
    Err(Error::new(format!(
        "`--refresh {name}` ranks by live vectors what a step finds in the index, and no step of `--strategy {strategy}` that \
         moves passages searches it"
    ))
    .hint("use `full-reuse`, `background`, `drift`, `adapter` or `never`"))
}

/// Refuses options that the policy does not look at.
fn refuse_foreign(config: &TrainConfig, policy: Policy) -> Result<()> {
    use Policy::{Adapter, Background, Drift, Lazy, Rows};
    let options: [(&str, Option<String>, &[Policy]); 8] = [
        ("--refresh-lag", config.refresh_lag.map(|it| it.to_string()), &[Background]),
        ("--refresh-threads", config.refresh_threads.map(|it| it.to_string()), &[Background]),
        ("--refresh-depth", config.refresh_depth.map(|it| it.to_string()), &[Lazy, Rows]),
        ("--refresh-age", config.refresh_age.map(|it| it.to_string()), &[Lazy, Rows]),
        ("--refresh-rows", config.refresh_rows.map(|it| it.to_string()), &[Rows]),
        ("--refresh-by", config.refresh_by.map(|it| it.name().to_owned()), &[Rows]),
        ("--refresh-sample", config.refresh_sample.map(|it| it.to_string()), &[Adapter, Background, Drift, Rows]),
        ("--refresh-target", config.refresh_target.map(|it| it.to_string()), &[Drift]),
    ];
    for (flag, value, policies) in options {
        let Some(value) = value.filter(|_| !policies.contains(&policy)) else { continue };
        let names: Vec<&str> = policies.iter().map(|policy| policy.name()).collect();
        return Err(Error::new(format!(
            "`{flag} {value}` is a setting of `--refresh {}`, and the policy is `{}`",
            names.join("` and `--refresh "),
            policy.name()
        ))
        .hint(format!("leave `{flag}` out, or use `--refresh {}`", names.first().copied().unwrap_or_default())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::TrainArgs;

    fn resolved(change: impl FnOnce(&mut TrainArgs)) -> Result<RefreshSettings> {
        let mut args = TrainArgs { train_passages: Some(true), ..TrainArgs::of_tests() };
        change(&mut args);
        RefreshSettings::of(&TrainConfig::resolve(&args)?)
    }

    #[test]
    fn defaults_and_what_is_given() {
        assert_eq!(resolved(|_| {}).unwrap(), RefreshSettings::new(Policy::FullReuse));
        let lazy = resolved(|args| {
            (args.refresh, args.refresh_every) = (Some("lazy".into()), Some(30));
            (args.refresh_depth, args.refresh_age) = (Some(7), Some(3));
        });
        let expected =
            RefreshSettings { points: Points::every(30), depth: 7, age: 3, ..RefreshSettings::new(Policy::Lazy) };
        assert_eq!(lazy.unwrap(), expected);
        let scheduled = resolved(|args| args.refresh_schedule = Some("0-10:5".into())).unwrap();
        assert_eq!(scheduled.points, Points::parse("0-10:5").unwrap());
        // A strategy whose passages stand still ignores how the index would follow.
        assert!(
            resolved(|args| (args.refresh, args.train_passages) = (Some("background".into()), Some(false))).is_ok()
        );
        assert!(resolved(|args| (args.refresh, args.train_passages) = (Some("question".into()), Some(false))).is_ok());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_a_hint() {
        let refused = |says: &str, change: &dyn Fn(&mut TrainArgs)| {
            let error = resolved(|args| change(args)).unwrap_err();
            let text = format!("{error:?} {error}");
            assert!(text.contains(says), "{says}: {text}");
            assert!(error.find_hint().is_some(), "{says}");
        };
        refused("nightly", &|args| args.refresh = Some("nightly".into()));
        refused("both say", &|args| {
            (args.refresh_every, args.refresh_schedule) = (Some(5), Some("0-10:5".into()));
        });
        refused("overlaps", &|args| args.refresh_schedule = Some("0-10:5,5-20:5".into()));
        refused("never refreshes", &|args| (args.refresh, args.refresh_every) = (Some("never".into()), Some(5)));
        refused("their side trains", &|args| args.refresh = Some("question".into()));
        for policy in ["background", "rows", "adapter", "drift"] {
            refused("was not told when", &|args| args.refresh = Some(policy.into()));
        }
        refused("--refresh-lag 3", &|args| args.refresh_lag = Some(3));
        refused("--refresh-threads 2", &|args| args.refresh_threads = Some(2));
        refused("--refresh-depth 3", &|args| args.refresh_depth = Some(3));
        refused("--refresh-age 3", &|args| args.refresh_age = Some(3));
        refused("--refresh-rows 3", &|args| args.refresh_rows = Some(3));
        refused("--refresh-by near", &|args| args.refresh_by = Some("near".into()));
        refused("--refresh-sample 99", &|args| args.refresh_sample = Some(99));
        refused("--refresh-target 0.5", &|args| args.refresh_target = Some(0.5));
        for (policy, strategy) in [("lazy", "embedder"), ("rows", "embedder"), ("lazy", "ance")] {
            refused(&format!("no step of `--strategy {strategy}`"), &|args| {
                (args.refresh, args.strategy) = (Some(policy.into()), Some(strategy.into()));
                args.refresh_every = Some(5);
            });
        }
        refused("`--refresh-lag 9` is longer", &|args| {
            (args.refresh, args.refresh_every, args.refresh_lag) = (Some("background".into()), Some(8), Some(9));
        });
        let drift = |args: &mut TrainArgs| (args.refresh, args.refresh_every) = (Some("drift".into()), Some(8));
        refused("--refresh-target 1.5", &|args| {
            drift(args);
            args.refresh_target = Some(1.5);
        });
        refused("--refresh-sample 3", &|args| {
            drift(args);
            args.refresh_sample = Some(3);
        });
        refused("--refresh-depth 0", &|args| {
            (args.refresh, args.refresh_depth) = (Some("lazy".into()), Some(0));
        });
    }
}
