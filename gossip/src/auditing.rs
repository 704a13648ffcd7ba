//! Carries out audits: peers are asked for random groups of packs that this node has, too, and that they say they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rand::seq::IteratorRandom;
use sustain_proto::wire::{Request, Response};
use sustain_proto::{GroupList, NodeId, PackId, Piece};
use sustain_store::{Store, error_chain};

use crate::audit::{Audit, Claims, Finding};
use crate::conduct::What;
use crate::error::RequestError;
use crate::exchange::Exchange;
use crate::member::Member;
use crate::transport::links::lock;
use crate::{limits, pump, serve_pieces};

/// Audits until the cluster stops.
pub(crate) async fn run(member: Arc<Member>) {
    loop {
        tokio::time::sleep(limits::AUDIT_LOOK).await;
        let store = member.store.clone();
        let Ok(packs) = member.tasks.blocking(move || packs(&store)).await else { return };
        let may_be_asked = |peer: &NodeId| member.reach.reachable(peer) && member.shut_out(peer).is_none();
        let peers = member.peers.ids().into_iter().filter(may_be_asked);
        let claims: Claims = peers.map(|peer| (peer, packs.clone())).collect();
        let audits = lock(&member.audits).next(&claims, member.now_ms());
        for audit in audits {
            let known = member.clone();
            member.tasks.spawn(async move {
                let finding = carry_out(&known, &audit).await;
                note(&known, audit.node, finding).await;
            });
        }
    }
}

/// Packs of some snapshots here, and the bytes of each.
fn packs(store: &Store) -> Vec<(Piece, u64)> {
    let snapshots = store.snapshots(None).unwrap_or_default();
    let some = snapshots.iter().choose_multiple(&mut rand::rng(), limits::AUDITED_SNAPSHOTS);
    let needed = some.into_iter().filter_map(|snapshot| store.packs_needed(snapshot.id).ok()).flatten();
    let needed: BTreeMap<PackId, u64> = needed.map(|pack| (pack.id, pack.bytes)).collect();
    let here = needed.into_iter().filter(|(id, _)| store.has_pack(id));
    here.map(|(id, bytes)| (Piece::Pack(id), bytes)).take(limits::AUDITED_PACKS_MAX).collect()
}

/// Asks a node for what an audit names, as far as it says that it has it.
pub(crate) async fn carry_out(member: &Arc<Member>, audit: &Audit) -> Finding {
    let attempt = async {
        let claimed = claimed(member, audit).await?;
        let is_claimed = |piece: &Piece| matches!(piece, Piece::Pack(id) if claimed.contains(id));
        let ranges: Vec<_> = audit.ranges.iter().copied().filter(|range| is_claimed(&range.piece)).collect();
        if ranges.is_empty() {
            return Ok(Finding::Unclaimed);
        }
        let asked = Audit { node: audit.node, ranges };
        let (here, bytes) = fetch(member, &asked).await?;
        let lists = lists(member, &asked).await;
        let finding = asked.judge(&here, &bytes, |piece| lists.get(piece));
        match finding {
            // It may have let go of it just now, which it may.
            Finding::Absent(Piece::Pack(id)) if !self::claimed(member, &asked).await?.contains(&id) => {
                Ok(Finding::Unclaimed)
            }
            finding => Ok(finding),
        }
    };
    attempt.await.unwrap_or_else(|error: RequestError| {
        let peer = audit.node.short();
        tracing::debug!(peer, error = error_chain(&error), "a node could not be audited");
        Finding::Silent
    })
}

/// Which of the packs the node says that it has.
async fn claimed(member: &Member, audit: &Audit) -> Result<BTreeSet<PackId>, RequestError> {
    let packs = audit.ranges.iter().filter_map(|range| match range.piece {
        Piece::Pack(id) => Some(id),
        Piece::Fragment(_) => None,
    });
    let ids: BTreeSet<PackId> = packs.collect();
    let request = Request::HavePacks { ids: ids.into_iter().collect() };
    match member.request(audit.node, &request, member.request_timeout()).await? {
        Response::Having { packs } => Ok(packs.into_iter().collect()),
        _ => Err(Exchange::new(audit.node, &request).other_answer(member)),
    }
}

/// Which of the ranges the node gives, and the bytes of these one after the other.
async fn fetch(member: &Member, audit: &Audit) -> Result<(Vec<bool>, Vec<u8>), RequestError> {
    let request = Request::GetRanges { ranges: audit.ranges.clone() };
    let exchange = Exchange::new(audit.node, &request);
    let opened = async {
        let (mut send, mut stream) = exchange.open(member, &request).await?;
        // Fails only on a stream that is finished already.
        let _ = send.finish();
        let answer = exchange.answer(member, &mut stream, request.lane().frame_bytes_max()).await?;
        Ok((answer, stream))
    };
    let (answer, mut stream) = exchange.within(member.request_timeout(), opened).await?;
    let here = match answer {
        Response::Ranges { here } if here.len() == audit.ranges.len() => here,
        _ => return Err(exchange.other_answer(member)),
    };
    let given = audit.ranges.iter().zip(&here).filter(|(_, here)| **here);
    let bytes: u64 = given.map(|(range, _)| range.bytes).sum();
    let room = usize::try_from(bytes).unwrap_or(usize::MAX);
    match pump::fill(&mut stream, room, member.stall_timeout()).await {
        (bytes, Ok(())) => Ok((here, bytes)),
        (_, Err(error)) => Err(exchange.broken(error_chain(&error))),
    }
}

/// The lists of the packs that are sound here.
async fn lists(member: &Arc<Member>, audit: &Audit) -> BTreeMap<Piece, GroupList> {
    let pieces: BTreeSet<Piece> = audit.ranges.iter().map(|range| range.piece).collect();
    let known = member.clone();
    let made = member.tasks.blocking(move || {
        let list = |piece: Piece| Some((piece, serve_pieces::checked_list(&known, piece)?));
        pieces.into_iter().filter_map(list).collect()
    });
    made.await.unwrap_or_default()
}

/// Keeps what was found, and says so if it makes a difference.
async fn note(member: &Member, node: NodeId, finding: Finding) {
    if let Finding::Wrong(_) = finding {
        member.misbehaved(node, What::WrongBytes);
    }
    let doubted = {
        let mut audits = lock(&member.audits);
        if !audits.found(node, finding, member.now_ms()) {
            return;
        }
        audits.failing()
    };
    let name = member.peers.get(&node).map(|peer| peer.name).unwrap_or_default();
    if !doubted.contains(&node) {
        tracing::info!(node = %node.short(), name, "a node passes audits again");
    } else {
        tracing::warn!(node = %node.short(), name, ?finding, "a node does not have what it says, or not as it is");
    }
    member.keeping.doubt(doubted).await;
}
