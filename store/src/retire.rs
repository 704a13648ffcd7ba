//! Retiring: a follower drops what the base that it received has superseded.

use serde::Serialize;
use sustain_proto::SnapshotId;

/// What was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RetireReport {
    /// Snapshots that are gone.
    pub dropped: Vec<SnapshotId>,
    /// Bytes of files that were removed.
    pub bytes_freed: u64,
}
