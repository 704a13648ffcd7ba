//! Logic: what one peer has shown so far of its speed and manners.

use sustain_proto::limits::GROUP_BYTES;

/// How long an order is to take a peer: long enough that the next one is there before it is done with this one, and
/// short enough that what a peer owes that turns slow is little.
const ORDER_MS: f64 = 300.0;

/// Groups of an order to a peer whose speed is not known.
const FIRST_GROUPS: usize = 4;

/// Fewer bytes say nothing of a peer's speed, unless they take long.
const MEASURED_BYTES: u64 = 256 << 10;

/// See [`MEASURED_BYTES`].
const MEASURED_MS: u64 = 50;

/// Pause after the first failure of a row; doubled after each further one.
const PAUSE_MS: u64 = 100;

/// Longest pause.
const PAUSE_MS_MAX: u64 = 2_000;

#[derive(Debug, Default)]
pub(super) struct PeerState {
    /// Orders under way.
    pub(super) orders: usize,
    /// Of those, orders of lists.
    pub(super) lists: usize,
    /// It sent something else than it was asked for.
    pub(super) lied: bool,
    /// Orders in a row in which nothing came.
    pub(super) failures: u32,
    /// It is not asked before this time.
    pub(super) pause_until_ms: u64,
    /// Bytes a millisecond, if that is known.
    pub(super) rate: Option<f64>,
    /// What orders yielded that were too small to say anything by themselves, and the time that they took.
    measured_bytes: u64,
    measured_ms: u64,
    /// When its last order ended.
    ended_ms: u64,
}

impl PeerState {
    /// Something came.
    pub(super) fn moved(&mut self) {
        self.failures = 0;
    }

    /// Nothing came of an order.
    pub(super) fn failed(&mut self, now_ms: u64) {
        let pause_ms = PAUSE_MS.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MS_MAX);
        self.failures = self.failures.saturating_add(1);
        self.pause_until_ms = now_ms.saturating_add(pause_ms);
    }

    /// An order of groups ended that was placed at this time, after so many bytes.
    pub(super) fn measure(&mut self, begun_ms: u64, bytes: u64, now_ms: u64) {
        // Before that it was busy with the one before.
        let took_ms = now_ms.saturating_sub(begun_ms.max(self.ended_ms));
        self.ended_ms = now_ms;
        self.measured_bytes += bytes;
        self.measured_ms += took_ms;
        // What is little says more of the way there and back than of the peer's speed.
        if self.measured_bytes >= MEASURED_BYTES
            || (self.measured_bytes > 0 && self.measured_ms >= MEASURED_MS)
        {
            let sample = self.measured_bytes as f64 / self.measured_ms.max(1) as f64;
            self.rate = Some(self.rate.map_or(sample, |rate| 0.6 * rate + 0.4 * sample));
            (self.measured_bytes, self.measured_ms) = (0, 0);
        }
    }

    /// How many groups its next order should have, of at most so many.
    pub(super) fn groups(&self, groups_max: usize) -> usize {
        let Some(rate) = self.rate else { return FIRST_GROUPS.min(groups_max) };
        ((rate * ORDER_MS) as u64 / GROUP_BYTES).clamp(1, groups_max as u64) as usize
    }

    /// How many orders it may have at once, of at most so many: one until its speed is known.
    pub(super) fn orders(&self, orders_max: usize) -> usize {
        if self.rate.is_some() { orders_max } else { 1 }
    }

    /// How long it takes for so many bytes, if that is known.
    pub(super) fn needs_ms(&self, bytes: u64) -> Option<f64> {
        self.rate.map(|rate| bytes as f64 / rate.max(0.001))
    }
}
