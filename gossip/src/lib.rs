//! The cluster: who is in it and can be reached, and how snapshots get from node to node.
//!
//! *Logic* (no I/O, no tasks, no clock): [`audit`], `probe`, `conduct`, `pace`, `overlay`, `placement`, `code`,
//! `holdings`, `study` and its rules, `copies`, `wanted`, `plan`, `sources`, `backoff`, [`membership`], [`keeper`] and
//! its simulator [`sim`]. *Drivers* (QUIC, tasks, the store): everything else. [`Cluster`] is the handle, [`Handler`]
//! what the node above implements.
//! Requirement numbers (P1–P41) refer to `docs/paper.md`.

pub mod audit;
pub mod keeper;
pub mod limits;

mod auditing;
mod backoff;
mod cluster;
mod code;
mod conduct;
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
mod healths;
mod holdings;
mod identity;
mod invitations;
mod join;
mod join_call;
mod member;
pub mod membership;
mod overlay;
mod pace;
mod peer_status;
mod peers;
mod placement;
mod plan;
mod probe;
mod prober;
mod pump;
mod registry;
mod remote;
mod roster_file;
mod serve;
mod serve_pieces;
mod share;
pub mod sim;
mod sources;
mod spread;
mod standing;
mod start;
mod start_up;
mod study;
mod tasks;
#[cfg(test)]
mod tests;
mod tls;
mod transfer;
mod transport;
mod tuning;
mod wanted;

pub use cluster::Cluster;
pub use code::Code;
pub use config::{ClusterConfig, Peer};
pub use error::{ChunkError, ErrorKind, GatherError, MembershipError, RequestError, StartError};
pub use forward::{ForwardStream, IncomingForward};
pub use gather::{GatherReport, SharedProgress};
pub use handler::{BoxFuture, Handler};
pub use holdings::{Fragment, Holdings, Move, View};
pub use identity::{KeyError, NodeKey};
pub use join_call::{JoinError, join};
pub use overlay::{Members, Overlay, neighbours};
pub use peer_status::PeerStatus;
pub use placement::{Placement, Replicate};
pub use remote::RemoteSnapshot;
pub use roster_file::{RosterFileError, save_roster};
pub use share::Share;
pub use start::Started;
pub use study::{Answer, Question, Study};
pub use tls::TlsError;
pub use tuning::{Tuning, TuningError};
