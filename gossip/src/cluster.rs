//! The handle by which a node takes part in its cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;
use sustain_proto::wire::{Message, Request, Response, SnapshotSummary};
use sustain_proto::{ChunkId, NodeId, PackRef, RegionName, ServiceName, SnapshotId};
use sustain_store::Store;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::config::{ClusterConfig, Peer};
use crate::error::{ChunkError, GatherError, RequestError, StartError};
use crate::forward::{self, ForwardStream};
use crate::gather::{self, GatherReport, SharedProgress};
use crate::handler::Handler;
use crate::member::Member;
use crate::placement::Placement;
use crate::probe::ProbeTable;
use crate::prober::{self, ProbeEvent, Reach};
use crate::remote::{self, RemoteSnapshot};
use crate::serve_pieces::Lists;
use crate::share::Uplink;
use crate::spread::{self, Spreading};
use crate::start::{self, Started};
use crate::tasks::{StopOnDrop, Tasks};
use crate::transport::accept::{self, Served};
use crate::transport::links::Links;
use crate::transport::quic;
use crate::{control, exchange, limits, overlay};

/// How a peer stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerStatus {
    /// The peer.
    pub peer: Peer,
    /// Whether it answers probes; else it is on the lost list.
    pub reachable: bool,
    /// For how long that has been so.
    pub for_ms: u64,
    /// From the last answered probe to its answer.
    pub rtt_ms: Option<u64>,
    /// Whether it is a neighbour of this node in the overlay.
    pub neighbour: bool,
    /// Why it took nothing when this node last sent it a snapshot; none if it did, or has not answered.
    pub refuses: Option<String>,
}

/// A node's part in its cluster. Clones are one and the same; when the last one is dropped without
/// [`shutdown`](Self::shutdown), the tasks end, and peers find out by themselves.
#[derive(Clone)]
pub struct Cluster {
    member: Arc<Member>,
    address: SocketAddr,
    _stop: Arc<StopOnDrop>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({} at {})", self.member.id.short(), self.address)
    }
}

impl Cluster {
    /// Begins to listen, and calls the peers. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// A setting can't work, or the port can't be had.
    pub fn start(
        config: ClusterConfig,
        store: Store,
        handler: Arc<dyn Handler>,
        placement: Arc<dyn Placement>,
    ) -> Result<Self, StartError> {
        let address = config.listen;
        let listen = |source| StartError::Listen { address, source };
        let socket = UdpSocket::bind(address).map_err(listen)?;
        Self::start_on(socket, config, store, handler, placement)
    }

    /// As [`start`](Self::start), on a socket that is bound already: so nodes on free ports can know one
    /// another's addresses before any of them starts.
    ///
    /// # Errors
    /// A setting can't work, or the socket can't be used.
    pub fn start_on(
        socket: UdpSocket,
        config: ClusterConfig,
        store: Store,
        handler: Arc<dyn Handler>,
        placement: Arc<dyn Placement>,
    ) -> Result<Self, StartError> {
        config.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let listen = config.listen;
        let address = socket.local_addr().map_err(|source| StartError::Listen { address: listen, source })?;
        let endpoint = quic::endpoint(socket, &config)?;
        let links = Links::new(endpoint.clone(), &config, random()?)?;
        let ids: BTreeSet<NodeId> = config.peers.iter().map(|peer| peer.id).collect();
        let id = config.key.node_id();
        let mut inboxes = Vec::new();
        let mut outboxes = BTreeMap::new();
        for peer in &ids {
            let (outbox, inbox) = mpsc::channel(limits::OUTBOX_MESSAGES_MAX);
            outboxes.insert(*peer, outbox);
            inboxes.push((*peer, inbox));
        }
        let (probe_events, events) = mpsc::channel(limits::PROBE_EVENTS_MAX);
        let tasks = Tasks::new(runtime);
        let stop = Arc::new(tasks.stop_on_drop());
        let member = Arc::new(Member {
            id,
            cluster: config.cluster,
            neighbours: overlay::neighbours(id, &ids, config.tuning.neighbours),
            peers: config.peers.into_iter().map(|peer| (peer.id, peer)).collect(),
            tuning: config.tuning,
            store,
            handler,
            placement,
            tasks,
            links,
            served: Served::default(),
            reach: Reach::new(ids.iter().copied()),
            outboxes,
            probe_events,
            spreading: Spreading::new(ids.iter().copied()),
            bulk_served: Semaphore::new(limits::BULK_SERVED_MAX),
            uplink: Uplink::new(&config.share),
            share: config.share,
            lists: Lists::default(),
            requests: AtomicU64::new(0),
            started: Instant::now(),
        });
        member.tasks.spawn(accept::run(member.clone(), endpoint));
        launch(&member, inboxes, events)?;
        tracing::info!(cluster = member.cluster, node = %id, %address, peers = ids.len(), "joined");
        Ok(Self { member, address, _stop: stop })
    }

    /// This node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.member.id
    }

    /// Where this node listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }

    /// How all peers stand, by id.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerStatus> {
        let now_ms = self.member.now_ms();
        let status = |peer: &Peer| {
            let view = self.member.reach.view(&peer.id);
            PeerStatus {
                peer: peer.clone(),
                reachable: view.reachable,
                for_ms: now_ms.saturating_sub(view.since_ms),
                rtt_ms: view.rtt_ms,
                neighbour: self.member.neighbours.contains(&peer.id),
                refuses: self.member.spreading.refusal(&peer.id),
            }
        };
        self.member.peers.values().map(status).collect()
    }

    /// This node's neighbours in the overlay, reachable or not.
    #[must_use]
    pub fn neighbours(&self) -> Vec<NodeId> {
        self.member.neighbours.iter().copied().collect()
    }

    /// Sends a one-way message, without waiting. False if the peer is unknown or not connected, or too
    /// many messages wait for it; the message is dropped then. True does not mean that it will arrive.
    pub fn send(&self, to: NodeId, message: Message) -> bool {
        self.member.send(to, message)
    }

    /// Sends a one-way message to every peer. Returns to how many it goes.
    pub fn broadcast(&self, message: &Message) -> usize {
        self.member.peers.keys().filter(|peer| self.member.send(**peer, message.clone())).count()
    }

    /// Sends a request and waits for its answer. A refusal is an error.
    ///
    /// # Errors
    /// Unknown or unreachable peer, no answer in time, or a refusal.
    pub async fn request(
        &self,
        to: NodeId,
        request: Request,
        timeout: Duration,
    ) -> Result<Response, RequestError> {
        match request {
            Request::PutPack { .. }
            | Request::GetPack { .. }
            | Request::GetGroups { .. }
            | Request::GetRanges { .. }
            | Request::Connect { .. } => Err(RequestError::Raw { what: exchange::name(&request) }),
            request => self.until_stopped(self.member.request(to, &request, timeout)).await,
        }
    }

    /// Begins to spread a snapshot of this node's store so that it survives this many losses, and returns
    /// at once. A newer snapshot of the same service takes its place at peers that it has not reached.
    /// [`Handler::durable`] tells when it has reached enough of them.
    pub fn spread(&self, snapshot: SnapshotId, tolerance: u32) {
        self.member.spreading.put(snapshot, tolerance);
    }

    /// Begins to spread what a rebase of this node's store has kept besides what follows its base, and returns at once.
    /// It comes after new snapshots, and supersedes what the rebase before has kept.
    pub fn spread_held(&self, service: ServiceName, snapshots: Vec<SnapshotId>) {
        self.member.spreading.put_held(service, snapshots);
    }

    /// Gathers a snapshot from the other nodes into this node's store. Must run inside a tokio runtime;
    /// dropping the future stops it.
    ///
    /// # Errors
    /// Says what can't be had, and why.
    pub async fn gather(
        &self,
        id: SnapshotId,
        progress: SharedProgress,
    ) -> Result<GatherReport, GatherError> {
        let work = gather::gather(self.member.clone(), id, progress);
        self.member.tasks.until_stopped(work).await.unwrap_or(Err(GatherError::Cancelled { id }))
    }

    /// Gathers what a restore of a snapshot takes that can do without these regions at first. Everything else, which
    /// some peer that can be reached has, comes by [`Cluster::fetch_chunk`] or by [`Cluster::gather`]. Must run inside
    /// a tokio runtime; dropping the future stops it.
    ///
    /// # Errors
    /// Says what can't be had, and why.
    pub async fn gather_to_start(
        &self,
        id: SnapshotId,
        lazy_regions: Vec<RegionName>,
    ) -> Result<Started, GatherError> {
        let work = start::gather_to_start(self.member.clone(), id, lazy_regions);
        self.member.tasks.until_stopped(work).await.unwrap_or(Err(GatherError::Cancelled { id }))
    }

    /// The plain bytes of one chunk of a snapshot that is not whole here, from whichever peer has its pack. Those that
    /// were quick before are asked first; what a peer sends counts only if it is the chunk.
    ///
    /// # Errors
    /// If no peer gives it now.
    pub async fn fetch_chunk(
        &self,
        snapshot: &RemoteSnapshot,
        pack: PackRef,
        chunk: ChunkId,
    ) -> Result<Vec<u8>, ChunkError> {
        let work = remote::fetch_chunk(&self.member, snapshot, pack, chunk);
        let stopped = || ChunkError { chunk, pack: pack.id, reason: RequestError::Stopped.to_string() };
        self.member.tasks.until_stopped(work).await.unwrap_or_else(|| Err(stopped()))
    }

    /// The snapshots of a service that each reachable peer has, newest last. Peers that give no answer
    /// are left out.
    pub async fn known_snapshots(&self, service: &ServiceName) -> Vec<(NodeId, Vec<SnapshotSummary>)> {
        let reachable = |peer: &NodeId| self.member.reach.reachable(peer);
        let peers = self.member.asking_order().into_iter().filter(reachable).collect();
        let work = gather::ask_snapshots(&self.member, peers, service.clone());
        self.member.tasks.until_stopped(work).await.unwrap_or_default()
    }

    /// Connects to a port of a service through a peer. Dropping the stream breaks it off.
    ///
    /// # Errors
    /// Unknown or unreachable peer, no answer in time, or a refusal.
    pub async fn forward(
        &self,
        to: NodeId,
        service: ServiceName,
        guest_port: NonZeroU16,
    ) -> Result<ForwardStream, RequestError> {
        self.until_stopped(forward::connect(&self.member, to, service, guest_port)).await
    }

    /// Leaves the cluster: tells the peers, ends all tasks, and closes the socket. Work with the disk that
    /// is under way is waited for, for a while. What is asked of the cluster afterwards fails.
    pub async fn shutdown(&self) {
        let endpoint = self.say_goodbye();
        if let Some(endpoint) = &endpoint {
            endpoint.close(quic::CLOSE_LEAVING, b"leaving");
        }
        if !self.member.tasks.stop(limits::SHUTDOWN_TIMEOUT).await {
            tracing::warn!(cluster = self.member.cluster, "some work with the store is still going on");
        }
        // What was dialled or admitted meanwhile.
        self.say_goodbye();
        if let Some(endpoint) = endpoint {
            // Until the peers have heard; those that are gone never will.
            drop(tokio::time::timeout(limits::SHUTDOWN_TIMEOUT, endpoint.wait_idle()).await);
        }
    }

    /// Tells the peers, and lets nobody dial any more. The endpoint is the first caller's.
    pub(crate) fn say_goodbye(&self) -> Option<quinn::Endpoint> {
        let endpoint = self.member.links.leave();
        self.member.served.leave();
        endpoint
    }

    /// Ends all connections at once, as if the node had died right here.
    #[cfg(test)]
    pub(crate) fn break_off(&self) {
        if let Some(endpoint) = self.say_goodbye() {
            endpoint.close(quic::CLOSE_LEAVING, b"broken off");
        }
    }

    /// How many tasks there are.
    #[cfg(test)]
    pub(crate) fn tasks_running(&self) -> usize {
        self.member.tasks.running()
    }

    /// What is behind the handle.
    #[cfg(test)]
    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    async fn until_stopped<T>(
        &self,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        self.member.tasks.until_stopped(work).await.unwrap_or(Err(RequestError::Stopped))
    }
}

type Inboxes = Vec<(NodeId, mpsc::Receiver<Message>)>;

/// Starts the tasks of a node, all but the one that takes calls.
fn launch(
    member: &Arc<Member>,
    inboxes: Inboxes,
    events: mpsc::Receiver<ProbeEvent>,
) -> Result<(), StartError> {
    let tuning = &member.tuning;
    let (interval_ms, timeout_ms) = (tuning.probe_interval_ms, tuning.probe_timeout_ms);
    let ids = member.peers.keys().copied();
    let table = ProbeTable::new(interval_ms, timeout_ms, member.now_ms(), random()?, ids);
    member.tasks.spawn(prober::run(member.clone(), events, table));
    member.tasks.spawn(spread::direct(member.clone()));
    for (peer, inbox) in inboxes {
        member.tasks.spawn(control::keep_connection(member.clone(), peer));
        member.tasks.spawn(control::send_messages(member.clone(), peer, inbox));
        member.tasks.spawn(spread::work(member.clone(), peer, random()?));
    }
    Ok(())
}

fn random() -> Result<u64, StartError> {
    let mut bytes = [0_u8; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| StartError::Random)?;
    Ok(u64::from_le_bytes(bytes))
}
