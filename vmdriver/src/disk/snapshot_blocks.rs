//! A snapshot in the local store as the source of a disk's blocks.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use sustain_proto::{PackId, RegionName};
use sustain_store::{ChunkRead, ReadError, SnapshotReader};

use super::blocks::{BlockSource, ChunkContent, Unavailable};
use crate::driver::REGION_DISK;

/// Gets a pack anew that can't be read.
type Mend = dyn Fn(PackId) -> Result<(), Unavailable> + Send + Sync;

/// The disk of a snapshot that is all here. While it lives, the snapshot stays.
pub struct SnapshotBlocks {
    reader: SnapshotReader,
    region: RegionName,
    bytes: u64,
    /// One pack is mended at a time.
    mend: Option<Mutex<Box<Mend>>>,
}

impl fmt::Debug for SnapshotBlocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotBlocks").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl SnapshotBlocks {
    /// The blocks of the region [`REGION_DISK`]; none if the snapshot has no disk.
    #[must_use]
    pub fn new(reader: SnapshotReader) -> Option<Self> {
        let region = reader.regions().iter().find(|region| region.name.as_str() == REGION_DISK)?.clone();
        Some(Self { reader, region: region.name, bytes: region.bytes, mend: None })
    }

    /// Calls this for a pack that is missing or damaged. If it succeeds, the pack is read again.
    #[must_use]
    pub fn mended_by(self, mend: impl Fn(PackId) -> Result<(), Unavailable> + Send + Sync + 'static) -> Self {
        Self { mend: Some(Mutex::new(Box::new(mend))), ..self }
    }

    fn read(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, ReadError> {
        Ok(match self.reader.read_chunk(&self.region, chunk, buffer)? {
            ChunkRead::Data => ChunkContent::Data,
            ChunkRead::Zero => ChunkContent::Zero,
        })
    }
}

impl BlockSource for SnapshotBlocks {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        let error = match self.read(chunk, buffer) {
            Ok(content) => return Ok(content),
            Err(error) => error,
        };
        let Some(mend) = &self.mend else { return Err(unavailable(&error)) };
        let mend = mend.lock().unwrap_or_else(PoisonError::into_inner);
        // Another reader of the pack may have had it mended meanwhile.
        if let Ok(content) = self.read(chunk, buffer) {
            return Ok(content);
        }
        for pack in self.reader.packs_of(&self.region, chunk) {
            mend(pack.id)?;
        }
        self.read(chunk, buffer).map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &ReadError) -> Unavailable {
    Unavailable::new(sustain_store::error_chain(error))
}
