//! Signs that a model is being destroyed although every number stays finite: what settings foretell, and what the curve shows.

use crate::config::TrainConfig;
use crate::cost::{Activity, Phase};
use crate::report::record::{CurvePoint, RefreshAction, RefreshRecord, StageCharge};
use crate::strategies::Stage;
use crate::train::refresh::{Policy, RefreshSettings};

/// AdamW moves every weight by about its learning rate in each step: above this, by more than weights are large.
const LARGEST_RATE: f64 = 1.0;
/// From this share of the steps on, gradients that are exactly zero are no accident of a batch.
const VANISHED: f64 = 0.1;
/// A loss has risen when it grew by more than its size, and by more than this: losses near zero may multiply.
const LEAST_RISE: f64 = 1.0;
/// Fewer steps show batches, not training.
const LEAST_STEPS: usize = 4;

/// What the settings of a run foretell.
pub fn foreseen(config: &TrainConfig, stages: &[Stage]) -> Vec<String> {
    let trains = |part: fn(&Stage) -> bool| stages.iter().any(part);
    let rates = [
        ("--lr-encoder", config.lr_encoder, trains(|stage| stage.trains.encoder())),
        ("--lr-generator", config.lr_generator, trains(|stage| stage.trains.generator)),
        ("--lr-selector", config.lr_selector, trains(|stage| stage.trains.selector)),
    ];
    let mut notes = Vec::new();
    for (flag, rate, _) in rates.into_iter().filter(|(_, rate, trains)| *trains && *rate > LARGEST_RATE) {
        notes.push(format!(
            "`{flag} {rate}` moves every weight by about {rate} in a step, which destroys a model; usual rates are 1e-6 to 1e-3"
        ));
    }
    if !stages.is_empty() && config.steps > 0 && config.warmup >= config.steps {
        let reached = 100.0 * (config.steps - 1) as f64 / config.warmup as f64;
        notes.push(format!(
            "`--warmup {}` is not over when the {} steps are: the learning rate gets to {reached:.0} % of its peak",
            config.warmup, config.steps
        ));
    }
    notes.extend(never_refreshed(config, stages));
    notes
}

/// That refreshes were asked for and none comes before the last step, after which there is one in any case.
fn never_refreshed(config: &TrainConfig, stages: &[Stage]) -> Option<String> {
    let settings = RefreshSettings::of(config).ok()?;
    let moving = stages.iter().enumerate().filter(|(_, stage)| stage.trains.passages);
    let steps = moving.map(|(number, _)| config.steps_of(number, stages.len())).max()?;
    if settings.points.is_empty() {
        return None;
    }
    let Some(first) = settings.points.after(0).filter(|first| *first < steps) else {
        return Some(format!(
            "no refresh comes before the last of the {steps} steps, so that training reads one index from beginning to end; it is \
             refreshed afterwards"
        ));
    };
    (settings.policy == Policy::Background && settings.swaps_before(steps) == 0).then(|| {
        format!(
            "`--refresh background` takes its first snapshot at step {first} and would swap it in {} steps later, which the \
             {steps} steps do not reach: training reads one index from beginning to end",
            settings.lag_at(first)
        )
    })
}

/// What the curve of a finished run shows; the stages are those of its bill, in order.
pub fn shown(curve: &[CurvePoint], stages: &[StageCharge], config: &TrainConfig) -> Vec<String> {
    let mut notes = Vec::new();
    let mut before = 0;
    for stage in stages {
        let steps = before + 1..=before + stage.steps;
        before += stage.steps;
        let points: Vec<&CurvePoint> = curve.iter().filter(|point| steps.contains(&point.step)).collect();
        // One passage is compared with nothing, which is said already.
        if config.top_k > 1 {
            notes.extend(vanished(&stage.name, &points));
        }
        // With early stopping the weights that are kept are not those of the last step.
        if config.early_stop == 0 {
            notes.extend(risen(&stage.name, &points));
        }
    }
    notes
}

/// What refreshes took over from a process that was killed before a checkpoint of it said what that had cost.
pub fn unpaid(refreshes: &[RefreshRecord], stages: &[StageCharge]) -> Vec<String> {
    let mut notes = Vec::new();
    let mut before = 0;
    for stage in stages {
        let steps = before + 1..=before + stage.steps;
        before += stage.steps;
        let of_stage = || refreshes.iter().filter(|refresh| steps.contains(&refresh.step));
        let taken_over: u64 = of_stage().map(|refresh| refresh.taken_over).sum();
        let embedded: u64 = of_stage().map(|it| it.passages.saturating_sub(it.taken_over) + it.between).sum();
        // On the bill where they were dropped.
        let dropped = of_stage().filter(|it| it.action == RefreshAction::Dropped).map(|it| it.passages).sum();
        let Some(paid) = stage.ledger.entry(Activity::Refresh, Phase::Embed) else { continue };
        let paid_before = paid.counts.passages.saturating_sub(embedded);
        let unpaid = taken_over.saturating_sub(paid_before).saturating_sub(dropped);
        if unpaid > 0 {
            let seconds = paid.cpu_seconds / paid.counts.passages.max(1) as f64 * unpaid as f64;
            notes.push(format!(
                "refreshes of stage `{}` took over {unpaid} passages from a process that was killed: what embedding them cost, about \
                 {seconds:.1} CPU seconds at the speed of the others, is on no bill",
                stage.name
            ));
        }
    }
    notes
}

/// Parts whose gradient was exactly zero in whole steps.
fn vanished(stage: &str, points: &[&CurvePoint]) -> Vec<String> {
    let parts = points.first().map(|point| point.gradient_norms.keys()).into_iter().flatten();
    let told = parts.filter_map(|part| {
        let zero = points.iter().filter(|point| point.gradient_norms.get(part) == Some(&0.0)).count();
        (zero > 0 && zero as f64 >= VANISHED * points.len() as f64).then(|| {
            format!(
                "the gradient of the {part} was exactly zero in {zero} of the {} steps of stage `{stage}`: it learnt nothing there",
                points.len()
            )
        })
    });
    told.collect()
}

/// A loss that ends far above where it began: in the last steps as in most of the second half.
fn risen(stage: &str, points: &[&CurvePoint]) -> Option<String> {
    if points.len() < LEAST_STEPS {
        return None;
    }
    let losses: Vec<f64> = points.iter().map(|point| point.loss).collect();
    let few = losses.len().div_ceil(20);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&losses[..few]), mean(&losses[losses.len() - few..]));
    let mut later = losses[losses.len() / 2..].to_vec();
    later.sort_by(f64::total_cmp);
    let median = later[(later.len() - 1) / 2];
    let bound = first + first.abs().max(LEAST_RISE);
    (last > bound && median > bound).then(|| {
        format!(
            "the loss of stage `{stage}` rose from {first:.3} in the first steps to {last:.3} in the last: what it trained is worse \
             than before; lower the learning rates"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::TrainArgs;
    use crate::cost::{Amounts, Counts, LedgerEntry, LedgerRecord};

    fn config(change: impl FnOnce(&mut TrainArgs)) -> TrainConfig {
        let mut args = TrainArgs::of_tests();
        change(&mut args);
        TrainConfig::resolve(&args).unwrap()
    }

    fn curve(losses: &[f64], norms: &[f64]) -> Vec<CurvePoint> {
        let points = (1u64..).zip(losses.iter().zip(norms)).map(|(step, (loss, norm))| CurvePoint {
            step,
            loss: *loss,
            gradient_norms: [("generator".to_owned(), *norm)].into(),
            ..CurvePoint::default()
        });
        points.collect()
    }

    #[test]
    fn absurd_rates_of_what_trains_and_a_warm_up_without_end_are_foreseen() {
        let foreseen = |change: fn(&mut TrainArgs)| {
            let config = config(change);
            foreseen(&config, &config.stages().unwrap())
        };
        assert!(foreseen(|_| {}).is_empty());
        let notes = foreseen(|args| (args.lr_encoder, args.lr_generator) = (Some(1000.0), Some(1.0)));
        assert!(notes.len() == 1 && notes[0].contains("`--lr-encoder 1000`"), "{notes:?}");
        assert!(foreseen(|a| (a.strategy, a.lr_encoder) = (Some("generator".into()), Some(9.0))).is_empty());
        let notes = foreseen(|args| args.warmup = Some(1000));
        assert!(notes.len() == 1 && notes[0].contains("50 % of its peak"), "{notes:?}");
        assert!(foreseen(|args| args.warmup = Some(499)).is_empty());
    }

    #[test]
    fn refreshes_that_training_never_reads_are_foreseen() {
        let notes = |refresh: &str, every| {
            let config = config(|args| (args.refresh, args.refresh_every) = (Some(refresh.into()), Some(every)));
            foreseen(&config, &config.stages().unwrap())
        };
        let said = notes("full-reuse", 500);
        assert!(said.len() == 1 && said[0].contains("the last of the 500 steps"), "{said:?}");
        let said = notes("background", 400);
        assert!(said.len() == 1 && said[0].contains("step 400") && said[0].contains("200 steps later"), "{said:?}");
        assert!(notes("full-reuse", 499).is_empty() && notes("background", 300).is_empty());
    }

    #[test]
    fn passages_of_a_killed_process_are_told_where_nobody_paid_for_them() {
        let stage = |embedded: u64, seconds: f64| {
            let counts = Counts { passages: embedded, ..Counts::default() };
            let amounts = Amounts { cpu_seconds: seconds, counts, ..Amounts::default() };
            let entries = vec![LedgerEntry { activity: Activity::Refresh, phase: Phase::Embed, amounts }];
            let ledger = LedgerRecord { entries, ..LedgerRecord::default() };
            [StageCharge { name: "joint".into(), steps: 9, ledger, ..StageCharge::default() }]
        };
        let refresh = |action, step, passages, taken_over| RefreshRecord {
            action,
            step,
            passages,
            taken_over,
            between: 5,
            ..RefreshRecord::default()
        };
        let killed = [refresh(RefreshAction::Embedded, 4, 100, 80), refresh(RefreshAction::Embedded, 9, 100, 0)];
        let notes = unpaid(&killed, &stage(130, 13.0));
        assert!(notes.len() == 1 && notes[0].contains("took over 80 passages"), "{notes:?}");
        assert!(notes[0].contains("8.0 CPU seconds"), "{notes:?}");
        // Stopped with a checkpoint, which had them on its bill; in part.
        assert!(unpaid(&killed, &stage(210, 21.0)).is_empty());
        assert!(unpaid(&killed, &stage(180, 18.0))[0].contains("took over 30 passages"));
        // Those of a snapshot that was dropped were paid for when it was.
        let dropped = [refresh(RefreshAction::Dropped, 9, 60, 0), refresh(RefreshAction::Embedded, 9, 100, 60)];
        assert!(unpaid(&dropped, &stage(110, 11.0)).is_empty());
    }

    #[test]
    fn a_destroyed_model_is_seen_in_its_curve_and_a_noisy_one_is_not() {
        let stage = |name: &str, steps| StageCharge { name: name.into(), steps, ..StageCharge::default() };
        let destroyed = curve(&[10.5, 56.7, 43.6, 34.9], &[75.6, 0.0, 0.0, 0.0]);
        let notes = shown(&destroyed, &[stage("joint", 4)], &config(|_| {}));
        assert!(notes[0].contains("generator was exactly zero in 3 of the 4 steps of stage `joint`"), "{notes:?}");
        assert!(notes[1].contains("rose from 10.500 in the first steps to 34.900"), "{notes:?}");
        let noisy = curve(&[3.0, 9.0, 2.0, 4.0, 3.0, 7.0], &[1.0; 6]);
        assert!(shown(&noisy, &[stage("joint", 6)], &config(|_| {})).is_empty());
        // Near zero a loss may multiply, and a loss below zero rises by its size.
        let near = curve(&[0.01, 0.2, 0.3, 0.3], &[1.0; 4]);
        assert!(shown(&near, &[stage("joint", 4)], &config(|_| {})).is_empty());
        let below = curve(&[-4.0, 1.0, 2.0, 2.0], &[1.0; 4]);
        assert_eq!(shown(&below, &[stage("joint", 4)], &config(|_| {})).len(), 1);
        // Each stage by itself: the second begins where it likes.
        let two = curve(&[1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 8.0, 8.0], &[1.0; 8]);
        assert!(shown(&two, &[stage("one", 4), stage("two", 4)], &config(|_| {})).is_empty());
        assert_eq!(shown(&two, &[stage("one", 8)], &config(|_| {})).len(), 1);
    }
}
