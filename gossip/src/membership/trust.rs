//! Logic: which facts can count, and who is reached by admissions.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{Fact, NodeId};

use super::facts::Facts;
use super::roster_error::RosterError;
use super::statement;

/// Everyone that these have admitted, and those in turn, as far as they pass.
pub(super) fn closure(
    roots: BTreeSet<NodeId>,
    facts: &Facts,
    passes: impl Fn(&NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let mut of: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for admission in facts.admissions() {
        of.entry(admission.by).or_default().push(admission.node);
    }
    let mut waiting: Vec<NodeId> = roots.iter().copied().collect();
    let mut reached = roots;
    while let Some(node) = waiting.pop() {
        for admitted in of.get(&node).into_iter().flatten() {
            if passes(admitted) && reached.insert(*admitted) {
                waiting.push(*admitted);
            }
        }
    }
    reached
}

/// Whose key has signed it.
pub(super) fn signer(fact: &Fact) -> NodeId {
    match fact {
        Fact::Record(it) => it.body.node,
        Fact::Admission(it) => it.body.by,
        Fact::Removal(it) => it.body.by,
    }
}

/// Who must have been admitted for the fact to count.
pub(super) fn named(fact: &Fact) -> Vec<NodeId> {
    match fact {
        Fact::Removal(it) => vec![it.body.by, it.body.node],
        fact => vec![signer(fact)],
    }
}

/// Whether it may be true at all: its details can be, and its signature is right.
pub(super) fn believable(fact: &Fact) -> Result<(), RosterError> {
    match fact {
        Fact::Record(it) => it.body.details.check()?,
        Fact::Admission(it) => it.body.details.check()?,
        Fact::Removal(_) => {}
    }
    Ok(match fact {
        Fact::Record(it) => statement::check(it),
        Fact::Admission(it) => statement::check(it),
        Fact::Removal(it) => statement::check(it),
    }?)
}
