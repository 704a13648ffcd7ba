//! How a node's keeper stands.

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, ServiceName, SnapshotId, Term};

use super::owner::Owner;
use crate::keeper::Catalog;

/// What a node holds of what the cluster stores, and what it has yet to get.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepingStatus {
    /// The fragment of every pack that it holds; none before it has chosen.
    pub index: Option<u8>,
    /// The one that it is about to hold instead.
    pub moving: Option<u8>,
    /// Fragments that rebuild a pack (k), as packs are cut now; with 1 everybody holds whole packs.
    pub needed: usize,
    /// Different fragments in its neighbourhood beyond those needed and those that may be lost; below zero it is short.
    pub margin: i64,
    /// Bytes of whole packs that it keeps.
    pub pack_bytes: u64,
    /// Bytes of fragments that it keeps.
    pub fragment_bytes: u64,
    /// Parts that it is to hold and has not synced.
    pub missing_parts: usize,
    /// Bytes that it is to hold, and leaves out because of its limit on storage.
    pub short_bytes: u64,
    /// The snapshots of the lines whose server it is, in the order in which they were added.
    pub snapshots: Vec<SnapshotLevel>,
}

/// How safe a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotLevel {
    /// The service.
    pub service: ServiceName,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its number.
    pub seq: u64,
    /// Losses of nodes that it survives, besides this one's; none if no other nodes can restore it.
    pub survives: Option<u32>,
}

/// What the server of a line has kept by all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineView {
    /// The line.
    pub term: Term,
    /// Its server.
    pub server: NodeId,
    /// The snapshots.
    pub snapshots: Vec<SnapshotId>,
}

impl LineView {
    pub(super) fn of(catalog: &Catalog) -> Self {
        let snapshots = catalog.entries.iter().map(|entry| entry.id).collect();
        Self { term: catalog.version.term, server: catalog.server, snapshots }
    }
}

impl Owner {
    pub(super) fn status(&mut self) -> KeepingStatus {
        let (claim, stock) = (self.keeper.claim(), self.keeper.stock());
        let own = self.lines.keys().filter_map(|line| self.keeper.catalog_of_line(line));
        let mut snapshots = Vec::new();
        for catalog in own {
            snapshots.extend(catalog.entries.iter().map(|entry| SnapshotLevel {
                service: catalog.service.clone(),
                snapshot: entry.id,
                seq: entry.seq,
                survives: self.levels.get(&entry.id).copied().flatten(),
            }));
        }
        KeepingStatus {
            index: claim.index,
            moving: claim.moving,
            needed: self.keeper.code(1).needed,
            margin: self.keeper.margin(),
            pack_bytes: stock.pack_bytes,
            fragment_bytes: stock.fragment_bytes,
            missing_parts: stock.missing_parts,
            short_bytes: self.keeper.short_bytes(),
            snapshots,
        }
    }
}
