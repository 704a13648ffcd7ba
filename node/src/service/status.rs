//! A service as a node sees it, for `snapctl status`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use sustain_proto::{NodeId, ServiceName, SnapshotId, Term};

use super::driver::Driver;
use crate::logic::Role;

/// A service's status on one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// The service.
    pub service: ServiceName,
    /// This node's role.
    pub role: Role,
    /// The term of the server that this node follows or is.
    pub term: Option<Term>,
    /// The server.
    pub server: Option<NodeId>,
    /// Number of the newest snapshot taken, as last heard.
    pub running_seq: Option<u64>,
    /// Number of the newest durable snapshot, as last heard: what clients may rely on (P34).
    pub durable_seq: Option<u64>,
    /// The newest durable snapshot.
    pub durable: Option<SnapshotId>,
    /// Losses that it survives.
    pub level: u32,
    /// Where this node accepts the service's clients: the address of the first forward.
    pub listen: Option<SocketAddr>,
    /// Process id of the VM, if it runs here.
    pub vm_pid: Option<u32>,
    /// Snapshots taken here since the node started.
    pub snapshots_taken: u64,
    /// Milliseconds since the newest of those was taken, or since the VM was restored: what the service would lose if
    /// this node were lost before the next one is durable. None if it runs elsewhere.
    pub snapshot_age_ms: Option<u64>,
    /// Bytes of the snapshot that the VM was restored from that are still being fetched; none once it is whole here. No
    /// snapshot is taken before.
    #[serde(default)]
    pub bytes_left: Option<u64>,
    /// Median pause of the guest in milliseconds, over those.
    pub pause_ms_median: Option<f64>,
    /// Snapshots of the service that are whole in this node's store.
    pub snapshots_held: usize,
}

impl Driver {
    pub(super) fn status(&self) -> ServiceStatus {
        let watermark = self.machine.watermark();
        let term = self.machine.following();
        let mut pauses_ms = self.pauses_ms.clone();
        pauses_ms.sort_by(f64::total_cmp);
        ServiceStatus {
            service: self.service.clone(),
            role: self.machine.role(),
            term,
            server: term.map(|term| term.node),
            running_seq: watermark.map(|heartbeat| heartbeat.running_seq),
            durable_seq: watermark.and_then(|heartbeat| heartbeat.durable).map(|durable| durable.1),
            durable: watermark.and_then(|heartbeat| heartbeat.durable).map(|durable| durable.0),
            level: watermark.map_or(0, |heartbeat| heartbeat.level),
            listen: self.listen,
            vm_pid: self.vm_pid,
            snapshots_taken: self.snapshots_taken,
            snapshot_age_ms: self
                .vm_pid
                .and(self.taken_at_ms)
                .map(|at| self.clock.now_ms().saturating_sub(at)),
            bytes_left: self.rest.as_ref().map(|rest| rest.bytes_left()),
            pause_ms_median: pauses_ms.get(pauses_ms.len() / 2).copied(),
            snapshots_held: self.snapshots_held,
        }
    }
}
