//! Ancestry from term records: chains, forks, missing records, and records that a liar made up.

use std::collections::BTreeMap;

use proptest::prelude::*;

use sustain_proto::{Lineage, NodeId, Term, TermOrigin};

fn term(counter: u64) -> Term {
    Term { counter, node: NodeId::from_bytes([7; 32]), nonce: 0 }
}

fn after(parent: u64, seq: u64) -> Option<TermOrigin> {
    Some(TermOrigin { parent: term(parent), seq })
}

/// Term 1 up to number 9; 2 and 3 fork off it at 5 and at 8; 4 goes on from 3 at 12.
fn forked() -> Lineage {
    let mut lineage = Lineage::default();
    lineage.learn_term(term(1), None);
    lineage.learn_term(term(2), after(1, 5));
    lineage.learn_term(term(3), after(1, 8));
    lineage.learn_term(term(4), after(3, 12));
    lineage
}

#[test]
fn within_one_term_numbers_decide() {
    // Even of a term that nobody has a record of.
    for lineage in [Lineage::default(), forked()] {
        assert!(lineage.contains(&term(1), 5, &term(1), 5));
        assert!(lineage.contains(&term(1), 5, &term(1), 4));
        assert!(!lineage.contains(&term(1), 5, &term(1), 6));
    }
}

#[test]
fn a_chain_holds_what_came_before_each_take_over() {
    let lineage = forked();
    assert!(lineage.contains(&term(4), 20, &term(3), 12));
    assert!(!lineage.contains(&term(4), 20, &term(3), 13), "taken after the take-over");
    assert!(lineage.contains(&term(4), 20, &term(1), 8));
    assert!(!lineage.contains(&term(4), 20, &term(1), 9));
}

#[test]
fn a_descendant_is_no_ancestor() {
    let lineage = forked();
    assert!(!lineage.contains(&term(1), 9, &term(2), 6));
    assert!(!lineage.contains(&term(3), 12, &term(4), 13));
}

#[test]
fn two_sides_of_a_fork_share_only_what_came_before() {
    let lineage = forked();
    assert!(!lineage.contains(&term(2), 100, &term(3), 9));
    assert!(!lineage.contains(&term(4), 100, &term(2), 6));
    assert!(lineage.contains(&term(2), 100, &term(1), 5));
    assert!(!lineage.contains(&term(2), 100, &term(1), 6));
}

#[test]
fn a_missing_record_means_no() {
    let mut lineage = Lineage::default();
    lineage.learn_term(term(4), after(3, 12));
    assert!(lineage.contains(&term(4), 20, &term(3), 12), "the parent itself needs no record");
    assert!(!lineage.contains(&term(4), 20, &term(1), 1));
}

#[test]
fn the_first_record_of_a_term_stands() {
    let mut lineage = forked();
    lineage.learn_term(term(2), after(1, 9));
    assert_eq!(lineage.origin(&term(2)), Some(after(1, 5)));
    assert_eq!(lineage.origin(&term(1)), Some(None));
    assert_eq!(lineage.origin(&term(9)), None);
}

#[test]
fn a_longest_chain_is_followed_to_its_end() {
    let mut lineage = Lineage::default();
    for counter in 2..=100 {
        lineage.learn_term(term(counter), after(counter - 1, counter * 10));
    }
    // Term 1 has no record, so the walk takes one step more than there are records.
    assert!(lineage.contains(&term(100), 5_000, &term(1), 20));
    assert!(!lineage.contains(&term(100), 5_000, &term(1), 21));
}

#[test]
fn cycles_end() {
    let mut lineage = Lineage::default();
    lineage.learn_term(term(1), after(1, 5));
    assert!(!lineage.contains(&term(1), 9, &term(2), 1));
    let mut lineage = Lineage::default();
    for counter in 0..10 {
        lineage.learn_term(term(counter), after((counter + 1) % 10, 5));
    }
    assert!(!lineage.contains(&term(3), 9, &term(77), 1));
    assert!(lineage.contains(&term(3), 9, &term(2), 5), "nine steps round the circle");
}

proptest! {
    /// Any records at all, cycles included, against ancestry worked out the slow way, step by step.
    #[test]
    fn agrees_with_walking_one_snapshot_at_a_time(
        records in prop::collection::btree_map(0_u64..6, prop::option::of((0_u64..6, 0_u64..5)), 0..6),
        of in (0_u64..6, 0_u64..5),
        ancestor in (0_u64..6, 0_u64..5),
    ) {
        let mut lineage = Lineage::default();
        for (counter, origin) in &records {
            let origin = origin.and_then(|(parent, seq)| after(parent, seq));
            lineage.learn_term(term(*counter), origin);
        }
        let expected = walk(&records, of, ancestor);
        prop_assert_eq!(lineage.contains(&term(of.0), of.1, &term(ancestor.0), ancestor.1), expected);
    }
}

/// Goes back from `of` until it meets `ancestor`'s term for the first time.
fn walk(records: &BTreeMap<u64, Option<(u64, u64)>>, of: (u64, u64), ancestor: (u64, u64)) -> bool {
    let (mut at, mut seq) = of;
    let mut seen = Vec::new();
    while !seen.contains(&at) {
        if at == ancestor.0 {
            return ancestor.1 <= seq;
        }
        seen.push(at);
        let Some(Some((parent, parent_seq))) = records.get(&at) else { return false };
        (at, seq) = (*parent, seq.min(*parent_seq));
    }
    false
}
