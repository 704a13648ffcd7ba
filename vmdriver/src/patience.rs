//! A wait that ends after a time in which this process could have acted.
//!
//! When a whole host is stalled (suspended, swapping, out of processor time), this process and the one that it waits
//! for stand still together. A plain deadline would then have passed before the other could answer. So time
//! is counted in short steps, and a step that took far longer than it should have counts as a short one.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long one step of waiting may be.
pub(crate) const STEP: Duration = Duration::from_millis(250);

/// Most that the time between two looks counts: a step, and as much again for a busy host.
const COUNTED_MAX: Duration = Duration::from_millis(500);

/// What is left of a wait.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Cell<Duration>,
    looked: Cell<Instant>,
}

impl Patience {
    /// A wait of this length, from now on.
    pub(crate) fn new(timeout: Duration, now: Instant) -> Self {
        Self { left: Cell::new(timeout), looked: Cell::new(now) }
    }

    /// What is left. To be asked at least once in each [`STEP`].
    pub(crate) fn left(&self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.looked.replace(now)).min(COUNTED_MAX);
        self.left.set(self.left.get().saturating_sub(passed));
        self.left.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_host_costs_little_of_a_wait_and_time_passes_all_the_same() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let patience = Patience::new(Duration::from_secs(10), start);
        assert_eq!(patience.left(at(250)), Duration::from_millis(9_750));
        // An hour of standing still.
        assert_eq!(patience.left(at(3_600_250)), Duration::from_millis(9_250));
        for step in 1..=37 {
            assert!(patience.left(at(3_600_250 + step * 250)) > Duration::ZERO || step == 37);
        }
        assert_eq!(patience.left(at(3_600_250 + 37 * 250)), Duration::ZERO);
        // The clock of `Instant` never goes back; two looks may be at the same moment.
        assert_eq!(patience.left(start), Duration::ZERO);
    }
}
