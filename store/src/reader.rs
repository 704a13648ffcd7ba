//! Reading single chunks of a snapshot, in any order: for what is restored on demand.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::{ChunkId, PackRef, Region, RegionName, SnapshotId, chunk_bytes_at};

use crate::chunk_reader::{ChunkReader, Chunks, Supplied};
use crate::generation::{Whole, visible, with_base};
use crate::pins::Pin;
use crate::state::State;
use crate::store::{Shared, Store};
use crate::{Fault, ReadError, limits};

/// What a position of the grid holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkRead {
    /// Zeros, which are not stored. The buffer is as it was.
    Zero,
    /// What is now in the buffer.
    Data,
}

/// A snapshot whose chunks can be read in any order, from several threads. While it lives, no rebase removes
/// the packs that it reads.
pub struct SnapshotReader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) whole: Whole,
    _pin: Pin,
    supplied: Supplied,
    /// Not in use at present. Their number is bounded by the threads that read at once.
    idle: Mutex<Vec<ChunkReader>>,
}

impl fmt::Debug for SnapshotReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReader").field("snapshot", &self.whole.snapshot.id).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a snapshot for reading single chunks. Its index is read and checked here.
    ///
    /// # Errors
    /// If the snapshot is not here, or its index is damaged.
    pub fn open_snapshot(&self, id: SnapshotId) -> Result<SnapshotReader, ReadError> {
        SnapshotReader::open(&self.shared, id)
    }
}

impl SnapshotReader {
    pub(crate) fn open(shared: &Arc<Shared>, id: SnapshotId) -> Result<Self, ReadError> {
        let choose = |state: &State| {
            let (base, snapshot) = with_base(shared, state, &visible(state, id)?)?;
            let packs = base.manifest.packs.iter().chain(&snapshot.manifest.packs);
            let pinned = packs.map(|pack| *pack.id.as_bytes()).collect();
            Ok::<_, ReadError>(((base, snapshot), pinned))
        };
        let ((base, snapshot), pin) = shared.pinned(choose)?;
        let whole = Whole::load(shared, &base, &snapshot)?;
        Ok(Self::new(shared, whole, pin))
    }

    /// The reader of what was loaded, whose packs are pinned.
    pub(crate) fn new(shared: &Arc<Shared>, mut whole: Whole, pin: Pin) -> Self {
        // Only who pushes on needs it as it is stored.
        whole.parts = Vec::new();
        Self {
            shared: shared.clone(),
            whole,
            _pin: pin,
            supplied: Supplied::default(),
            idle: Mutex::default(),
        }
    }
}

impl SnapshotReader {
    /// The snapshot's regions.
    #[must_use]
    pub fn regions(&self) -> &[Region] {
        &self.whole.snapshot.manifest.regions
    }

    /// The positions of a region that are not zero, in ascending order.
    pub fn data_positions(&self, region: &RegionName) -> impl Iterator<Item = u64> + '_ {
        self.whole.located.chunks_from(region, 0).map(|(position, _)| position)
    }

    /// Reads the chunk at a position into a buffer of [`CHUNK_BYTES`](sustain_proto::limits::CHUNK_BYTES) or,
    /// at the end of the region, of what is left of it.
    ///
    /// # Errors
    /// If the region has no such position, the buffer has another size, or the chunk can't be read or is
    /// not what its id says; the buffer's contents are then of no worth.
    pub fn read_chunk(
        &self,
        region: &RegionName,
        position: u64,
        buf: &mut [u8],
    ) -> Result<ChunkRead, ReadError> {
        let id = self.whole.snapshot.id;
        let outside =
            || ReadError::NotFound { selector: format!("{id}, chunk {position} of region {region}") };
        let described = self.regions().iter().find(|known| known.name == *region).ok_or_else(outside)?;
        let start = position.checked_mul(sustain_proto::limits::CHUNK_BYTES as u64);
        if start.is_none_or(|start| start >= described.bytes)
            || chunk_bytes_at(described.bytes, position) != buf.len()
        {
            return Err(outside());
        }
        let chunk = self.whole.located.region(region).and_then(|chunks| chunks.get(position));
        let Some(chunk) = chunk else { return Ok(ChunkRead::Zero) };
        let place = self.whole.catalogue.place(chunk);
        let mut reader = self.take()?;
        buf.copy_from_slice(reader.chunk(self.chunks(), place)?);
        self.put(reader);
        Ok(ChunkRead::Data)
    }

    /// Hands over a chunk that [`ReadError::Elsewhere`] asked for, whose bytes
    /// [`Store::open_records`](crate::Store::open_records) has checked. The last few are kept.
    pub fn supply(&self, chunk: ChunkId, plain: &[u8]) {
        self.supplied.put(chunk, plain.into());
    }

    /// The packs that were not here when the snapshot was opened and still are not.
    #[must_use]
    pub fn packs_elsewhere(&self) -> Vec<PackRef> {
        let state = self.shared.state();
        self.whole.catalogue.foreign().filter(|pack| !state.packs.contains_key(&pack.id)).collect()
    }

    /// Where its chunks are read from.
    pub(crate) fn chunks(&self) -> Chunks<'_> {
        let chunks = Chunks::new(&self.shared, &self.whole.catalogue);
        Chunks { supplied: Some(&self.supplied), ..chunks }
    }

    fn take(&self) -> Result<ChunkReader, Fault> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(ChunkReader::new, Ok)
    }

    fn put(&self, reader: ChunkReader) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::READERS_IDLE_MAX {
            idle.push(reader);
        }
    }
}
