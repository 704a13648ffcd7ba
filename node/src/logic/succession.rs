//! What is restored and who may do it, when snapshots have failed: the newest one that is not known to fail on every
//! node that could run it (P14).

use std::collections::BTreeSet;

use sustain_proto::wire::SnapshotSummary;
use sustain_proto::{Lineage, SnapshotId, Term, limits};

use super::{Stand, newest_of_lineage};
use crate::limits::{FAILED_TRIES_MIN, FAILED_TRIES_UNHEARD_MIN};

/// A node that could run the service.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub(super) stand: Stand,
    /// Whether it stands now. One that has just failed pauses.
    pub(super) eligible: bool,
    /// What failed there, and how often, as far as that is known here.
    pub(super) failed: Vec<(SnapshotId, u32)>,
}

impl Candidate {
    fn tries(&self, snapshot: SnapshotId) -> u32 {
        self.failed.iter().find(|(id, _)| *id == snapshot).map_or(0, |(_, tries)| *tries)
    }
}

/// Everything that an election decides from.
pub(super) struct Field<'a> {
    pub(super) known: &'a [SnapshotSummary],
    pub(super) lineage: &'a Lineage,
    pub(super) lost: Option<Term>,
    pub(super) candidates: &'a [Candidate],
    /// Whether a node that can be reached gave no ballot: it may be one that has not tried.
    pub(super) unheard: bool,
}

/// What is to be restored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) snapshot: SnapshotSummary,
    /// Newer ones that failed everywhere, newest first.
    pub(super) passed_over: Vec<SnapshotSummary>,
    /// Who may restore it now. Empty while those who have not tried it pause.
    pub(super) stands: Vec<Stand>,
}

impl Field<'_> {
    /// The newest snapshot that may live; none if there is nothing to restore.
    pub(super) fn choose(&self) -> Option<Choice> {
        // Of all that are known: what is passed over must not change whose lineage is followed.
        let head = self.lost.or_else(|| self.known.iter().map(|summary| summary.term).max());
        let mut open = self.known.to_vec();
        let mut passed_over = Vec::new();
        let mut snapshot = newest_of_lineage(&open, self.lineage, head)?;
        while self.failed_everywhere(snapshot.id) {
            open.retain(|summary| summary.id != snapshot.id);
            // The last one of all is tried for ever.
            let Some(older) = newest_of_lineage(&open, self.lineage, head) else { break };
            passed_over.push(std::mem::replace(&mut snapshot, older));
        }
        let stands = self.stands_for(snapshot.id);
        Some(Choice { snapshot, passed_over, stands })
    }

    /// Whoever has not failed with it stands for it; when all have, all do again.
    fn stands_for(&self, snapshot: SnapshotId) -> Vec<Stand> {
        let all_failed = self.candidates.iter().all(|candidate| candidate.tries(snapshot) > 0);
        let may =
            |candidate: &&Candidate| candidate.eligible && (all_failed || candidate.tries(snapshot) == 0);
        self.candidates.iter().filter(may).map(|candidate| candidate.stand).collect()
    }

    /// Whether a snapshot is given up. Not while somebody has not tried it, nor after a single failure; and not when so
    /// many have failed that the cause is hardly in the snapshots.
    fn failed_everywhere(&self, snapshot: SnapshotId) -> bool {
        let mut tries = 0_u32;
        for candidate in self.candidates {
            match candidate.tries(snapshot) {
                0 => return false,
                here => tries = tries.saturating_add(here),
            }
        }
        let needed = if self.unheard { FAILED_TRIES_UNHEARD_MIN } else { FAILED_TRIES_MIN };
        let all = self.candidates.iter().flat_map(|candidate| &candidate.failed);
        let different: BTreeSet<_> = all.map(|(id, _)| id).collect();
        tries >= needed && different.len() < limits::CONTROL_FAILED_MAX
    }
}

#[cfg(test)]
mod tests {
    use sustain_proto::NodeId;

    use super::*;

    fn snapshot(seq: u8) -> SnapshotSummary {
        let term = Term { counter: 1, node: NodeId::from_bytes([1; 32]), nonce: 0 };
        let id = SnapshotId::from_bytes([seq; 32]);
        SnapshotSummary { id, term, origin: None, seq: seq.into(), durable: true, whole: true }
    }

    fn candidate(node: u8, eligible: bool, failed: &[(u8, u32)]) -> Candidate {
        let failed = failed.iter().map(|(seq, tries)| (SnapshotId::from_bytes([*seq; 32]), *tries)).collect();
        Candidate { stand: Stand { priority: 1, node: NodeId::from_bytes([node; 32]) }, eligible, failed }
    }

    /// The chosen snapshot, those passed over, and the nodes that stand.
    fn choose(candidates: &[Candidate], unheard: bool) -> (u64, Vec<u64>, Vec<u8>) {
        let known: Vec<_> = (1..=20).map(snapshot).collect();
        let lineage = Lineage::default();
        let field = Field { known: &known, lineage: &lineage, lost: None, candidates, unheard };
        let choice = field.choose().unwrap();
        let passed_over = choice.passed_over.iter().map(|summary| summary.seq).collect();
        let nodes = choice.stands.iter().map(|stand| stand.node.as_bytes()[0]).collect();
        (choice.snapshot.seq, passed_over, nodes)
    }

    #[test]
    fn a_snapshot_that_failed_on_one_node_is_left_to_the_others() {
        let failed = candidate(1, true, &[(20, 1)]);
        assert_eq!(choose(&[failed, candidate(2, true, &[])], false), (20, vec![], vec![2]));
        // However often it failed there, and though the other one pauses for another reason.
        let failed = candidate(1, true, &[(20, 9)]);
        assert_eq!(choose(&[failed, candidate(2, false, &[])], false), (20, vec![], vec![]));
    }

    #[test]
    fn one_that_failed_on_every_node_is_passed_over_for_the_next_older() {
        let candidates = [candidate(1, true, &[(20, 1), (19, 1)]), candidate(2, false, &[(20, 1)])];
        assert_eq!(choose(&candidates, false), (19, vec![20], vec![]));
        let candidates = [candidate(1, true, &[(20, 1)]), candidate(2, true, &[(20, 1)])];
        assert_eq!(choose(&candidates, false), (19, vec![20], vec![1, 2]));
        // A third one that can be reached said nothing: it may not have tried.
        assert_eq!(choose(&candidates, true), (20, vec![], vec![1, 2]));
    }

    #[test]
    fn a_node_that_is_alone_tries_twice() {
        assert_eq!(choose(&[candidate(1, true, &[(20, 1)])], false), (20, vec![], vec![1]));
        assert_eq!(choose(&[candidate(1, true, &[(20, 2)])], false), (19, vec![20], vec![1]));
    }

    /// If everything fails, it is not the snapshots: a broken QEMU must not cost all of the past.
    #[test]
    fn so_many_failures_are_no_longer_blamed_on_the_snapshots() {
        let failed: Vec<_> = (5..=20).rev().map(|seq| (seq, 2)).collect();
        assert_eq!(failed.len(), limits::CONTROL_FAILED_MAX);
        assert_eq!(choose(&[candidate(1, true, &failed[..15])], false).0, 5);
        assert_eq!(choose(&[candidate(1, true, &failed)], false), (20, vec![], vec![1]));
    }

    #[test]
    fn the_last_one_of_all_is_tried_for_ever() {
        let (known, lineage) = ([snapshot(1)], Lineage::default());
        let candidates = [candidate(1, true, &[(1, 5)])];
        let field =
            Field { known: &known, lineage: &lineage, lost: None, candidates: &candidates, unheard: false };
        let choice = field.choose().unwrap();
        assert_eq!((choice.snapshot.seq, choice.stands.len()), (1, 1));
        assert!(choice.passed_over.is_empty());
    }
}
