//! Requests and answers of the admin API.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::ser::Error;
use serde::{Deserialize, Serialize, Serializer};
use sustain_gossip::KeepingStatus;
use sustain_gossip::membership::Health;
use sustain_proto::{NodeId, ServiceName};

use crate::log::Listed;
use crate::operations::RegionFile;
use crate::scrub::ScrubStatus;
use crate::service::ServiceStatus;

/// A push of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushCall {
    /// The service.
    pub service: ServiceName,
    /// The regions. The daemon opens the files itself, so paths must be absolute.
    pub regions: Vec<RegionFile>,
    /// The snapshot that the lists of changes count from, as `GatherCall` names one. If it is not the service's newest,
    /// the push is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// A gather into a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatherCall {
    /// A full id, the beginning of one, or `SERVICE@-1` and so on; `SERVICE@latest` is the newest that can be had
    /// whole.
    pub snapshot: String,
    /// The folder, as an absolute path.
    pub to: PathBuf,
    /// A number by which it is asked for while it goes on, which nobody else has: any random one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch: Option<u64>,
}

/// Which gathering is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GatherQuery {
    /// Its number.
    pub(super) watch: u64,
}

/// How far a gathering is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherProgress {
    /// `fetch` while packs come from other nodes, `write` while files are written.
    pub doing: String,
    /// Bytes of that which are done.
    pub bytes: u64,
    /// Bytes of that in all.
    pub bytes_total: u64,
}

/// A call that concerns a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCall {
    /// The service.
    pub service: ServiceName,
}

/// Which events are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EventsQuery {
    /// Those with greater numbers.
    pub after: u64,
    /// How long to wait for the first one.
    pub wait_ms: u64,
}

/// A snapshot in a node's log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LogEntry {
    /// The snapshot, and what is wrong with it.
    pub(super) listed: Listed,
    /// Whether enough other nodes have it; none if nobody tells this node.
    pub(super) durable: Option<bool>,
}

impl Serialize for LogEntry {
    /// As the snapshot, except for what this node can't know.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut value = serde_json::to_value(&self.listed).map_err(S::Error::custom)?;
        value["durable"] = self.durable.into();
        value.serialize(serializer)
    }
}

/// A peer as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Its priority.
    pub priority: u32,
    /// Whether it answers probes; if not, it is on the lost list (P3, P15).
    pub reachable: bool,
    /// Whether it is a neighbour in the overlay.
    pub neighbour: bool,
    /// Its failure domain; empty if it has none.
    #[serde(default)]
    pub domain: String,
    /// How it stands by what all nodes tell one another.
    pub health: Health,
    /// For how long that has been so.
    pub health_for_ms: u64,
    /// For how long it has been reachable, or lost.
    pub for_ms: u64,
    /// From the last answered probe to its answer.
    pub rtt_ms: Option<u64>,
    /// Why it does not hold all that it is to hold of this node's snapshots, if it says so.
    #[serde(default)]
    pub refuses: Option<String>,
}

/// A node that was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedView {
    /// Its id.
    pub id: NodeId,
    /// What it was called, where that is known.
    pub name: Option<String>,
    /// Who removed it.
    pub by: NodeId,
}

/// An invitation is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteCall {
    /// For a node that is to hold data only, and gets no secret.
    pub holder: bool,
    /// How long it is valid.
    pub valid_ms: u64,
}

/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// What the new node needs to join.
    pub token: String,
    /// When it expires, by this node's clock.
    pub expires_ms: u64,
    /// For a node that is to hold data only.
    pub holder: bool,
    /// Where the new node calls.
    pub addresses: Vec<SocketAddr>,
}

/// A node is to be removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveCall {
    /// Its name, or the beginning of its id.
    pub node: String,
    /// Also if it is a server, or the last other node.
    #[serde(default)]
    pub force: bool,
    /// Only says which one it is.
    #[serde(default)]
    pub dry_run: bool,
}

/// A node that was removed, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// Where it listened.
    pub address: String,
}

/// A node's status.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub name: String,
    /// The node's id.
    pub id: NodeId,
    /// Where it listens.
    pub address: String,
    /// Its failure domain; empty if it has none.
    #[serde(default)]
    pub domain: String,
    /// Version of the software.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// The other nodes.
    pub peers: Vec<PeerView>,
    /// Nodes that were removed, as far as this one has heard.
    #[serde(default)]
    pub removed: Vec<RemovedView>,
    /// What it holds of what the cluster stores; none if that can't be said now.
    #[serde(default)]
    pub keeping: Option<KeepingStatus>,
    /// The services.
    pub services: Vec<ServiceStatus>,
    /// How the scrubbing of its store stands.
    #[serde(default)]
    pub scrub: ScrubStatus,
}
