//! Nodes for tests, and waiting for what they tell.

use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sustain_proto::wire::{Ballot, Message, Request, Response};
use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};
use sustain_store::{
    DirectoryTarget, KeySource, NoProgress, PushLineage, PushReport, PushRequest, RegionSource, Store,
    StoreOptions,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::transport::links::lock;
use crate::*;

/// Longest wait for anything that must happen. The machine may be busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// The one port of the service `echo`.
pub(super) const ECHO_PORT: NonZeroU16 = NonZeroU16::MAX;

/// What a node was told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    Message(NodeId, Message),
    Changed(NodeId, bool),
    Imported(Vec<SnapshotId>),
    Level(SnapshotId, Option<u32>),
}

/// Writes down what it is told. Answers polls with its number as priority, echoes what is forwarded to the
/// service `echo`, and refuses every other service.
pub(super) struct Recorder {
    number: u32,
    events: Mutex<Vec<Event>>,
    news: Notify,
}

impl Recorder {
    fn note(&self, event: Event) {
        lock(&self.events).push(event);
        self.news.notify_waiters();
    }

    pub(super) fn events(&self) -> Vec<Event> {
        lock(&self.events).clone()
    }

    pub(super) fn forget(&self) {
        lock(&self.events).clear();
    }

    /// Waits until the events are such.
    pub(super) async fn wait(&self, what: &str, reached: impl Fn(&[Event]) -> bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let news = self.news.notified();
            if reached(&lock(&self.events)) {
                return;
            }
            let left = until.saturating_duration_since(Instant::now());
            let waited = tokio::time::timeout(left, news).await;
            assert!(waited.is_ok(), "node {}: {what} did not happen: {:?}", self.number, self.events());
        }
    }

    pub(super) async fn wait_for(&self, event: Event) {
        self.wait(&format!("{event:?}"), |events| events.contains(&event)).await;
    }
}

impl Handler for Recorder {
    fn message(&self, from: NodeId, message: Message) {
        self.note(Event::Message(from, message));
    }

    fn control(&self, _from: NodeId, request: Request) -> BoxFuture<Response> {
        let priority = self.number;
        Box::pin(async move {
            match request {
                Request::Poll { .. } => Response::Ballot(Ballot {
                    hears: None,
                    term_known: None,
                    priority,
                    eligible: true,
                    able: true,
                    failed: Vec::new(),
                    snapshots: Vec::new(),
                }),
                _ => Response::refused("not today"),
            }
        })
    }

    fn connect(
        &self,
        _from: NodeId,
        service: ServiceName,
        guest_port: NonZeroU16,
        incoming: IncomingForward,
    ) -> BoxFuture<()> {
        Box::pin(async move {
            if service.as_str() != "echo" {
                return incoming.refuse(&format!("{service} does not run here")).await;
            }
            if guest_port != ECHO_PORT {
                return incoming.refuse(&format!("{service} has no port {guest_port}")).await;
            }
            let mut stream = incoming.accept().await.unwrap();
            let mut buffer = vec![0; 10_000];
            let mut count = 0_u64;
            loop {
                match stream.read(&mut buffer).await.unwrap() {
                    0 => break,
                    bytes => {
                        count += bytes as u64;
                        stream.write_all(&buffer[..bytes]).await.unwrap();
                    }
                }
            }
            // Shows that this side can still send after the other has ended.
            stream.write_all(format!("{count} bytes").as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        })
    }

    fn peer_changed(&self, peer: NodeId, reachable: bool) {
        self.note(Event::Changed(peer, reachable));
    }

    fn imported(&self, snapshots: Vec<SnapshotId>) {
        self.note(Event::Imported(snapshots));
    }

    fn level(&self, _service: ServiceName, snapshot: SnapshotId, level: Option<u32>) {
        self.note(Event::Level(snapshot, level));
    }
}

/// A running node.
pub(super) struct TestNode {
    pub(super) cluster: Cluster,
    pub(super) store: Store,
    pub(super) recorder: Arc<Recorder>,
    pub(super) config: ClusterConfig,
    pub(super) folder: TempDir,
}

impl TestNode {
    pub(super) fn id(&self) -> NodeId {
        self.config.key.node_id()
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.config.listen
    }

    /// Starts it on a bound socket.
    pub(super) fn start(number: u32, socket: UdpSocket, config: ClusterConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options =
            StoreOptions { key: KeySource::Given([7; 32]), create: true, ..StoreOptions::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        let recorder = Arc::new(Recorder { number, events: Mutex::default(), news: Notify::new() });
        let handler = recorder.clone();
        let cluster = Cluster::start_on(socket, config.clone(), store.clone(), handler).unwrap();
        Self { cluster, store, recorder, config, folder }
    }

    /// Starts it again after it was shut down, with its store.
    pub(super) async fn again(&self) -> Cluster {
        again(&self.config, &self.store, &self.recorder).await
    }

    /// Pushes a region `ram` into this node's store.
    pub(super) fn push(&self, service: &str, bytes: &[u8]) -> PushReport {
        self.push_regions(service, &[("ram", bytes)])
    }

    /// Pushes regions into this node's store.
    pub(super) fn push_regions(&self, service: &str, regions: &[(&str, &[u8])]) -> PushReport {
        let lineage = PushLineage::ContinueNewest { node: self.id(), nonce: 1 };
        let request = PushRequest { service: service_name(service), lineage, time_ms: 0 };
        let mut push = self.store.begin_push(request).unwrap();
        for (name, bytes) in regions {
            push.ingest(&RegionName::new(*name).unwrap(), &Bytes(bytes)).unwrap();
        }
        push.commit().unwrap()
    }

    /// Has this node be the server of the line that its newest snapshot is of.
    pub(super) fn retain(&self, service: &str, tolerance: u32) {
        self.retain_warm(service, tolerance, Vec::new());
    }

    /// The same, and these nodes are to hold everything.
    pub(super) fn retain_warm(&self, service: &str, tolerance: u32, warm: Vec<NodeId>) {
        let service = service_name(service);
        let newest = self.store.snapshots(Some(&service)).unwrap().pop().unwrap();
        let (term, origin) = (newest.term, newest.origin);
        self.cluster.retain(Retain { service, term, origin, tolerance, warm, merged: Default::default() });
    }

    /// Waits until a snapshot survives so many losses.
    pub(super) async fn wait_level(&self, snapshot: SnapshotId, level: u32) {
        let reached = |events: &[Event]| {
            let mut last = events.iter().rev().filter_map(|event| match event {
                Event::Level(id, level) if *id == snapshot => Some(*level),
                _ => None,
            });
            last.next() >= Some(Some(level))
        };
        self.recorder.wait(&format!("level {level}"), reached).await;
    }

    /// What this node's store restores.
    pub(super) fn restored(&self, snapshot: SnapshotId) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        self.store.restore(snapshot, &DirectoryTarget::new(folder.path()), &NoProgress).unwrap();
        std::fs::read(folder.path().join("ram")).unwrap()
    }

    /// Flips a byte in the middle of every pack file.
    pub(super) fn damage_packs(&self) -> usize {
        let packs = self.pack_files();
        for path in &packs {
            let mut bytes = std::fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(path, bytes).unwrap();
        }
        packs.len()
    }

    /// The pack files of its store.
    pub(super) fn pack_files(&self) -> Vec<PathBuf> {
        let mut packs = Vec::new();
        let mut folders = vec![self.folder.path().join("store").join("packs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path: PathBuf = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    packs.push(path);
                }
            }
        }
        packs
    }

    pub(super) async fn wait_reachable(&self, peers: &[NodeId]) {
        let view = |events: &[Event], peer: NodeId| {
            let changes = events.iter().rev();
            changes.into_iter().find_map(|event| match event {
                Event::Changed(who, reachable) if *who == peer => Some(*reachable),
                _ => None,
            })
        };
        let reached = |events: &[Event]| peers.iter().all(|peer| view(events, *peer) == Some(true));
        self.recorder.wait("reaching peers", reached).await;
    }
}

/// Starts a node again on the port that it had.
pub(super) async fn again(config: &ClusterConfig, store: &Store, recorder: &Arc<Recorder>) -> Cluster {
    let socket = bind_again(config.listen).await;
    let (config, store, handler) = (config.clone(), store.clone(), recorder.clone());
    Cluster::start_on(socket, config, store, handler).unwrap()
}

struct Bytes<'a>(&'a [u8]);

impl RegionSource for Bytes<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        let start = offset as usize;
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }
}

pub(super) fn service_name(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(super) fn bind() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// Binds a port that was used a moment ago.
pub(super) async fn bind_again(address: SocketAddr) -> UdpSocket {
    let until = Instant::now() + PATIENCE;
    loop {
        match UdpSocket::bind(address) {
            Ok(socket) => return socket,
            Err(error) => assert!(Instant::now() < until, "{address} is still in use: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Configurations of a cluster with this many nodes, and their sockets.
pub(super) fn configs(count: usize, tuning: &Tuning) -> Vec<(UdpSocket, ClusterConfig)> {
    let sockets: Vec<UdpSocket> = (0..count).map(|_| bind()).collect();
    let keys: Vec<NodeKey> = (0..count).map(|_| NodeKey::generate().unwrap()).collect();
    let peer = |number: usize| Peer {
        id: keys[number].node_id(),
        name: format!("node{number}"),
        address: sockets[number].local_addr().unwrap(),
        priority: number as u32,
        domain: String::new(),
    };
    let config = |number: usize| ClusterConfig {
        share: crate::Share::default(),
        key: keys[number].clone(),
        cluster: "test".to_owned(),
        listen: sockets[number].local_addr().unwrap(),
        own: peer(number).details(),
        roster: None,
        peers: (0..count).filter(|other| *other != number).map(peer).collect(),
        tuning: tuning.clone(),
    };
    let configs: Vec<ClusterConfig> = (0..count).map(config).collect();
    sockets.into_iter().zip(configs).collect()
}

/// Starts a cluster and waits until everyone reaches everyone.
pub(super) async fn start(count: usize, tuning: &Tuning) -> Vec<TestNode> {
    let configs = configs(count, tuning).into_iter().zip(0..);
    let nodes: Vec<TestNode> =
        configs.map(|((socket, config), number)| TestNode::start(number, socket, config)).collect();
    for node in &nodes {
        let others: Vec<NodeId> = node.config.peers.iter().map(|peer| peer.id).collect();
        node.wait_reachable(&others).await;
    }
    nodes
}

pub(super) async fn stop(nodes: &[TestNode]) {
    for node in nodes {
        node.cluster.shutdown().await;
    }
}

/// Bytes that don't compress, the same for the same seed.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut noise);
    noise
}
