//! What is restored: the newest restorable snapshot of the failed server's lineage (P13, P14).

use sustain_proto::wire::SnapshotSummary;
use sustain_proto::{Lineage, SnapshotId, Term};

/// The newest snapshot that some reachable node holds whole, among those that the lost term's server
/// descends from or took itself.
///
/// `known` is what all reachable nodes say; `learnt` holds term records heard in heartbeats. When no
/// server was ever heard (`lost` is none: the whole cluster was restarted), the lineage is that of the
/// greatest term of which a snapshot is known. Of equally new ones (a rebase keeps the number), one
/// that is known to be durable is preferred, then the greatest id, so that all nodes choose alike.
#[must_use]
pub fn newest_of_lineage(
    known: &[SnapshotSummary],
    learnt: &Lineage,
    lost: Option<Term>,
) -> Option<SnapshotSummary> {
    let mut lineage = learnt.clone();
    for summary in known {
        lineage.learn_term(summary.term, summary.origin);
    }
    let head = lost.or_else(|| known.iter().map(|summary| summary.term).max())?;
    let newest = |of: Term| {
        known
            .iter()
            .filter(|summary| summary.whole && lineage.contains(&of, u64::MAX, &summary.term, summary.seq))
            .max_by_key(|summary| (summary.seq, summary.durable, summary.id))
            .copied()
    };
    // A term record can be missing: its server died before any snapshot of it, or its heartbeats, came
    // here. Its counter still says that it followed the greatest term known.
    newest(head).or_else(|| newest(known.iter().map(|summary| summary.term).max()?))
}

/// The snapshots to be marked as durable because their line's server says so of this one: all that came before it
/// in the line `line`, of which the durable state is a continuation.
///
/// Of several with its own number (a rebase keeps it), only the named one is meant.
#[must_use]
pub fn implied_durable(
    known: &[SnapshotSummary],
    learnt: &Lineage,
    line: &Term,
    (named, named_seq): (SnapshotId, u64),
) -> Vec<SnapshotId> {
    let mut lineage = learnt.clone();
    for summary in known {
        lineage.learn_term(summary.term, summary.origin);
    }
    let implied = |summary: &&SnapshotSummary| {
        let before = summary.seq < named_seq && lineage.contains(line, named_seq, &summary.term, summary.seq);
        !summary.durable && (before || summary.id == named)
    };
    known.iter().filter(implied).map(|summary| summary.id).collect()
}

#[cfg(test)]
mod tests {
    use sustain_proto::{NodeId, TermOrigin};

    use super::*;

    fn term(counter: u64, node: u8) -> Term {
        Term { counter, node: NodeId::from_bytes([node; 32]), nonce: 0 }
    }

    fn summary(term: Term, origin: Option<TermOrigin>, seq: u64, whole: bool) -> SnapshotSummary {
        let mut id = [0; 32];
        id[0] = u8::try_from(term.counter).unwrap();
        id[1] = u8::try_from(seq).unwrap();
        id[2] = term.node.as_bytes()[0];
        SnapshotSummary { id: SnapshotId::from_bytes(id), term, origin, seq, durable: false, whole }
    }

    #[test]
    fn a_snapshot_of_another_branch_is_never_restored_however_new() {
        let (first, ours, other) = (term(1, 1), term(2, 2), term(2, 3));
        let origin = |seq| Some(TermOrigin { parent: first, seq });
        let known = [
            summary(first, None, 4, true),
            summary(ours, origin(4), 5, true),
            summary(other, origin(3), 9, true),
        ];
        let chosen = newest_of_lineage(&known, &Lineage::default(), Some(ours)).unwrap();
        assert_eq!((chosen.term, chosen.seq), (ours, 5));
    }

    /// Only those were marked that a heartbeat happened to name.
    #[test]
    fn what_came_before_a_durable_snapshot_in_its_line_is_durable_too() {
        let (first, second) = (term(1, 1), term(2, 2));
        let origin = Some(TermOrigin { parent: first, seq: 3 });
        let known = [
            summary(first, None, 2, true),
            summary(first, None, 3, true),
            // Past the fork: no part of the line.
            summary(first, None, 4, true),
            summary(second, origin, 4, true),
            summary(second, origin, 5, true),
            // The newest, and another with the number of the named one.
            summary(second, origin, 6, true),
            summary(term(3, 2), None, 5, true),
        ];
        let named = (known[4].id, 5);
        let implied = implied_durable(&known, &Lineage::default(), &second, named);
        assert_eq!(implied, [0, 1, 3, 4].map(|at: usize| known[at].id));
        let marked = known.map(|summary| SnapshotSummary { durable: true, ..summary });
        assert_eq!(implied_durable(&marked, &Lineage::default(), &second, named), Vec::new());
        // A new server has taken nothing yet, and names what its predecessor took.
        let named = (known[0].id, 2);
        assert_eq!(implied_durable(&known[..2], &Lineage::default(), &second, named), [known[0].id]);
    }

    #[test]
    fn past_the_fork_the_old_term_no_longer_counts() {
        let (first, second) = (term(1, 1), term(2, 2));
        let mut learnt = Lineage::default();
        learnt.learn_term(second, Some(TermOrigin { parent: first, seq: 3 }));
        let known = [summary(first, None, 3, true), summary(first, None, 6, true)];
        // The second server restored number 3, served, and died before its first snapshot: what the
        // first server did after number 3 is on another branch.
        assert_eq!(newest_of_lineage(&known, &learnt, Some(second)).unwrap().seq, 3);
    }

    #[test]
    fn what_nobody_holds_whole_is_passed_over() {
        let first = term(1, 1);
        let known = [summary(first, None, 3, true), summary(first, None, 4, false)];
        assert_eq!(newest_of_lineage(&known, &Lineage::default(), Some(first)).unwrap().seq, 3);
        assert_eq!(newest_of_lineage(&known[1..], &Lineage::default(), Some(first)), None);
    }

    #[test]
    fn after_a_restart_of_everything_the_greatest_term_leads() {
        let (first, second) = (term(1, 1), term(2, 2));
        let origin = Some(TermOrigin { parent: first, seq: 3 });
        let known = [summary(first, None, 8, true), summary(second, origin, 4, true)];
        assert_eq!(newest_of_lineage(&known, &Lineage::default(), None).unwrap().seq, 4);
    }
}
