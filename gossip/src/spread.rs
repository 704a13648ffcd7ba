//! Spreads snapshots to the neighbours, each by a worker of its own, and counts the copies (P11).
//!
//! A worker sends one snapshot at a time and then the newest that waits, so a slow peer skips snapshots
//! but always ends some. What failed is offered again: the peer then lacks only what hasn't come yet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use sustain_proto::wire::{Request, Response};
use sustain_proto::{Manifest, NodeId, PackId, ServiceName, SnapshotId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::copies::{Copies, Durable};
use crate::error::RequestError;
use crate::exchange::Exchange;
use crate::limits;
use crate::member::Member;
use crate::pump::{self, PumpError};
use crate::transport::links::lock;
use crate::wanted::Wanted;
use sustain_store::error_chain;

/// What is to be spread.
#[derive(Default)]
pub(crate) struct Spreading {
    inbox: Mutex<VecDeque<News>>,
    news: Notify,
    queues: Mutex<BTreeMap<NodeId, Arc<Queue>>>,
    copies: Mutex<Copies>,
}

/// What is handed to the workers.
enum News {
    /// A new snapshot, and how many losses it is to survive.
    Newest(SnapshotId, u32),
    /// What a rebase of this service has kept.
    Held(ServiceName, Vec<SnapshotId>),
}

#[derive(Default)]
struct Queue {
    wanted: Mutex<Wanted>,
    news: Notify,
    /// Why the peer took nothing when it was last sent something.
    refusal: Mutex<Option<String>>,
}

impl Spreading {
    /// Begins with a peer.
    pub(crate) fn add(&self, peer: NodeId) {
        lock(&self.queues).entry(peer).or_default();
    }

    /// Forgets a peer.
    pub(crate) fn remove(&self, peer: &NodeId) {
        lock(&self.queues).remove(peer);
    }

    fn queue(&self, peer: &NodeId) -> Option<Arc<Queue>> {
        lock(&self.queues).get(peer).cloned()
    }

    /// Takes note of a snapshot. Where too many wait to be looked at, the oldest is forgotten: those that
    /// came after it supersede it.
    pub(crate) fn put(&self, snapshot: SnapshotId, tolerance: u32) {
        self.push(News::Newest(snapshot, tolerance));
    }

    /// Takes note of what a rebase has kept besides what follows its base.
    pub(crate) fn put_held(&self, service: ServiceName, snapshots: Vec<SnapshotId>) {
        self.push(News::Held(service, snapshots));
    }

    /// Why a peer took nothing when it was last sent something, if it answered that it does not.
    pub(crate) fn refusal(&self, peer: &NodeId) -> Option<String> {
        lock(&self.queue(peer)?.refusal).clone()
    }

    fn push(&self, news: News) {
        let mut inbox = lock(&self.inbox);
        if inbox.len() == limits::SPREAD_INBOX_MAX {
            inbox.pop_front();
        }
        inbox.push_back(news);
        drop(inbox);
        self.news.notify_one();
    }
}

/// Hands new snapshots to the workers.
pub(crate) async fn direct(member: Arc<Member>) {
    loop {
        let next = lock(&member.spreading.inbox).pop_front();
        let (snapshot, tolerance) = match next {
            Some(News::Newest(snapshot, tolerance)) => (snapshot, tolerance),
            Some(News::Held(service, snapshots)) => {
                direct_held(&member, &service, &snapshots);
                continue;
            }
            None => {
                member.spreading.news.notified().await;
                continue;
            }
        };
        let store = member.store.clone();
        let service = match member.tasks.blocking(move || store.manifest(snapshot)).await {
            Ok(Ok((manifest, _))) => manifest.service,
            Ok(Err(error)) => {
                tracing::warn!(%snapshot, error = error_chain(&error), "a snapshot can't be spread");
                continue;
            }
            Err(_) => return,
        };
        let needed = member.placement.copies_needed(tolerance);
        let durable = lock(&member.spreading.copies).expect(&service, snapshot, tolerance, needed);
        if let Some(durable) = durable {
            say(&member, durable).await;
        }
        for peer in member.placement.holders(snapshot, &member.neighbours()) {
            let Some(queue) = member.spreading.queue(&peer) else { continue };
            if !lock(&queue.wanted).put(&service, snapshot) {
                tracing::warn!(%snapshot, %service, "too many services are being spread at once");
            }
            queue.news.notify_one();
        }
    }
}

/// Hands what a rebase has kept to the workers of those that are to hold it.
fn direct_held(member: &Member, service: &ServiceName, snapshots: &[SnapshotId]) {
    let mut of_peer: BTreeMap<NodeId, Vec<SnapshotId>> = BTreeMap::new();
    let neighbours = member.neighbours();
    for snapshot in snapshots {
        for peer in member.placement.holders(*snapshot, &neighbours) {
            of_peer.entry(peer).or_default().push(*snapshot);
        }
    }
    let queues = lock(&member.spreading.queues).clone();
    for (peer, queue) in queues {
        let held = of_peer.remove(&peer).unwrap_or_default();
        if !lock(&queue.wanted).put_held(service, &held) {
            tracing::warn!(%service, count = held.len(), "not all that a rebase has kept is spread");
        }
        queue.news.notify_one();
    }
}

/// Sends one peer what it is to have, for as long as the cluster runs.
pub(crate) async fn work(member: Arc<Member>, peer: NodeId, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut backoff = Backoff::new(member.tuning.retry_ms_min, member.tuning.retry_ms_max);
    let Some(queue) = member.spreading.queue(&peer) else { return };
    loop {
        // A peer that comes back is sent what is the newest then, so look into the queue after waiting.
        member.reach.wait(&peer).await;
        let next = lock(&queue.wanted).take();
        let Some((service, turn)) = next else {
            queue.news.notified().await;
            continue;
        };
        let snapshot = turn.snapshot();
        match send_snapshot(&member, peer, snapshot).await {
            Ok(()) => {
                backoff.succeeded();
                *lock(&queue.refusal) = None;
                tracing::debug!(%snapshot, peer = %peer.short(), "a snapshot was synced by a peer");
                let durable = lock(&member.spreading.copies).synced(&service, snapshot, peer);
                if let Some(durable) = durable {
                    say(&member, durable).await;
                }
            }
            Err(SendError::Gone) => {
                tracing::debug!(%snapshot, "a snapshot was dropped before it was spread");
            }
            Err(SendError::Request(error)) => {
                if let RequestError::Refused { reason, .. } = &error {
                    *lock(&queue.refusal) = Some(reason.clone());
                }
                let error = error_chain(&error);
                tracing::debug!(%snapshot, peer = %peer.short(), error, "a snapshot was not spread");
                lock(&queue.wanted).put_back(&service, turn);
                let pause_ms = backoff.failed(&mut random);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
    }
}

async fn say(member: &Member, durable: Durable) {
    let Durable { snapshot, tolerance, copies } = durable;
    let store = member.store.clone();
    match member.tasks.blocking(move || store.mark_durable(snapshot, tolerance)).await {
        Ok(Ok(())) => {}
        // It is durable all the same: other nodes have it.
        Ok(Err(error)) => {
            tracing::warn!(%snapshot, error = error_chain(&error), "not marked as durable here")
        }
        Err(_) => return,
    }
    member.handler.durable(snapshot, copies);
}

enum SendError {
    /// The snapshot is no longer here.
    Gone,
    /// It can be tried again.
    Request(RequestError),
}

impl From<RequestError> for SendError {
    fn from(error: RequestError) -> Self {
        Self::Request(error)
    }
}

/// Offer, packs, commit.
async fn send_snapshot(member: &Arc<Member>, peer: NodeId, snapshot: SnapshotId) -> Result<(), SendError> {
    let store = member.store.clone();
    let manifests = match member.tasks.blocking(move || store.manifests_for(snapshot)).await {
        Ok(Ok(manifests)) => manifests,
        Ok(Err(error)) if error.kind() == sustain_store::ErrorKind::NotFound => return Err(SendError::Gone),
        Ok(Err(error)) => {
            return Err(RequestError::Store { what: "an offer of manifests", source: Box::new(error) }.into());
        }
        Err(_) => return Err(RequestError::Stopped.into()),
    };
    let request = Request::Offer { manifests: manifests.clone() };
    let exchange = Exchange::new(peer, &request);
    let lacking = match member.request(peer, &request, member.request_timeout()).await? {
        Response::Lacking { packs } => packs,
        _ => return Err(exchange.other_answer(member).into()),
    };
    let listed = packs_listed(&manifests);
    if lacking.iter().any(|pack| !listed.contains(pack)) {
        return Err(exchange.improper("it asks for a pack that was not offered").into());
    }
    send_packs(member, peer, lacking).await?;
    let request = Request::Commit { manifests };
    match member.request(peer, &request, member.sync_timeout()).await? {
        Response::Synced => Ok(()),
        _ => Err(Exchange::new(peer, &request).other_answer(member).into()),
    }
}

fn packs_listed(manifests: &[Vec<u8>]) -> BTreeSet<PackId> {
    let manifests = manifests.iter().filter_map(|bytes| Manifest::decode(bytes).ok());
    manifests.flat_map(|(_, manifest)| manifest.packs).map(|pack| pack.id).collect()
}

/// Sends packs, a few at a time. The first failure ends all.
async fn send_packs(member: &Arc<Member>, peer: NodeId, packs: Vec<PackId>) -> Result<(), SendError> {
    let mut waiting = packs.into_iter();
    let mut sending = JoinSet::new();
    loop {
        while sending.len() < limits::PACKS_SENT_AT_ONCE {
            let Some(pack) = waiting.next() else { break };
            let known = member.clone();
            sending.spawn(async move { send_pack(&known, peer, pack).await });
        }
        match sending.join_next().await {
            None => return Ok(()),
            Some(Ok(sent)) => sent?,
            Some(Err(_)) => return Err(RequestError::Stopped.into()),
        }
    }
}

async fn send_pack(member: &Member, peer: NodeId, pack: PackId) -> Result<(), SendError> {
    let store = member.store.clone();
    let reader = match member.tasks.blocking(move || store.read_pack(pack)).await {
        Ok(Ok(reader)) => reader,
        Ok(Err(error)) if error.kind() == sustain_store::ErrorKind::NotFound => return Err(SendError::Gone),
        Ok(Err(error)) => {
            return Err(RequestError::Store { what: "a pack", source: Box::new(error) }.into());
        }
        Err(_) => return Err(RequestError::Stopped.into()),
    };
    let request = Request::PutPack { id: pack, bytes: reader.len() };
    let exchange = Exchange::new(peer, &request);
    let (mut send, mut receive) =
        exchange.within(member.request_timeout(), exchange.open(member, &request)).await?;
    let whole = 0..reader.len();
    let ways = (&member.tasks, &member.uplink);
    let pumped = pump::send(ways, reader, whole, &mut send, member.stall_timeout()).await;
    let limit = match pumped {
        Ok(()) => {
            // Fails only on a stream that is finished already.
            let _ = send.finish();
            member.sync_timeout()
        }
        // A peer that takes no more has answered: it refuses, or has the pack from elsewhere.
        Err(PumpError::Stream(_)) => member.request_timeout(),
        Err(error) => {
            // What was sent must not look whole. Fails only on a closed stream.
            let _ = send.reset(crate::transport::quic::STREAM_ABANDONED);
            return Err(exchange.broken(error_chain(&error)).into());
        }
    };
    let frame_max = request.lane().frame_bytes_max();
    match exchange.within(limit, exchange.answer(member, &mut receive, frame_max)).await? {
        Response::Synced => Ok(()),
        _ => Err(exchange.other_answer(member).into()),
    }
}
