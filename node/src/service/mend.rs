//! Mending a snapshot of this node's store: packs that are missing or damaged are sent again by the others.

use std::sync::Arc;

use sustain_gossip::{Cluster, GatherError, RemoteSnapshot};
use sustain_proto::{PackId, RegionName, SnapshotId};
use sustain_store::{NoProgress, Store, error_chain};
use sustain_vmdriver::disk::{BlockSource, SnapshotBlocks};
use tokio::runtime::Handle;

use crate::limits;

/// What mending takes. Its functions block: they are for threads that may wait.
#[derive(Clone)]
pub(crate) struct Mender {
    pub(crate) store: Store,
    pub(crate) cluster: Cluster,
    pub(crate) runtime: Handle,
}

/// Why a snapshot can't be mended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MendError {
    /// This node's store fails.
    #[error("can't look for damaged packs")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The others don't have it either, or can't be reached.
    #[error("can't have damaged packs sent again")]
    Gather(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// They take too long.
    #[error("the other nodes take longer than {} s to send damaged packs again", limits::MEND_TIMEOUT.as_secs())]
    Timeout,
}

impl Mender {
    /// Reads all that is here of what a snapshot needs, and gets anew what is damaged and can't wait. Returns how many
    /// packs were, and the snapshot where it is not whole now.
    pub(super) fn snapshot(
        &self,
        snapshot: SnapshotId,
        remote: Option<&RemoteSnapshot>,
        lazy: Vec<RegionName>,
    ) -> Result<(usize, Option<RemoteSnapshot>), MendError> {
        let packs = match remote {
            Some(remote) => remote.reader().packs_here(),
            None => self.store.packs_needed(snapshot).map_err(|error| MendError::Store(error.into()))?,
        };
        let mut damaged = 0;
        for pack in packs {
            damaged += usize::from(self.set_aside_if_damaged(pack.id)?);
        }
        if damaged == 0 {
            return Ok((0, None));
        }
        say_damaged(snapshot, damaged);
        let started = self.wait_for(self.cluster.gather_to_start(snapshot, lazy))?;
        Ok((damaged, started.remote))
    }

    /// Reads one pack of a snapshot, and gets it anew if it is damaged.
    pub(crate) fn pack(&self, snapshot: SnapshotId, pack: PackId) -> Result<(), MendError> {
        if self.set_aside_if_damaged(pack)? { self.gather(snapshot) } else { Ok(()) }
    }

    /// Reads a pack, and sets it aside if it is damaged: it is gathered again then. Whether it is lacking, also for a
    /// snapshot that is still on its way and that nothing here lists.
    pub(super) fn set_aside_if_damaged(&self, pack: PackId) -> Result<bool, MendError> {
        let is_lacking =
            self.store.set_aside_if_damaged(pack).map_err(|error| MendError::Store(error.into()))?;
        Ok(is_lacking || !self.store.has_pack(&pack))
    }

    fn gather(&self, snapshot: SnapshotId) -> Result<(), MendError> {
        say_damaged(snapshot, 1);
        self.wait_for(self.cluster.gather(snapshot, Arc::new(NoProgress))).map(drop)
    }

    fn wait_for<T>(&self, gather: impl Future<Output = Result<T, GatherError>>) -> Result<T, MendError> {
        // Made inside the runtime: the timer is the runtime's.
        let gather = async { tokio::time::timeout(limits::MEND_TIMEOUT, gather).await };
        match self.runtime.block_on(gather) {
            Ok(gathered) => gathered.map_err(|error| MendError::Gather(error.into())),
            Err(_) => Err(MendError::Timeout),
        }
    }

    /// The disk of a snapshot that is held here, for a VM that is restored; none if it has no disk. A pack that
    /// turns out to be damaged when the guest needs it is mended then.
    pub(super) fn disk(
        &self,
        snapshot: SnapshotId,
    ) -> Result<Option<Arc<dyn BlockSource>>, sustain_store::ReadError> {
        let Some(blocks) = SnapshotBlocks::new(self.store.open_snapshot(snapshot)?) else { return Ok(None) };
        let mender = self.clone();
        let mend = move |pack| {
            let mended = mender.pack(snapshot, pack);
            mended.map_err(|error| sustain_vmdriver::disk::Unavailable::new(error_chain(&error)))
        };
        Ok(Some(Arc::new(blocks.mended_by(mend))))
    }
}

fn say_damaged(snapshot: SnapshotId, damaged: usize) {
    tracing::warn!(snapshot = %snapshot.short(), damaged, "packs are missing or damaged: asking the others");
}
