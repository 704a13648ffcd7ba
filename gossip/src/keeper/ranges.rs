//! Logic: which bytes of a part are here.

use serde::{Deserialize, Serialize};
use sustain_proto::bounded;

use crate::limits;

/// Ranges of bytes or of numbers, in order, that neither touch nor overlap. The end of a range is not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Told")]
pub struct Ranges(Vec<(u64, u64)>);

/// Ranges as somebody else says that they are.
#[derive(Deserialize)]
struct Told(#[serde(deserialize_with = "bounded::list::<_, _, { limits::RANGES_MAX }>")] Vec<(u64, u64)>);

impl TryFrom<Told> for Ranges {
    type Error = &'static str;

    fn try_from(told: Told) -> Result<Self, Self::Error> {
        let are_ranges = told.0.iter().all(|(start, end)| start < end);
        let are_apart = told.0.windows(2).all(|two| two[0].1 < two[1].0);
        if are_ranges && are_apart { Ok(Self(told.0)) } else { Err("ranges that are out of order") }
    }
}

impl Ranges {
    /// All of something with so many bytes.
    #[must_use]
    pub fn whole(bytes: u64) -> Self {
        if bytes == 0 { Self::default() } else { Self(vec![(0, bytes)]) }
    }

    /// One range.
    #[must_use]
    pub fn one(start: u64, end: u64) -> Self {
        if start < end { Self(vec![(start, end)]) } else { Self::default() }
    }

    /// Adds a range.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|range| range.1 < start);
        let last = self.0.partition_point(|range| range.0 <= end);
        let (mut from, mut to) = (start, end);
        if let Some(touched) = self.0.get(first..last).filter(|touched| !touched.is_empty()) {
            from = from.min(touched[0].0);
            to = to.max(touched[touched.len() - 1].1);
        }
        self.0.splice(first..last, [(from, to)]);
    }

    /// Takes a range away.
    pub fn remove(&mut self, start: u64, end: u64) {
        let cut = |range: &(u64, u64)| {
            let before = (range.0, range.1.min(start));
            let after = (range.0.max(end), range.1);
            [before, after].into_iter().filter(|(from, to)| from < to)
        };
        if start < end {
            self.0 = self.0.iter().flat_map(cut).collect();
        }
    }

    /// What is in this, and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = self.clone();
        for (start, end) in &other.0 {
            left.remove(*start, *end);
        }
        left
    }

    /// What is in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        self.without(&self.without(other))
    }

    /// The first bytes of it, at most so many, in one range; those after `from` go first.
    #[must_use]
    pub fn take(&self, from: u64, bytes_max: u64) -> Option<(u64, u64)> {
        let clip = |(start, end): (u64, u64)| (start, end.min(start.saturating_add(bytes_max)));
        let after = self.0.iter().find(|range| range.1 > from).map(|range| (range.0.max(from), range.1));
        after.or_else(|| self.0.first().copied()).map(clip)
    }

    /// Whether all of something with so many bytes is in it.
    #[must_use]
    pub fn is_whole(&self, bytes: u64) -> bool {
        bytes == 0 || self.0.first().is_some_and(|range| range.0 == 0 && range.1 >= bytes)
    }

    /// Whether a number is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|range| range.1 <= number);
        self.0.get(after).is_some_and(|range| range.0 <= number)
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// How many ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The first so many ranges.
    pub fn truncate(&mut self, ranges_max: usize) {
        self.0.truncate(ranges_max);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bits(ranges: &Ranges) -> Vec<bool> {
        (0..40).map(|at| ranges.iter().any(|(start, end)| start <= at && at < end)).collect()
    }

    proptest! {
        #[test]
        fn ranges_are_sets(steps in prop::collection::vec((any::<bool>(), 0_u64..40, 0_u64..12), 0..30)) {
            let (mut ranges, mut model) = (Ranges::default(), vec![false; 40]);
            for (adds, start, bytes) in steps {
                let end = (start + bytes).min(40);
                if adds { ranges.insert(start, end) } else { ranges.remove(start, end) }
                (start..end).for_each(|at| model[at as usize] = adds);
                prop_assert_eq!(bits(&ranges), model.clone());
                prop_assert!((0..40).all(|at| ranges.contains(at) == model[at as usize]));
                prop_assert!(ranges.0.windows(2).all(|two| two[0].1 < two[1].0), "{:?}", ranges);
                prop_assert_eq!(ranges.bytes(), model.iter().filter(|bit| **bit).count() as u64);
            }
            let all = Ranges::whole(40);
            let missing = all.without(&ranges);
            prop_assert!(missing.common(&ranges).is_empty());
            prop_assert_eq!(missing.bytes() + ranges.bytes(), 40);
            prop_assert_eq!(ranges.is_whole(40), model.iter().all(|bit| *bit));
        }
    }

    #[test]
    fn what_is_taken_begins_where_asked() {
        let mut ranges = Ranges::one(10, 20);
        ranges.insert(30, 40);
        assert_eq!(ranges.take(0, 4), Some((10, 14)));
        assert_eq!(ranges.take(15, 100), Some((15, 20)));
        assert_eq!(ranges.take(25, 100), Some((30, 40)));
        assert_eq!(ranges.take(50, 3), Some((10, 13)));
        assert_eq!(Ranges::default().take(0, 1), None);
    }
}
