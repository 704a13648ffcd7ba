//! Logic: how often something may happen: so many times at once, and so many a second in the long run.

/// What is left of an allowance.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    per_minute: u64,
    burst: u64,
    /// In parts of which 60,000 make one time.
    left: u64,
    at_ms: u64,
}

const ONE: u64 = 60_000;

impl Pace {
    /// `burst` times at once, and `per_minute` in the long run.
    pub(crate) fn new(burst: u64, per_minute: u64, now_ms: u64) -> Self {
        Self { per_minute, burst, left: burst * ONE, at_ms: now_ms }
    }

    /// Whether it may happen now; if so it counts.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        let since_ms = now_ms.saturating_sub(self.at_ms);
        self.left = self.left.saturating_add(since_ms.saturating_mul(self.per_minute)).min(self.burst * ONE);
        self.at_ms = self.at_ms.max(now_ms);
        let may = self.left >= ONE;
        if may {
            self.left -= ONE;
        }
        may
    }

    /// Whether nothing is used up, so that a new one would be the same.
    pub(crate) fn is_full(&self, now_ms: u64) -> bool {
        let since_ms = now_ms.saturating_sub(self.at_ms);
        self.left.saturating_add(since_ms.saturating_mul(self.per_minute)) >= self.burst * ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_so_many_a_minute() {
        let mut pace = Pace::new(4, 6, 1_000);
        assert_eq!((0..10).filter(|_| pace.take(1_000)).count(), 4);
        assert!(!pace.is_full(1_000));
        let hour = (0..3_600).filter(|second| pace.take(1_000 + second * 1_000)).count();
        assert_eq!(hour, 6 * 60 - 1);
        assert!(pace.is_full(10_000_000) && pace.take(10_000_000));
        assert!(pace.take(0), "a clock that goes back takes nothing away");
    }
}
