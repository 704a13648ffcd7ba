//! Logic: when a generation has grown so much that it is to end (P10).

use serde::Serialize;

use crate::limits;

/// When a generation ends. Whichever comes first ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebasePolicy {
    /// Once it has so many deltas.
    pub deltas: u32,
    /// Once the deltas since the base take more than this share of the base's bytes, in percent.
    pub delta_percent: u32,
    /// Once more than this share of what is needed is not needed, in percent. A rebase keeps a pack of the base as it
    /// is as long as no more of it is dead.
    pub dead_percent: u32,
}

impl Default for RebasePolicy {
    fn default() -> Self {
        Self {
            deltas: limits::REBASE_DELTAS,
            delta_percent: limits::REBASE_DELTA_PERCENT,
            dead_percent: limits::REBASE_DEAD_PERCENT,
        }
    }
}

/// How far a generation has grown. Bytes are those of pack files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Growth {
    /// Deltas that continue the base.
    pub deltas: u32,
    /// What the base lists.
    pub base_bytes: u64,
    /// What the deltas that continue the base list besides.
    pub delta_bytes: u64,
    /// What those snapshots list that are to stay.
    pub live_bytes: u64,
    /// What only other ones list.
    pub dead_bytes: u64,
    /// The service's key is another one than the generation's.
    pub changes_key: bool,
}

/// Why a generation is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// The number of its deltas.
    Deltas,
    /// What its deltas take.
    DeltaBytes,
    /// What nobody needs of it.
    DeadBytes,
    /// Its key, which was changed.
    Key,
}

impl Trigger {
    /// In a few words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Deltas => "it has as many deltas as it may",
            Self::DeltaBytes => "its deltas take too much beside the base",
            Self::DeadBytes => "too much of it is needed by nobody",
            Self::Key => "the service's key was changed",
        }
    }
}

impl RebasePolicy {
    /// Whether a generation is to end, and why.
    #[must_use]
    pub fn due(&self, growth: &Growth) -> Option<Trigger> {
        if growth.changes_key {
            return Some(Trigger::Key);
        }
        if growth.deltas == 0 {
            return None;
        }
        if growth.deltas >= self.deltas {
            return Some(Trigger::Deltas);
        }
        let exceeds = |bytes: u64, percent: u32, of: u64| {
            bytes >= limits::REBASE_BYTES_MIN && is_over(bytes, percent, of)
        };
        if exceeds(growth.delta_bytes, self.delta_percent, growth.base_bytes) {
            return Some(Trigger::DeltaBytes);
        }
        exceeds(growth.dead_bytes, self.dead_percent, growth.live_bytes).then_some(Trigger::DeadBytes)
    }

    /// Whether a pack of which so many bytes are needed is worth keeping as it is.
    pub(crate) fn keeps(&self, live_bytes: u64, pack_bytes: u64) -> bool {
        live_bytes > 0 && !is_over(pack_bytes.saturating_sub(live_bytes), self.dead_percent, live_bytes)
    }
}

fn is_over(bytes: u64, percent: u32, of: u64) -> bool {
    u128::from(bytes) * 100 > u128::from(of) * u128::from(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn growth(deltas: u32, delta_bytes: u64, dead_bytes: u64) -> Growth {
        Growth {
            deltas,
            base_bytes: 100 * MIB,
            delta_bytes,
            live_bytes: 120 * MIB,
            dead_bytes,
            changes_key: false,
        }
    }

    #[test]
    fn each_measure_ends_a_generation_by_itself() {
        let policy = RebasePolicy { deltas: 60, delta_percent: 100, dead_percent: 50 };
        assert_eq!(policy.due(&growth(59, 100 * MIB, 60 * MIB)), None);
        assert_eq!(policy.due(&growth(60, 0, 0)), Some(Trigger::Deltas));
        assert_eq!(policy.due(&growth(1, 100 * MIB + 1, 0)), Some(Trigger::DeltaBytes));
        assert_eq!(policy.due(&growth(1, 0, 60 * MIB + 1)), Some(Trigger::DeadBytes));
        let changed = Growth { changes_key: true, ..growth(0, 0, 0) };
        assert_eq!(policy.due(&changed), Some(Trigger::Key));
    }

    #[test]
    fn a_base_alone_and_what_is_small_are_left_alone() {
        let policy = RebasePolicy { deltas: 60, delta_percent: 0, dead_percent: 0 };
        assert_eq!(policy.due(&growth(0, u64::MAX, u64::MAX)), None);
        assert_eq!(policy.due(&growth(1, limits::REBASE_BYTES_MIN - 1, 0)), None);
        assert_eq!(policy.due(&growth(1, limits::REBASE_BYTES_MIN, 0)), Some(Trigger::DeltaBytes));
    }

    #[test]
    fn a_pack_stays_until_its_dead_share_is_over_the_policys() {
        let policy = RebasePolicy::default();
        assert!(policy.keeps(50, 100) && !policy.keeps(49, 100) && !policy.keeps(0, 0));
        let strict = RebasePolicy { dead_percent: 0, ..policy };
        assert!(strict.keeps(100, 100) && !strict.keeps(99, 100));
    }
}
