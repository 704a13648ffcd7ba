//! Logic: which fragment each node says it holds. Each speaks for itself; its newest claim counts.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sustain_proto::NodeId;

use crate::holdings::{Fragment, Holdings};
use crate::limits;
use crate::overlay::Members;

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The node.
    pub node: NodeId,
    /// Greater after each start of the node.
    pub life: u64,
    /// Counts its claims in this life.
    pub number: u64,
    /// The fragment that it holds of every pack.
    pub index: Option<Fragment>,
    /// The one that it is about to hold instead.
    pub moving: Option<Fragment>,
}

impl Claim {
    fn age(&self) -> (u64, u64) {
        (self.life, self.number)
    }

    fn hash(&self) -> u64 {
        let (head, _) = self.node.as_bytes().split_first_chunk().unwrap_or((&[0; 8], &[]));
        mix(mix(u64::from_le_bytes(*head) ^ mix(self.life)) ^ self.number)
    }

    fn bucket(node: &NodeId) -> usize {
        usize::from(node.as_bytes()[31]) % limits::CLAIM_BUCKETS
    }
}

/// Spreads a number's bits.
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A hash of the claims in each bucket: where two nodes' differ, they compare.
pub type Buckets = [u64; limits::CLAIM_BUCKETS];

/// The newest claim of each node.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    all: BTreeMap<NodeId, Claim>,
    buckets: Buckets,
    /// Who holds each fragment, those who are about to not counted.
    holders: BTreeMap<Fragment, BTreeSet<NodeId>>,
    /// Who will hold what when all moves are done, of those that count.
    holdings: Holdings,
    /// Those that count.
    counting: Members,
}

impl Claims {
    /// Takes a claim, if it is news.
    pub fn put(&mut self, claim: Claim) -> bool {
        let old = self.all.get(&claim.node);
        if old.is_some_and(|old| old.age() >= claim.age()) {
            return false;
        }
        if old.is_none() && self.all.len() >= limits::CLAIMS_MAX {
            return false;
        }
        self.remove(&claim.node);
        self.buckets[Claim::bucket(&claim.node)] ^= claim.hash();
        if let Some(index) = claim.index {
            self.holders.entry(index).or_default().insert(claim.node);
        }
        if let Some(index) = claim.moving.or(claim.index).filter(|_| self.counting.contains_key(&claim.node))
        {
            self.holdings.set(claim.node, index);
        }
        self.all.insert(claim.node, claim);
        true
    }

    /// Has only these nodes count for [`Claims::holdings`].
    pub fn count(&mut self, counting: &Members) {
        self.counting.clone_from(counting);
        for claim in self.all.values() {
            match claim.moving.or(claim.index) {
                Some(index) if counting.contains_key(&claim.node) => self.holdings.set(claim.node, index),
                _ => self.holdings.remove(&claim.node),
            }
        }
    }

    /// Forgets a node.
    pub fn remove(&mut self, node: &NodeId) {
        let Some(old) = self.all.remove(node) else { return };
        self.buckets[Claim::bucket(node)] ^= old.hash();
        if let Some(holders) = old.index.and_then(|index| self.holders.get_mut(&index)) {
            holders.remove(node);
        }
        self.holdings.remove(node);
    }

    /// What a node says.
    #[must_use]
    pub fn of(&self, node: &NodeId) -> Option<&Claim> {
        self.all.get(node)
    }

    /// Who says that it holds a fragment.
    pub fn holders(&self, index: Fragment) -> impl Iterator<Item = NodeId> + '_ {
        self.holders.get(&index).into_iter().flatten().copied()
    }

    /// The fragments that somebody holds.
    pub fn held(&self) -> impl Iterator<Item = Fragment> + '_ {
        self.holders.iter().filter(|(_, holders)| !holders.is_empty()).map(|(index, _)| *index)
    }

    /// Who will hold what when all moves are done, of those that count.
    #[must_use]
    pub fn holdings(&self) -> &Holdings {
        &self.holdings
    }

    /// The hashes by which two nodes find out whether they know the same.
    #[must_use]
    pub fn buckets(&self) -> Buckets {
        self.buckets
    }

    /// The claims of the buckets in which these hashes differ from those here.
    #[must_use]
    pub fn differing(&self, theirs: &Buckets) -> Vec<Claim> {
        let differs = |node: &NodeId| self.buckets[Claim::bucket(node)] != theirs[Claim::bucket(node)];
        self.all.values().filter(|claim| differs(&claim.node)).copied().collect()
    }

    /// Of the buckets of these claims, those claims here that they lack or that are newer.
    #[must_use]
    pub fn newer(&self, theirs: &[Claim], differing: u64) -> Vec<Claim> {
        let theirs: BTreeMap<NodeId, (u64, u64)> =
            theirs.iter().map(|claim| (claim.node, claim.age())).collect();
        let is_asked = |node: &NodeId| differing >> Claim::bucket(node) & 1 == 1;
        let is_newer = |claim: &&Claim| {
            is_asked(&claim.node) && theirs.get(&claim.node).is_none_or(|age| *age < claim.age())
        };
        self.all.values().filter(is_newer).copied().collect()
    }

    /// A bit for each bucket in which these hashes differ from those here.
    #[must_use]
    pub fn difference(&self, theirs: &Buckets) -> u64 {
        let bits = self.buckets.iter().zip(theirs).enumerate();
        bits.filter(|(_, (one, other))| one != other).fold(0, |bits, (bucket, _)| bits | 1 << bucket)
    }

    /// How many nodes have said something.
    #[must_use]
    pub fn known(&self) -> usize {
        self.all.len()
    }
}
