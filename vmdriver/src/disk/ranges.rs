//! Logic: sets of byte ranges.

use std::ops::Range;

/// All bytes of either list, in order, with no two ranges that touch.
pub(crate) fn union(one: &[Range<u64>], other: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut all: Vec<Range<u64>> =
        one.iter().chain(other).filter(|range| !range.is_empty()).cloned().collect();
    all.sort_unstable_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_union_has_what_either_has(
            one in prop::collection::vec((0_u64..60, 0_u64..9), 0..8),
            other in prop::collection::vec((0_u64..60, 0_u64..9), 0..8),
        ) {
            let ranges = |list: &[(u64, u64)]| -> Vec<Range<u64>> {
                list.iter().map(|(start, length)| *start..start + length).collect()
            };
            let (one, other) = (ranges(&one), ranges(&other));
            let joined = union(&one, &other);
            for at in 0..80 {
                let expected = one.iter().chain(&other).any(|range| range.contains(&at));
                prop_assert_eq!(joined.iter().filter(|range| range.contains(&at)).count(), usize::from(expected));
            }
            prop_assert!(joined.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
