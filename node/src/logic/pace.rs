//! How often the snapshots that a guest asks for are begun.

use std::time::Duration;

use super::SnapshotToken;
use crate::limits::{ASKED_GAP_MAX, ASKED_GAP_MIN, ASKED_GAP_SHARE};

/// Puts the snapshots that a guest asks for off until some time after the last one was done, so that a guest that asks
/// without pause can't keep itself, and a core of the host, at nothing but snapshots. Whatever was asked meanwhile is
/// answered by one.
#[derive(Debug)]
pub struct AskedPace {
    gap_ms: u64,
    not_before_ms: u64,
    /// The newest one asked for. One that is begun with it answers all before.
    wanted: Option<SnapshotToken>,
    /// The one that was begun, until it is said what became of it.
    under_way: Option<SnapshotToken>,
}

impl AskedPace {
    /// For a VM of which a snapshot is taken every `interval` in any case.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        let gap = (interval / ASKED_GAP_SHARE).clamp(ASKED_GAP_MIN, ASKED_GAP_MAX);
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        Self { gap_ms, not_before_ms: 0, wanted: None, under_way: None }
    }

    /// The guest asks for one.
    pub fn ask(&mut self, token: SnapshotToken) {
        self.wanted = self.wanted.max(Some(token));
    }

    /// The one that is to be begun now, if there is one. [`AskedPace::done`] follows.
    pub fn begin(&mut self, now_ms: u64) -> Option<SnapshotToken> {
        if self.under_way.is_some() || now_ms < self.not_before_ms {
            return None;
        }
        self.under_way = self.wanted.take();
        self.under_way
    }

    /// The one that was begun is taken, or not.
    pub fn done(&mut self, now_ms: u64) {
        self.under_way = None;
        self.not_before_ms = now_ms.saturating_add(self.gap_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest that wrote `{"ask":"snapshot"}` without pause had 13 snapshots a second, and a core of the host.
    #[test]
    fn a_guest_that_asks_without_pause_gets_one_snapshot_a_gap() {
        let mut pace = AskedPace::new(Duration::from_secs(1));
        let (mut begun, mut answered) = (Vec::new(), 0);
        for now_ms in 0..10_000 {
            pace.ask(now_ms + 1);
            if let Some(token) = pace.begin(now_ms) {
                // It covers all that asked up to now, and none is begun with an older token again.
                assert_eq!(token, now_ms + 1);
                assert!(token > answered);
                answered = token;
                begun.push(now_ms);
                pace.done(now_ms + 50);
            }
        }
        assert_eq!(begun.len(), 34, "one every 300 ms: {begun:?}");
        assert!(begun.windows(2).all(|pair| pair[1] - pair[0] == 300));
    }

    #[test]
    fn a_single_question_does_not_wait_and_those_while_one_is_under_way_share_the_next() {
        let mut pace = AskedPace::new(Duration::from_secs(1));
        pace.ask(1);
        assert_eq!(pace.begin(5_000), Some(1));
        // One that is under way was begun before these.
        pace.ask(2);
        pace.ask(3);
        assert_eq!(pace.begin(5_400), None);
        pace.done(5_400);
        assert_eq!(pace.begin(5_649), None);
        assert_eq!(pace.begin(5_650), Some(3));
        pace.done(5_700);
        assert_eq!(pace.begin(9_000), None, "nobody asks any more");
    }

    #[test]
    fn the_gap_is_bounded_for_very_short_and_very_long_intervals() {
        assert_eq!(AskedPace::new(Duration::from_millis(20)).gap_ms, 50);
        assert_eq!(AskedPace::new(Duration::from_secs(3_600)).gap_ms, 1_000);
    }
}
