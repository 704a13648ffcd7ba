//! Logic: the facts of a roster, as a set that can be merged in any order, any number of times, with one result.
//!
//! For each key (the node of a record or removal; the node and the member of an admission) the greatest fact is kept:
//! of records that is the one with the greatest version. So merging is taking the greater one, which is commutative,
//! associative and idempotent.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sustain_proto::{Admission, Fact, NodeId, Record, Removal, Signed};

/// Tells whether two sets of facts are equal: the BLAKE3 over all of them.
pub type Digest = [u8; 32];

/// The facts that a node has, each as the first bytes of a hash that a number chosen by the asker goes into: nobody
/// can make a fact that looks like another one to everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outline {
    /// The asker's number.
    pub nonce: u64,
    /// The hashes.
    pub hashes: BTreeSet<[u8; 8]>,
}

/// A set of facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    records: BTreeMap<NodeId, Signed<Record>>,
    admissions: BTreeMap<(NodeId, NodeId), Signed<Admission>>,
    removals: BTreeMap<NodeId, Signed<Removal>>,
}

impl Facts {
    /// Whether adding the fact would change anything.
    #[must_use]
    pub fn is_news(&self, fact: &Fact) -> bool {
        match fact {
            Fact::Record(it) => self.records.get(&it.body.node).is_none_or(|held| it > held),
            Fact::Admission(it) => {
                self.admissions.get(&(it.body.node, it.body.by)).is_none_or(|held| it > held)
            }
            Fact::Removal(it) => self.removals.get(&it.body.node).is_none_or(|held| it > held),
        }
    }

    /// Whether the fact would take the place of another one.
    pub(super) fn is_replaced_by(&self, fact: &Fact) -> bool {
        let has_other = match fact {
            Fact::Record(it) => self.records.contains_key(&it.body.node),
            Fact::Admission(it) => self.admissions.contains_key(&(it.body.node, it.body.by)),
            Fact::Removal(it) => self.removals.contains_key(&it.body.node),
        };
        has_other && self.is_news(fact)
    }

    /// Adds a fact. False if that changes nothing.
    pub fn add(&mut self, fact: Fact) -> bool {
        let is_news = self.is_news(&fact);
        if is_news {
            match fact {
                Fact::Record(it) => drop(self.records.insert(it.body.node, it)),
                Fact::Admission(it) => drop(self.admissions.insert((it.body.node, it.body.by), it)),
                Fact::Removal(it) => drop(self.removals.insert(it.body.node, it)),
            }
        }
        is_news
    }

    /// What a node says of itself, with its signature.
    #[must_use]
    pub fn signed_record(&self, node: &NodeId) -> Option<&Signed<Record>> {
        self.records.get(node)
    }

    /// What a node says of itself.
    #[must_use]
    pub fn record(&self, node: &NodeId) -> Option<&Record> {
        self.records.get(node).map(|record| &record.body)
    }

    /// Who removed a node, with the signature.
    #[must_use]
    pub fn signed_removal(&self, node: &NodeId) -> Option<&Signed<Removal>> {
        self.removals.get(node)
    }

    /// Who removed a node, if somebody did.
    #[must_use]
    pub fn removal(&self, node: &NodeId) -> Option<&Removal> {
        self.removals.get(node).map(|removal| &removal.body)
    }

    /// All removals.
    pub fn removals(&self) -> impl Iterator<Item = &Removal> {
        self.removals.values().map(|removal| &removal.body)
    }

    /// Who was admitted by whom.
    pub fn admissions(&self) -> impl Iterator<Item = &Admission> {
        self.admissions.values().map(|admission| &admission.body)
    }

    /// All facts: admissions first, as what others say counts only if they were admitted.
    pub fn iter(&self) -> impl Iterator<Item = Fact> + '_ {
        let admissions = self.admissions.values().cloned().map(Fact::Admission);
        let records = self.records.values().cloned().map(Fact::Record);
        admissions.chain(records).chain(self.removals.values().cloned().map(Fact::Removal))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len() + self.admissions.len() + self.removals.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an admission of this node by this member is there.
    #[must_use]
    pub fn admitted(&self, node: NodeId, by: NodeId) -> bool {
        self.admissions.contains_key(&(node, by))
    }

    /// How many nodes are named as admitted.
    #[must_use]
    pub fn admitted_count(&self) -> usize {
        self.admissions.keys().map(|(node, _)| node).collect::<BTreeSet<_>>().len()
    }

    /// How many admissions there are.
    #[must_use]
    pub fn admission_count(&self) -> usize {
        self.admissions.len()
    }

    /// What is compared first.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 roster digest v1");
        for fact in self.iter() {
            hasher.update(&encoded(&fact));
        }
        *hasher.finalize().as_bytes()
    }

    /// What is compared where digests differ.
    #[must_use]
    pub fn outline(&self, nonce: u64) -> Outline {
        Outline { nonce, hashes: self.iter().map(|fact| short_hash(nonce, &fact)).collect() }
    }

    /// Facts that are not in an outline, at most so many.
    #[must_use]
    pub fn lacking(&self, outline: &Outline, count_max: usize) -> Vec<Fact> {
        let lacks = |fact: &Fact| !outline.hashes.contains(&short_hash(outline.nonce, fact));
        self.iter().filter(lacks).take(count_max).collect()
    }
}

fn encoded(fact: &Fact) -> Vec<u8> {
    // It fails only where memory does; an empty encoding then is one that matches nothing.
    postcard::to_allocvec(fact).unwrap_or_default()
}

fn short_hash(nonce: u64, fact: &Fact) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 roster outline v1");
    hasher.update(&nonce.to_le_bytes());
    hasher.update(&encoded(fact));
    let mut short = [0; 8];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sustain_proto::{Details, Signature};

    use super::*;

    /// Facts of a few nodes with a few values, so that they contradict one another; merging looks at no signature.
    fn fact() -> impl Strategy<Value = Fact> {
        (0_u8..3, 0_u8..4, 0_u8..4, 0_u64..3, 0_u32..3, 0_u8..2).prop_map(
            |(kind, node, by, version, priority, signature)| {
                let (node, by) = (NodeId::from_bytes([node; 32]), NodeId::from_bytes([by; 32]));
                let address = "192.0.2.1:7411".parse().unwrap();
                let details = Details { name: "north".to_owned(), address, domain: String::new(), priority };
                let signature = Signature::from_bytes(&[signature; 64]);
                match kind {
                    0 => Fact::Record(Signed { body: Record { node, version, details }, signature }),
                    1 => Fact::Admission(Signed { body: Admission { node, by, details }, signature }),
                    _ => Fact::Removal(Signed { body: Removal { node, by }, signature }),
                }
            },
        )
    }

    fn facts() -> impl Strategy<Value = Facts> {
        prop::collection::vec(fact(), 0..30).prop_map(|list| {
            let mut facts = Facts::default();
            for fact in list {
                facts.add(fact);
            }
            facts
        })
    }

    fn merged(one: &Facts, other: &Facts) -> Facts {
        let mut all = one.clone();
        for fact in other.iter() {
            all.add(fact);
        }
        all
    }

    proptest! {
        #[test]
        fn merging_is_commutative_associative_and_idempotent(a in facts(), b in facts(), c in facts()) {
            prop_assert_eq!(merged(&a, &b), merged(&b, &a));
            prop_assert_eq!(merged(&merged(&a, &b), &c), merged(&a, &merged(&b, &c)));
            prop_assert_eq!(&merged(&a, &a), &a);
            prop_assert_eq!(&merged(&merged(&a, &b), &b), &merged(&a, &b));
        }

        /// Digests tell equal from different, and pulling what an outline lacks, a few facts at a time, makes equal.
        #[test]
        fn two_sets_that_pull_from_each_other_become_equal(a in facts(), b in facts(), nonce in any::<u64>()) {
            prop_assert_eq!(a == b, a.digest() == b.digest());
            let (mut one, mut other) = (a.clone(), b.clone());
            for round in 0..100 {
                for fact in other.lacking(&one.outline(nonce ^ round), 3) {
                    one.add(fact);
                }
                for fact in one.lacking(&other.outline(nonce ^ !round), 3) {
                    other.add(fact);
                }
                if one.digest() == other.digest() {
                    break;
                }
            }
            prop_assert_eq!(&one, &other);
            prop_assert_eq!(&one, &merged(&a, &b));
        }
    }
}
