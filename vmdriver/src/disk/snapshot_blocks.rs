//! A snapshot in the local store as the source of a disk's blocks.

use sustain_proto::RegionName;
use sustain_store::{ChunkRead, SnapshotReader};

use super::blocks::{BlockSource, ChunkContent, Unavailable};
use crate::driver::REGION_DISK;

/// The disk of a snapshot that is all here. While it lives, the snapshot stays.
#[derive(Debug)]
pub struct SnapshotBlocks {
    reader: SnapshotReader,
    region: RegionName,
    bytes: u64,
}

impl SnapshotBlocks {
    /// The blocks of the region [`REGION_DISK`]; none if the snapshot has no disk.
    #[must_use]
    pub fn new(reader: SnapshotReader) -> Option<Self> {
        let region = reader.regions().iter().find(|region| region.name.as_str() == REGION_DISK)?.clone();
        Some(Self { reader, region: region.name, bytes: region.bytes })
    }
}

impl BlockSource for SnapshotBlocks {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_chunk(&self, chunk: u64, buffer: &mut [u8]) -> Result<ChunkContent, Unavailable> {
        match self.reader.read_chunk(&self.region, chunk, buffer) {
            Ok(ChunkRead::Data) => Ok(ChunkContent::Data),
            Ok(ChunkRead::Zero) => Ok(ChunkContent::Zero),
            Err(error) => Err(Unavailable::new(sustain_store::error_chain(&error))),
        }
    }
}
