//! Logic: lines of a service's snapshots, one for each term, and when what one lists is covered by another one (P13).
//!
//! Two servers that can't hear each other go on in terms of their own. Both lines are kept until one lists a snapshot
//! that goes on from everything in the other, or says that it was merged or released.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sustain_proto::{Lineage, ServiceName, Term};

use super::catalog::Catalog;

/// What one server publishes of a service in one term.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Line {
    /// The service.
    pub service: ServiceName,
    /// The term.
    pub term: Term,
}

/// The term records of two catalogs.
fn lineage_of(catalogs: [&Catalog; 2]) -> Lineage {
    let mut lineage = Lineage::default();
    for catalog in catalogs {
        catalog.entries.iter().for_each(|entry| lineage.learn_term(entry.term, entry.origin));
        catalog.terms.iter().for_each(|(term, origin)| lineage.learn_term(*term, *origin));
    }
    lineage
}

/// The greatest number of each term in a catalog. What came before in that term is an ancestor.
fn tops(catalog: &Catalog) -> BTreeMap<Term, u64> {
    let mut tops = BTreeMap::new();
    for entry in &catalog.entries {
        let top = tops.entry(entry.term).or_insert(entry.seq);
        *top = entry.seq.max(*top);
    }
    tops
}

/// Whether a catalog replaces another one: it is of a greater term, and everything in the other one is continued by a
/// snapshot of it, or was merged or released as it says; or, in whatever term, all of that was merged or released.
///
/// A server that has just taken over has nothing of its own yet, so that the one before it, if it goes on, continues
/// all that the new one has. It does not replace it: the greater term is to win.
pub(super) fn replaces(catalog: &Catalog, other: &Catalog) -> bool {
    let is_greater = catalog.version.term > other.version.term;
    let is_over = |catalog: &Catalog, other: &Catalog| is_continued(other, catalog, false);
    if is_greater { covers(catalog, other) } else { is_over(catalog, other) && !is_over(other, catalog) }
}

/// Whether everything in a catalog is continued by a snapshot of another one, or was merged or released as that one
/// says. Where a term record on the way is missing it is not.
pub(crate) fn covers(catalog: &Catalog, other: &Catalog) -> bool {
    is_continued(other, catalog, true)
}

fn is_continued(other: &Catalog, catalog: &Catalog, by_snapshots: bool) -> bool {
    let lineage = lineage_of([catalog, other]);
    let merged = catalog.merged.iter().map(|held| (held.term, held.seq));
    let snapshots = if by_snapshots { tops(catalog) } else { BTreeMap::new() };
    let states: Vec<(Term, u64)> = snapshots.into_iter().chain(merged).collect();
    tops(other)
        .iter()
        .all(|(term, seq)| states.iter().any(|(of, of_seq)| lineage.contains(of, *of_seq, term, *seq)))
}

#[cfg(test)]
mod tests {
    use sustain_proto::{Held, NodeId, Signature, SnapshotId, TermOrigin};

    use super::super::catalog::{Entry, Version};
    use super::*;

    fn term(counter: u64, node: u8) -> Term {
        Term { counter, node: NodeId::from_bytes([node; 32]), nonce: 0 }
    }

    fn entry(term: Term, origin: Option<TermOrigin>, seq: u64) -> Entry {
        let manifest = std::sync::Arc::from(&b"manifest"[..]);
        let id = SnapshotId::of_manifest(b"manifest");
        Entry { id, term, origin, seq, added: seq, base: None, manifest, packs: Vec::new() }
    }

    fn catalog(term: Term, entries: Vec<Entry>) -> Catalog {
        Catalog {
            service: ServiceName::new("mail").unwrap(),
            version: Version { term, number: 9 },
            inherits: None,
            server: term.node,
            tolerance: 1,
            warm: [].into(),
            encoders: [].into(),
            spread_to: 0,
            terms: [].into(),
            merged: [].into(),
            entries,
            signature: Signature::from_bytes(&[0; 64]),
        }
    }

    #[test]
    fn who_goes_on_from_a_head_covers_it_and_who_branched_off_before_does_not() {
        let (one, two) = (term(1, 1), term(2, 2));
        let origin = |seq| Some(TermOrigin { parent: one, seq });
        let first = catalog(one, vec![entry(one, None, 4), entry(one, None, 5)]);
        let after = catalog(two, vec![entry(two, origin(5), 6)]);
        assert!(covers(&after, &first));
        assert!(!covers(&first, &after));
        let fork = catalog(two, vec![entry(one, None, 4), entry(two, origin(4), 5)]);
        assert!(!covers(&fork, &first));
        assert!(!covers(&first, &fork));
    }

    #[test]
    fn what_was_merged_is_covered_and_what_came_after_it_is_not() {
        let (one, two) = (term(2, 1), term(2, 2));
        let lost = catalog(one, vec![entry(one, None, 7)]);
        let mut winner = catalog(two, vec![entry(two, None, 3)]);
        assert!(!covers(&winner, &lost));
        winner.merged.insert(Held { term: one, seq: 7 });
        assert!(covers(&winner, &lost));
        assert!(!covers(&winner, &catalog(one, vec![entry(one, None, 7), entry(one, None, 8)])));
    }

    /// A server that took over had nothing of its own yet, and the one that it took over from went on: its catalog
    /// replaced the new one, and what was promised there was dropped.
    #[test]
    fn who_went_on_does_not_replace_who_took_over() {
        let (one, two) = (term(1, 1), term(2, 2));
        let on = catalog(one, vec![entry(one, None, 6)]);
        let mut taken = catalog(two, vec![entry(one, None, 5)]);
        assert!(covers(&on, &taken));
        assert!(!replaces(&on, &taken));
        assert!(!replaces(&taken, &on));
        taken.merged.insert(Held { term: one, seq: 6 });
        assert!(replaces(&taken, &on));
    }

    #[test]
    fn a_term_alone_covers_nothing() {
        let (one, two) = (term(1, 1), term(2, 2));
        let first = catalog(one, vec![entry(one, None, 5)]);
        let mut empty = catalog(two, Vec::new());
        empty.terms.insert(two, Some(TermOrigin { parent: one, seq: 5 }));
        assert!(!covers(&empty, &first), "nothing is retained there");
    }
}
