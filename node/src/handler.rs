//! What peers tell this node: passed on to the services that it concerns.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sustain_gossip::membership::RemovedNode;
use sustain_gossip::{BoxFuture, Handler, IncomingForward, Peer};
use sustain_proto::join::Offered;
use sustain_proto::wire::{Message, Request, Response};
use sustain_proto::{NodeId, ServiceName, SnapshotId};
use sustain_store::{Store, error_chain};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::config::load_secrets;
use crate::events::{EventLog, Happening};
use crate::follow::follow_rebase;
use crate::holder;
use crate::logic::Event;
use crate::names::Names;
use crate::service::{ServiceHandle, serve_forwarded};

/// The node, as its cluster sees it.
pub(crate) struct NodeHandler {
    pub(crate) services: BTreeMap<ServiceName, ServiceHandle>,
    pub(crate) names: Names,
    /// By whom this node was removed.
    pub(crate) removed: watch::Sender<Option<String>>,
    /// The file with the cluster's secrets.
    pub(crate) secret_file: Option<PathBuf>,
    /// The services as a node that joins is told of them.
    pub(crate) offered: Vec<Offered>,
    pub(crate) store: Store,
    pub(crate) events: Arc<EventLog>,
    pub(crate) tasks: TaskTracker,
}

impl Handler for NodeHandler {
    fn message(&self, _from: NodeId, message: Message) {
        let Message::Heartbeat(heartbeat) = message else { return };
        if let Some(service) = self.services.get(&heartbeat.service) {
            service.offer(Event::Heartbeat(heartbeat));
        }
    }

    fn control(&self, from: NodeId, request: Request) -> BoxFuture<Response> {
        let name = match &request {
            Request::Poll { service, .. } | Request::Claim { service, .. } => service,
            _ => return Box::pin(async { refused("this is no control request") }),
        };
        let Some(service) = self.services.get(name).cloned() else {
            let reason = format!("node knows no service {name}");
            let Request::Poll { service, .. } = request else {
                return Box::pin(async move { refused(&reason) });
            };
            let store = self.store.clone();
            let read = self.tasks.spawn_blocking(move || holder::ballot(&store, &service));
            return Box::pin(async move {
                match read.await {
                    Ok(Ok(Some(ballot))) => Response::Ballot(ballot),
                    Ok(Ok(None)) => refused(&reason),
                    Ok(Err(error)) => refused(&error_chain(&error)),
                    Err(_) => refused("the node is stopping"),
                }
            });
        };
        Box::pin(async move {
            match request {
                Request::Poll { lost, .. } => match service.poll(from, lost).await {
                    Some(ballot) => Response::Ballot(ballot),
                    None => refused("the node is stopping"),
                },
                Request::Claim { term, origin, .. } => match service.claim(term, origin).await {
                    Some(greatest) => Response::Claimed { greatest },
                    None => refused("the node is stopping"),
                },
                _ => refused("this is no control request"),
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
        match self.services.get(&service).map(ServiceHandle::target) {
            Some(target) => Box::pin(serve_forwarded(target, guest_port, incoming)),
            None => Box::pin(async move { incoming.refuse("there is no such service").await }),
        }
    }

    fn peer_changed(&self, peer: NodeId, reachable: bool) {
        let name = self.names.of(&peer);
        self.events.add(Happening::Peer { node: peer, name, reachable });
        for service in self.services.values() {
            service.offer(Event::Peer { node: peer, reachable });
        }
    }

    fn shut_out(&self, peer: NodeId, reason: &str, time: Duration) {
        let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (name, reason) = (self.names.of(&peer), reason.to_owned());
        self.events.add(Happening::ShutOut { node: peer, name, reason, for_ms });
    }

    fn members_changed(&self, peers: Vec<Peer>) {
        self.names.learn(peers.iter().map(|peer| (peer.id, peer.name.clone())));
        for service in self.services.values() {
            service.offer(Event::Members(peers.iter().map(|peer| peer.id).collect()));
        }
    }

    fn removed(&self, removed: RemovedNode) {
        self.removed.send_replace(Some(self.names.of(&removed.by)));
    }

    fn secrets(&self) -> Option<String> {
        let path = self.secret_file.as_deref()?;
        match load_secrets(path) {
            Ok(secrets) => Some(secrets.format()),
            Err(error) => {
                tracing::error!(error = error_chain(&error), "a node that joins gets no secret");
                None
            }
        }
    }

    fn services(&self) -> Vec<Offered> {
        self.offered.clone()
    }

    fn imported(&self, snapshots: Vec<SnapshotId>) {
        let (store, services) = (self.store.clone(), self.services.clone());
        self.tasks.spawn_blocking(move || {
            let manifests = snapshots.iter().filter_map(|snapshot| store.manifest(*snapshot).ok());
            let concerned: BTreeSet<ServiceName> = manifests.map(|(manifest, _)| manifest.service).collect();
            concerned.iter().for_each(|service| follow_rebase(&store, service));
            services.values().for_each(ServiceHandle::refresh);
        });
    }

    fn level(&self, service: ServiceName, snapshot: SnapshotId, level: Option<u32>) {
        match self.services.get(&service) {
            Some(service) => service.level(snapshot, level),
            None => {
                tracing::debug!(%service, snapshot = %snapshot.short(), level, "a snapshot survives as many losses")
            }
        }
    }
}

fn refused(reason: &str) -> Response {
    Response::Refused { reason: reason.to_owned() }
}
