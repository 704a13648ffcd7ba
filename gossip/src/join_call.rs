//! Joining: calls the member that has invited this node.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use quinn::{ConnectionError, Endpoint};
use sustain_proto::Details;
use sustain_proto::join::{JoinAnswer, JoinRefusal, JoinRequest, Token, Welcome};
use sustain_proto::wire::Lane;
use tokio::time::timeout;

use crate::identity::NodeKey;
use crate::transport::{frames, quic};
use crate::tuning::Tuning;
use crate::{limits, tls};

/// Why a node can't join.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Nobody answers where the inviter should be.
    #[error("the node that made the invitation can't be reached at {address}: {reason}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Somebody else answers there.
    #[error("another node than the one that made the invitation answers at {address}")]
    OtherNode {
        /// Where.
        address: SocketAddr,
    },
    /// The inviter lets no stranger in now.
    #[error("the node at {address} has no open invitation: this one was used, has expired, or was forgotten")]
    NoInvitation {
        /// Where.
        address: SocketAddr,
    },
    /// The inviter says why not.
    #[error("the node that made the invitation refuses")]
    Refused(#[source] JoinRefusal),
    /// This machine can't call.
    #[error("can't call from this machine: {reason}")]
    Here {
        /// Why.
        reason: String,
    },
}

/// Joins the cluster that a token is for, with this key, to be known by these details. Must run inside a tokio
/// runtime.
///
/// # Errors
/// Says what is in the way.
pub async fn join(key: &NodeKey, token: &Token, details: Details) -> Result<Welcome, JoinError> {
    let mut last = JoinError::Here { reason: "the invitation names no address".to_owned() };
    for address in &token.addresses {
        match join_at(key, token, *address, details.clone()).await {
            Err(error @ (JoinError::Unreachable { .. } | JoinError::OtherNode { .. })) => last = error,
            outcome => return outcome,
        }
    }
    Err(last)
}

async fn join_at(
    key: &NodeKey,
    token: &Token,
    address: SocketAddr,
    details: Details,
) -> Result<Welcome, JoinError> {
    let here = |reason: String| JoinError::Here { reason };
    let any: SocketAddr =
        if address.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let endpoint = Endpoint::client(any).map_err(|error| here(error.to_string()))?;
    let tuning = Tuning::default();
    let config = quic::join_config(key, token.inviter, &tuning).map_err(|error| here(error.to_string()))?;
    let connecting =
        endpoint.connect_with(config, address, tls::SERVER_NAME).map_err(|error| here(error.to_string()))?;
    let silent = |reason: &str| JoinError::Unreachable { address, reason: reason.to_owned() };
    let dial = Duration::from_millis(2 * tuning.dial_timeout_ms);
    let connection =
        timeout(dial, connecting).await.map_err(|_| silent("no answer"))?.map_err(|error| match error {
            ConnectionError::TransportError(_) => JoinError::OtherNode { address },
            error => silent(&error.to_string()),
        })?;
    let exchange = async {
        let (mut send, mut receive) = connection.open_bi().await.ok()?;
        let request = JoinRequest { secret: token.secret, details };
        frames::write(&mut send, &request, limits::JOIN_REQUEST_BYTES_MAX).await.ok()?;
        // Fails only on a stream that is finished already.
        let _ = send.finish();
        frames::read::<JoinAnswer>(&mut receive, Lane::Control.frame_bytes_max()).await.ok()
    };
    let answer = timeout(limits::JOIN_TIMEOUT, exchange).await.map_err(|_| silent("it does not answer"))?;
    let Some(answer) = answer else {
        return Err(match connection.close_reason() {
            // TLS has refused this node's key, which no member knows.
            Some(ConnectionError::ConnectionClosed(_)) => JoinError::NoInvitation { address },
            Some(error) => silent(&error.to_string()),
            None => silent("it sends something strange"),
        });
    };
    connection.close(quic::CLOSE_LEAVING, b"joined");
    let _ = timeout(Duration::from_millis(tuning.rtt_guess_ms), endpoint.wait_idle()).await;
    match answer {
        JoinAnswer::Welcome(welcome) => Ok(welcome),
        JoinAnswer::Refused(refusal) => Err(JoinError::Refused(refusal)),
    }
}
