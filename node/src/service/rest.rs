//! The rest of a snapshot whose VM runs already: fetched whole in the background, and a chunk at once where the guest
//! needs it.
//!
//! ```text
//! guest's disk ─▶ RestBlocks ─┬─ the chunk's pack is here ─▶ store
//!                             └─ it is not yet ────────────▶ the chunk alone, from a peer
//! Rest: gather all packs ─▶ whole: from then on the disk reads the store's snapshot, and snapshots are taken
//! ```

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use sustain_gossip::RemoteSnapshot;
use sustain_proto::{ChunkId, PackRef, RegionName, SnapshotId};
use sustain_store::{ChunkRead, NoProgress, ReadError, error_chain};
use sustain_vmdriver::REGION_DISK;
use sustain_vmdriver::disk::{BlockSource, ChunkContent, Unavailable};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::mend::Mender;
use super::vm_thread::VmNote;
use crate::limits;

/// Where a restored VM's disk comes from while its snapshot is not whole here.
pub(super) struct RestBlocks {
    snapshot: SnapshotId,
    remote: Arc<RemoteSnapshot>,
    mender: Mender,
    disk: Option<Arc<RestDisk>>,
}

struct RestDisk {
    region: RegionName,
    bytes: u64,
    mender: Mender,
    source: RwLock<Source>,
}

#[derive(Clone)]
enum Source {
    Remote(Arc<RemoteSnapshot>),
    Whole(Arc<dyn BlockSource>),
}

/// The fetching. Dropping it ends it.
pub(super) struct Rest {
    whole: Arc<AtomicBool>,
    remote: Arc<RemoteSnapshot>,
    task: AbortHandle,
}

impl RestBlocks {
    pub(super) fn new(snapshot: SnapshotId, remote: Arc<RemoteSnapshot>, mender: Mender) -> Self {
        let region = remote.reader().regions().iter().find(|region| region.name.as_str() == REGION_DISK);
        let disk = region.map(|region| RestDisk {
            region: region.name.clone(),
            bytes: region.bytes,
            mender: mender.clone(),
            source: RwLock::new(Source::Remote(remote.clone())),
        });
        Self { snapshot, remote, mender, disk: disk.map(Arc::new) }
    }

    /// The snapshot's disk, if it has one.
    pub(super) fn disk(&self) -> Option<Arc<dyn BlockSource>> {
        self.disk.clone().map(|disk| disk as Arc<dyn BlockSource>)
    }

    /// All is here: the disk reads the store's snapshot from now on, as that of any restored VM does.
    fn settle(self) {
        let Some(disk) = &self.disk else { return };
        match self.mender.disk(self.snapshot) {
            Ok(Some(whole)) => {
                *disk.source.write().unwrap_or_else(PoisonError::into_inner) = Source::Whole(whole);
            }
            Ok(None) => {}
            // It goes on as before, which reads what is here too.
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "a disk can't be read from the whole snapshot");
            }
        }
    }
}

impl Rest {
    /// Fetches all that is not here, for as long as it takes.
    pub(super) fn fetch(blocks: RestBlocks, notes: mpsc::Sender<VmNote>) -> Self {
        let (whole, remote) = (Arc::new(AtomicBool::new(false)), blocks.remote.clone());
        let runtime = blocks.mender.runtime.clone();
        let task = runtime.spawn(fetch(blocks, notes, whole.clone())).abort_handle();
        Self { whole, remote, task }
    }

    /// What is fetched.
    pub(super) fn remote(&self) -> Arc<RemoteSnapshot> {
        self.remote.clone()
    }

    pub(super) fn is_whole(&self) -> bool {
        self.whole.load(Ordering::Acquire)
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn fetch(blocks: RestBlocks, notes: mpsc::Sender<VmNote>, whole: Arc<AtomicBool>) {
    let snapshot = blocks.snapshot;
    let cluster = blocks.mender.cluster.clone();
    let mut pause = limits::REST_RETRY_MIN;
    let report = loop {
        let error = match cluster.gather(snapshot, Arc::new(NoProgress)).await {
            Ok(report) => break report,
            Err(error) => error_chain(&error),
        };
        // Told once: what is left is in the status.
        if pause == limits::REST_RETRY_MIN {
            let what = format!("the rest of the restored snapshot is not to be had yet: {error}");
            let _ = notes.send(VmNote::Problem(what)).await;
        }
        tracing::debug!(error, "the rest of a snapshot is not to be had yet");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limits::REST_RETRY_MAX);
    };
    let on_demand = blocks.remote.bytes_on_demand();
    tracing::info!(snapshot = %snapshot.short(), on_demand, "the rest of the restored snapshot is here");
    let bytes_fetched = report.bytes_fetched;
    let _ = notes.send(VmNote::Whole { snapshot, bytes_fetched }).await;
    // A snapshot may be taken from now on, whose disk is read from either source alike.
    whole.store(true, Ordering::Release);
    let settled = tokio::task::spawn_blocking(move || blocks.settle()).await;
    if settled.is_err() {
        tracing::error!("changing a disk's source failed");
    }
}

impl RestDisk {
    fn source(&self) -> Source {
        self.source.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn read_here(
        &self,
        remote: &RemoteSnapshot,
        chunk: u64,
        buffer: &mut [u8],
    ) -> Result<ChunkContent, ReadError> {
        Ok(match remote.reader().read_chunk(&self.region, chunk, buffer)? {
            ChunkRead::Data => ChunkContent::Data,
            ChunkRead::Zero => ChunkContent::Zero,
        })
    }
}

impl RestDisk {
    fn fetch(&self, remote: &RemoteSnapshot, pack: PackRef, chunk: ChunkId) -> Result<Vec<u8>, Unavailable> {
        let plain = self.mender.runtime.block_on(self.mender.cluster.fetch_chunk(remote, pack, chunk));
        plain.map_err(|error| Unavailable::new(error_chain(&error)))
    }

    /// Of what is here and can't be read, a chunk that stands alone comes from whoever has it. Another comes when its
    /// packs were gathered again.
    fn read_damaged(
        &self,
        remote: &RemoteSnapshot,
        chunk: u64,
        buffer: &mut [u8],
        error: &ReadError,
    ) -> Result<ChunkContent, Unavailable> {
        if let Some((pack, id)) = remote.reader().chunk_of(&self.region, chunk) {
            let plain = self.fetch(remote, pack, id)?;
            if plain.len() != buffer.len() {
                return Err(Unavailable::new("the chunk has another size than its place"));
            }
            buffer.copy_from_slice(&plain);
            return Ok(ChunkContent::Data);
        }
        for pack in remote.reader().packs_of(&self.region, chunk) {
            let damaged = self.mender.set_aside_if_damaged(pack.id);
            damaged.map_err(|error| Unavailable::new(error_chain(&error)))?;
        }
        Err(Unavailable::new(error_chain(error)))
    }
}

impl fmt::Debug for RestDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestDisk").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl BlockSource for RestDisk {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        let remote = match self.source() {
            Source::Whole(whole) => return whole.read_chunk(chunk, buffer),
            Source::Remote(remote) => remote,
        };
        let mut fetched = 0;
        loop {
            match self.read_here(&remote, chunk, buffer) {
                Ok(content) => return Ok(content),
                // It, or one that it is put together from, is with others.
                Err(ReadError::Elsewhere { pack, chunk }) if fetched < limits::CHUNKS_FETCHED_FOR_ONE => {
                    remote.reader().supply(chunk, &self.fetch(&remote, pack, chunk)?);
                    fetched += 1;
                }
                Err(error) => return self.read_damaged(&remote, chunk, buffer, &error),
            }
        }
    }

    fn prefetch_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<Option<ChunkContent>, Unavailable> {
        match self.source() {
            Source::Whole(whole) => whole.prefetch_chunk(chunk, buffer),
            // Its pack comes by itself, and is mended when it is here.
            Source::Remote(remote) => Ok(self.read_here(&remote, chunk, buffer).ok()),
        }
    }
}
