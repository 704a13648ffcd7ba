//! Groups: the parts of a piece that can be verified each by itself, whoever sends them (P21).
//!
//! BLAKE3 is a tree over chunks of 1 KiB. The chaining value of each subtree of 64 chunks is one 32-byte value for a
//! *group* of [`limits::GROUP_BYTES`]; the last group is shorter. From all these values follows the hash of the whole,
//! which is the piece's name. So a list of values that yields the name is the true one, and a group whose value is in
//! its place of the list is that part of the piece.

use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use serde::{Deserialize, Serialize};

use crate::{Piece, limits};

/// Bytes of a group's chaining value.
pub const GROUP_VALUE_BYTES: usize = 32;

/// The chaining value of a group.
pub type GroupValue = [u8; GROUP_VALUE_BYTES];

/// A part of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceRange {
    /// The piece.
    pub piece: Piece,
    /// Its first byte.
    pub offset: u64,
    /// How many bytes; the piece must not end before.
    pub bytes: u64,
}

/// Why a list of groups is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupListError {
    /// It has another number of values than the piece has groups.
    #[error("a list of {found} groups for a piece of {expected}")]
    Count {
        /// Groups of a piece with so many bytes.
        expected: usize,
        /// Values in the list.
        found: usize,
    },
    /// The values are not those of the piece.
    #[error("a list of groups that yields another hash")]
    Root,
}

/// How many groups a piece of so many bytes has. An empty one has none.
#[must_use]
pub const fn group_count(bytes: u64) -> usize {
    bytes.div_ceil(limits::GROUP_BYTES) as usize
}

/// The chaining value of the group that begins at this byte, which must be a multiple of [`limits::GROUP_BYTES`]. Means
/// nothing for a piece of a single group.
#[must_use]
pub fn group_value(offset: u64, bytes: &[u8]) -> GroupValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// The groups of one piece, known to be the true ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupList {
    root: [u8; 32],
    bytes: u64,
    /// Empty where the piece has at most one group: then the root says it all.
    values: Vec<GroupValue>,
}

impl GroupList {
    /// The list of a piece that needs none, as it has at most one group.
    #[must_use]
    pub fn single(root: [u8; 32], bytes: u64) -> Option<Self> {
        (group_count(bytes) <= 1).then_some(Self { root, bytes, values: Vec::new() })
    }

    /// Takes a list if it is that of the piece with this hash and size.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(root: [u8; 32], bytes: u64, values: Vec<GroupValue>) -> Result<Self, GroupListError> {
        if let Some(single) = Self::single(root, bytes) {
            return Ok(single);
        }
        let expected = group_count(bytes);
        if values.len() != expected {
            return Err(GroupListError::Count { expected, found: values.len() });
        }
        let found =
            merge(bytes, &values, &|left, right| *merge_subtrees_root(left, right, Mode::Hash).as_bytes());
        if found == root { Ok(Self { root, bytes, values }) } else { Err(GroupListError::Root) }
    }

    /// The list of a piece whose hash was computed from the values; none of them if it has at most one group.
    pub(crate) const fn computed(root: [u8; 32], bytes: u64, values: Vec<GroupValue>) -> Self {
        Self { root, bytes, values }
    }

    /// The values in the list: none where the piece has at most one group.
    #[must_use]
    pub fn values(&self) -> &[GroupValue] {
        &self.values
    }

    /// The BLAKE3 of the piece, which names it.
    #[must_use]
    pub const fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// Bytes of the piece.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many groups the piece has.
    #[must_use]
    pub fn count(&self) -> usize {
        group_count(self.bytes)
    }

    /// The bytes of a group within the piece; empty past the last one.
    #[must_use]
    pub fn range(&self, group: usize) -> Range<u64> {
        let start = (group as u64).saturating_mul(limits::GROUP_BYTES).min(self.bytes);
        start..start.saturating_add(limits::GROUP_BYTES).min(self.bytes)
    }

    /// Whether these bytes are this group.
    #[must_use]
    pub fn verify(&self, group: usize, bytes: &[u8]) -> bool {
        let range = self.range(group);
        if group >= self.count() || bytes.len() as u64 != range.end - range.start {
            return false;
        }
        match self.values.get(group) {
            Some(value) => group_value(range.start, bytes) == *value,
            None => *blake3::hash(bytes).as_bytes() == self.root,
        }
    }
}

/// Merges the values of a subtree with more than one group; `top` merges the last two.
pub(crate) fn merge(
    bytes: u64,
    values: &[GroupValue],
    top: &dyn Fn(&GroupValue, &GroupValue) -> GroupValue,
) -> GroupValue {
    if let [value] = values {
        return *value;
    }
    // A power of two of groups, so no group is cut.
    let left_bytes = left_subtree_len(bytes);
    let (left, right) = values.split_at(group_count(left_bytes).min(values.len()));
    let inner = |left: &GroupValue, right: &GroupValue| merge_subtrees_non_root(left, right, Mode::Hash);
    top(&merge(left_bytes, left, &inner), &merge(bytes - left_bytes, right, &inner))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: usize = limits::GROUP_BYTES as usize;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(b"groups").finalize_xof().fill(&mut noise);
        noise
    }

    fn values(bytes: &[u8]) -> Vec<GroupValue> {
        let groups = bytes.chunks(GROUP).enumerate();
        groups.map(|(number, group)| group_value((number * GROUP) as u64, group)).collect()
    }

    fn list(bytes: &[u8]) -> Result<GroupList, GroupListError> {
        GroupList::check(*blake3::hash(bytes).as_bytes(), bytes.len() as u64, values(bytes))
    }

    fn group_of(bytes: &[u8], group: usize) -> &[u8] {
        &bytes[group * GROUP..bytes.len().min((group + 1) * GROUP)]
    }

    #[test]
    fn sizes_around_every_boundary_yield_the_hash() {
        let noise = noise(20 * GROUP);
        let mut sizes: Vec<usize> =
            (0..=19).flat_map(|groups| [groups * GROUP, groups * GROUP + 1]).collect();
        sizes.extend((1..=19).map(|groups| groups * GROUP - 1));
        sizes.extend([
            1,
            1_023,
            1_024,
            1_025,
            GROUP + 1_023,
            GROUP + 1_024,
            GROUP + 1_025,
            3 * GROUP + 1_024,
        ]);
        for size in sizes {
            let bytes = &noise[..size];
            let list = list(bytes).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
            assert_eq!(list.count(), size.div_ceil(GROUP));
            for group in 0..list.count() {
                assert!(list.verify(group, group_of(bytes, group)), "{size} bytes, group {group}");
            }
            assert!(!list.verify(list.count(), &[]), "there is none after the last");
        }
    }

    #[test]
    fn a_group_in_another_place_is_noticed() {
        let bytes = vec![7; 3 * GROUP];
        let list = list(&bytes).unwrap();
        assert!(list.verify(1, &bytes[..GROUP]));
        let noise = noise(3 * GROUP);
        let other = super::tests::list(&noise).unwrap();
        assert!(!other.verify(1, group_of(&noise, 0)));
        assert!(!other.verify(0, &noise[..GROUP - 1]), "a part of it is not it");
    }

    #[test]
    fn the_largest_pack_has_a_list_that_fits_a_message() {
        assert!(group_count(limits::PACK_BYTES_MAX) <= limits::MESSAGE_GROUPS_MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_size_yields_the_hash(size in 0_usize..9 * GROUP) {
            let noise = noise(size);
            prop_assert!(list(&noise).is_ok());
        }

        #[test]
        fn a_flipped_bit_is_noticed_at_its_group(
            size in 1_usize..5 * GROUP,
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let mut bad = noise(size);
            let list = list(&bad).unwrap();
            let at = at.index(size);
            bad[at] ^= 1 << bit;
            for group in 0..list.count() {
                prop_assert_eq!(list.verify(group, group_of(&bad, group)), group != at / GROUP);
            }
        }

        #[test]
        fn a_list_with_a_flipped_bit_is_refused(
            groups in 2_usize..9,
            at in any::<prop::sample::Index>(),
            bit in 0_u8..8,
        ) {
            let bytes = noise(groups * GROUP - 5);
            let root = *blake3::hash(&bytes).as_bytes();
            let mut list = values(&bytes);
            let at = at.index(groups * GROUP_VALUE_BYTES);
            list[at / GROUP_VALUE_BYTES][at % GROUP_VALUE_BYTES] ^= 1 << bit;
            let refused = GroupList::check(root, bytes.len() as u64, list.clone());
            prop_assert_eq!(refused, Err(GroupListError::Root));
            list.pop();
            let short = GroupList::check(root, bytes.len() as u64, list);
            prop_assert_eq!(short, Err(GroupListError::Count { expected: groups, found: groups - 1 }));
        }
    }
}
