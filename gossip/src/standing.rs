//! How this node stands with its peers: whom it has shut out for misconduct, and what keeps it from talking with whom.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use quinn::{Connection, ConnectionError, TransportErrorCode};
use sustain_proto::NodeId;

use crate::conduct::{Conduct, ShutOut, What};
use crate::error::RequestError;
use crate::member::Member;
use crate::transport::links::lock;
use crate::transport::quic;

/// Most characters of what a peer says when it refuses this node.
const REASON_CHARS_MAX: usize = 200;

/// How this node stands with all peers.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    conduct: Mutex<Conduct>,
    obstacles: Mutex<BTreeMap<NodeId, String>>,
}

impl Standing {
    /// What keeps this node and a peer from talking, where that is known.
    pub(crate) fn obstacle(&self, peer: &NodeId) -> Option<String> {
        lock(&self.obstacles).get(peer).cloned()
    }

    /// The two talk.
    pub(crate) fn talks(&self, peer: &NodeId) {
        lock(&self.obstacles).remove(peer);
    }

    /// Forgets a peer.
    pub(crate) fn forget(&self, peer: &NodeId) {
        lock(&self.conduct).forget(peer);
        self.talks(peer);
    }
}

impl Member {
    /// Counts what a peer did wrong. When it is too much, the peer is shut out for a while: its connections end, its
    /// calls are refused, and it is asked for nothing. It keeps its place in the overlay: it is not dead.
    pub(crate) fn misbehaved(&self, peer: NodeId, what: What) {
        let Some(known) = self.peers.get(&peer) else { return };
        let (node, name, reason) = (peer.short(), known.name, what.words());
        tracing::debug!(node, name, reason, "a node misbehaves");
        let now_ms = self.now_ms();
        let news = lock(&self.standing.conduct).misbehaved(peer, what, now_ms);
        let Some(ShutOut { until_ms, times, .. }) = news else { return };
        let time = Duration::from_millis(until_ms.saturating_sub(now_ms));
        let seconds = time.as_secs();
        tracing::warn!(node, name, reason, seconds, times, "a node misbehaves, and is shut out for a while");
        self.served.close(peer, quic::CLOSE_SHUT_OUT, reason.as_bytes());
        self.links.bar(peer, time, quic::CLOSE_SHUT_OUT, &format!("it is shut out: {reason}"));
        self.handler.shut_out(peer, reason, time);
    }

    /// Whether a peer is shut out now.
    pub(crate) fn shut_out(&self, peer: &NodeId) -> Option<ShutOut> {
        lock(&self.standing.conduct).shut_out(peer, self.now_ms())
    }

    /// Looks why a connection with a peer has ended.
    pub(crate) fn look_at_end(&self, peer: NodeId, connection: &Connection) {
        match connection.close_reason() {
            Some(ConnectionError::TransportError(error)) if breaks_rules(error.code) => {
                self.misbehaved(peer, What::Transport);
            }
            Some(ConnectionError::ApplicationClosed(close)) if close.error_code == quic::CLOSE_SHUT_OUT => {
                let said: String =
                    String::from_utf8_lossy(&close.reason).chars().take(REASON_CHARS_MAX).collect();
                let said = said.replace(char::is_control, " ");
                self.hindered(peer, format!("has shut this node out for a while: {said}"));
            }
            _ => {}
        }
    }

    /// A peer can't be called, and it may be known why.
    pub(crate) fn unreachable(&self, peer: NodeId, error: &RequestError) {
        if let RequestError::Version { mismatch, .. } = error {
            self.hindered(peer, mismatch.clone());
        }
    }

    fn hindered(&self, peer: NodeId, why: String) {
        let Some(known) = self.peers.get(&peer) else { return };
        let before = lock(&self.standing.obstacles).insert(peer, why.clone());
        if before.as_ref() != Some(&why) {
            tracing::warn!(node = %peer.short(), name = known.name, "the node {why}");
        }
    }
}

/// Whether the other side did what it was told in the handshake, or later, that it may not do.
fn breaks_rules(code: TransportErrorCode) -> bool {
    code == TransportErrorCode::STREAM_LIMIT_ERROR || code == TransportErrorCode::FLOW_CONTROL_ERROR
}
