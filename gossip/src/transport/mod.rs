//! QUIC: one UDP socket, and one connection for each lane to each peer.
//!
//! A node sends its messages and requests on connections that it has dialled itself, and serves those that
//! peers have dialled. So whether a peer can be reached from here is judged by this node's own connection,
//! and no two nodes have to agree on which of two crossing connections to keep.

pub(crate) mod accept;
pub(crate) mod cids;
pub(crate) mod frames;
pub(crate) mod links;
pub(crate) mod quic;
pub(crate) mod spoken;
