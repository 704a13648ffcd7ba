//! What is under way for packs that are rebuilt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{NodeId, PackId};
use tokio::task::AbortHandle;

use super::lanes::Lanes;
use super::round::Making;
use super::survey::{Holders, SheetCheck};

/// Another fragment is fetched, too, if that would take less than one part in so many of what a round still takes.
const TIMES_QUICKER: f64 = 2.0;
/// What asking takes besides, when that is weighed.
const ASKING_MS: f64 = 100.0;
/// Nothing came for so long: another fragment is fetched, too.
const STALLED_MS: u64 = 600;

/// A pack that is being made, and what is under way for it.
pub(super) struct Work {
    pub(super) making: Arc<Making>,
    pub(super) holders: Holders,
    pub(super) check: SheetCheck,
    pub(super) needed: usize,
    /// Fragments that are here.
    pub(super) done: BTreeSet<u8>,
    /// Fragments that are being fetched, and in which round.
    pub(super) fetching: BTreeMap<u8, u64>,
    /// Those of them that take too long: as many others are fetched, too.
    pub(super) late: BTreeSet<u8>,
    /// What peers failed at.
    pub(super) failed: BTreeSet<(u8, NodeId)>,
    pub(super) is_finishing: bool,
}

/// A round under way.
pub(super) struct Placed {
    pub(super) peer: NodeId,
    pub(super) task: AbortHandle,
    pub(super) jobs: BTreeSet<(PackId, u8)>,
    pub(super) bytes: u64,
    pub(super) came: u64,
    pub(super) begun_ms: u64,
    pub(super) moved_ms: u64,
}

impl Work {
    pub(super) fn new(making: Making, holders: Holders, check: SheetCheck, done: BTreeSet<u8>) -> Self {
        Self {
            needed: usize::from(making.sheet.cut.needed),
            making: Arc::new(making),
            holders,
            check,
            done,
            fetching: BTreeMap::new(),
            late: BTreeSet::new(),
            failed: BTreeSet::new(),
            is_finishing: false,
        }
    }

    /// Bytes of each fragment.
    pub(super) fn fragment_bytes(&self) -> u64 {
        self.making.sheet.cut.fragment_bytes(self.making.sheet.pack.bytes)
    }

    /// How many fragments are neither here nor on their way in time.
    pub(super) fn lacking(&self) -> usize {
        let coming = self.fetching.keys().filter(|index| !self.late.contains(*index)).count();
        if self.is_finishing { 0 } else { self.needed.saturating_sub(self.done.len() + coming) }
    }

    /// So many other fragments, and whom to ask for each, but for this peer.
    pub(super) fn others(&self, lanes: &Lanes, count: usize, but: Option<NodeId>) -> Vec<(u8, NodeId)> {
        let without = |index| self.done.contains(&index) || self.fetching.contains_key(&index);
        let failed = |index, peer: &NodeId| Some(*peer) == but || self.failed.contains(&(index, *peer));
        lanes.choose(&self.holders, (count, self.fragment_bytes()), without, failed)
    }

    /// How many different fragments are here or can be had.
    pub(super) fn to_be_had(&self, lanes: &Lanes) -> usize {
        let failed = |index, peer: &NodeId| self.failed.contains(&(index, *peer));
        let all = lanes.choose(&self.holders, (usize::MAX, 0), |_| false, failed);
        let all: BTreeSet<u8> = all.into_iter().map(|(index, _)| index).collect();
        all.union(&self.done).count()
    }
}

impl Placed {
    /// Whether a fragment of a pack that this round fetches is to be fetched from others, too.
    pub(super) fn is_late_for(&self, work: &Work, lanes: &Lanes, now_ms: u64) -> bool {
        let others = work.others(lanes, 1, Some(self.peer));
        let Some((_, other)) = others.first() else { return false };
        let idle_ms = now_ms.saturating_sub(self.moved_ms);
        let took_ms = now_ms.saturating_sub(self.begun_ms) as f64;
        let left = self.bytes.saturating_sub(self.came) as f64;
        let takes_ms = if self.came == 0 { took_ms } else { left * took_ms / self.came as f64 };
        let needs_ms = lanes.done_ms(other, work.fragment_bytes());
        idle_ms >= STALLED_MS || takes_ms > TIMES_QUICKER * needs_ms + ASKING_MS
    }
}
