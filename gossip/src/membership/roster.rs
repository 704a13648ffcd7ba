//! Logic: who belongs to the cluster (P1).
//!
//! A member is who
//! - is named by this node's configuration, or was admitted by a member,
//! - and was not removed.
//!
//! A removal counts for ever, whoever signed it as long as he was ever admitted, and even if he was removed since. An
//! admission counts only as long as the one who signed it is a member: who is removed takes along whom he admitted,
//! and whom he may yet admit with a stolen key. So the one who removes somebody vouches for those that only the
//! removed one had admitted, as far as he knows them; and everybody else for the one who signed the removal. All that
//! is a function of the facts and of the configuration, so nodes with the same facts agree, in whichever order these
//! came: what a configuration says is signed as soon as anybody was admitted, and so becomes a fact, too. Until a
//! removal has reached a node, that node believes the removed one: no clock says what was first.

use std::collections::{BTreeMap, BTreeSet};

use sustain_proto::{Admission, Details, Fact, NodeId, Record, Removal};

use super::facts::{Digest, Facts};
use super::roster_error::RosterError;
use super::statement::{self, StatementError};
use super::trust::{believable, closure, named, signer};
use crate::identity::NodeKey;
use crate::limits;

/// What merging has done.
#[derive(Debug, Default)]
pub struct Merged {
    /// Whether anything is different now, so that others should hear of it.
    pub is_news: bool,
    /// Facts that are not believed.
    pub refused: usize,
    /// Why the first of them is not.
    pub why: Option<RosterError>,
    /// Whether the signature of one is wrong: whoever passes it on has not looked at it, which all do that are honest.
    pub is_forged: bool,
}

impl Merged {
    fn refuse(&mut self, why: RosterError) {
        self.refused += 1;
        self.is_forged |= matches!(why, RosterError::Statement(StatementError::Signature));
        self.why.get_or_insert(why);
    }
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedNode {
    /// What it was called, where that is known.
    pub name: Option<String>,
    /// Who signed its removal.
    pub by: NodeId,
}

/// The roster of one node.
#[derive(Debug, Clone)]
pub struct Roster {
    key: NodeKey,
    own: Details,
    configured: BTreeMap<NodeId, Details>,
    facts: Facts,
    members: BTreeMap<NodeId, Details>,
    digest: Digest,
}

impl Roster {
    /// A roster of what the configuration says: this node and the others.
    ///
    /// # Errors
    /// If this node's own details can't be signed.
    pub fn new(
        key: NodeKey,
        own: Details,
        configured: BTreeMap<NodeId, Details>,
    ) -> Result<Self, RosterError> {
        own.check()?;
        let digest = Facts::default().digest();
        let (facts, members) = (Facts::default(), BTreeMap::new());
        let mut roster = Self { key, own, configured, facts, members, digest };
        roster.say_own(0)?;
        roster.refresh();
        Ok(roster)
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.key.node_id()
    }

    /// All members, this node too unless it was removed.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Details> {
        &self.members
    }

    /// What the configuration says of the others.
    #[must_use]
    pub fn configured(&self) -> &BTreeMap<NodeId, Details> {
        &self.configured
    }

    /// The key with which it signs.
    #[cfg(test)]
    pub(crate) fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The facts behind it.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What is compared with other nodes.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether a node was removed, and by whom.
    #[must_use]
    pub fn removed(&self, node: &NodeId) -> Option<RemovedNode> {
        let by = self.facts.removal(node)?.by;
        Some(RemovedNode { name: self.details(node).map(|details| details.name.clone()), by })
    }

    /// Everyone who was removed.
    pub fn all_removed(&self) -> impl Iterator<Item = (NodeId, RemovedNode)> + '_ {
        self.facts.removals().filter_map(|removal| Some((removal.node, self.removed(&removal.node)?)))
    }

    /// Takes facts in. What is not believed is left out: wrong signatures, and statements of nodes that nobody has
    /// admitted.
    pub fn merge(&mut self, facts: impl IntoIterator<Item = Fact>) -> Merged {
        let mut merged = Merged::default();
        let mut waiting: Vec<Fact> = Vec::new();
        for fact in facts {
            if self.facts.is_news(&fact) {
                match believable(&fact) {
                    Ok(()) => waiting.push(fact),
                    Err(error) => merged.refuse(error),
                }
            }
        }
        let before = self.members.clone();
        let mut removers = BTreeSet::new();
        loop {
            let known = self.known();
            let (now, later): (Vec<Fact>, Vec<Fact>) =
                waiting.into_iter().partition(|fact| named(fact).iter().all(|node| known.contains(node)));
            waiting = later;
            if now.is_empty() {
                break;
            }
            for fact in now {
                if let Fact::Removal(removal) = &fact {
                    removers.insert(removal.body.by);
                }
                match self.has_room(&fact) {
                    Ok(()) => merged.is_news |= self.facts.add(fact),
                    Err(error) => merged.refuse(error),
                }
            }
        }
        waiting.iter().for_each(|fact| merged.refuse(RosterError::Stranger { signer: signer(fact) }));
        if merged.is_news {
            self.refresh();
            if let Err(error) = self.answer(&before, &removers) {
                merged.refuse(error);
            }
        }
        merged
    }

    /// Admits a node. Nothing changes if it is a member already.
    ///
    /// # Errors
    /// It was removed, its details are refused, or there is no room.
    pub fn admit(&mut self, node: NodeId, details: Details) -> Result<(), RosterError> {
        if self.facts.removal(&node).is_some() {
            return Err(RosterError::Removed { node });
        }
        details.check()?;
        self.settle()?;
        if self.members.contains_key(&node) {
            return Ok(());
        }
        if self.members.len() > limits::PEERS_MAX {
            return Err(RosterError::Full { what: "members", count: self.members.len() });
        }
        self.vouch(node, details)?;
        self.refresh();
        Ok(())
    }

    /// Removes a node for ever.
    ///
    /// # Errors
    /// It is no member, or this node itself, or there is no room.
    pub fn remove(&mut self, node: NodeId) -> Result<(), RosterError> {
        if node == self.me() {
            return Err(RosterError::Itself);
        }
        if self.facts.removal(&node).is_some() {
            return Ok(());
        }
        if !self.members.contains_key(&node) {
            return Err(RosterError::NoMember { node });
        }
        self.settle()?;
        let before = self.members.clone();
        let removal = statement::sign(&self.key, Removal { node, by: self.me() })?;
        let removal = Fact::Removal(removal);
        self.has_room(&removal)?;
        self.facts.add(removal);
        self.vouch_for(before)?;
        self.refresh();
        Ok(())
    }

    /// Signs for those that are members only by this node's configuration, so that others who hear of this one's
    /// admissions can also know of them.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn settle(&mut self) -> Result<(), RosterError> {
        self.vouch_for(self.members.clone())?;
        self.refresh();
        Ok(())
    }

    /// Signs for those of these that were not removed and that this node's admissions, with those of whom it admits,
    /// don't reach.
    fn vouch_for(&mut self, nodes: BTreeMap<NodeId, Details>) -> Result<(), RosterError> {
        let admitted_others: BTreeSet<NodeId> = self.facts.admissions().map(|it| it.by).collect();
        // Those who have admitted others come first: they bring these along.
        let (first, last): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|(node, _)| admitted_others.contains(node));
        let me = BTreeSet::from([self.me()]);
        let mut reached = self.reached(&me);
        for (node, details) in first.into_iter().chain(last) {
            if self.facts.removal(&node).is_none() && !reached.contains(&node) {
                self.vouch(node, details)?;
                reached = self.reached(&me);
            }
        }
        Ok(())
    }

    /// Signs an admission.
    fn vouch(&mut self, node: NodeId, details: Details) -> Result<(), RosterError> {
        let admission = statement::sign(&self.key, Admission { node, by: self.me(), details })?;
        let admission = Fact::Admission(admission);
        self.has_room(&admission)?;
        self.facts.add(admission);
        Ok(())
    }

    /// What this node has to say to what it has just heard.
    fn answer(
        &mut self,
        before: &BTreeMap<NodeId, Details>,
        removers: &BTreeSet<NodeId>,
    ) -> Result<(), RosterError> {
        let me = self.me();
        let lost: Vec<(NodeId, Details)> = before
            .iter()
            .filter(|(node, _)| !self.members.contains_key(node) && self.facts.removal(node).is_none())
            .filter(|(node, _)| removers.contains(node) || self.lost_by_me(node))
            .map(|(node, details)| (*node, details.clone()))
            .collect();
        for (node, details) in lost {
            self.vouch(node, details)?;
        }
        if self.facts.admission_count() > 0 {
            self.vouch_for(self.configured.clone())?;
        }
        // A record that this node wrote in an earlier life, which it has forgotten.
        let said = self.facts.record(&me).map(|record| (record.version, record.details == self.own));
        if let Some((version, false)) = said {
            self.say_own(version)?;
        }
        self.refresh();
        Ok(())
    }

    /// Whether a node was admitted by one that this node has removed.
    fn lost_by_me(&self, node: &NodeId) -> bool {
        let mut admitted_by = self.facts.admissions().filter(|it| it.node == *node).map(|it| it.by);
        admitted_by.any(|by| self.facts.removal(&by).is_some_and(|removal| removal.by == self.me()))
    }

    /// Signs this node's own record, with a version after this one.
    fn say_own(&mut self, version: u64) -> Result<(), RosterError> {
        let record =
            Record { node: self.me(), version: version.saturating_add(1), details: self.own.clone() };
        self.facts.add(Fact::Record(statement::sign(&self.key, record)?));
        Ok(())
    }

    /// Whose statements are believed: all that were ever admitted.
    fn known(&self) -> BTreeSet<NodeId> {
        closure(self.roots(), &self.facts, |_| true)
    }

    /// Who is a member, from these on.
    fn reached(&self, roots: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let is_in = |node: &NodeId| self.facts.removal(node).is_none();
        closure(roots.iter().copied().filter(is_in).collect(), &self.facts, is_in)
    }

    fn roots(&self) -> BTreeSet<NodeId> {
        self.configured.keys().copied().chain([self.me()]).collect()
    }

    fn refresh(&mut self) {
        let members = self.reached(&self.roots());
        self.members =
            members.into_iter().filter_map(|node| Some((node, self.details(&node)?.clone()))).collect();
        self.digest = self.facts.digest();
    }

    /// What is known of a node: by itself, by the configuration, by whoever has admitted it.
    fn details(&self, node: &NodeId) -> Option<&Details> {
        if *node == self.me() {
            return Some(&self.own);
        }
        let said = self.facts.record(node).map(|record| &record.details);
        said.or_else(|| self.configured.get(node)).or_else(|| {
            self.facts.admissions().find(|admission| admission.node == *node).map(|it| &it.details)
        })
    }

    fn has_room(&self, fact: &Fact) -> Result<(), RosterError> {
        let full = |what, count| Err(RosterError::Full { what, count });
        let Fact::Admission(admission) = fact else { return Ok(()) };
        let (count, nodes) = (self.facts.admission_count(), self.facts.admitted_count());
        let is_new = !self.facts.admissions().any(|it| it.node == admission.body.node);
        if is_new && nodes >= limits::ROSTER_NODES_MAX {
            return full("nodes", nodes);
        }
        let replaces = self.facts.admitted(admission.body.node, admission.body.by);
        if !replaces && count >= limits::ROSTER_ADMISSIONS_MAX {
            return full("admissions", count);
        }
        Ok(())
    }
}
