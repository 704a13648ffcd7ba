//! Logic: which older snapshots a service's retention keeps.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use sustain_proto::SnapshotId;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How many older snapshots are kept. The rules add up; what none of them keeps goes at the next rebase.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// So many of the newest.
    pub keep_last: u32,
    /// The newest one of each of so many hours in which there are any, the latest ones.
    pub keep_hourly: u32,
    /// The same with days, in UTC.
    pub keep_daily: u32,
}

impl Retention {
    /// No rule says that anything may go.
    pub const EVERYTHING: Self = Self { keep_last: u32::MAX, keep_hourly: 0, keep_daily: 0 };

    /// Only what other reasons keep.
    pub const NOTHING: Self = Self { keep_last: 0, keep_hourly: 0, keep_daily: 0 };
}

/// A rule of a retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// It is one of the newest.
    KeepLast,
    /// It is the newest of its hour.
    KeepHourly,
    /// It is the newest of its day.
    KeepDaily,
    /// Nothing may go.
    KeepAll,
}

/// A snapshot as retention sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dated {
    /// Its id.
    pub id: SnapshotId,
    /// Its number: of one line, greater is newer, whatever the clocks said.
    pub seq: u64,
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: u64,
}

impl Retention {
    /// Which snapshots of one line are kept, and by which rules, at this time. A snapshot from a clock that was ahead
    /// counts as one of `now_ms`: it must not take the place of later hours' and days'.
    #[must_use]
    pub fn keeps(&self, line: &[Dated], now_ms: u64) -> BTreeMap<SnapshotId, BTreeSet<Rule>> {
        let mut newest_first = line.to_vec();
        newest_first.sort_by_key(|snapshot| std::cmp::Reverse((snapshot.seq, snapshot.id)));
        let mut kept: BTreeMap<SnapshotId, BTreeSet<Rule>> = BTreeMap::new();
        let mut keep = |id, rule| {
            kept.entry(id).or_default().insert(rule);
        };
        let last = usize::try_from(self.keep_last).unwrap_or(usize::MAX);
        let rule = if *self == Self::EVERYTHING { Rule::KeepAll } else { Rule::KeepLast };
        newest_first.iter().take(last).for_each(|snapshot| keep(snapshot.id, rule));
        let periods =
            [(Rule::KeepHourly, self.keep_hourly, HOUR_MS), (Rule::KeepDaily, self.keep_daily, DAY_MS)];
        for (rule, count, period_ms) in periods {
            let mut newest_of: BTreeMap<u64, SnapshotId> = BTreeMap::new();
            for snapshot in &newest_first {
                newest_of.entry(snapshot.time_ms.min(now_ms) / period_ms).or_insert(snapshot.id);
            }
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            newest_of.values().rev().take(count).for_each(|id| keep(*id, rule));
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dated(seq: u64, time_ms: u64) -> Dated {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&seq.to_be_bytes());
        Dated { id: SnapshotId::from_bytes(id), seq, time_ms }
    }

    fn seqs(retention: Retention, line: &[Dated], now_ms: u64) -> Vec<u64> {
        let kept = retention.keeps(line, now_ms);
        line.iter().filter(|snapshot| kept.contains_key(&snapshot.id)).map(|snapshot| snapshot.seq).collect()
    }

    #[test]
    fn each_rule_keeps_its_own_and_they_add_up() {
        // Every twenty minutes for three days.
        let line: Vec<_> = (0..216).map(|number| dated(number, number * HOUR_MS / 3)).collect();
        let now_ms = 3 * DAY_MS;
        let only = |keep_last, keep_hourly, keep_daily| Retention { keep_last, keep_hourly, keep_daily };
        assert_eq!(seqs(Retention::NOTHING, &line, now_ms), Vec::<u64>::new());
        assert_eq!(seqs(only(2, 0, 0), &line, now_ms), [214, 215]);
        assert_eq!(seqs(only(0, 3, 0), &line, now_ms), [209, 212, 215]);
        assert_eq!(seqs(only(0, 0, 9), &line, now_ms), [71, 143, 215]);
        assert_eq!(seqs(only(2, 2, 2), &line, now_ms), [143, 212, 214, 215]);
        let why = only(1, 1, 1).keeps(&line, now_ms);
        assert_eq!(why[&line[215].id], [Rule::KeepLast, Rule::KeepHourly, Rule::KeepDaily].into());
        assert_eq!(seqs(Retention::EVERYTHING, &line, now_ms).len(), line.len());
    }

    /// Hours in which nothing was taken do not count: a service that stood still for a week keeps its last hours.
    #[test]
    fn hours_without_snapshots_use_up_nothing() {
        let line = [dated(1, HOUR_MS), dated(2, 2 * HOUR_MS), dated(3, 500 * HOUR_MS)];
        let retention = Retention { keep_hourly: 3, ..Retention::NOTHING };
        assert_eq!(seqs(retention, &line, 900 * HOUR_MS), [1, 2, 3]);
    }

    /// A server's clock was a year ahead for a while.
    #[test]
    fn a_clock_that_was_ahead_crowds_nobody_out() {
        let line: Vec<_> = (0..50)
            .map(|number| {
                dated(number, if number < 40 { (9_000 + number) * HOUR_MS } else { number * HOUR_MS })
            })
            .collect();
        let retention = Retention { keep_hourly: 3, ..Retention::NOTHING };
        assert_eq!(seqs(retention, &line, 49 * HOUR_MS), [47, 48, 49]);
    }

    proptest! {
        #[test]
        fn no_more_is_kept_than_the_rules_say_and_the_newest_always_is(
            times in prop::collection::vec(0..200 * HOUR_MS, 1..60),
            (keep_last, keep_hourly, keep_daily) in (0..9_u32, 0..9_u32, 0..9_u32),
            now_ms in 0..200 * HOUR_MS,
        ) {
            let line: Vec<_> = (0..).zip(&times).map(|(seq, time_ms)| dated(seq, *time_ms)).collect();
            let retention = Retention { keep_last, keep_hourly, keep_daily };
            let kept = retention.keeps(&line, now_ms);
            prop_assert!(kept.len() <= (keep_last + keep_hourly + keep_daily) as usize);
            for (rule, limit) in [
                (Rule::KeepLast, keep_last),
                (Rule::KeepHourly, keep_hourly),
                (Rule::KeepDaily, keep_daily),
            ] {
                let by_rule = kept.values().filter(|rules| rules.contains(&rule)).count();
                prop_assert!(by_rule <= limit as usize);
            }
            if keep_last > 0 {
                prop_assert!(kept.contains_key(&line[line.len() - 1].id));
            }
        }
    }
}
