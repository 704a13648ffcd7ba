//! Logic: what is on the simulated nodes' disks, and which of it is synced. A crash takes what is not.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::PackId;

use crate::keeper::{Catalog, Claim, Line, Part, Ranges, Which};
use crate::sim::NodeNumber;

/// A node's disk.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk {
    /// Files, and what of them is written.
    files: BTreeMap<Part, Ranges>,
    synced: BTreeMap<Part, u64>,
    pub(super) claim: Option<Claim>,
    pub(super) catalogs: BTreeMap<Line, std::sync::Arc<Catalog>>,
}

impl Disk {
    pub(super) fn write(&mut self, part: Part, range: (u64, u64)) {
        self.files.entry(part).or_default().insert(range.0, range.1);
    }

    /// Whether a part is written whole, synced or not.
    pub(super) fn is_written(&self, part: &Part, bytes: u64) -> bool {
        self.synced.contains_key(part) || self.files.get(part).is_some_and(|file| file.is_whole(bytes))
    }

    pub(super) fn is_synced(&self, part: &Part) -> bool {
        self.synced.contains_key(part)
    }

    pub(super) fn synced(&self) -> impl Iterator<Item = (Part, u64)> + '_ {
        self.synced.iter().map(|(part, bytes)| (*part, *bytes))
    }

    /// Parts that are there, synced or not.
    pub(super) fn len(&self) -> usize {
        self.files.len() + self.synced.len()
    }

    /// Bytes that are synced.
    pub(super) fn bytes(&self) -> u64 {
        self.synced.values().sum()
    }

    /// The node ends, and what is not synced is gone.
    pub(super) fn crash(&mut self) {
        self.files.clear();
    }
}

/// Who has what of a pack synced, over all disks that are not lost.
#[derive(Debug, Clone, Default)]
pub(super) struct Holders {
    pub(super) whole: BTreeSet<NodeNumber>,
    pub(super) fragments: BTreeMap<u8, BTreeSet<NodeNumber>>,
}

impl Holders {
    /// Whether a node has any of it.
    pub(super) fn has(&self, node: NodeNumber) -> bool {
        self.whole.contains(&node) || self.fragments.values().any(|nodes| nodes.contains(&node))
    }

    /// At least so many losses it takes until a pack can't be rebuilt, not counting what `except` holds. A node counts
    /// once: by the whole pack if it has that, else by one of its fragments, that of which there is least.
    pub(super) fn losses(&self, needed: usize, except: &BTreeSet<NodeNumber>) -> usize {
        let whole = self.whole.difference(except).count();
        let mut held: BTreeMap<NodeNumber, Vec<u8>> = BTreeMap::new();
        for (fragment, nodes) in &self.fragments {
            let nodes = nodes.iter().filter(|node| !self.whole.contains(*node) && !except.contains(*node));
            nodes.for_each(|node| held.entry(*node).or_default().push(*fragment));
        }
        // Who has but one counts for that in any case.
        let mut held: Vec<Vec<u8>> = held.into_values().collect();
        held.sort_by_key(Vec::len);
        let mut by_fragment: BTreeMap<u8, usize> = BTreeMap::new();
        for fragments in held {
            let count = |fragment: &u8| by_fragment.get(fragment).copied().unwrap_or(0);
            if let Some(rarest) = fragments.into_iter().min_by_key(count) {
                *by_fragment.entry(rarest).or_default() += 1;
            }
        }
        let mut counts: Vec<usize> = by_fragment.into_values().collect();
        if needed <= 1 || counts.len() < needed {
            return whole;
        }
        // The fragments that the fewest hold go first, until one too few is left.
        counts.sort_unstable();
        let fewest = counts.len() + 1 - needed;
        whole + counts[..fewest].iter().sum::<usize>()
    }
}

/// All disks, and who has what.
#[derive(Debug, Clone, Default)]
pub(super) struct Disks {
    disks: BTreeMap<NodeNumber, Disk>,
    holders: BTreeMap<PackId, Holders>,
}

impl Disks {
    pub(super) fn of(&mut self, node: NodeNumber) -> &mut Disk {
        self.disks.entry(node).or_default()
    }

    pub(super) fn get(&self, node: NodeNumber) -> Option<&Disk> {
        self.disks.get(&node)
    }

    pub(super) fn sync(&mut self, node: NodeNumber, part: Part, bytes: u64) {
        let disk = self.of(node);
        disk.files.remove(&part);
        disk.synced.insert(part, bytes);
        let holders = self.holders.entry(part.pack).or_default();
        match part.which {
            Which::Whole => holders.whole.insert(node),
            Which::Fragment(index) => holders.fragments.entry(index).or_default().insert(node),
        };
    }

    /// True if what is dropped was synced.
    pub(super) fn drop_part(&mut self, node: NodeNumber, part: &Part) -> bool {
        let disk = self.of(node);
        disk.files.remove(part);
        let was_synced = disk.synced.remove(part).is_some();
        if was_synced {
            self.forget(node, part);
        }
        was_synced
    }

    fn forget(&mut self, node: NodeNumber, part: &Part) {
        let Some(holders) = self.holders.get_mut(&part.pack) else { return };
        match part.which {
            Which::Whole => holders.whole.remove(&node),
            Which::Fragment(index) => {
                holders.fragments.get_mut(&index).is_some_and(|nodes| nodes.remove(&node))
            }
        };
        if holders.whole.is_empty() && holders.fragments.values().all(BTreeSet::is_empty) {
            self.holders.remove(&part.pack);
        }
    }

    /// A disk is lost for ever.
    pub(super) fn destroy(&mut self, node: NodeNumber) {
        let disk = self.disks.remove(&node).unwrap_or_default();
        disk.synced.keys().for_each(|part| self.forget(node, part));
    }

    pub(super) fn holders(&self, pack: &PackId) -> Option<&Holders> {
        self.holders.get(pack)
    }
}
