//! What the rest of the node holds of a service: a way to reach its task, and where its clients go.

use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use sustain_gossip::RemoteSnapshot;
use sustain_proto::wire::{Ballot, SnapshotSummary};
use sustain_proto::{KeyId, NodeId, ServiceName, SnapshotId, Term, TermOrigin};
use sustain_vmdriver::PortForward;
use tokio::sync::{mpsc, oneshot, watch};

use super::ServiceStatus;
use super::client::{Followed, Newest};
use super::trouble::Trouble;
use crate::logic::Event;

/// Where clients are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// There is no server now.
    Nowhere,
    /// The VM runs here, and its ports are reached like this.
    Here(Followed, Ports),
    /// Another node serves.
    Node(Followed),
}

impl Target {
    /// The reign of the server, if there is one.
    pub(crate) fn followed(&self) -> Option<Followed> {
        match self {
            Self::Nowhere => None,
            Self::Here(followed, _) | Self::Node(followed) => Some(*followed),
        }
    }
}

/// The ports of a VM that runs on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ports(Arc<[PortForward]>);

impl Ports {
    /// As the VM's driver says.
    pub(crate) fn new(forwards: &[PortForward]) -> Self {
        Self(forwards.into())
    }

    /// Where the port with this number inside the guest is reached on this machine.
    pub(crate) fn address(&self, guest_port: NonZeroU16) -> Option<SocketAddr> {
        let forward = self.0.iter().find(|forward| forward.guest_port == guest_port.get());
        forward.map(|forward| forward.host)
    }
}

/// What the service's task is asked or told.
pub(super) enum Command {
    Event(Event),
    /// What restoring a snapshot takes is here, and the rest elsewhere.
    Startable {
        term: Term,
        remote: Arc<RemoteSnapshot>,
    },
    Poll {
        from: NodeId,
        lost: Option<Term>,
        answer: oneshot::Sender<Ballot>,
    },
    Claim {
        term: Term,
        origin: Option<TermOrigin>,
        answer: oneshot::Sender<Option<Term>>,
    },
    Status {
        answer: oneshot::Sender<ServiceStatus>,
    },
    /// A snapshot survives so many losses now.
    Level {
        snapshot: SnapshotId,
        level: Option<u32>,
    },
    /// Something is wrong that only its own task knows of.
    Trouble(Trouble, String),
    /// A peer refuses to be asked about the service.
    Refused(NodeId),
    /// The store's snapshots of this service may have changed.
    Refresh,
    /// They are these. The key of the newest one, if it is not here.
    Known(Vec<SnapshotSummary>, Option<KeyId>),
}

/// A handle on a service's task; clones share it.
#[derive(Clone)]
pub(crate) struct ServiceHandle {
    pub(super) name: ServiceName,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) target: watch::Receiver<Target>,
    pub(super) newest: watch::Receiver<Option<Newest>>,
}

impl ServiceHandle {
    /// The service's name.
    #[must_use]
    pub(crate) fn name(&self) -> &ServiceName {
        &self.name
    }

    /// Hands the task an event that may be dropped when it is overwhelmed, such as a heartbeat.
    pub(crate) fn offer(&self, event: Event) {
        if self.commands.try_send(Command::Event(event)).is_err() {
            tracing::warn!(service = %self.name, "the service's task is overwhelmed or gone; an event is dropped");
        }
    }

    /// Says that the store's snapshots of this service may have changed.
    pub(crate) fn refresh(&self) {
        let _ = self.commands.try_send(Command::Refresh);
    }

    /// Says how many losses a snapshot survives now.
    pub(crate) fn level(&self, snapshot: SnapshotId, level: Option<u32>) {
        let _ = self.commands.try_send(Command::Level { snapshot, level });
    }

    /// This node's ballot for a peer that misses the server; none when the task is gone.
    pub(crate) async fn poll(&self, from: NodeId, lost: Option<Term>) -> Option<Ballot> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Poll { from, lost, answer }).await.ok()?;
        answered.await.ok()
    }

    /// Tells of a peer's claim; returns the greatest term known here.
    pub(crate) async fn claim(&self, term: Term, origin: Option<TermOrigin>) -> Option<Term> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Claim { term, origin, answer }).await.ok()?;
        answered.await.ok().flatten()
    }

    /// The service's status; none when the task is gone.
    pub(crate) async fn status(&self) -> Option<ServiceStatus> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Status { answer }).await.ok()?;
        answered.await.ok()
    }

    /// Where clients are sent now, and every change of it.
    #[must_use]
    pub(crate) fn target(&self) -> watch::Receiver<Target> {
        self.target.clone()
    }

    /// The newest snapshot that the server is known to have taken.
    #[must_use]
    pub(crate) fn newest(&self) -> watch::Receiver<Option<Newest>> {
        self.newest.clone()
    }
}
