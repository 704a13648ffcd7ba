//! Logic: the parts that are here, wholly or in part.

use std::collections::BTreeMap;

use sustain_proto::PackId;

use super::part::{Part, Which};
use super::ranges::Ranges;

/// How far a part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Filling,
    Written,
    Synced,
}

/// A part that is here.
#[derive(Debug, Clone)]
struct Item {
    bytes: u64,
    have: Ranges,
    stage: Stage,
}

/// All parts that are here.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    items: BTreeMap<Part, Item>,
}

impl Shelf {
    /// A part is here, whole and synced.
    pub(super) fn put_synced(&mut self, part: Part, bytes: u64) {
        self.items.insert(part, Item { bytes, have: Ranges::whole(bytes), stage: Stage::Synced });
    }

    /// A part was made here, and is not synced yet.
    pub(super) fn put_written(&mut self, part: Part, bytes: u64) {
        let is_synced = self.is_synced(&part);
        if !is_synced {
            self.items.insert(part, Item { bytes, have: Ranges::whole(bytes), stage: Stage::Written });
        }
    }

    /// Some of a part came. True if it is whole by that.
    pub(super) fn add(&mut self, part: Part, bytes: u64, range: (u64, u64)) -> bool {
        let empty = || Item { bytes, have: Ranges::default(), stage: Stage::Filling };
        let item = self.items.entry(part).or_insert_with(empty);
        if item.stage != Stage::Filling {
            return false;
        }
        item.have.insert(range.0, range.1.min(bytes));
        let is_whole = item.have.is_whole(bytes);
        if is_whole {
            item.stage = Stage::Written;
        }
        is_whole
    }

    /// A part is synced, if it is here whole.
    pub(super) fn synced(&mut self, part: &Part) {
        if let Some(item) = self.items.get_mut(part).filter(|item| item.stage != Stage::Filling) {
            item.stage = Stage::Synced;
        }
    }

    pub(super) fn remove(&mut self, part: &Part) -> bool {
        self.items.remove(part).is_some()
    }

    pub(super) fn contains(&self, part: &Part) -> bool {
        self.items.contains_key(part)
    }

    pub(super) fn is_whole(&self, part: &Part) -> bool {
        self.items.get(part).is_some_and(|item| item.stage != Stage::Filling)
    }

    pub(super) fn is_synced(&self, part: &Part) -> bool {
        self.items.get(part).is_some_and(|item| item.stage == Stage::Synced)
    }

    /// What can be sent of a part: what is here of it, or all of a fragment whose whole pack is here.
    pub(super) fn available(&self, part: &Part, bytes: u64) -> Ranges {
        let whole = Part { pack: part.pack, which: Which::Whole };
        if self.is_whole(part) || self.is_whole(&whole) { Ranges::whole(bytes) } else { self.have(part) }
    }

    /// What is here of a part.
    pub(super) fn have(&self, part: &Part) -> Ranges {
        self.items.get(part).map(|item| item.have.clone()).unwrap_or_default()
    }

    /// The parts of a pack that are here, wholly or in part.
    pub(super) fn of(&self, pack: PackId) -> impl Iterator<Item = Part> + '_ {
        let first = Part { pack, which: Which::Whole };
        self.items.range(first..).map(|(part, _)| *part).take_while(move |part| part.pack == pack)
    }

    pub(super) fn parts(&self) -> impl Iterator<Item = &Part> {
        self.items.keys()
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// The parts, each with the bytes that are here of it.
    pub(super) fn sizes(&self) -> impl Iterator<Item = (&Part, u64)> {
        let bytes = |item: &Item| if item.stage == Stage::Filling { item.have.bytes() } else { item.bytes };
        self.items.iter().map(move |(part, item)| (part, bytes(item)))
    }

    /// Bytes of everything that is here.
    pub(super) fn bytes(&self) -> u64 {
        self.sizes().map(|(_, bytes)| bytes).sum()
    }
}
