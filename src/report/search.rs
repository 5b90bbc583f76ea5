//! What searching learning rates costs, and what a whole comparison was spent on, where runs and points share stages: every stage
//! that was trained is counted once, whoever trained it.

use super::record::{RunRecord, SearchPoint};
use crate::cost::LedgerRecord;
use std::collections::{BTreeMap, BTreeSet};

/// A stage in a run's or a point's bill.
struct Entry<'r> {
    id: &'r str,
    reused: bool,
    ledger: &'r LedgerRecord,
}

/// The points that were tried for some runs, each once.
pub(super) fn points<'r>(records: impl IntoIterator<Item = &'r RunRecord>) -> Vec<&'r SearchPoint> {
    let mut by_run: BTreeMap<&str, &SearchPoint> = BTreeMap::new();
    for point in records.into_iter().flat_map(|record| &record.search) {
        by_run.entry(&point.run).or_insert(point);
    }
    by_run.into_values().collect()
}

/// What the search adds to the bills of the runs that it was made for, which differ by seed: all that its points spent, and every
/// stage that they took from others, once; less the stages that the runs are charged for already ([`RunRecord::whole`]).
pub(super) fn search_cost(records: &[&RunRecord]) -> LedgerRecord {
    let points = points(records.iter().copied());
    let mut cost = LedgerRecord::default();
    points.iter().for_each(|point| cost.add(&point.ledger));
    let of_points: Vec<Entry<'_>> = points.iter().flat_map(|point| of_point(point)).collect();
    elsewhere(&of_points).into_values().for_each(|ledger| cost.add(ledger));
    let charged: BTreeMap<&str, &LedgerRecord> =
        records.iter().flat_map(|record| of_run(record)).map(|entry| (entry.id, entry.ledger)).collect();
    let ids: BTreeSet<&str> = of_points.iter().map(|entry| entry.id).collect();
    charged.into_iter().filter(|(id, _)| ids.contains(id)).fold(cost, |cost, (_, ledger)| cost.since(ledger))
}

/// The stages that these runs and their points took over and none of them trained: other runs, which are not among them, paid.
pub(super) fn taken_over<'r>(records: &[&'r RunRecord]) -> Vec<&'r LedgerRecord> {
    let points = points(records.iter().copied());
    let entries: Vec<Entry<'r>> =
        records.iter().flat_map(|record| of_run(record)).chain(points.into_iter().flat_map(of_point)).collect();
    elsewhere(&entries).into_values().collect()
}

/// Stages that were reused and trained in none of these bills, each once.
fn elsewhere<'r>(entries: &[Entry<'r>]) -> BTreeMap<&'r str, &'r LedgerRecord> {
    let trained: BTreeSet<&str> = entries.iter().filter(|entry| !entry.reused).map(|entry| entry.id).collect();
    let others = entries.iter().filter(|entry| entry.reused && !trained.contains(entry.id));
    others.map(|entry| (entry.id, entry.ledger)).collect()
}

fn of_run(record: &RunRecord) -> Vec<Entry<'_>> {
    record.stages.iter().map(|stage| Entry { id: &stage.id, reused: stage.reused, ledger: &stage.ledger }).collect()
}

fn of_point(point: &SearchPoint) -> Vec<Entry<'_>> {
    if point.stages.is_empty() {
        // Of an earlier version, which tells of the searched stage alone. The ledger of a stage that was not reused is never asked for.
        let (reused, ledger) = match &point.training {
            Some(training) => (true, training),
            None => (false, &point.ledger),
        };
        return vec![Entry { id: &point.id, reused, ledger }];
    }
    point.stages.iter().map(|stage| Entry { id: &stage.id, reused: stage.reused, ledger: &stage.ledger }).collect()
}
