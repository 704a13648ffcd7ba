//! How a node's keeper stands.

use serde::Serialize;

/// What a node holds of what the cluster stores, and what it has yet to get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
}
