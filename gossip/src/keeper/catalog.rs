//! Logic: what of a service is to be kept, as its server says. It goes to every node; the newest one counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, PackId, ServiceName, SnapshotId, Term};

use super::part::Pack;

/// Orders the catalogs of a service: a greater term wins, and within a term the greater number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// The server's term.
    pub term: Term,
    /// Counts the catalogs, over all terms.
    pub number: u64,
}

/// A snapshot that is retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The snapshot.
    pub id: SnapshotId,
    /// Its number in its line. A rebase keeps it, so two entries may have the same one.
    pub seq: u64,
    /// The number of the catalog in which it first stood: entries are in this order, and "synced up to" is said in it.
    pub added: u64,
    /// The snapshot that it refers to, which is in the catalog, too.
    pub base: Option<SnapshotId>,
    /// The packs that it lists itself. Others may list them, too.
    pub packs: Vec<Pack>,
}

/// What of a service is to be kept, and by whom as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The service.
    pub service: ServiceName,
    /// Which catalog of the service it is.
    pub version: Version,
    /// Its server, which holds everything.
    pub server: NodeId,
    /// Warm candidates: they hold everything.
    pub warm: BTreeSet<NodeId>,
    /// Nodes that hold what is new as a whole until it is spread, and make the fragments.
    pub encoders: BTreeSet<NodeId>,
    /// Everything that was added up to here was spread when this was published.
    pub spread_to: u64,
    /// What is retained, in the order in which it was added.
    pub entries: Vec<Entry>,
}

impl Catalog {
    /// Whether a node is to hold everything.
    #[must_use]
    pub fn is_whole_holder(&self, node: &NodeId) -> bool {
        *node == self.server || self.warm.contains(node)
    }

    /// Each pack once, in the order in which they were added.
    #[must_use]
    pub fn packs(&self) -> Vec<Pack> {
        let mut packs: Vec<Pack> =
            self.entries.iter().flat_map(|entry| entry.packs.iter().copied()).collect();
        packs.sort_unstable_by_key(|pack| (pack.added, pack.id));
        packs.dedup_by_key(|pack| pack.id);
        packs
    }

    /// All packs that a snapshot needs: its own and its base's.
    #[must_use]
    pub fn needed_by(&self, entry: &Entry) -> BTreeMap<PackId, Pack> {
        let base = self.entries.iter().find(|other| Some(other.id) == entry.base);
        let both = base.into_iter().chain([entry]);
        both.flat_map(|entry| &entry.packs).map(|pack| (pack.id, *pack)).collect()
    }

    /// Bytes of all packs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.packs().iter().map(|pack| pack.bytes).sum()
    }
}
