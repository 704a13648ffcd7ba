//! A table from ids to numbers that does not keep the ids: who has them is asked.

use std::hash::{BuildHasher, RandomState};

use sustain_proto::ChunkId;

const EMPTY: u32 = u32::MAX;
/// Slots that it begins with.
const SLOTS_MIN: usize = 16;

/// Numbers by the ids of what they number: about five bytes each. Of an open addressing with linear probing.
#[derive(Debug, Default)]
pub(crate) struct IdTable {
    slots: Vec<u32>,
    used: usize,
    hashes: RandomState,
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
        for number in old.into_iter().filter(|number| *number != EMPTY) {
            // Each is there once.
            let slot = self.slot(&id_of(number), |_| false);
            self.slots[slot] = number;
        }
    }

    /// Where an id is, or else the slot where it would be. There are empty slots.
    fn slot(&self, id: &ChunkId, is_it: impl Fn(u32) -> bool) -> usize {
        let hash = self.hashes.hash_one(id);
        let mut slot = ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize;
        while self.slots[slot] != EMPTY && !is_it(self.slots[slot]) {
            slot = if slot + 1 == self.slots.len() { 0 } else { slot + 1 };
        }
        slot
    }

    /// The number of an id.
    pub(crate) fn get(&self, id: &ChunkId, id_of: impl Fn(u32) -> ChunkId) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let found = self.slots[self.slot(id, |number| id_of(number) == *id)];
        (found != EMPTY).then_some(found)
    }

    /// Numbers an id; if it has a number already, that is what `replaces` says yes to giving up.
    pub(crate) fn insert(
        &mut self,
        id: &ChunkId,
        number: u32,
        id_of: impl Fn(u32) -> ChunkId,
        replaces: impl Fn(u32) -> bool,
    ) {
        self.reserve(1, &id_of);
        let slot = self.slot(id, |number| id_of(number) == *id);
        let old = self.slots[slot];
        if old == EMPTY {
            self.used += 1;
        }
        if old == EMPTY || replaces(old) {
            self.slots[slot] = number;
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
