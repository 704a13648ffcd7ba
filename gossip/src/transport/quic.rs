//! The QUIC endpoint and its settings.

use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, Endpoint, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use ring::rand::{SecureRandom, SystemRandom};
use sustain_proto::NodeId;
use sustain_proto::join::JOIN_ALPN;
use sustain_proto::wire::Lane;

use crate::error::StartError;
use crate::identity::NodeKey;
use crate::tls;
use crate::transport::cids::RandomIds;
use crate::tuning::Tuning;
use crate::{ClusterConfig, limits};

/// Close code: the node leaves the cluster.
pub(crate) const CLOSE_LEAVING: VarInt = VarInt::from_u32(1);
/// Close code: the peer has dialled anew.
pub(crate) const CLOSE_REPLACED: VarInt = VarInt::from_u32(2);
/// Close code: a stranger, or a lane that doesn't exist.
pub(crate) const CLOSE_REFUSED: VarInt = VarInt::from_u32(3);
/// Close code: the caller was removed from the cluster. The reason is the removal, as a fact of the roster.
pub(crate) const CLOSE_REMOVED: VarInt = VarInt::from_u32(5);
/// Stream code: the sender or receiver gave up.
pub(crate) const STREAM_ABANDONED: VarInt = VarInt::from_u32(4);

/// Makes the endpoint on a bound socket.
pub(crate) fn endpoint(
    socket: UdpSocket,
    config: &ClusterConfig,
    pinned: Arc<tls::Pinned>,
) -> Result<Endpoint, StartError> {
    let address = socket.local_addr().unwrap_or(config.listen);
    let listen = |source| StartError::Listen { address, source };
    let runtime = quinn::default_runtime().ok_or(StartError::NoRuntime)?;
    // Derived from the node's key: a node that was killed and comes back can then tell its peers at once
    // that the connections which they still hold are dead.
    let reset_key = config.key.derive("sustain 2026 quic stateless reset v1");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &reset_key);
    let mut server = ServerConfig::with_crypto(Arc::new(tls::server(&config.key, pinned)?));
    server
        .transport_config(Arc::new(served_transport(&config.tuning)))
        .max_incoming(limits::HANDSHAKES_MAX)
        .incoming_buffer_size_total(limits::INCOMING_BUFFER_BYTES_MAX);
    socket.set_nonblocking(true).map_err(listen)?;
    let mut seed = [0; 32];
    SystemRandom::new().fill(&mut seed).map_err(|_| StartError::Random)?;
    let mut endpoint_config = EndpointConfig::new(Arc::new(reset_key));
    endpoint_config.cid_generator(move || Box::new(RandomIds::new(seed)));
    Endpoint::new(endpoint_config, Some(server), socket, runtime).map_err(listen)
}

/// Settings for dialling one peer on one lane.
pub(crate) fn client_config(
    key: &NodeKey,
    peer: NodeId,
    lane: Lane,
    tuning: &Tuning,
) -> Result<ClientConfig, tls::TlsError> {
    let mut config = ClientConfig::new(Arc::new(tls::client(key, peer, lane)?));
    config.transport_config(Arc::new(dialled_transport(lane, tuning)));
    Ok(config)
}

/// Settings for calling a node that doesn't know this one yet.
pub(crate) fn join_config(
    key: &NodeKey,
    inviter: NodeId,
    tuning: &Tuning,
) -> Result<ClientConfig, tls::TlsError> {
    let mut config = ClientConfig::new(Arc::new(tls::client_speaking(key, inviter, JOIN_ALPN)?));
    config.transport_config(Arc::new(dialled_transport(Lane::Bulk, tuning)));
    Ok(config)
}

/// Lets a caller ask one thing, and wait for the answer.
pub(crate) fn admit_one(connection: &quinn::Connection) {
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(1));
}

fn dialled_transport(lane: Lane, tuning: &Tuning) -> TransportConfig {
    let mut transport = common_transport(tuning);
    // Only answers to probes come back on streams that the peer opens.
    let messages = if lane == Lane::Control { limits::CONTROL_STREAMS_MAX } else { 0 };
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(messages))
        .receive_window(VarInt::from_u32(window_bytes(lane)));
    transport
}

/// Before the handshake the lane isn't known, so a caller may open nothing; [`admit`] then opens the lane.
fn served_transport(tuning: &Tuning) -> TransportConfig {
    let mut transport = common_transport(tuning);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(limits::CONTROL_WINDOW_BYTES));
    transport
}

/// Lets a known peer open what its lane allows.
pub(crate) fn admit(connection: &quinn::Connection, lane: Lane) {
    let (requests, messages) = match lane {
        Lane::Control => (limits::CONTROL_STREAMS_MAX, limits::CONTROL_STREAMS_MAX),
        Lane::Bulk => (limits::BULK_STREAMS_MAX, limits::KEEPER_STREAMS_MAX),
        Lane::Forward => (limits::FORWARD_STREAMS_MAX, 0),
    };
    connection.set_receive_window(VarInt::from_u32(window_bytes(lane)));
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(requests));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(messages));
}

fn window_bytes(lane: Lane) -> u32 {
    match lane {
        Lane::Control => limits::CONTROL_WINDOW_BYTES,
        Lane::Bulk | Lane::Forward => limits::DATA_WINDOW_BYTES,
    }
}

fn common_transport(tuning: &Tuning) -> TransportConfig {
    let mut transport = TransportConfig::default();
    // `Tuning::check` keeps the timeout within an hour, which fits a QUIC integer.
    let idle_ms = u32::try_from(tuning.idle_timeout_ms).unwrap_or(u32::MAX);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .keep_alive_interval(Some(Duration::from_millis(tuning.keep_alive_ms)))
        .initial_rtt(Duration::from_millis(tuning.rtt_guess_ms))
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW_BYTES))
        .send_window(u64::from(limits::DATA_WINDOW_BYTES))
        // SWIM's packets, on the control lane: what is not taken in time is dropped.
        .datagram_receive_buffer_size(Some(limits::DATAGRAM_BUFFER_BYTES))
        .datagram_send_buffer_size(limits::DATAGRAM_BUFFER_BYTES);
    transport
}
