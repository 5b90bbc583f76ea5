//! Tests of the ledger: every second once, nested spans subtract, resume adds.

use super::*;
use std::thread::sleep;

fn milliseconds(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn attributed(record: &LedgerRecord) -> f64 {
    record.entries.iter().map(|entry| entry.amounts.seconds).sum()
}

#[test]
fn the_total_is_the_sum_of_entries_and_of_what_is_unattributed() {
    let ledger = Ledger::new();
    sleep(milliseconds(3));
    {
        let _train = ledger.activity(Activity::Train);
        for _ in 0..20 {
            let _embed = ledger.span(Phase::Embed);
            let _search = ledger.span(Phase::Retrieve);
        }
        let _evaluate = ledger.activity(Activity::Evaluate);
        ledger.charge(Phase::Generate, || sleep(milliseconds(2)));
    }
    let record = ledger.snapshot();
    assert!((record.wall_seconds - attributed(&record) - record.unattributed.seconds).abs() < 1e-9);
    assert!(record.unattributed.seconds >= 0.003);
    assert_eq!(record.entry(Activity::Train, Phase::Embed).unwrap().calls, 20);
    assert!(record.entry(Activity::Evaluate, Phase::Generate).unwrap().seconds >= 0.002);
    let by_activity: f64 = record.unattributed_by_activity.values().sum();
    assert!((by_activity - record.unattributed.seconds).abs() < 1e-9);
}

#[test]
fn a_nested_span_subtracts_from_the_one_around_it() {
    let ledger = Ledger::new();
    let outer = ledger.span(Phase::Score);
    sleep(milliseconds(2));
    {
        let _inner = ledger.span(Phase::Embed);
        sleep(milliseconds(150));
        let _innermost = ledger.span(Phase::Load);
        sleep(milliseconds(5));
    }
    drop(outer);
    let record = ledger.snapshot();
    let seconds = |phase| record.phase(phase).seconds;
    assert!(seconds(Phase::Embed) >= 0.150);
    assert!(seconds(Phase::Load) >= 0.005);
    // Were the nested time charged to both, this would be at least 0.155.
    assert!(seconds(Phase::Score) >= 0.002 && seconds(Phase::Score) < 0.150, "{}", seconds(Phase::Score));
    assert!((record.wall_seconds - attributed(&record) - record.unattributed.seconds).abs() < 1e-9);
}

#[test]
fn the_same_phase_nested_in_itself_is_charged_once() {
    let ledger = Ledger::new();
    {
        let _outer = ledger.span(Phase::Embed);
        let _inner = ledger.span(Phase::Embed);
        sleep(milliseconds(5));
    }
    let record = ledger.snapshot();
    assert!(record.phase(Phase::Embed).seconds <= record.wall_seconds);
    assert_eq!(record.phase(Phase::Embed).calls, 2);
}

#[test]
fn guards_dropped_in_the_wrong_order_still_charge_every_second_once() {
    let ledger = Ledger::new();
    let first = ledger.activity(Activity::Train);
    let outer = ledger.span(Phase::Score);
    let second = ledger.activity(Activity::Refresh);
    let inner = ledger.span(Phase::Embed);
    drop(first);
    drop(outer);
    sleep(milliseconds(2));
    assert_eq!(ledger.present_activity(), Activity::Refresh);
    drop(inner);
    drop(second);
    assert_eq!(ledger.present_activity(), Activity::Setup);
    let record = ledger.snapshot();
    assert!(record.entry(Activity::Refresh, Phase::Embed).unwrap().seconds >= 0.002);
    assert!((record.wall_seconds - attributed(&record) - record.unattributed.seconds).abs() < 1e-9);
}

#[test]
fn work_goes_to_the_span_it_was_counted_on() {
    let ledger = Ledger::new();
    ledger.add(Counts { bytes: 3, ..Counts::default() });
    {
        let outer = ledger.span(Phase::Embed);
        outer.tokens(10).flops(1e9).passages(2);
        let _inner = ledger.span(Phase::Write);
        ledger.add(Counts { bytes: 40, ..Counts::default() });
        outer.tokens(5);
    }
    let record = ledger.snapshot();
    assert_eq!(record.unattributed.counts.bytes, 3);
    let embed = record.phase(Phase::Embed).counts;
    assert_eq!(embed, Counts { tokens: 15, flops: 1e9, passages: 2, ..Counts::default() });
    assert_eq!(record.phase(Phase::Write).counts.bytes, 40);
}

#[test]
fn resuming_adds_to_every_sum_and_changes_none() {
    let ledger = Ledger::new();
    {
        let _train = ledger.activity(Activity::Train);
        sleep(milliseconds(2));
        ledger.span(Phase::Backward).tokens(7).bytes(1);
        ledger.charge(Phase::Embed, || sleep(milliseconds(3)));
    }
    let text = serde_json::to_string(&ledger.snapshot()).unwrap();
    let before: LedgerRecord = serde_json::from_str(&text).unwrap();

    // Read back and written again at once, only what passed since is added, and it is unattributed.
    let resumed = Ledger::resume(before.clone());
    let at_once = resumed.snapshot();
    assert_eq!(at_once.entries, before.entries);
    assert_eq!(at_once.sessions, 2);
    assert!(at_once.unattributed.seconds >= before.unattributed.seconds);
    let train = |record: &LedgerRecord| record.unattributed_by_activity[&Activity::Train];
    assert_eq!(train(&at_once), train(&before));

    {
        let _train = resumed.activity(Activity::Train);
        resumed.span(Phase::Backward).tokens(5);
        resumed.span(Phase::Retrieve).passages(1);
    }
    let after = resumed.snapshot();
    let backward = after.entry(Activity::Train, Phase::Backward).unwrap();
    assert_eq!((backward.counts.tokens, backward.counts.bytes, backward.calls), (12, 1, 2));
    assert_eq!(after.entry(Activity::Train, Phase::Embed), before.entry(Activity::Train, Phase::Embed));
    assert!(after.wall_seconds > before.wall_seconds);
    assert!((after.wall_seconds - attributed(&after) - after.unattributed.seconds).abs() < 1e-9);
}

#[test]
fn a_snapshot_inside_an_open_span_holds_its_time_so_far_and_its_call() {
    let ledger = Ledger::new();
    let span = ledger.span(Phase::Checkpoint);
    sleep(milliseconds(3));
    let during = ledger.snapshot();
    assert!(during.phase(Phase::Checkpoint).seconds >= 0.003);
    assert_eq!(during.phase(Phase::Checkpoint).calls, 1);
    drop(span);
    assert!(ledger.snapshot().phase(Phase::Checkpoint).seconds >= during.phase(Phase::Checkpoint).seconds);
}

#[test]
fn processor_time_and_memory_are_charged_to_the_span_that_used_them() {
    let ledger = Ledger::new();
    ledger.charge(Phase::Score, || {
        let block = vec![1u8; 96 << 20];
        let mut sum = 0u64;
        for _ in 0..3 {
            sum += block.iter().map(|&byte| u64::from(std::hint::black_box(byte))).sum::<u64>();
        }
        std::hint::black_box(sum)
    });
    let record = ledger.snapshot();
    let score = record.phase(Phase::Score);
    assert!(score.cpu_seconds > 0.0 && score.cpu_seconds <= record.cpu_seconds + 1e-9);
    assert!(score.peak_memory_bytes >= 96 << 20);
    assert!(record.peak_memory_bytes >= score.peak_memory_bytes);
}

#[test]
fn a_damaged_record_resumes_from_zero_instead_of_panicking() {
    let amounts = Amounts { seconds: f64::NAN, cpu_seconds: -1.0, ..Amounts::default() };
    let unattributed_by_activity = BTreeMap::from([(Activity::Train, 1e300)]);
    let record = LedgerRecord { unattributed: amounts, unattributed_by_activity, ..LedgerRecord::default() };
    let total = Ledger::resume(record).total_seconds();
    assert!((0.0..1.0).contains(&total));
}

#[test]
fn processor_time_of_threads_beside_is_charged_to_what_they_work_for_and_once() {
    let ledger = Ledger::new();
    let _train = ledger.activity(Activity::Train);
    let beside = ledger.beside(Activity::Refresh, Phase::Embed);
    let reported = {
        let _span = ledger.span(Phase::Backward);
        let work = std::thread::spawn(move || {
            let sum: u64 = (0..50_000_000u64).map(std::hint::black_box).sum();
            assert!(sum > 0);
            beside.report();
            super::super::clock::thread_cpu().as_secs_f64()
        });
        work.join().unwrap()
    };
    let record = ledger.snapshot();
    let entry = record.entry(Activity::Refresh, Phase::Embed).unwrap();
    assert!(entry.cpu_seconds <= reported && entry.cpu_seconds > 0.5 * reported, "{entry:?} of {reported}");
    assert_eq!(entry.seconds, 0.0, "it took no wall time");
    let sum: f64 = record.entries.iter().map(|entry| entry.amounts.cpu_seconds).sum();
    assert!((sum + record.unattributed.cpu_seconds - record.cpu_seconds).abs() < 1e-6);
}
