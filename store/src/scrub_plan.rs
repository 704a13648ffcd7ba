//! Logic: which packs are checked next, and in which order, given when each was checked last.

use serde::{Deserialize, Serialize};
use sustain_proto::PackId;

/// How many packs are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sample {
    /// So many.
    Packs(u64),
    /// So many of ten thousand, rounded up to a whole pack.
    TenThousandths(u32),
}

impl Sample {
    /// How many that is of so many.
    #[must_use]
    pub fn of(self, packs: u64) -> u64 {
        match self {
            Self::Packs(count) => count.min(packs),
            Self::TenThousandths(share) => {
                let share = u128::from(packs) * u128::from(share.min(10_000));
                // At most `packs`.
                share.div_ceil(10_000) as u64
            }
        }
    }
}

/// A pack that may be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: PackId,
    /// When it was found good last, in milliseconds since 1970.
    pub(crate) checked_ms: Option<u64>,
}

/// All of them, those that were checked longest ago first. What is said to have been checked in the future counts as
/// never: the clock was wrong then.
pub(crate) fn in_turn(mut candidates: Vec<Candidate>, now_ms: u64, seed: u64) -> Vec<PackId> {
    candidates.sort_by_cached_key(|candidate| {
        (candidate.checked_ms.filter(|ms| *ms <= now_ms), shuffled(&candidate.id, seed))
    });
    candidates.into_iter().map(|candidate| candidate.id).collect()
}

/// A sample: half of it those that were checked longest ago, so that repeated samples cover all; the other half at
/// random among the rest, so that nothing is safe for long.
pub(crate) fn sample(candidates: Vec<Candidate>, how_many: Sample, now_ms: u64, seed: u64) -> Vec<PackId> {
    let count = how_many.of(candidates.len() as u64) as usize;
    let mut order = in_turn(candidates, now_ms, seed);
    let rest = order.split_off(count.div_ceil(2));
    let mut rest: Vec<([u8; 32], PackId)> = rest.into_iter().map(|id| (shuffled(&id, seed), id)).collect();
    rest.sort_unstable();
    order.extend(rest.into_iter().take(count / 2).map(|(_, id)| id));
    order
}

/// Sorts packs in an order that depends on the seed alone.
fn shuffled(id: &PackId, seed: u64) -> [u8; 32] {
    *blake3::Hasher::new().update(&seed.to_le_bytes()).update(id.as_bytes()).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn pack(number: u32) -> PackId {
        PackId::from_bytes(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn candidates(checked: &BTreeMap<PackId, u64>, packs: u32) -> Vec<Candidate> {
        let candidate = |id: PackId| Candidate { id, checked_ms: checked.get(&id).copied() };
        (0..packs).map(pack).map(candidate).collect()
    }

    #[test]
    fn shares_are_rounded_up_and_never_more_than_all() {
        assert_eq!(Sample::TenThousandths(500).of(1_000), 50);
        assert_eq!(Sample::TenThousandths(500).of(1), 1);
        assert_eq!(Sample::TenThousandths(u32::MAX).of(7), 7);
        assert_eq!(Sample::TenThousandths(10_000).of(u64::MAX), u64::MAX);
        assert_eq!(Sample::Packs(9).of(7), 7);
        assert_eq!(Sample::Packs(0).of(7), 0);
    }

    #[test]
    fn longest_ago_comes_first_and_never_before_that() {
        let checked = BTreeMap::from([(pack(0), 30), (pack(1), 10), (pack(3), 20), (pack(4), 1_000)]);
        let order = in_turn(candidates(&checked, 5), 100, 7);
        assert_eq!(order[2..], [pack(1), pack(3), pack(0)]);
        let unknown: BTreeSet<_> = order[..2].iter().copied().collect();
        assert_eq!(unknown, BTreeSet::from([pack(2), pack(4)]), "the future counts as never");
    }

    #[test]
    fn other_seeds_draw_others() {
        let all = BTreeMap::new();
        let draw = |seed| sample(candidates(&all, 100), Sample::Packs(10), 1, seed);
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    proptest! {
        /// Whatever the seeds: in twice as many samples as it would take without chance, everything was checked.
        #[test]
        fn repeated_samples_cover_all(packs in 1_u32..60, count in 1_u64..20, seed in any::<u64>()) {
            let mut checked = BTreeMap::new();
            let rounds = u64::from(packs).div_ceil(count.min(u64::from(packs)).div_ceil(2));
            for round in 0..rounds {
                let drawn = sample(candidates(&checked, packs), Sample::Packs(count), round, seed ^ round);
                prop_assert_eq!(drawn.len() as u64, count.min(u64::from(packs)));
                let distinct: BTreeSet<_> = drawn.iter().collect();
                prop_assert_eq!(distinct.len(), drawn.len());
                checked.extend(drawn.into_iter().map(|id| (id, round)));
            }
            prop_assert_eq!(checked.len(), packs as usize);
        }
    }
}
