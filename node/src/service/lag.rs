//! That nothing new becomes durable is a problem, and says whose fault it is as far as peers have told.

use std::time::Duration;

use super::driver::Driver;
use super::trouble::Trouble;
use crate::limits;

/// When what is durable last grew, as far as this node's own reign is concerned.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct DurableGrowth {
    seq: u64,
    at_ms: u64,
}

impl DurableGrowth {
    /// For how long the newest durable snapshot has been behind the newest one; none if it is not.
    fn behind_ms(&mut self, (running, durable): (u64, u64), now_ms: u64) -> Option<u64> {
        if durable >= running || durable > self.seq {
            *self = Self { seq: durable, at_ms: now_ms };
        }
        (durable < running).then(|| now_ms.saturating_sub(self.at_ms))
    }
}

/// After this time without a durable snapshot people should know. Other nodes have a while to come back, and slow links
/// to send a base.
fn late_after(interval: Duration) -> Duration {
    (interval * limits::DURABLE_LATE_INTERVALS).max(limits::DURABLE_LATE_MIN)
}

impl Driver {
    /// Looks whether what is durable keeps up with what is taken.
    pub(super) fn note_lag(&mut self) {
        let now_ms = self.clock.now_ms();
        let reigning = self.machine.state().reign().and(self.machine.watermark());
        let Some((running, durable)) =
            reigning.map(|mark| (mark.running_seq, mark.durable.map_or(0, |(_, seq)| seq)))
        else {
            self.growth = DurableGrowth { seq: 0, at_ms: now_ms };
            self.weak_since_ms = None;
            return self.troubles.end(&[Trouble::Lag, Trouble::Level]);
        };
        self.note_level(now_ms);
        let behind_ms = self.growth.behind_ms((running, durable), now_ms);
        let late_ms = u64::try_from(late_after(self.interval).as_millis()).unwrap_or(u64::MAX);
        let Some(behind_ms) = behind_ms.filter(|behind_ms| *behind_ms > late_ms) else {
            return self.troubles.end(&[Trouble::Lag]);
        };
        let what = self.lag(behind_ms / 1_000);
        if !self.troubles.has(Trouble::Lag) {
            self.problem(what.clone());
        }
        self.troubles.begin(Trouble::Lag, what, now_ms);
    }

    /// Looks whether what is durable still survives what it is to: nodes may have been lost or removed since. A short
    /// absence is none.
    fn note_level(&mut self, now_ms: u64) {
        let durable = self.machine.watermark().filter(|mark| mark.durable.is_some());
        let Some(level) = durable.map(|mark| mark.level).filter(|level| *level < self.tolerance) else {
            self.weak_since_ms = None;
            return self.troubles.end(&[Trouble::Level]);
        };
        let since_ms = *self.weak_since_ms.get_or_insert(now_ms);
        let late_ms = u64::try_from(late_after(self.interval).as_millis()).unwrap_or(u64::MAX);
        if now_ms.saturating_sub(since_ms) <= late_ms {
            return;
        }
        let mut what = format!(
            "the newest durable snapshot survives the loss of {level} other nodes now, and is to survive that of {}",
            self.tolerance
        );
        what.push_str(&self.causes());
        if !self.troubles.has(Trouble::Level) {
            self.problem(what.clone());
        }
        self.troubles.begin(Trouble::Level, what, now_ms);
    }

    fn lag(&self, seconds: u64) -> String {
        let needed = self.tolerance.saturating_add(1);
        let causes = self.causes();
        format!("nothing new is durable for {seconds} s: fewer than {needed} other nodes have it{causes}")
    }

    /// Whose fault it is, as far as peers have told.
    fn causes(&self) -> String {
        let mut what = String::new();
        let peers = self.cluster.peers();
        let lost: Vec<_> =
            peers.iter().filter(|peer| !peer.reachable).map(|peer| peer.peer.name.as_str()).collect();
        if !lost.is_empty() {
            what.push_str(&format!("; lost: {}", lost.join(", ")));
        }
        for peer in peers.iter().filter(|peer| peer.reachable) {
            if let Some(reason) = &peer.refuses {
                what.push_str(&format!("; {} does not take all: {reason}", peer.peer.name));
            }
        }
        what
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_up_or_is_caught_up_with_is_not_behind() {
        let mut growth = DurableGrowth::default();
        assert_eq!(growth.behind_ms((1, 1), 100), None);
        assert_eq!(growth.behind_ms((2, 1), 300), Some(200));
        assert_eq!(growth.behind_ms((3, 2), 900), Some(0), "it grows");
        assert_eq!(growth.behind_ms((9, 2), 9_900), Some(9_000));
        assert_eq!(growth.behind_ms((9, 9), 10_000), None);
        // A service that is idle is not behind since it was last busy.
        assert_eq!(growth.behind_ms((9, 9), 90_000), None);
        assert_eq!(growth.behind_ms((10, 9), 90_100), Some(100));
    }
}
