//! Where a restored VM's disk gets its blocks: from the snapshot in this node's store, and where a pack of it
//! turns out to be missing or damaged, from the other nodes.

use std::sync::Arc;

use sustain_gossip::Cluster;
use sustain_proto::{PackId, SnapshotId};
use sustain_store::{NoProgress, ReadError, Store, error_chain};
use sustain_vmdriver::disk::{BlockSource, SnapshotBlocks, Unavailable};
use tokio::runtime::Handle;

use crate::limits;

/// Opens the disk of a snapshot that is held here; none if it has no disk.
pub(super) fn open(
    store: &Store,
    snapshot: SnapshotId,
    cluster: &Cluster,
    runtime: &Handle,
) -> Result<Option<Arc<dyn BlockSource>>, ReadError> {
    let Some(blocks) = SnapshotBlocks::new(store.open_snapshot(snapshot)?) else { return Ok(None) };
    let mender =
        Mender { store: store.clone(), snapshot, cluster: cluster.clone(), runtime: runtime.clone() };
    Ok(Some(Arc::new(blocks.mended_by(move |pack| mender.mend(pack)))))
}

struct Mender {
    store: Store,
    snapshot: SnapshotId,
    cluster: Cluster,
    runtime: Handle,
}

impl Mender {
    /// Has a pack sent again by the others. Called on a thread of the disk's own, so it may wait.
    fn mend(&self, pack: PackId) -> Result<(), Unavailable> {
        let lacking = self.store.forget_if_damaged(pack);
        if !lacking.map_err(|error| Unavailable::new(error_chain(&error)))? {
            return Ok(());
        }
        tracing::warn!(pack = %pack.short(), "a pack under a running disk is gone or damaged: asking the others");
        let gather = self.cluster.gather(self.snapshot, Arc::new(NoProgress));
        // Made inside the runtime: the timer is the runtime's.
        let gather = async { tokio::time::timeout(limits::DISK_MEND_TIMEOUT, gather).await };
        match self.runtime.block_on(gather) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Unavailable::new(error_chain(&error))),
            Err(_) => Err(Unavailable::new("the other nodes take too long to send a damaged pack again")),
        }
    }
}
