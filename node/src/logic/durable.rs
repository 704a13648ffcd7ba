//! What a reign may promise when it begins: the newest state that was durable before, and how safe it is now.

use std::collections::BTreeMap;

use sustain_proto::wire::{Ballot, Heartbeat, SnapshotSummary};
use sustain_proto::{NodeId, SnapshotId, TermOrigin};

use super::machine::Machine;
use super::state::Reign;

impl Machine {
    /// The watermark with which a reign begins. What it restores may be newer than the newest durable state: it is
    /// promised when enough others have it, not before.
    pub(super) fn first_watermark(&self, reign: &Reign, ballots: &BTreeMap<NodeId, Ballot>) -> Heartbeat {
        let durable = reign.origin.and_then(|origin| self.durable_up_to(&origin, ballots));
        let level = reign.origin.zip(durable).map_or(0, |(origin, (_, seq))| {
            let holders = ballots.values().filter(|ballot| self.holds(ballot, &origin, seq)).count();
            u32::try_from(holders.saturating_sub(1)).unwrap_or(u32::MAX)
        });
        Heartbeat {
            service: self.config.service.clone(),
            term: reign.term,
            origin: reign.origin,
            running_seq: reign.begun_seq(),
            durable,
            level,
        }
    }

    /// The newest snapshot that is known to be durable, of the line that ends here.
    fn durable_up_to(
        &self,
        end: &TermOrigin,
        ballots: &BTreeMap<NodeId, Ballot>,
    ) -> Option<(SnapshotId, u64)> {
        let voted = ballots.values().flat_map(|ballot| ballot.snapshots.iter());
        let marked = self.known.iter().chain(voted).filter(|summary| summary.durable);
        let marked = marked.filter(|summary| self.is_before(summary, end));
        let marked = marked.map(|summary| (summary.seq, summary.id)).max();
        let heard = self.watermark.as_ref().and_then(|mark| {
            let (id, seq) = mark.durable?;
            // The line goes on from the server that said so, or from a state before it.
            let ours = self.lineage.contains(&end.parent, end.seq, &mark.term, seq)
                || self.lineage.contains(&mark.term, u64::MAX, &end.parent, end.seq);
            (ours && seq <= end.seq).then_some((seq, id))
        });
        marked.max(heard).map(|(seq, id)| (id, seq))
    }

    fn is_before(&self, summary: &SnapshotSummary, end: &TermOrigin) -> bool {
        self.lineage.contains(&end.parent, end.seq, &summary.term, summary.seq)
    }

    /// Whether a voter has a state of the line that ends here, as new as this number or newer.
    fn holds(&self, ballot: &Ballot, end: &TermOrigin, seq: u64) -> bool {
        let mut whole = ballot.snapshots.iter().filter(|summary| summary.whole && summary.seq >= seq);
        whole.any(|summary| self.is_before(summary, end))
    }

    /// Fewer nodes can be reached: no more of them can be lost than there are.
    pub(super) fn bound_level(&mut self) {
        let most = u32::try_from(self.reachable.len().saturating_sub(1)).unwrap_or(u32::MAX);
        if let (Some(_), Some(mark)) = (self.state.reign(), &mut self.watermark) {
            mark.level = mark.level.min(most);
        }
    }
}
