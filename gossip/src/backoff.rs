//! Logic: how long to wait before the next attempt.

use rand::Rng;

/// Pauses that double from a least to a greatest one, shortened at random by up to a half, so that nodes
/// that failed together don't try again together. There is no last attempt.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    ms_min: u64,
    ms_max: u64,
    ms_next: u64,
}

impl Backoff {
    pub(crate) fn new(ms_min: u64, ms_max: u64) -> Self {
        let ms_min = ms_min.max(1);
        Self { ms_min, ms_max: ms_max.max(ms_min), ms_next: ms_min }
    }

    /// An attempt failed: how long to pause.
    pub(crate) fn failed(&mut self, random: &mut impl Rng) -> u64 {
        let pause_ms = self.ms_next;
        self.ms_next = (pause_ms.saturating_mul(2)).min(self.ms_max);
        random.random_range(pause_ms.div_ceil(2)..=pause_ms)
    }

    /// An attempt succeeded: begin anew.
    pub(crate) fn succeeded(&mut self) {
        self.ms_next = self.ms_min;
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_begin_anew() {
        let mut random = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(50, 1_000);
        let mut expected = 50;
        for _ in 0..1_000 {
            let pause_ms = backoff.failed(&mut random);
            assert!((expected / 2..=expected).contains(&pause_ms), "{pause_ms} for {expected}");
            expected = (expected * 2).min(1_000);
        }
        assert_eq!(expected, 1_000);
        backoff.succeeded();
        assert!(backoff.failed(&mut random) <= 50);
    }

    #[test]
    fn pauses_differ_between_nodes() {
        let pauses: std::collections::BTreeSet<u64> =
            (0..50).map(|seed| Backoff::new(1_000, 1_000).failed(&mut StdRng::seed_from_u64(seed))).collect();
        assert!(pauses.len() > 25, "{pauses:?}");
    }
}
