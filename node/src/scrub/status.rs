//! How scrubbing stands, for `snapctl status`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use sustain_store::{BadPack, Scrubbed, Store};

/// How the scrubbing of a node's store stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// Whether the node scrubs by itself.
    pub enabled: bool,
    /// When all packs were last gone through, in milliseconds since 1970; none if never.
    pub full_ms: Option<u64>,
    /// When the pass that is under way began; none between two.
    pub began_ms: Option<u64>,
    /// Packs that are here.
    #[serde(default)]
    pub packs: u64,
    /// Those of them that no pass has found good yet: they came after it, or it is still to come.
    #[serde(default)]
    pub packs_unchecked: u64,
    /// Bytes of packs that this pass has still to read, or had when the node started.
    pub bytes_total: u64,
    /// Bytes that it has read since.
    pub bytes_done: u64,
    /// Packs that are missing or damaged now.
    pub bad: Vec<BadPack>,
    /// Packs that the other nodes have sent again since the node started.
    pub mended: u64,
}

/// Where it is noted how far scrubbing is.
#[derive(Debug, Default)]
pub(crate) struct ScrubWatch {
    pub(super) bytes_total: AtomicU64,
    pub(super) bytes_done: AtomicU64,
    pub(super) mended: AtomicU64,
}

impl ScrubWatch {
    /// For people.
    pub(crate) fn status(&self, enabled: bool, store: &Store) -> ScrubStatus {
        let Scrubbed { began_ms, full_ms, packs, packs_unchecked } = store.scrubbed();
        ScrubStatus {
            enabled,
            full_ms,
            began_ms,
            packs,
            packs_unchecked,
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
            bytes_done: self.bytes_done.load(Ordering::Relaxed),
            bad: store.bad_packs(),
            mended: self.mended.load(Ordering::Relaxed),
        }
    }
}
