//! Logic: when a node scrubs its store, how fast, and when it tries again to have a bad pack sent.

use std::collections::BTreeMap;

use sustain_proto::PackId;

use crate::limits;

/// What is known of earlier passes, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Passes {
    /// When the pass began that has not ended.
    pub(super) began_ms: Option<u64>,
    /// When the last one ended.
    pub(super) full_ms: Option<u64>,
}

/// Bytes a second of a pass over so many bytes that is to be there every so often: it takes half of that time, but no
/// longer than it takes at the slowest pace, and is never faster than allowed.
pub(super) fn rate(bytes: u64, every_ms: u64, rate_max: u64) -> u64 {
    let even = u128::from(bytes) * 2_000 / u128::from(every_ms.max(1));
    u64::try_from(even).unwrap_or(u64::MAX).max(limits::SCRUB_RATE_MIN).min(rate_max)
}

/// How long to wait for the next pass over so many bytes. One that was cut short goes on at once, and a clock that was
/// wrong makes nobody wait for longer than a cycle.
pub(super) fn wait_ms(passes: Passes, bytes: u64, (every_ms, rate_max): (u64, u64), now_ms: u64) -> u64 {
    let Passes { began_ms: None, full_ms: Some(full_ms) } = passes else { return 0 };
    let takes = u128::from(bytes) * 1_000 / u128::from(rate(bytes, every_ms, rate_max).max(1));
    let rest = every_ms.saturating_sub(u64::try_from(takes).unwrap_or(u64::MAX));
    full_ms.saturating_add(rest).saturating_sub(now_ms).min(every_ms)
}

/// When each bad pack is asked for next. Times are of a clock that only goes forward.
#[derive(Debug, Default)]
pub(super) struct Retries(BTreeMap<PackId, (u64, u64)>);

impl Retries {
    /// Those of these packs that are due. The others that are known are forgotten: they are bad no longer.
    pub(super) fn due(&mut self, bad: &[PackId], now_ms: u64) -> Vec<PackId> {
        self.0.retain(|id, _| bad.contains(id));
        let is_due = |id: &&PackId| self.0.get(id).is_none_or(|(at_ms, _)| *at_ms <= now_ms);
        bad.iter().filter(is_due).copied().collect()
    }

    /// Nobody gave it: it is tried again after a while, which grows. Whether that was the first try.
    pub(super) fn failed(&mut self, id: PackId, now_ms: u64) -> bool {
        let first = u64::try_from(limits::SCRUB_MEND_RETRY_MIN.as_millis()).unwrap_or(u64::MAX);
        let most = u64::try_from(limits::SCRUB_MEND_RETRY_MAX.as_millis()).unwrap_or(u64::MAX);
        let before = self.0.get(&id).map(|(_, pause)| *pause);
        let pause = before.map_or(first, |pause| pause.saturating_mul(2).min(most));
        self.0.insert(id, (now_ms.saturating_add(pause), pause));
        before.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const WEEK: (u64, u64) = (7 * DAY_MS, 8 << 20);

    #[test]
    fn a_large_store_is_gone_through_in_half_the_time_and_a_small_one_at_the_slowest_pace() {
        let bytes = 1 << 40;
        let even = rate(bytes, WEEK.0, WEEK.1);
        let takes_ms = bytes * 1_000 / even;
        assert!(takes_ms.abs_diff(WEEK.0 / 2) < 60_000, "{takes_ms}");
        assert_eq!(rate(1 << 20, WEEK.0, WEEK.1), limits::SCRUB_RATE_MIN);
        assert_eq!(rate(u64::MAX, WEEK.0, WEEK.1), WEEK.1, "never faster than allowed");
        assert_eq!(rate(u64::MAX, 0, 1_000), 1_000, "also where that is slower than the slowest pace");
    }

    #[test]
    fn passes_are_a_cycle_apart_from_end_to_end() {
        let ended = Passes { began_ms: None, full_ms: Some(100 * DAY_MS) };
        let bytes = 1 << 40;
        let rest = wait_ms(ended, bytes, WEEK, 100 * DAY_MS);
        assert!(rest.abs_diff(WEEK.0 / 2) < 60_000, "{rest}");
        assert_eq!(wait_ms(ended, bytes, WEEK, 104 * DAY_MS), 0);
        assert_eq!(wait_ms(ended, 0, WEEK, 101 * DAY_MS), 6 * DAY_MS);
        assert_eq!(wait_ms(ended, 0, WEEK, 3 * DAY_MS), WEEK.0, "the clock was wrong");
    }

    #[test]
    fn the_first_pass_begins_at_once_and_one_that_was_cut_short_goes_on() {
        assert_eq!(wait_ms(Passes::default(), 5, WEEK, 1), 0);
        assert_eq!(wait_ms(Passes { began_ms: Some(5), full_ms: Some(4) }, 5, WEEK, 6), 0);
    }

    #[test]
    fn what_nobody_gives_is_asked_for_less_and_less_often_until_it_is_here() {
        let (mut retries, pack) = (Retries::default(), PackId::from_bytes([1; 32]));
        assert_eq!(retries.due(&[pack], 0), [pack]);
        assert!(retries.failed(pack, 0));
        let (mut now_ms, mut pauses) = (0, Vec::new());
        for _ in 0..20 {
            let since = now_ms;
            while retries.due(&[pack], now_ms).is_empty() {
                now_ms += 1_000;
            }
            pauses.push(now_ms - since);
            assert!(!retries.failed(pack, now_ms));
        }
        assert!(pauses.is_sorted());
        assert_eq!(u128::from(*pauses.last().unwrap()), limits::SCRUB_MEND_RETRY_MAX.as_millis());
        assert_eq!(retries.due(&[], now_ms), []);
        assert_eq!(retries.due(&[pack], now_ms), [pack], "it went bad anew");
    }
}
