//! A table from ids to numbers that does not keep the ids: who has them is asked.

use std::hash::{BuildHasher, RandomState};

use sustain_proto::ChunkId;

/// Bits of a slot that say what the id's hash ends in, so that few ids are compared in vain.
const TAG_BITS: u32 = 4;
const NUMBER_BITS: u32 = u32::BITS - TAG_BITS;
const EMPTY: u32 = u32::MAX;
/// The greatest number: of 16 TiB in chunks. What comes behind it is not found.
const NUMBER_MAX: u32 = (1 << NUMBER_BITS) - 2;
/// Slots that it begins with.
const SLOTS_MIN: usize = 16;

/// Numbers by the ids of what they number, by open addressing with linear probing: about five bytes each.
#[derive(Debug, Default)]
pub(crate) struct IdTable {
    slots: Vec<u32>,
    used: usize,
    hashes: RandomState,
}

fn number_in(slot: u32) -> u32 {
    slot & ((1 << NUMBER_BITS) - 1)
}

impl IdTable {
    /// Whether so many more fit without rebuilding it.
    fn has_room(&self, more: usize) -> bool {
        (self.used + more) * 7 <= self.slots.len() * 6
    }

    /// Makes room for so many more.
    pub(crate) fn reserve(&mut self, more: usize, id_of: impl Fn(u32) -> ChunkId) {
        if self.has_room(more) {
            return;
        }
        let slots = ((self.used + more) * 5 / 4).max(SLOTS_MIN);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        for slot in old.into_iter().filter(|slot| *slot != EMPTY) {
            // Each is there once.
            let (at, _) = self.find(&id_of(number_in(slot)), |_| false);
            self.slots[at] = slot;
        }
    }

    /// Where an id is, or else the slot where it would be; and its tag. There are empty slots.
    fn find(&self, id: &ChunkId, is_it: impl Fn(u32) -> bool) -> (usize, u32) {
        let hash = self.hashes.hash_one(id);
        let tag = (hash as u32) << NUMBER_BITS;
        let mut at = ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize;
        loop {
            let slot = self.slots[at];
            let is_alike = slot >> NUMBER_BITS == tag >> NUMBER_BITS;
            if slot == EMPTY || is_alike && is_it(number_in(slot)) {
                return (at, tag);
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
    }

    /// The number of an id.
    pub(crate) fn get(&self, id: &ChunkId, id_of: impl Fn(u32) -> ChunkId) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let (at, _) = self.find(id, |number| id_of(number) == *id);
        let slot = self.slots[at];
        (slot != EMPTY).then(|| number_in(slot))
    }

    /// Numbers an id; if it has a number already, that stays unless `replaces` says yes to giving it up.
    pub(crate) fn insert(
        &mut self,
        id: &ChunkId,
        number: u32,
        id_of: impl Fn(u32) -> ChunkId,
        replaces: impl Fn(u32) -> bool,
    ) {
        if number > NUMBER_MAX {
            return;
        }
        self.reserve(1, &id_of);
        let (at, tag) = self.find(id, |number| id_of(number) == *id);
        let old = self.slots[at];
        if old == EMPTY {
            self.used += 1;
        }
        if old == EMPTY || replaces(number_in(old)) {
            self.slots[at] = tag | number;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn id(number: u16) -> ChunkId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_le_bytes());
        ChunkId::from_bytes(bytes)
    }

    proptest! {
        #[test]
        fn it_is_a_map(ids in prop::collection::vec(0_u16..300, 0..400), reserved in 0_usize..200) {
            let (mut table, mut map) = (IdTable::default(), HashMap::new());
            let id_of = |number: u32| id(ids[number as usize]);
            table.reserve(reserved, id_of);
            for (number, is_of) in (0_u32..).zip(&ids) {
                // Every other one takes the place of the one before.
                let replaces = number % 2 == 0;
                table.insert(&id(*is_of), number, id_of, |_| replaces);
                if replaces || !map.contains_key(is_of) {
                    map.insert(*is_of, number);
                }
            }
            for number in 0..300 {
                prop_assert_eq!(table.get(&id(number), id_of), map.get(&number).copied());
            }
        }
    }
}
