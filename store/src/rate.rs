//! Logic: how long to wait so that no more bytes a second are moved than allowed. A bucket that fills with time and is
//! emptied by moving them; it may go below empty, and whoever takes then waits until it is back.

use std::time::Duration;

/// Most seconds of the rate that the bucket saves up while nothing is moved.
const BURST_SECONDS: u64 = 1;

/// A limit on bytes a second. Times are since any fixed moment, and may stand still, but not run backwards.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate_bytes: u64,
    /// Up to when moving at the rate is paid for.
    paid_until: Duration,
}

impl Bucket {
    /// A full bucket. A rate of zero counts as one byte a second.
    #[must_use]
    pub fn new(rate_bytes: u64, now: Duration) -> Self {
        Self {
            rate_bytes: rate_bytes.max(1),
            paid_until: now.saturating_sub(Duration::from_secs(BURST_SECONDS)),
        }
    }

    /// Takes so many bytes; returns how long to wait before going on.
    pub fn take(&mut self, bytes: u64, now: Duration) -> Duration {
        let oldest = now.saturating_sub(Duration::from_secs(BURST_SECONDS));
        let seconds = bytes as f64 / self.rate_bytes as f64;
        // What no clock can hold is as good as for ever.
        let cost = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        self.paid_until = self.paid_until.max(oldest).saturating_add(cost);
        self.paid_until.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::from_secs(1_000);

    #[test]
    fn a_second_is_free_and_then_the_rate_holds() {
        let mut bucket = Bucket::new(1_000, START);
        assert_eq!(bucket.take(1_000, START), Duration::ZERO);
        assert_eq!(bucket.take(500, START), Duration::from_millis(500));
        assert_eq!(bucket.take(0, START + Duration::from_millis(500)), Duration::ZERO);
        assert_eq!(bucket.take(0, START + Duration::from_secs(100)), Duration::ZERO);
        // A long rest saves up no more than a second.
        assert_eq!(bucket.take(3_000, START + Duration::from_secs(100)), Duration::from_secs(2));
    }

    #[test]
    fn nothing_overflows() {
        let mut bucket = Bucket::new(0, Duration::ZERO);
        bucket.take(u64::MAX, Duration::ZERO);
        bucket.take(u64::MAX, Duration::MAX);
        assert!(bucket.take(1, Duration::ZERO) > Duration::from_secs(1 << 40));
    }

    proptest! {
        /// Who waits as told reads no more than the rate and the burst, and no less while he never rests.
        #[test]
        fn who_waits_as_told_keeps_to_the_rate(
            rate in 1_u64..1 << 30,
            parts in proptest::collection::vec((1_u64..1 << 20, 0_u64..50), 1..200),
        ) {
            let (mut bucket, mut now, mut taken) = (Bucket::new(rate, START), START, 0);
            for (bytes, work_ms) in parts {
                now += Duration::from_millis(work_ms);
                now += bucket.take(bytes, now);
                taken += bytes;
                let allowed = (now - START).as_secs_f64().mul_add(rate as f64, rate as f64 * BURST_SECONDS as f64);
                prop_assert!(taken as f64 <= allowed * 1.000_001 + 1.0, "{taken} of {allowed}");
            }
        }
    }
}
