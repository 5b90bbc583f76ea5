//! At which steps a refresh policy acts: `0-1000:500,1000-10000:1000`, the schedule grammar of Atlas (arXiv 2208.03299, its
//! `--refresh_index`).

use crate::error::{Error, Result};

/// Points in the order of steps. A part counts from its own beginning; step 0, where nothing is stale, is no point.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Points {
    parts: Vec<Part>,
}

/// Every `every` steps from `from` on, before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    from: u64,
    to: u64,
    every: u64,
}

impl Part {
    fn count_before(&self, steps: u64) -> u64 {
        let all = self.to.min(steps).saturating_sub(self.from).div_ceil(self.every);
        if self.from == 0 { all.saturating_sub(1) } else { all }
    }
}

impl Points {
    /// Every so many steps without end; 0: no point at all.
    pub fn every(steps: u64) -> Self {
        let all = Part { from: 0, to: u64::MAX, every: steps };
        Self { parts: if steps == 0 { Vec::new() } else { vec![all] } }
    }

    /// Reads `FROM-TO:EVERY,..`: parts that follow each other and do not overlap; steps in none of them are no points.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |what: String| {
            Error::new(format!("`--refresh-schedule {text}` {what}")).hint(
                "give `FROM-TO:EVERY` in steps, one part after the other, for instance `0-1000:500,1000-10000:1000`",
            )
        };
        let mut parts: Vec<Part> = Vec::new();
        for written in text.split(',') {
            let part =
                read(written).ok_or_else(|| wrong(format!("has a part `{written}` that is no `FROM-TO:EVERY`")))?;
            if part.every == 0 {
                return Err(wrong(format!("refreshes every 0 steps in `{written}`")));
            }
            if part.from >= part.to {
                return Err(wrong(format!("descends in `{written}`: its end is not behind its beginning")));
            }
            if let Some(last) = parts.last().filter(|last| part.from < last.to) {
                return Err(wrong(format!(
                    "overlaps or descends: `{written}` begins at {}, the part before it ends at {}",
                    part.from, last.to
                )));
            }
            parts.push(part);
        }
        Ok(Self { parts })
    }

    /// Whether there is no point at all.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether this step is a point.
    pub fn due(&self, step: u64) -> bool {
        step > 0 && self.part(step).is_some_and(|part| (step - part.from).is_multiple_of(part.every))
    }

    /// The steps from one point to the next where this step lies.
    pub fn interval(&self, step: u64) -> Option<u64> {
        self.part(step).map(|part| part.every)
    }

    /// The shortest interval.
    pub fn shortest(&self) -> Option<u64> {
        self.parts.iter().map(|part| part.every).min()
    }

    /// The first point behind a step.
    pub fn after(&self, step: u64) -> Option<u64> {
        let of = |part: &Part| {
            let begun = (step + 1).saturating_sub(part.from).div_ceil(part.every);
            // A part that begins at 0 has its first point after `every` steps.
            let begun = if part.from == 0 { begun.max(1) } else { begun };
            begun.checked_mul(part.every)?.checked_add(part.from).filter(|point| *point < part.to)
        };
        self.parts.iter().find_map(of)
    }

    /// How many points there are before `steps`.
    pub fn count_before(&self, steps: u64) -> u64 {
        self.parts.iter().map(|part| part.count_before(steps)).sum()
    }

    /// The last point before `steps`.
    pub fn last_before(&self, steps: u64) -> Option<u64> {
        let of = |part: &Part| {
            let count = part.count_before(steps);
            // At 0 there is none.
            let last = if part.from == 0 { count } else { count.saturating_sub(1) };
            (count > 0).then(|| part.from + last * part.every)
        };
        self.parts.iter().rev().find_map(of)
    }

    fn part(&self, step: u64) -> Option<&Part> {
        self.parts.iter().find(|part| (part.from..part.to).contains(&step))
    }
}

fn read(part: &str) -> Option<Part> {
    let (span, every) = part.trim().split_once(':')?;
    let (from, to) = span.split_once('-')?;
    Some(Part { from: from.parse().ok()?, to: to.parse().ok()?, every: every.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_a_schedule() {
        let table: [(Points, u64, &[u64]); 7] = [
            (Points::every(0), 100, &[]),
            (Points::every(40), 100, &[40, 80]),
            (Points::parse("0-1000:500,1000-10000:1000").unwrap(), 4000, &[500, 1000, 2000, 3000]),
            (Points::parse("0-10:4").unwrap(), 100, &[4, 8]),
            (Points::parse("10-20:4,30-40:5").unwrap(), 100, &[10, 14, 18, 30, 35]),
            (Points::parse(" 0-4:1, 4-8:2 ").unwrap(), 100, &[1, 2, 3, 4, 6]),
            (Points::parse("5-100:1000").unwrap(), 100, &[5]),
        ];
        for (points, steps, expected) in table {
            for steps in 0..=steps {
                let before: Vec<u64> = expected.iter().copied().filter(|point| *point < steps).collect();
                let found = (points.count_before(steps), points.last_before(steps));
                assert_eq!(found, (before.len() as u64, before.last().copied()), "{points:?} {steps}");
            }
            let due: Vec<u64> = (0..steps).filter(|step| points.due(*step)).collect();
            assert_eq!(due, expected, "{points:?}");
            for step in 0..100 {
                let next = expected.iter().copied().find(|point| *point > step);
                // What lies behind the table is not asked for.
                assert!(next.is_none() || points.after(step) == next, "{points:?} {step}");
            }
        }
        let points = Points::parse("0-1000:500,1000-10000:1000").unwrap();
        assert_eq!(
            (points.interval(999), points.interval(1000), points.interval(10_000)),
            (Some(500), Some(1000), None)
        );
        // Nothing is counted one by one.
        assert_eq!(Points::every(1).count_before(u64::MAX), u64::MAX - 1);
        assert_eq!((points.shortest(), Points::default().shortest()), (Some(500), None));
    }

    #[test]
    fn schedules_that_say_nothing_sensible_are_refused() {
        for (text, says) in [
            ("", "``"),
            ("500", "`500`"),
            ("0-10", "`0-10`"),
            ("0-x:5", "`0-x:5`"),
            ("0-10:5,", "``"),
            ("-1", "`-1`"),
            ("0-10:0", "every 0 steps"),
            ("10-10:5", "descends"),
            ("10-5:5", "descends"),
            ("0-10:5,9-20:5", "overlaps"),
            ("10-20:5,0-10:5", "overlaps or descends"),
        ] {
            let error = Points::parse(text).unwrap_err();
            assert!(error.to_string().contains(says), "{text}: {error}");
            assert!(error.find_hint().unwrap().contains("FROM-TO:EVERY"), "{text}");
        }
    }
}
