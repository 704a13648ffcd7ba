//! The cluster: who is in it and can be reached, and how snapshots get from node to node.
//!
//! *Logic* (no I/O, no tasks, no clock): `probe`, `overlay`, `placement`, `code`, `holdings`, `study` and its rules,
//! `copies`, `wanted`, `plan`,
//! `sources`, `backoff`. *Drivers* (QUIC, tasks, the store): everything else. [`Cluster`] is the handle, [`Handler`]
//! what the node above implements. Requirement numbers (P1–P41) refer to `docs/paper.md`.

pub mod limits;

mod backoff;
mod cluster;
mod code;
mod config;
mod control;
mod copies;
mod copies_rule;
mod error;
mod exchange;
mod fetch;
mod forward;
mod fragments_rule;
mod gather;
mod gathering;
mod handler;
mod holdings;
mod identity;
mod member;
mod overlay;
mod placement;
mod plan;
mod probe;
mod prober;
mod pump;
mod remote;
mod serve;
mod serve_pieces;
mod share;
mod sources;
mod spread;
mod start;
mod study;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
mod transport;
mod tuning;
mod wanted;

pub use cluster::{Cluster, PeerStatus};
pub use code::Code;
pub use config::{ClusterConfig, Peer};
pub use error::{ChunkError, ErrorKind, GatherError, RequestError, StartError};
pub use forward::{ForwardStream, IncomingForward};
pub use gather::{GatherReport, SharedProgress};
pub use handler::{BoxFuture, Handler};
pub use holdings::{Fragment, Holdings, Move, View};
pub use identity::{KeyError, NodeKey};
pub use overlay::{Members, Overlay, neighbours};
pub use placement::{Placement, Replicate};
pub use remote::RemoteSnapshot;
pub use share::Share;
pub use start::Started;
pub use study::{Answer, Question, Study};
pub use tls::TlsError;
pub use tuning::{Tuning, TuningError};
