//! The daemon: reads its keys, opens its store, joins its cluster, drives its services, answers its admin
//! socket. Everything is bound before anything is started, and stopped in the opposite order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sustain_gossip::{Cluster, ClusterConfig, NodeKey, Peer, Tuning};
use sustain_proto::NodeId;
use sustain_store::{KeySource, Store, StoreOptions};
use sustain_vmdriver::VmDriver;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{self, AdminState, Gathers};
use crate::config::{Config, NodeConfig, ServiceConfig, lacks_secret};
use crate::descriptors;
use crate::drivers::{driver_of, spec_of};
use crate::events::{EventLog, Happening};
use crate::handler::NodeHandler;
use crate::limits;
use crate::logic::MachineConfig;
use crate::names::Names;
use crate::retain::retain_at_start;
use crate::run_folder::RunFolder;
use crate::scrub::{self, ScrubWatch, Scrubber};
use crate::service::{self, ClientPort, Commands, Mender, ServiceHandle, ServiceParts, VmSettings};
use sustain_store::error_chain;

/// Why a daemon doesn't start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The node's key can't be used.
    #[error("can't use the node's key")]
    Key(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The key file holds the key of another node.
    #[error("the key in {path} is not that of node `{name}`: its id is {found}")]
    OtherKey {
        /// The file.
        path: PathBuf,
        /// The node's name.
        name: String,
        /// The id that belongs to the key.
        found: NodeId,
    },
    /// The cluster's secret, or a service's, can't be used.
    #[error("can't use the cluster's secret, or a service's")]
    Secret(#[from] crate::config::SecretError),
    /// The store can't be opened.
    #[error("can't open the store")]
    Store(#[from] sustain_store::OpenError),
    /// A folder, socket or port can't be had; another node may have it.
    #[error("can't {doing} {what}")]
    Bind {
        /// What was being done.
        doing: &'static str,
        /// On what.
        what: String,
        /// What the system says.
        source: io::Error,
    },
    /// The cluster can't be joined.
    #[error("can't join the cluster")]
    Cluster(#[from] sustain_gossip::StartError),
    /// The configuration doesn't name this node.
    #[error("the configuration has no entry for node `{name}`")]
    NoEntry {
        /// The node's name.
        name: String,
    },
}

impl DaemonError {
    /// The process's exit code for it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Store(error) => crate::operations::exit_code(error.kind()),
            Self::Cluster(sustain_gossip::StartError::Removed { .. }) => 15,
            Self::Cluster(error) if error.kind() == sustain_gossip::ErrorKind::Corrupt => 13,
            Self::Bind { source, .. } => match source.kind() {
                io::ErrorKind::AddrInUse | io::ErrorKind::ResourceBusy => 11,
                _ => 1,
            },
            _ => 1,
        }
    }
}

/// A running node.
pub struct Daemon {
    cluster: Cluster,
    tasks: TaskTracker,
    cancel: CancellationToken,
    admin_socket: PathBuf,
    /// By whom the node was removed from the cluster, once it was.
    removal: watch::Receiver<Option<String>>,
    /// Freed last, when no VM is left in it.
    _run: RunFolder,
}

/// What is bound before anything starts.
struct Bound {
    key: NodeKey,
    run: RunFolder,
    store: Store,
    /// For each service, one for each of its ports.
    clients: Vec<Vec<TcpListener>>,
    admin: UnixListener,
}

fn bind_error<'a>(
    doing: &'static str,
    what: impl std::fmt::Display + 'a,
) -> impl FnOnce(io::Error) -> DaemonError + 'a {
    move |source| DaemonError::Bind { doing, what: what.to_string(), source }
}

async fn bind(config: &Config, own: NodeId) -> Result<Bound, DaemonError> {
    let key = NodeKey::load(&config.key_file).map_err(|error| DaemonError::Key(Box::new(error)))?;
    if key.node_id() != own {
        let (path, name) = (config.key_file.clone(), config.name.clone());
        return Err(DaemonError::OtherKey { path, name, found: key.node_id() });
    }
    let keys = config.cluster_keys()?;
    let run = RunFolder::lock(&config.run).map_err(bind_error("take the folder", config.run.display()))?;
    let options =
        StoreOptions { key: KeySource::Cluster(keys), create: true, node: true, ..StoreOptions::default() };
    let folder = config.store.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&folder, options)).await;
    let store = opened.map_err(io::Error::other).map_err(bind_error("open", config.store.display()))??;
    let admin = admin::bind(&config.admin_socket)
        .map_err(bind_error("listen on the admin socket", config.admin_socket.display()))?;
    let mut clients = Vec::new();
    for service in &config.services {
        let mut listeners = Vec::new();
        for forward in &service.forwards {
            let what = format!("{} for service {}", forward.listen, service.name);
            listeners.push(TcpListener::bind(forward.listen).await.map_err(bind_error("listen on", what))?);
        }
        clients.push(listeners);
    }
    Ok(Bound { key, run, store, clients, admin })
}

impl Daemon {
    /// Starts a node. It runs in the background until [`Daemon::stop`].
    ///
    /// # Errors
    /// If a key, folder, socket or port can't be had, or the cluster's settings can't work.
    pub async fn start(config: Config, driver: Arc<dyn VmDriver>) -> Result<Self, DaemonError> {
        let own = config.own().cloned().ok_or_else(|| DaemonError::NoEntry { name: config.name.clone() })?;
        let Bound { key, run, store, clients, admin } = bind(&config, own.id).await?;
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let events = Arc::new(EventLog::default());
        let (handles, ends): (Vec<ServiceHandle>, Vec<Commands>) =
            config.services.iter().map(|service| ServiceHandle::new(service.name.clone())).unzip();
        let names = Names::default();
        names.learn(config.nodes.iter().map(|node| (node.id, node.name.clone())));
        let (removed, removal) = watch::channel(None);
        let handler = NodeHandler {
            services: handles.iter().map(|handle| (handle.name().clone(), handle.clone())).collect(),
            names: names.clone(),
            removed,
            secret_file: config.secret_file.clone(),
            store: store.clone(),
            events: events.clone(),
            tasks: tasks.clone(),
        };
        let settings = cluster_config(&config, key, &own);
        let cluster = Cluster::start(settings, store.clone(), Arc::new(handler))?;
        let admin_socket = config.admin_socket.clone();
        let peers = cluster.peers();
        names.learn(peers.iter().map(|status| (status.peer.id, status.peer.name.clone())));
        let node = Daemon { cluster, tasks, cancel, admin_socket, removal, _run: run };
        let room = descriptors::clients_max(descriptors::raise(), config.services.len());
        let all = config.services.iter().zip(&handles).zip(ends).zip(clients);
        for (((service, handle), ends), listeners) in all {
            let mut parts = node.parts(&config, service, &store, &events, &driver);
            parts.names = names.clone();
            parts.problem = match lacks_secret(&config, service) {
                Some(what) => {
                    events
                        .add(Happening::Problem { service: Some(service.name.clone()), what: what.clone() });
                    Some(what)
                }
                None => unable(&parts.vm, &events).await,
            };
            parts.machine.eligible = parts.problem.is_none();
            let started = service::start(parts, ends);
            started.map_err(bind_error("start the VM's thread of", &service.name))?;
            let places = Arc::new(Semaphore::new(room));
            let watch = (room, places.clone());
            let (name, cancel) = (service.name.clone(), node.cancel.clone());
            node.tasks.spawn(descriptors::watch_room(name, watch, events.clone(), cancel));
            node.serve_clients(service, handle, listeners, &places);
        }
        node.tasks.spawn(node.cancel.clone().run_until_cancelled_owned(retain_at_start(
            node.cluster.clone(),
            store.clone(),
            config.services.iter().map(|service| (service.name.clone(), service.tolerance)).collect(),
        )));
        let watch = node.scrub(&config, &store, &events);
        let cluster = node.cluster.clone();
        let gathers = Gathers::default();
        let state = AdminState { config, store, cluster, services: handles, events, scrub: watch, gathers };
        node.tasks.spawn(admin::serve(admin, Arc::new(state), node.cancel.clone()));
        Ok(node)
    }

    /// Begins to look for bad packs, and to have them sent again.
    fn scrub(&self, config: &Config, store: &Store, events: &Arc<EventLog>) -> Arc<ScrubWatch> {
        let (store, watch) = (store.clone(), Arc::<ScrubWatch>::default());
        let runtime = tokio::runtime::Handle::current();
        let mender = Mender { store: store.clone(), cluster: self.cluster.clone(), runtime };
        let (events, cancel) = (events.clone(), self.cancel.clone());
        let scrubber = Scrubber { store, mender, config: config.scrub, events, watch: watch.clone(), cancel };
        scrub::start(scrubber, &self.tasks);
        watch
    }

    /// Accepts the clients of a service on all of its ports.
    fn serve_clients(
        &self,
        service: &ServiceConfig,
        handle: &ServiceHandle,
        listeners: Vec<TcpListener>,
        places: &Arc<Semaphore>,
    ) {
        for (forward, listener) in service.forwards.iter().zip(listeners) {
            let port = ClientPort {
                service: service.name.clone(),
                guest_port: forward.guest_port,
                cluster: self.cluster.clone(),
                target: handle.target(),
                newest: handle.newest(),
                places: places.clone(),
            };
            let (tasks, cancel) = (self.tasks.clone(), self.cancel.clone());
            self.tasks.spawn(service::serve_clients(listener, port, tasks, cancel));
        }
    }

    /// Returns when the node was removed from the cluster: by whom. It is of no use any more.
    pub async fn removed(&self) -> String {
        let mut removal = self.removal.clone();
        match removal.wait_for(Option::is_some).await {
            Ok(by) => by.clone().unwrap_or_default(),
            // The cluster is gone, and nothing more comes from it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Where the node listens for its peers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.cluster.local_address()
    }

    fn parts(
        &self,
        config: &Config,
        service: &ServiceConfig,
        store: &Store,
        events: &Arc<EventLog>,
        driver: &Arc<dyn VmDriver>,
    ) -> ServiceParts {
        let node = self.cluster.node_id();
        let first = config.nodes.iter().any(|entry| entry.id == node && entry.name == service.first_server);
        let priority = config.own().map_or(0, |own| own.priority);
        ServiceParts {
            machine: MachineConfig {
                service: service.name.clone(),
                node,
                peers: self.cluster.peers().iter().map(|status| status.peer.id).collect(),
                priority,
                eligible: true,
                first,
                timing: config.timing,
            },
            vm: VmSettings {
                service: service.name.clone(),
                spec: spec_of(service),
                interval: Duration::from_millis(service.interval.as_millis()),
                policy: service.policy(),
                retention: service.retention(),
                // Two services must not write into one log.
                run: config.run.join(service.name.as_str()),
                store: store.clone(),
                cluster: self.cluster.clone(),
                runtime: tokio::runtime::Handle::current(),
                driver: driver_of(service, driver),
            },
            listen: service.forwards.first().map(|forward| forward.listen),
            tolerance: service.tolerance,
            warm: config.nodes.iter().map(|entry| entry.id).filter(|id| *id != node).collect(),
            cluster: self.cluster.clone(),
            events: events.clone(),
            tasks: self.tasks.clone(),
            cancel: self.cancel.clone(),
            seed: rand::random(),
            names: Names::default(),
            problem: None,
        }
    }

    /// Stops everything: VMs first, then the cluster; returns when all is gone or the grace is over.
    pub async fn stop(self) {
        self.cancel.cancel();
        self.tasks.close();
        if tokio::time::timeout(limits::SHUTDOWN_GRACE, self.tasks.wait()).await.is_err() {
            tracing::warn!(grace = ?limits::SHUTDOWN_GRACE, "some tasks would not end");
        }
        self.cluster.shutdown().await;
        // Its absence tells clients that there is no daemon; a leftover one does no harm.
        let _ = std::fs::remove_file(&self.admin_socket);
    }
}

/// Why this machine can't run the VM, if so. Asked before it matters, since finding out whether KVM works takes a
/// moment; a node that can't still holds snapshots and forwards clients.
async fn unable(vm: &VmSettings, events: &EventLog) -> Option<String> {
    let (driver, spec, service) = (vm.driver.clone(), vm.spec.clone(), vm.service.clone());
    let problem = match tokio::task::spawn_blocking(move || driver.check(&spec)).await {
        Ok(Ok(report)) => {
            tracing::info!(%service, qemu = report.qemu_version, accel = report.accel.as_str(), "can run the VM");
            if let Some(problem) = report.boot_problem {
                // Looked at again when it is to boot; where there is a snapshot it never is.
                let what =
                    format!("this node can only restore the service's VM, and not begin it: {problem}");
                events.add(Happening::Problem { service: Some(service), what });
            }
            return None;
        }
        // Memory that is short now may be there when it counts; starting the VM checks again.
        Ok(Err(error)) if error.kind() == sustain_vmdriver::ErrorKind::NoMemory => {
            tracing::warn!(%service, error = %error_chain(&error), "not enough memory for the VM now");
            return None;
        }
        Ok(Err(error)) => error_chain(&error),
        Err(error) => error.to_string(),
    };
    let what = format!("this node can't run the service's VM, and stands in no election: {problem}");
    events.add(Happening::Problem { service: Some(service), what: what.clone() });
    Some(what)
}

fn cluster_config(config: &Config, key: NodeKey, own: &NodeConfig) -> ClusterConfig {
    let others = config.nodes.iter().filter(|entry| entry.id != own.id);
    ClusterConfig {
        key,
        cluster: config.cluster.clone(),
        listen: config.listen.unwrap_or(own.address),
        own: own.details(),
        peers: others.map(|entry| Peer::of(entry.id, &entry.details())).collect(),
        roster: Some(config.roster_file()),
        tuning: Tuning::default(),
        share: config.share.given(),
    }
}
