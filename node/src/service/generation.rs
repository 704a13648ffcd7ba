//! The generation that a VM's snapshots belong to, and when it ends (P10).

use sustain_proto::SnapshotId;
use sustain_store::SnapshotInfo;

use crate::limits;

/// How far the generation of a running VM has grown.
#[derive(Debug)]
pub(super) struct Generation {
    deltas: u32,
    rebase_after: u32,
    /// After a rebase that failed: how many deltas there are to be before the next one.
    rebase_at: u32,
    /// The store takes no more deltas.
    full: bool,
}

impl Generation {
    /// With the deltas that earlier reigns left: if each began to count anew, short ones would never end a generation.
    pub(super) fn of(parent: Option<SnapshotId>, list: &[SnapshotInfo], rebase_after: u32) -> Self {
        let begun = list.iter().find(|info| Some(info.id) == parent);
        let base = begun.map(|info| info.base.unwrap_or(info.id));
        let deltas = list.iter().filter(|info| info.base.is_some() && info.base == base).count();
        let deltas = u32::try_from(deltas).unwrap_or(u32::MAX);
        Self { deltas, rebase_after, rebase_at: 0, full: false }
    }

    pub(super) fn taken(&mut self) {
        self.deltas = self.deltas.saturating_add(1);
    }

    /// The store refused a delta, since the generation has too many packs.
    pub(super) fn refused(&mut self) {
        self.full = true;
        // It counts, or a rebase that fails would be tried again at once.
        self.taken();
    }

    pub(super) fn is_due(&self) -> bool {
        (self.full || self.deltas >= self.rebase_after) && self.deltas >= self.rebase_at
    }

    /// Whether a rebase waits for a durable snapshot: what the others hold should not be dropped here.
    pub(super) fn can_wait(&self) -> bool {
        !self.full && self.deltas < limits::REBASE_POSTPONED_MAX
    }

    /// A rebase came true, and this many deltas follow the new base.
    pub(super) fn rebased(&mut self, deltas: usize) {
        self.deltas = u32::try_from(deltas).unwrap_or(u32::MAX);
        self.rebase_at = 0;
        self.full = false;
    }

    /// A rebase failed. It is tried again after some more snapshots: each time it reads a whole one.
    pub(super) fn rebase_failed(&mut self) {
        let more = (self.rebase_after / limits::REBASE_RETRY_SHARE).saturating_add(1);
        self.rebase_at = self.deltas.saturating_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A push that the store refused for its number of packs was refused for ever.
    #[test]
    fn a_generation_that_the_store_calls_full_ends_at_once_and_waits_for_nobody() {
        let mut generation = Generation::of(None, &[], 1_000);
        generation.taken();
        assert!(!generation.is_due() && generation.can_wait());
        generation.refused();
        assert!(generation.is_due() && !generation.can_wait());
        generation.rebase_failed();
        for _ in 0..250 {
            assert!(!generation.is_due());
            generation.refused();
        }
        generation.refused();
        assert!(generation.is_due(), "it is tried again, but not each time");
        generation.rebased(1);
        assert!(!generation.is_due() && generation.can_wait());
    }
}
