//! What a connection speaks, as the handshake has agreed.

use quinn::Connection;
use quinn::crypto::rustls::HandshakeData;
use sustain_proto::join::JOIN_ALPN;
use sustain_proto::wire::{Lane, VERSIONS_ALPN};

/// What was agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    /// A lane, at a version of the wire.
    Lane(Lane, u16),
    /// The joining protocol.
    Join,
    /// The two have no version in common.
    Nothing,
}

/// What a connection speaks; none if that is unknown here.
pub(crate) fn spoken(connection: &Connection) -> Option<Spoken> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    let protocol = data.protocol?;
    if protocol == JOIN_ALPN {
        return Some(Spoken::Join);
    }
    if protocol == VERSIONS_ALPN {
        return Some(Spoken::Nothing);
    }
    Lane::of_alpn(&protocol).map(|(lane, version)| Spoken::Lane(lane, version))
}

/// The version of the wire that a connection speaks; 0 if it is no lane's.
pub(crate) fn version(connection: &Connection) -> u16 {
    match spoken(connection) {
        Some(Spoken::Lane(_, version)) => version,
        _ => 0,
    }
}
