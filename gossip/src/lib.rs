//! The cluster: who is in it and can be reached, and how snapshots get from node to node.
//!
//! *Logic* (no I/O, no tasks, no clock): [`audit`], `probe`, `conduct`, `pace`, `overlay`, `code`, `holdings`, `study`
//! and its rules, `plan`, `rebuilding::lanes`, `sources`, `backoff`, [`membership`], [`keeper`] and its simulator
//! [`sim`]. *Drivers*
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
mod copies_rule;
mod depot;
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
mod keeping;
mod lists;
mod member;
pub mod membership;
mod overlay;
mod pace;
mod peer_status;
mod peers;
mod plan;
mod probe;
mod prober;
mod pump;
mod rebuilding;
mod registry;
mod remote;
mod roster_file;
mod serve;
mod serve_pieces;
mod share;
pub mod sim;
mod sources;
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
pub use keeping::{KeepingStatus, LineView, Retain, SnapshotLevel};
pub use overlay::{Members, Overlay, neighbours};
pub use peer_status::PeerStatus;
pub use remote::RemoteSnapshot;
pub use roster_file::{RosterFileError, save_roster};
pub use share::Share;
pub use start::Started;
pub use study::{Answer, Question, Study};
pub use tls::TlsError;
pub use tuning::{Tuning, TuningError};
