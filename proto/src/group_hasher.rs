//! The groups of a piece whose bytes come one after the other.

use std::mem;

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_root};

use crate::groups::merge;
use crate::limits::GROUP_BYTES;
use crate::{GroupList, GroupValue};

/// Hashes a piece: each byte once, for its name and for its list of groups.
#[derive(Debug, Clone, Default)]
pub struct GroupHasher {
    hasher: blake3::Hasher,
    values: Vec<GroupValue>,
    bytes: u64,
}

impl GroupHasher {
    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            // Only now, since a piece of one group is hashed in another way.
            if self.bytes > 0 && self.bytes % GROUP_BYTES == 0 {
                let mut next = blake3::Hasher::new();
                next.set_input_offset(self.bytes);
                self.values.push(mem::replace(&mut self.hasher, next).finalize_non_root());
            }
            let room = GROUP_BYTES - self.bytes % GROUP_BYTES;
            let (now, later) = bytes.split_at(bytes.len().min(room as usize));
            self.hasher.update(now);
            self.bytes += now.len() as u64;
            bytes = later;
        }
    }

    /// The list of what came, whose root is the piece's name.
    #[must_use]
    pub fn finish(mut self) -> GroupList {
        if self.values.is_empty() {
            return GroupList::computed(*self.hasher.finalize().as_bytes(), self.bytes, Vec::new());
        }
        self.values.push(self.hasher.finalize_non_root());
        let top =
            |left: &GroupValue, right: &GroupValue| *merge_subtrees_root(left, right, Mode::Hash).as_bytes();
        let root = merge(self.bytes, &self.values, &top);
        GroupList::computed(root, self.bytes, self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_in_parts_of_any_size_has_the_hash_of_all_of_it() {
        let group = GROUP_BYTES as usize;
        let bytes: Vec<u8> = (0..3 * group + 7).map(|at| (at * at / 7) as u8).collect();
        for size in [0, 1, 1_000, group - 1, group, group + 1, 2 * group, 3 * group, 3 * group + 7] {
            for part in [999, group / 3, group, 2 * group + 5] {
                let mut hasher = GroupHasher::default();
                bytes[..size].chunks(part).for_each(|part| hasher.update(part));
                let list = hasher.finish();
                assert_eq!(
                    (list.root(), list.bytes()),
                    (blake3::hash(&bytes[..size]).as_bytes(), size as u64)
                );
                assert_eq!(list.values().len(), if size > group { size.div_ceil(group) } else { 0 });
            }
        }
    }
}
