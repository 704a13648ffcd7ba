//! A service as a node sees it, for `snapctl status`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sustain_proto::{KeyId, NodeId, ServiceName, SnapshotId, Term};

use super::driver::Driver;
use super::trouble::{Problem, Trouble};
use crate::limits;
use crate::logic::{Obstacle, Role};

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
    /// Losses, besides the server's, that the newest durable snapshot survives now, as far as the server knows. None
    /// if nothing is durable.
    pub durable_survives: Option<u32>,
    /// Where this node accepts the service's clients: the address of the first forward.
    pub listen: Option<SocketAddr>,
    /// Process id of the VM, if it runs here.
    pub vm_pid: Option<u32>,
    /// Snapshots taken here since the node started.
    pub snapshots_taken: u64,
    /// Milliseconds since the newest of those was taken, or since the VM was started or restored: what the service
    /// would lose if this node were lost before the next one is durable. None if it runs elsewhere.
    pub snapshot_age_ms: Option<u64>,
    /// Whether that is several intervals, and more than a slow snapshot takes. The number of the newest one and that of
    /// the newest durable one may be equal all the while.
    #[serde(default)]
    pub snapshot_late: bool,
    /// Whether the guest stands still by itself, since its disk can't be read or written now. It goes on when it can.
    #[serde(default)]
    pub stalled: bool,
    /// Bytes of the snapshot that the VM was restored from that are still being fetched; none once it is whole here. No
    /// snapshot is taken before.
    #[serde(default)]
    pub bytes_left: Option<u64>,
    /// Median pause of the guest in milliseconds, over those.
    pub pause_ms_median: Option<f64>,
    /// Snapshots of the service that are whole in this node's store.
    pub snapshots_held: usize,
    /// What is wrong now, as far as this node knows; of several things, the most telling one.
    pub problem: Option<Problem>,
}

/// Whether people should know how old the newest snapshot is.
fn is_late(age_ms: u64, interval: Duration) -> bool {
    let late = (interval * limits::SNAPSHOT_LATE_INTERVALS).max(limits::SNAPSHOT_LATE_MIN);
    u128::from(age_ms) > late.as_millis()
}

impl Driver {
    pub(super) fn status(&self) -> ServiceStatus {
        let watermark = self.machine.watermark();
        let term = self.machine.following();
        let mut pauses_ms = self.pauses_ms.clone();
        pauses_ms.sort_by(f64::total_cmp);
        let taken_at_ms = self.vm_pid.and(self.taken_at_ms);
        let snapshot_age_ms = taken_at_ms.map(|at| self.clock.now_ms().saturating_sub(at));
        ServiceStatus {
            service: self.service.clone(),
            role: self.machine.role(),
            term,
            server: term.map(|term| term.node),
            running_seq: watermark.map(|heartbeat| heartbeat.running_seq),
            durable_seq: watermark.and_then(|heartbeat| heartbeat.durable).map(|durable| durable.1),
            durable: watermark.and_then(|heartbeat| heartbeat.durable).map(|durable| durable.0),
            durable_survives: watermark.and_then(|heartbeat| heartbeat.durable.map(|_| heartbeat.level)),
            listen: self.listen,
            vm_pid: self.vm_pid,
            snapshots_taken: self.snapshots_taken,
            snapshot_age_ms,
            snapshot_late: snapshot_age_ms.is_some_and(|age_ms| is_late(age_ms, self.interval)),
            stalled: self.stalled,
            bytes_left: self.rest.as_ref().map(|rest| rest.bytes_left()),
            pause_ms_median: pauses_ms.get(pauses_ms.len() / 2).copied(),
            snapshots_held: self.held.len(),
            problem: self.troubles.worst(self.clock.now_ms()),
        }
    }

    /// That what is here can't be opened is a problem for as long as the key stays away.
    pub(super) fn note_key(&mut self, lacking: Option<KeyId>) {
        let Some(key) = lacking else { return self.troubles.end(&[Trouble::Key]) };
        let what = format!(
            "the newest snapshot is sealed under key {key}, which is not here: as after a change of the service's key. \
             Copy the file with its secrets from a node whose `snapctl key list` has that key, and restart this node. \
             Until then it keeps and serves what comes, and can't run the service"
        );
        if !self.troubles.has(Trouble::Key) {
            self.problem(what.clone());
        }
        self.troubles.begin(Trouble::Key, what, self.clock.now_ms());
    }

    /// That there is no server is a problem for as long as the machine makes none.
    pub(super) fn note_obstacle(&mut self) {
        let Some(obstacle) = self.machine.obstacle() else { return self.troubles.end(&[Trouble::NoServer]) };
        let mut what = match obstacle {
            Obstacle::TooFewAnswer { answered, nodes } => {
                let seconds = self.timing.lonely_ms / 1_000;
                format!(
                    "no server: {answered} of {nodes} nodes can be asked for the newest state; this node awaits a \
                     majority, or the end of {seconds} s after its start"
                )
            }
            Obstacle::NothingToRestore => {
                "no server: there is no snapshot to go on from, and this node may not begin the service now"
                    .to_owned()
            }
            Obstacle::NobodyStands => "no server: no node that answers can run the service now".to_owned(),
        };
        if !self.refusing.is_empty() {
            let names: Vec<String> = self.refusing.iter().map(|peer| self.names.of(peer)).collect();
            what.push_str(&format!("; asked in vain (is it in their configurations?): {}", names.join(", ")));
        }
        self.troubles.begin(Trouble::NoServer, what, self.clock.now_ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that could take no snapshot any more looked perfect: the newest one was durable.
    #[test]
    fn a_snapshot_is_late_after_a_few_intervals_and_not_while_one_merely_takes_long() {
        let second = Duration::from_secs(1);
        assert!(!is_late(5_000, second));
        assert!(is_late(5_001, second));
        assert!(!is_late(1_900, Duration::from_millis(100)));
        assert!(is_late(2_100, Duration::from_millis(100)));
    }
}
