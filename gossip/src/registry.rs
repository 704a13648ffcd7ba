//! Drives the roster: keeps it in a file, compares it with other nodes', and has peers come and go with it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use quinn::{Connection, ConnectionError, VarInt};
use rand::seq::IteratorRandom;
use sustain_proto::wire::{Message, Request, Response};
use sustain_proto::{Details, Fact, NodeId, Record, Signed};
use tokio::sync::mpsc;

use crate::config::Peer;
use crate::error::{MembershipError, StartError};
use crate::healths::HealthEvent;
use crate::identity::random;
use crate::keeping::posts;
use crate::member::Member;
use crate::membership::{Merged, Outline, RemovedNode, Roster, RosterError};
use crate::transport::links::lock;
use crate::transport::quic;
use crate::{control, limits, roster_file};

use sustain_store::error_chain;

/// The roster of a running node.
pub(crate) struct Registry {
    roster: Mutex<Roster>,
    file: Option<PathBuf>,
    /// Held while peers are made to fit the roster, and while it is saved, so that the newest state is the last.
    fitting: tokio::sync::Mutex<()>,
    /// Peers that are being asked for facts.
    asked: Mutex<BTreeSet<NodeId>>,
    /// Removed nodes whose calls were spoken of.
    spoken_of: Mutex<BTreeSet<NodeId>>,
}

impl Registry {
    pub(crate) fn new(roster: Roster, file: Option<PathBuf>) -> Self {
        let (asked, spoken_of) = (Mutex::default(), Mutex::default());
        Self { roster: Mutex::new(roster), file, fitting: tokio::sync::Mutex::default(), asked, spoken_of }
    }

    pub(crate) fn members(&self) -> BTreeMap<NodeId, Details> {
        lock(&self.roster).members().clone()
    }

    pub(crate) fn removed(&self, node: &NodeId) -> Option<RemovedNode> {
        lock(&self.roster).removed(node)
    }

    pub(crate) fn all_removed(&self) -> Vec<(NodeId, RemovedNode)> {
        lock(&self.roster).all_removed().collect()
    }

    /// Facts for a node that joins: as many as fit one message, its own admission among them.
    pub(crate) fn facts_for(&self, node: NodeId) -> Vec<Fact> {
        let all: Vec<Fact> = lock(&self.roster).facts().iter().collect();
        let is_own = |fact: &&Fact| matches!(fact, Fact::Admission(it) if it.body.node == node);
        let (own, others): (Vec<&Fact>, Vec<&Fact>) = all.iter().partition(is_own);
        own.into_iter().chain(others).take(limits::JOIN_FACTS).cloned().collect()
    }

    /// What a peer is told when there is a connection to it.
    pub(crate) fn greeting(&self) -> Message {
        let roster = lock(&self.roster);
        let record = roster.facts().signed_record(&roster.me()).cloned().map(Box::new);
        Message::Roster { digest: *roster.digest(), is_reply: false, record }
    }

    /// What a peer is told otherwise.
    fn summary(&self, is_reply: bool) -> Message {
        Message::Roster { digest: *lock(&self.roster).digest(), is_reply, record: None }
    }

    /// Answers a question about the roster.
    pub(crate) fn answer(&self, nonce: u64, hashes: Vec<[u8; 8]>) -> Response {
        let outline = Outline { nonce, hashes: hashes.into_iter().collect() };
        let facts = lock(&self.roster).facts().lacking(&outline, sustain_proto::limits::MESSAGE_FACTS_MAX);
        Response::Facts { facts }
    }

    /// How the call of a node that is no member is refused. One that was removed is shown who did it.
    pub(crate) fn refusal(&self, node: NodeId) -> (VarInt, Vec<u8>) {
        let roster = lock(&self.roster);
        let Some(removal) = roster.facts().signed_removal(&node).cloned().map(Fact::Removal) else {
            return (quic::CLOSE_REFUSED, b"not in this cluster".to_vec());
        };
        // It fails only where memory does.
        (quic::CLOSE_REMOVED, postcard::to_allocvec(&removal).unwrap_or_default())
    }

    /// Says once that a removed node calls, which it may do for ever.
    pub(crate) fn speak_of_call(&self, node: NodeId) {
        if let Some(removed) = self.removed(&node) {
            if lock(&self.spoken_of).insert(node) {
                let name = removed.name.unwrap_or_default();
                tracing::info!(node = %node.short(), name, "a node that was removed calls, and is refused");
            }
        }
    }

    fn merge(&self, facts: Vec<Fact>) -> Merged {
        lock(&self.roster).merge(facts)
    }
}

/// Admits a node, and keeps and tells it.
pub(crate) async fn admit(
    member: &Arc<Member>,
    node: NodeId,
    details: Details,
) -> Result<(), MembershipError> {
    lock(&member.registry.roster).admit(node, details)?;
    fit(member).await
}

/// Removes a node for ever, and keeps and tells it.
pub(crate) async fn remove(member: &Arc<Member>, node: NodeId) -> Result<(), MembershipError> {
    lock(&member.registry.roster).remove(node)?;
    fit(member).await
}

/// A peer has told who it is. Only it can have signed that, but another may send it.
pub(crate) async fn introduced(member: &Arc<Member>, from: NodeId, record: Option<Box<Signed<Record>>>) {
    if let Some(record) = record {
        take(member, from, vec![Fact::Record(*record)]).await;
    }
}

/// A peer has told what its roster is.
pub(crate) async fn heard(member: &Arc<Member>, from: NodeId, digest: [u8; 32], is_reply: bool) {
    let differs = || *lock(&member.registry.roster).digest() != digest;
    if !differs() || !lock(&member.registry.asked).insert(from) {
        return;
    }
    pull(member, from).await;
    lock(&member.registry.asked).remove(&from);
    if differs() && !is_reply {
        member.send(from, member.registry.summary(true));
    }
}

/// Asks a peer for the facts that are lacking here.
async fn pull(member: &Arc<Member>, from: NodeId) {
    for _ in 0..limits::ROSTER_PULLS_MAX {
        let Ok(nonce) = random() else { return };
        let outline = lock(&member.registry.roster).facts().outline(nonce);
        let hashes = outline.hashes.into_iter().take(sustain_proto::limits::OUTLINE_FACTS_MAX).collect();
        let request = Request::Roster { nonce, hashes };
        let facts = match member.request(from, &request, member.request_timeout()).await {
            Ok(Response::Facts { facts }) => facts,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(peer = %from.short(), error = error_chain(&error), "the roster was not compared");
                return;
            }
        };
        let is_full = facts.len() == sustain_proto::limits::MESSAGE_FACTS_MAX;
        let is_news = take(member, from, facts).await;
        if !is_full || !is_news {
            return;
        }
    }
}

/// Takes facts in that a peer has sent. True if there was news among them.
async fn take(member: &Arc<Member>, from: NodeId, facts: Vec<Fact>) -> bool {
    let merged = member.registry.merge(facts);
    if let Some(why) = &merged.why {
        let (count, why) = (merged.refused, error_chain(why));
        tracing::debug!(peer = %from.short(), count, why, "facts of the roster are not believed");
    }
    if merged.is_news {
        if let Err(error) = fit(member).await {
            // Other nodes have it, and will tell it again.
            tracing::warn!(error = error_chain(&error), "the roster's news could not be kept");
        }
    }
    merged.is_news
}

/// The other side may have closed a connection because this node was removed; it shows the proof.
pub(crate) fn heed_removal(member: &Arc<Member>, peer: NodeId, connection: &Connection) {
    let Some(ConnectionError::ApplicationClosed(close)) = connection.close_reason() else { return };
    if close.error_code != quic::CLOSE_REMOVED {
        return;
    }
    if let Ok(fact) = postcard::from_bytes::<Fact>(&close.reason) {
        // Apart from the peer's own tasks, which may end by it.
        let known = member.clone();
        member.tasks.spawn(async move {
            take(&known, peer, vec![fact]).await;
        });
    }
}

/// Has peers come and go as the roster says, keeps it in its file, and tells the neighbours.
pub(crate) async fn fit(member: &Arc<Member>) -> Result<(), MembershipError> {
    let _fitting = member.registry.fitting.lock().await;
    let (mut members, facts): (_, Vec<Fact>) = {
        let roster = lock(&member.registry.roster);
        (roster.members().clone(), roster.facts().iter().collect())
    };
    if let Some(file) = member.registry.file.clone() {
        let saved = member.tasks.blocking(move || roster_file::save(&file, facts)).await;
        saved.map_err(|_| MembershipError::Stopped)??;
    }
    let is_member = members.remove(&member.id).is_some();
    let before = member.peers.list();
    let gone = before.iter().filter(|peer| !members.contains_key(&peer.id));
    for peer in gone {
        let (code, reason) = member.registry.refusal(peer.id);
        tracing::info!(node = %peer.id.short(), name = peer.name, "a node belongs to the cluster no longer");
        part(member, peer.id, code, &reason);
    }
    for (id, details) in &members {
        let peer = Peer::of(*id, details);
        let (node, name, address) = (id.short(), &peer.name, peer.address);
        match before.iter().find(|known| known.id == *id) {
            Some(known) if *known == peer => {}
            Some(known) => {
                if known.address != address {
                    member.links.set(*id, address)?;
                    tracing::info!(node, name, %address, "a node has another address");
                }
                member.peers.update(peer);
            }
            None => {
                tracing::info!(node, name, %address, "a node belongs to the cluster");
                join(member, peer)?;
            }
        }
    }
    pin(member);
    member.healths.insist(HealthEvent::Members).await;
    member.handler.members_changed(member.peers.list());
    for neighbour in member.neighbours() {
        member.send(neighbour, member.registry.summary(false));
    }
    if !is_member {
        if let Some(removed) = member.registry.removed(&member.id) {
            member.handler.removed(removed);
        }
    }
    Ok(())
}

/// Whose keys pass: members', and those of removed nodes, which are told so.
pub(crate) fn pin(member: &Member) {
    let removed = member.registry.all_removed().into_iter().map(|(node, _)| node);
    member.pinned.set(member.peers.ids().into_iter().chain(removed).collect());
}

/// Begins with a peer.
pub(crate) fn join(member: &Arc<Member>, peer: Peer) -> Result<(), StartError> {
    let id = peer.id;
    member.links.set(id, peer.address)?;
    member.reach.add(id);
    let messages = member.keeping.add(id);
    let (outbox, inbox) = mpsc::channel(limits::OUTBOX_MESSAGES_MAX);
    let end = member.peers.add(peer, outbox);
    let spawn = |task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
        let ends = end.clone().run_until_cancelled_owned(task);
        member.tasks.spawn(async move {
            ends.await;
        });
    };
    spawn(Box::pin(control::keep_connection(member.clone(), id)));
    spawn(Box::pin(control::send_messages(member.clone(), id, inbox)));
    spawn(Box::pin(posts::send(member.clone(), id, messages)));
    Ok(())
}

/// Ends with a peer.
fn part(member: &Member, peer: NodeId, code: VarInt, reason: &[u8]) {
    member.peers.remove(&peer);
    member.served.close(peer, code, reason);
    member.links.remove(peer, code, reason);
    member.reach.remove(&peer);
    member.keeping.remove(&peer);
}

/// Compares the roster with some peer's, again and again.
pub(crate) async fn compare(member: Arc<Member>) {
    loop {
        tokio::time::sleep(limits::ROSTER_INTERVAL).await;
        // Invitations expire.
        crate::join::open_door(&member);
        let reachable = member.peers.ids().into_iter().filter(|peer| member.reach.reachable(peer));
        if let Some(peer) = reachable.choose(&mut rand::rng()) {
            member.send(peer, member.registry.summary(false));
        }
    }
}

impl From<RosterError> for MembershipError {
    fn from(error: RosterError) -> Self {
        Self::Roster(error)
    }
}
