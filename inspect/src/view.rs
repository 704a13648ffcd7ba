//! Regions as files: any range of bytes, decoded chunk by chunk through a cache, and where data begins and ends.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::limits::CHUNK_BYTES;
use sustain_proto::{ChunkId, RegionName, chunk_bytes_at};
use sustain_store::{ChunkRead, ReadError, SnapshotReader};

use crate::cache::ChunkCache;
use crate::limits;

/// Decoded chunks that several readers share.
pub(crate) struct Chunks {
    cache: Mutex<ChunkCache>,
    /// Whoever decodes a group of chunks holds its lock, so that others wait and find them.
    decoding: [Mutex<()>; limits::DECODING_LOCKS],
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Chunks {
    /// None yet, and never more than so many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            cache: Mutex::new(ChunkCache::new(bytes_max)),
            decoding: std::array::from_fn(|_| Mutex::default()),
        }
    }

    /// Bytes that are kept at present.
    pub(crate) fn bytes(&self) -> usize {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).bytes()
    }

    fn get(&self, id: &ChunkId) -> Option<Arc<[u8]>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).get(id)
    }

    fn has(&self, id: &ChunkId) -> bool {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).has(id)
    }

    fn put(&self, id: ChunkId, plain: Arc<[u8]>) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).put(id, plain);
    }
}

/// Why a range can't be read.
#[derive(Debug, thiserror::Error)]
#[error("chunk {position} of region {region} can't be read")]
pub struct ChunkFault {
    /// The region.
    pub region: RegionName,
    /// Where in it, in chunks.
    pub position: u64,
    /// What is wrong.
    pub source: ReadError,
}

/// A region of an open snapshot.
#[derive(Debug, Clone)]
pub(crate) struct RegionView {
    reader: Arc<SnapshotReader>,
    chunks: Arc<Chunks>,
    region: RegionName,
    bytes: u64,
}

impl RegionView {
    /// The region of this name; none if the snapshot has none such.
    pub(crate) fn new(reader: Arc<SnapshotReader>, chunks: Arc<Chunks>, region: &RegionName) -> Option<Self> {
        let found = reader.regions().iter().find(|known| known.name == *region)?;
        let (region, bytes) = (found.name.clone(), found.bytes);
        Some(Self { reader, chunks, region, bytes })
    }

    /// Bytes of the region.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The snapshot that it is of.
    pub(crate) fn reader(&self) -> &SnapshotReader {
        &self.reader
    }

    /// Fills the buffer from an offset on, up to the region's end; how many bytes that are. With `ahead`, chunks that
    /// follow are decoded along with those that are read.
    pub(crate) fn read_at(&self, offset: u64, buf: &mut [u8], ahead: bool) -> Result<usize, ChunkFault> {
        let wanted = self.bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let (position, within) = (at / CHUNK_BYTES as u64, (at % CHUNK_BYTES as u64) as usize);
            let part = (CHUNK_BYTES - within).min(wanted - done);
            let into = &mut buf[done..done + part];
            match self.chunk(position, ahead)? {
                Some(plain) => into.copy_from_slice(&plain[within..within + part]),
                None => into.fill(0),
            }
            done += part;
        }
        Ok(wanted)
    }

    /// The chunk at a position; none if it is zero.
    fn chunk(&self, position: u64, ahead: bool) -> Result<Option<Arc<[u8]>>, ChunkFault> {
        let Some(id) = self.reader.chunk_id(&self.region, position) else { return Ok(None) };
        if let Some(plain) = self.chunks.get(&id) {
            return Ok(Some(plain));
        }
        let group = position / limits::AHEAD_CHUNKS;
        let lock = &self.chunks.decoding[group as usize % limits::DECODING_LOCKS];
        let _decoding = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = match self.chunks.get(&id) {
            Some(plain) => plain,
            None => self.decode(position, id)?,
        };
        if ahead {
            self.decode_until(position + 1, (group + 1) * limits::AHEAD_CHUNKS);
        }
        Ok(Some(plain))
    }

    fn decode(&self, position: u64, id: ChunkId) -> Result<Arc<[u8]>, ChunkFault> {
        let mut plain = vec![0; chunk_bytes_at(self.bytes, position)];
        let fault = |source| ChunkFault { region: self.region.clone(), position, source };
        match self.reader.read_chunk(&self.region, position, &mut plain).map_err(fault)? {
            ChunkRead::Data => {}
            // The index that named the chunk is the one that is read by.
            ChunkRead::Zero => plain.fill(0),
        }
        let plain: Arc<[u8]> = plain.into();
        self.chunks.put(id, plain.clone());
        Ok(plain)
    }

    /// Whoever reads a chunk that can't be decoded is told then.
    fn decode_until(&self, first: u64, end: u64) {
        let following =
            self.reader.chunks_from(&self.region, first).take_while(|(position, _)| *position < end);
        for (position, id) in following {
            if !self.chunks.has(&id) && self.decode(position, id).is_err() {
                return;
            }
        }
    }

    /// Bytes of the chunks that are not zero.
    pub(crate) fn data_bytes(&self) -> u64 {
        let chunks = self.reader.chunks_from(&self.region, 0);
        chunks.map(|(position, _)| chunk_bytes_at(self.bytes, position) as u64).sum()
    }

    /// The first offset from here on at which there is data; none if there is none.
    pub(crate) fn next_data(&self, offset: u64) -> Option<u64> {
        if offset >= self.bytes {
            return None;
        }
        let (position, _) = self.reader.chunks_from(&self.region, offset / CHUNK_BYTES as u64).next()?;
        Some(offset.max(position * CHUNK_BYTES as u64))
    }

    /// The first offset from here on at which there is a hole; the region's end is one. None past it.
    pub(crate) fn next_hole(&self, offset: u64) -> Option<u64> {
        if offset >= self.bytes {
            return None;
        }
        let first = offset / CHUNK_BYTES as u64;
        let mut end = first;
        for (position, _) in self.reader.chunks_from(&self.region, first) {
            if position != end {
                break;
            }
            end += 1;
        }
        Some(offset.max((end * CHUNK_BYTES as u64).min(self.bytes)))
    }
}
