//! What the cluster tells the node above it.

use std::future::Future;
use std::num::NonZeroU16;
use std::pin::Pin;

use sustain_proto::wire::{Message, Request, Response};
use sustain_proto::{NodeId, ServiceName, SnapshotId};

use crate::config::Peer;
use crate::forward::IncomingForward;
use crate::membership::RemovedNode;

/// A boxed future, so that [`Handler`] can be a trait object.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// The node above the cluster. The plain methods are called from the cluster's tasks and must return at
/// once (hand the event to a queue); the others may take their time.
pub trait Handler: Send + Sync + 'static {
    /// A one-way message came, such as a heartbeat. Probes are the cluster's own and never seen here.
    /// Messages may overtake one another.
    fn message(&self, from: NodeId, message: Message);

    /// A control request (`Poll`, `Claim`) came; the answer is sent back.
    fn control(&self, from: NodeId, request: Request) -> BoxFuture<Response>;

    /// A peer forwards a client to this port of a service, by its number in the guest. [`IncomingForward::accept`] or
    /// [`IncomingForward::refuse`] it; the stream lives on after the future has ended, if it is kept,
    /// but a future that carries it is ended with the cluster.
    fn connect(
        &self,
        from: NodeId,
        service: ServiceName,
        guest_port: NonZeroU16,
        incoming: IncomingForward,
    ) -> BoxFuture<()>;

    /// A peer became reachable, or was lost. Every peer begins as lost. Calls for one peer come in order.
    fn peer_changed(&self, peer: NodeId, reachable: bool);

    /// There are other members now: all of them but this node. What is known of one may be different, too.
    fn members_changed(&self, peers: Vec<Peer>) {
        drop(peers);
    }

    /// This node itself was removed from the cluster. No member talks to it any more.
    fn removed(&self, removed: RemovedNode) {
        drop(removed);
    }

    /// The text of the file with the cluster's secrets, for a node that joins; none if there is none here.
    fn secrets(&self) -> Option<String> {
        None
    }

    /// Snapshots of other nodes were synced here, base first.
    fn imported(&self, snapshots: Vec<SnapshotId>);

    /// A snapshot of a line whose server is this node survives so many losses of nodes now, besides this one's; none if
    /// it does not survive even now. Called whenever that changes; of changes that come fast only for the last one.
    fn level(&self, service: ServiceName, snapshot: SnapshotId, level: Option<u32>);
}
