//! Logic: what the database holds, and how it changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sustain_proto::{PackId, SnapshotId};

/// Everything that the database holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// Visible snapshots, each with its durable level.
    pub(crate) snapshots: BTreeMap<SnapshotId, Option<u32>>,
    /// Pack files that are here with the size that they should have.
    pub(crate) packs: BTreeMap<PackId, u64>,
    /// Received packs that no manifest lists yet, in the order in which they came.
    pub(crate) received: BTreeMap<PackId, u64>,
    /// Former ids of re-expressed snapshots.
    pub(crate) aliases: BTreeMap<SnapshotId, SnapshotId>,
    /// Snapshots that were dropped and whose files may still be there.
    pub(crate) gone: BTreeMap<SnapshotId, ()>,
    /// Snapshots that a rebase or an import is about to make, each with those that it replaces.
    pub(crate) intents: BTreeMap<SnapshotId, Vec<SnapshotId>>,
}

/// What one commit changes: removals first, then additions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changes {
    pub(crate) remove: Contents,
    pub(crate) add: Contents,
}

impl Contents {
    pub(crate) fn change(&mut self, Changes { remove, add }: &Changes) {
        without(&mut self.snapshots, &remove.snapshots);
        without(&mut self.packs, &remove.packs);
        without(&mut self.received, &remove.received);
        without(&mut self.aliases, &remove.aliases);
        without(&mut self.gone, &remove.gone);
        without(&mut self.intents, &remove.intents);
        self.snapshots.extend(&add.snapshots);
        self.packs.extend(&add.packs);
        self.received.extend(&add.received);
        self.aliases.extend(&add.aliases);
        self.gone.extend(&add.gone);
        self.intents.extend(add.intents.clone());
    }
}

/// Removes the keys of one map from another.
pub(crate) fn without<K: Ord, V, W>(map: &mut BTreeMap<K, V>, keys: &BTreeMap<K, W>) {
    for key in keys.keys() {
        map.remove(key);
    }
}

impl Changes {
    /// Whether files can go after them.
    pub(crate) fn drop_something(&self) -> bool {
        !(self.remove.snapshots.is_empty() && self.remove.packs.is_empty())
    }

    /// Whether nothing changes.
    pub(crate) fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}
