//! The generation that a VM's snapshots belong to, and when it ends (P10).

use sustain_proto::SnapshotId;
use sustain_store::{Growth, RebasePolicy, SnapshotInfo};

use crate::limits;

/// How far the generation of a running VM has grown.
#[derive(Debug)]
pub(super) struct Generation {
    deltas: u32,
    policy: RebasePolicy,
    /// What its deltas took when it began: those of snapshots that followed what became its base.
    delta_bytes_begun: u64,
    /// After a rebase that failed: how many deltas there are to be before the next one.
    rebase_at: u32,
    /// The store takes no more deltas.
    full: bool,
}

impl Generation {
    /// With the deltas that earlier reigns left: if each began to count anew, short ones would never end a generation.
    pub(super) fn of(parent: Option<SnapshotId>, list: &[SnapshotInfo], policy: RebasePolicy) -> Self {
        let begun = list.iter().find(|info| Some(info.id) == parent);
        let base = begun.map(|info| info.base.unwrap_or(info.id));
        // Those that a rebase has kept besides are older than the base.
        let number = list.iter().find(|info| Some(info.id) == base).map_or(0, |info| info.seq);
        let is_delta = |info: &&SnapshotInfo| info.base.is_some() && info.base == base && info.seq > number;
        let deltas = u32::try_from(list.iter().filter(is_delta).count()).unwrap_or(u32::MAX);
        Self { deltas, policy, delta_bytes_begun: 0, rebase_at: 0, full: false }
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

    /// Whether it is to end, having grown so far as the store says.
    pub(super) fn is_due(&self, growth: Option<&Growth>) -> bool {
        let grown = |growth: &Growth| {
            let delta_bytes = growth.delta_bytes.saturating_sub(self.delta_bytes_begun);
            self.policy.due(&Growth { deltas: self.deltas, delta_bytes, ..*growth }).is_some()
        };
        let is_due = self.full || self.deltas >= self.policy.deltas || growth.is_some_and(grown);
        is_due && self.deltas >= self.rebase_at
    }

    /// Whether a rebase waits for a durable snapshot: what the others hold should not be dropped here.
    pub(super) fn can_wait(&self) -> bool {
        !self.full && self.deltas < limits::REBASE_POSTPONED_MAX
    }

    /// A rebase came true, and this many deltas of so many bytes follow the new base.
    pub(super) fn rebased(&mut self, deltas: usize, delta_bytes: u64) {
        self.deltas = u32::try_from(deltas).unwrap_or(u32::MAX);
        self.delta_bytes_begun = delta_bytes;
        self.rebase_at = 0;
        self.full = false;
    }

    /// A rebase failed. It is tried again after some more snapshots: each time it reads a whole one.
    pub(super) fn rebase_failed(&mut self) {
        let more = (self.policy.deltas / limits::REBASE_RETRY_SHARE).saturating_add(1);
        self.rebase_at = self.deltas.saturating_add(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn policy(deltas: u32) -> RebasePolicy {
        RebasePolicy { deltas, ..RebasePolicy::default() }
    }

    /// Snapshots that follow what became the base are described anew with it. If they were taken for growth, a
    /// generation of a guest that changes much would be due at once, again and again.
    #[test]
    fn bytes_end_a_generation_but_not_those_that_it_began_with() {
        let mut generation = Generation::of(None, &[], policy(1_000));
        generation.taken();
        let base_bytes = 50 * MIB;
        let grown = |delta_bytes| Growth { deltas: 1, base_bytes, delta_bytes, ..Growth::default() };
        assert!(!generation.is_due(Some(&grown(50 * MIB))));
        assert!(generation.is_due(Some(&grown(51 * MIB))));
        generation.rebased(1, 40 * MIB);
        generation.taken();
        assert!(!generation.is_due(Some(&grown(90 * MIB))));
        assert!(generation.is_due(Some(&grown(91 * MIB))));
        generation.rebase_failed();
        assert!(!generation.is_due(Some(&grown(91 * MIB))));
    }

    /// A push that the store refused for its number of packs was refused for ever.
    #[test]
    fn a_generation_that_the_store_calls_full_ends_at_once_and_waits_for_nobody() {
        let mut generation = Generation::of(None, &[], policy(1_000));
        generation.taken();
        assert!(!generation.is_due(None) && generation.can_wait());
        generation.refused();
        assert!(generation.is_due(None) && !generation.can_wait());
        generation.rebase_failed();
        for _ in 0..250 {
            assert!(!generation.is_due(None));
            generation.refused();
        }
        generation.refused();
        assert!(generation.is_due(None), "it is tried again, but not each time");
        generation.rebased(1, 0);
        assert!(!generation.is_due(None) && generation.can_wait());
    }
}
