//! The handle by which a node takes part in its cluster.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::Serialize;
use sustain_proto::join::Token;
use sustain_proto::wire::{Message, Request, Response, SnapshotSummary};
use sustain_proto::{ChunkId, NodeId, PackRef, RegionName, ServiceName, SnapshotId};
use sustain_store::Store;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::config::{ClusterConfig, Peer};
use crate::error::{ChunkError, GatherError, MembershipError, RequestError, StartError};
use crate::forward::{self, ForwardStream};
use crate::gather::{self, GatherReport, SharedProgress};
use crate::handler::Handler;
use crate::healths::{HealthEvent, Healths};
use crate::identity::random;
use crate::invitations::Invitations;
use crate::keeping::{self, Keeping, KeepingStatus, LineView, Retain};
use crate::lists::Lists;
use crate::member::Member;
use crate::membership::{Health, RemovedNode};
use crate::peers::Peers;
use crate::prober::Reach;
use crate::registry::{self, Registry};
use crate::remote::{self, RemoteSnapshot};
use crate::share::Uplink;
use crate::start::{self, Started};
use crate::tasks::{StopOnDrop, Tasks};
use crate::tls::Pinned;
use crate::transport::accept::{self, Served};
use crate::transport::links::Links;
use crate::transport::quic;
use crate::{exchange, join, limits, start_up};

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
    /// How it stands by what all nodes tell one another.
    pub health: Health,
    /// For how long that has been so.
    pub health_for_ms: u64,
    /// Why it does not hold all that it is to hold of what this node is the server of; none if nothing keeps it from
    /// that, or it has not said so.
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
    pub fn start(config: ClusterConfig, store: Store, handler: Arc<dyn Handler>) -> Result<Self, StartError> {
        let address = config.listen;
        let listen = |source| StartError::Listen { address, source };
        let socket = UdpSocket::bind(address).map_err(listen)?;
        Self::start_on(socket, config, store, handler)
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
    ) -> Result<Self, StartError> {
        config.check()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let listen = config.listen;
        let address = socket.local_addr().map_err(|source| StartError::Listen { address: listen, source })?;
        let roster = start_up::roster(&config, address)?;
        let invitations = Invitations::load(start_up::beside(&config, "invitations"))?;
        let pinned = Arc::<Pinned>::default();
        let endpoint = quic::endpoint(socket, &config, pinned.clone())?;
        let links = Links::new(endpoint.clone(), &config, random()?);
        let id = config.key.node_id();
        let (probe_events, events) = mpsc::channel(limits::PROBE_EVENTS_MAX);
        let (health_events, healths) = mpsc::channel(limits::SWIM_EVENTS_MAX);
        let (keeping, inbox) = Keeping::new();
        let keeper = start_up::keeper(&config, &store)?;
        let tasks = Tasks::new(runtime);
        let stop = Arc::new(tasks.stop_on_drop());
        let member = Arc::new(Member {
            id,
            cluster: config.cluster,
            peers: Peers::default(),
            near: Mutex::default(),
            registry: Registry::new(roster, config.roster),
            healths: Healths::new(health_events),
            pinned,
            invitations,
            joins: Semaphore::new(limits::JOINS_AT_ONCE),
            tuning: config.tuning,
            store,
            handler,
            tasks,
            links,
            served: Served::default(),
            reach: Reach::default(),
            probe_events,
            keeping,
            bulk_served: Semaphore::new(limits::BULK_SERVED_MAX),
            uplink: Uplink::new(&config.share),
            lists: Lists::default(),
            requests: AtomicU64::new(0),
            started: Instant::now(),
        });
        start_up::launch(&member, events, healths)?;
        let seed = StdRng::seed_from_u64(random()?);
        member.tasks.spawn(keeping::run(member.clone(), inbox, keeper, seed));
        member.tasks.spawn(accept::run(member.clone(), endpoint));
        let peers = member.peers.ids().len();
        tracing::info!(cluster = member.cluster, node = %id, %address, peers, "joined");
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
        let (member, now_ms) = (&self.member, self.member.now_ms());
        let neighbours = member.neighbours();
        let status = |peer: Peer| {
            let view = member.reach.view(&peer.id);
            let (health, since_ms) = member.healths.view(&peer.id).unwrap_or((Health::Down, 0));
            PeerStatus {
                reachable: view.reachable,
                for_ms: now_ms.saturating_sub(view.since_ms),
                rtt_ms: view.rtt_ms,
                neighbour: neighbours.contains(&peer.id),
                health,
                health_for_ms: now_ms.saturating_sub(since_ms),
                refuses: member.keeping.refusal(&peer.id),
                peer,
            }
        };
        member.peers.list().into_iter().map(status).collect()
    }

    /// Everyone who was removed from the cluster, as far as this node has heard.
    #[must_use]
    pub fn removed(&self) -> Vec<(NodeId, RemovedNode)> {
        self.member.registry.all_removed()
    }

    /// Makes an invitation, with which one node may join for as long as it is valid. One that is to hold data only
    /// gets no secret.
    ///
    /// # Errors
    /// If it can't be kept, or too many are open.
    pub async fn invite(&self, holder: bool, valid_for: Duration) -> Result<Token, MembershipError> {
        let member = self.member.clone();
        let valid_ms = u64::try_from(valid_for.as_millis()).unwrap_or(u64::MAX);
        let make = move || {
            let now_ms = join::wall_ms();
            let secret = member.invitations.make(holder, now_ms, now_ms.saturating_add(valid_ms));
            join::open_door(&member);
            secret
        };
        let made = self.member.tasks.blocking(make).await.map_err(|_| MembershipError::Stopped)??;
        let own = self.member.registry.members().remove(&self.member.id);
        let address = own.map_or(self.address, |own| own.address);
        Ok(Token { inviter: self.member.id, addresses: vec![address], secret: made })
    }

    /// Removes a node from the cluster for ever. It is kept when this returns, and told to the neighbours.
    ///
    /// # Errors
    /// It is no member, or this node itself, or the roster can't be kept.
    pub async fn remove(&self, node: NodeId) -> Result<(), MembershipError> {
        registry::remove(&self.member, node).await
    }

    /// This node's neighbours in the overlay, reachable or not.
    #[must_use]
    pub fn neighbours(&self) -> Vec<NodeId> {
        self.member.neighbours().into_iter().collect()
    }

    /// Sends a one-way message, without waiting. False if the peer is unknown or not connected, or too
    /// many messages wait for it; the message is dropped then. True does not mean that it will arrive.
    pub fn send(&self, to: NodeId, message: Message) -> bool {
        self.member.send(to, message)
    }

    /// Sends a one-way message to every peer. Returns to how many it goes.
    pub fn broadcast(&self, message: &Message) -> usize {
        self.member.peers.ids().into_iter().filter(|peer| self.member.send(*peer, message.clone())).count()
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
            Request::GetPack { .. }
            | Request::GetGroups { .. }
            | Request::GetRanges { .. }
            | Request::Ask(_)
            | Request::Connect { .. } => Err(RequestError::Raw { what: exchange::name(&request) }),
            request => self.until_stopped(self.member.request(to, &request, timeout)).await,
        }
    }

    /// Says that this node is the server of a line, and has what its store retains of the service kept by all. To be
    /// called again whenever that has changed. Returns at once; [`Handler::level`] tells what becomes of it.
    pub fn retain(&self, retain: Retain) {
        self.member.keeping.retain(retain);
    }

    /// What this node holds of what the cluster stores; none if that can't be said now.
    pub async fn keeping(&self) -> Option<KeepingStatus> {
        self.member.keeping.status().await
    }

    /// What is known of the lines of a service: what each of their servers has kept by all.
    pub async fn lines(&self, service: &ServiceName) -> Vec<LineView> {
        self.member.keeping.lines(service.clone()).await
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
        // So that the others need not find out. What it sends leaves before the farewell.
        self.member.healths.tell(HealthEvent::Leaving);
        tokio::task::yield_now().await;
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
