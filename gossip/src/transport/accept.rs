//! Connections that peers have dialled: who calls, on which lane, and what becomes of its streams.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming, VarInt};
use rustls::pki_types::CertificateDer;
use sustain_proto::NodeId;
use sustain_proto::join::JOIN_ALPN;
use sustain_proto::wire::Lane;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::member::Member;
use crate::transport::links::lock;
use crate::transport::quic;
use crate::{control, forward, join, limits, serve, tls};

/// The served connections: the newest for each peer and lane.
#[derive(Default)]
pub(crate) struct Served {
    connections: Mutex<BTreeMap<(NodeId, Lane), Connection>>,
}

impl Served {
    /// A peer that dials anew has given up its old connection, even if this side hasn't noticed.
    fn replace(&self, peer: NodeId, lane: Lane, connection: Connection) {
        let old = lock(&self.connections).insert((peer, lane), connection);
        if let Some(old) = old {
            old.close(quic::CLOSE_REPLACED, b"dialled anew");
        }
    }

    fn remove(&self, peer: NodeId, lane: Lane, connection: &Connection) {
        let mut connections = lock(&self.connections);
        if connections.get(&(peer, lane)).is_some_and(|it| it.stable_id() == connection.stable_id()) {
            connections.remove(&(peer, lane));
        }
    }

    /// The connection that a peer has dialled, if there is one.
    #[cfg(test)]
    pub(crate) fn live(&self, peer: NodeId, lane: Lane) -> Option<Connection> {
        lock(&self.connections).get(&(peer, lane)).cloned()
    }

    /// Closes the connections of a peer.
    pub(crate) fn close(&self, peer: NodeId, code: VarInt, reason: &[u8]) {
        for lane in Lane::ALL {
            let old = lock(&self.connections).remove(&(peer, lane));
            if let Some(old) = old {
                old.close(code, reason);
            }
        }
    }

    /// Says on all connections that the node leaves, and forgets them. Said here and not by the endpoint alone, which
    /// leaves it to tasks that may be late: a connection of which the last handle goes first ends without a word.
    pub(crate) fn leave(&self) {
        for connection in std::mem::take(&mut *lock(&self.connections)).into_values() {
            connection.close(quic::CLOSE_LEAVING, b"leaving");
        }
    }
}

/// Takes calls until the cluster stops.
pub(crate) async fn run(member: Arc<Member>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(limits::HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.ignore();
            continue;
        };
        let under_way = limits::HANDSHAKES_MAX - handshakes.available_permits();
        let doubtful = under_way > limits::HANDSHAKES_UNVALIDATED_MAX && !incoming.remote_address_validated();
        if doubtful && incoming.may_retry() {
            // Fails only where `may_retry` is false.
            let _ = incoming.retry();
            continue;
        }
        let known = member.clone();
        member.tasks.spawn(async move { admit(&known, incoming, permit).await });
    }
}

async fn admit(member: &Arc<Member>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            tracing::debug!(%address, %error, "a call was refused");
            return;
        }
    };
    let connection = match tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(%address, %error, "a call was refused");
            return;
        }
        Err(_) => {
            tracing::debug!(%address, "a caller did not finish its handshake");
            return;
        }
    };
    drop(permit);
    let (Some(peer), Some(called)) = (caller(&connection), called(&connection)) else {
        connection.close(quic::CLOSE_REFUSED, b"not in this cluster");
        return;
    };
    let Called::Lane(lane) = called else {
        join::serve(member, peer, &connection).await;
        return;
    };
    // TLS lets removed nodes through, too, and strangers while there is an invitation.
    if !member.peers.contains(&peer) {
        member.registry.speak_of_call(peer);
        let (code, reason) = member.registry.refusal(peer);
        connection.close(code, &reason);
        return;
    }
    tracing::debug!(peer = %peer.short(), ?lane, "a peer has connected");
    member.served.replace(peer, lane, connection.clone());
    quic::admit(&connection, lane);
    match lane {
        Lane::Control => control::serve(member, peer, &connection).await,
        Lane::Bulk => serve::serve(member, peer, &connection).await,
        Lane::Forward => forward::serve(member, peer, &connection).await,
    }
    member.served.remove(peer, lane, &connection);
}

/// The node that is at the other end.
fn caller(connection: &Connection) -> Option<NodeId> {
    let identity = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    tls::node_of(identity.first()?)
}

/// What a caller wants.
enum Called {
    Lane(Lane),
    Join,
}

/// What was agreed on.
fn called(connection: &Connection) -> Option<Called> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let protocol = data.protocol?;
    if protocol == JOIN_ALPN {
        return Some(Called::Join);
    }
    Lane::ALL.into_iter().find(|lane| lane.alpn() == protocol).map(Called::Lane)
}
