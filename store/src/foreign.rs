//! Records of packs that are not here: by a directory that somebody else gave, and checked one by one.
//!
//! Only a whole pack can be compared with its id. So a directory alone may be false: it is taken as a hint where to
//! look, and what is found there counts only if it is what its id says.

use std::ops::Range;
use std::sync::Arc;

use sustain_proto::{ChunkId, PackId, PackRef};

use crate::block::{Decoder, StoredChunk};
use crate::directory::PackDirectory;
use crate::pack_ends::{TRAILER_BYTES, Trailer};
use crate::store::Store;
use crate::{Fault, ingest};

/// Why what came of a pack is not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForeignError {
    /// The directory is longer than what was given.
    #[error("the directory takes the last {bytes} bytes of the pack")]
    Short {
        /// Bytes at the pack's end that hold it.
        bytes: u64,
    },
    /// The bytes are not the pack's.
    #[error("what came is not of pack {}: {reason}", id.short())]
    Wrong {
        /// The pack.
        id: PackId,
        /// What is wrong.
        reason: String,
    },
    /// This store has no key to check it by, or no memory is left.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A pack's directory as somebody gave it. It contradicts neither itself nor the pack's size.
#[derive(Debug, Clone)]
pub struct ForeignDirectory {
    pack: PackRef,
    directory: Arc<PackDirectory>,
}

/// Chunks that lie back to back in a pack, each by itself.
#[derive(Debug, Clone)]
pub struct RecordRun {
    of: ForeignDirectory,
    chunks: Range<u32>,
}

impl Store {
    /// Takes the last bytes of a pack, and opens the directory in them.
    ///
    /// # Errors
    /// If they are too few, hold no directory of such a pack, or are sealed under a key that is not here.
    pub fn open_directory(&self, pack: PackRef, tail: &[u8]) -> Result<ForeignDirectory, ForeignError> {
        let wrong = |reason: String| ForeignError::Wrong { id: pack.id, reason };
        let Some((before, trailer)) = tail.split_last_chunk::<TRAILER_BYTES>() else {
            return Err(ForeignError::Short { bytes: TRAILER_BYTES as u64 });
        };
        let trailer = Trailer::decode(trailer, pack.bytes).map_err(wrong)?;
        let bytes = trailer.directory_bytes;
        let Some(start) = before.len().checked_sub(bytes) else {
            return Err(ForeignError::Short { bytes: (bytes + TRAILER_BYTES) as u64 });
        };
        let key = self.shared.keys.find(trailer.key)?;
        let directory = PackDirectory::open(key, &trailer, before[start..].to_vec()).map_err(wrong)?;
        Ok(ForeignDirectory { pack, directory: Arc::new(directory) })
    }
}

impl ForeignDirectory {
    /// The pack.
    #[must_use]
    pub fn pack(&self) -> PackRef {
        self.pack
    }

    /// How many records it lists: what it costs to keep.
    #[must_use]
    pub fn records(&self) -> usize {
        self.directory.records()
    }

    pub(crate) fn directory(&self) -> &Arc<PackDirectory> {
        &self.directory
    }

    /// A chunk that can be read by itself and those that follow it, of at most so many stored bytes unless the first
    /// has more. None if it is not there, or only together with others.
    #[must_use]
    pub fn run(&self, chunk: &ChunkId, bytes_max: u64) -> Option<RecordRun> {
        let directory = &self.directory;
        let start = directory.find(chunk).filter(|chunk| directory.is_alone(*chunk))?;
        let mut bytes = 0;
        let mut end = directory.block_of(start);
        let follows = |chunk: &u32| {
            // An index may lie between them.
            let block = directory.block_of(*chunk);
            bytes += u64::from(directory.blocks()[block as usize].stored_bytes);
            let lies_next = block == end;
            end = block + 1;
            lies_next && directory.is_alone(*chunk) && bytes <= bytes_max
        };
        let count = (start..directory.chunk_count() as u32).take_while(follows).count().max(1);
        Some(RecordRun { of: self.clone(), chunks: start..start + count as u32 })
    }
}

impl RecordRun {
    /// Each chunk with the number of its block.
    fn chunks(&self) -> impl Iterator<Item = (StoredChunk, u32)> + '_ {
        let directory = &self.of.directory;
        self.chunks.clone().map(move |chunk| (directory.chunk(chunk), directory.block_of(chunk)))
    }

    fn stored_bytes(&self, block: u32) -> u64 {
        self.of.directory.blocks()[block as usize].stored_bytes.into()
    }

    /// Where it begins in the pack.
    #[must_use]
    pub fn offset(&self) -> u64 {
        let first = self.of.directory.block_of(self.chunks.start);
        self.of.directory.blocks()[first as usize].offset.into()
    }

    /// How many bytes it has there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.chunks().map(|(_, block)| self.stored_bytes(block)).sum()
    }
}

impl Store {
    /// The plain bytes of a run's first chunk and of those after it, from its stored bytes. Each is compared with its
    /// id; the run ends before the first that is something else.
    ///
    /// # Errors
    /// If the first is not what its id says: the bytes or the directory are false.
    pub fn open_records(
        &self,
        run: &RecordRun,
        stored: &[u8],
    ) -> Result<Vec<(ChunkId, Vec<u8>)>, ForeignError> {
        let wrong = |reason: &str| ForeignError::Wrong { id: run.of.pack.id, reason: reason.to_owned() };
        let directory = &run.of.directory;
        let mut decoder = Decoder::new().map_err(ingest::no_memory)?;
        let mut rest = stored;
        let mut chunks: Vec<(ChunkId, Vec<u8>)> = Vec::with_capacity(run.chunks.len());
        for (chunk, block) in run.chunks() {
            let plain = rest.split_at_checked(run.stored_bytes(block) as usize).ok_or("it came short");
            let plain = plain.and_then(|(record, after)| {
                rest = after;
                open_record(&mut decoder, directory, &chunk, block, record)
            });
            match plain {
                Ok(plain) if directory.key().chunk_id(&plain) == chunk.id => chunks.push((chunk.id, plain)),
                _ if !chunks.is_empty() => break,
                Ok(_) => return Err(wrong("a record is not what its id says")),
                Err(reason) => return Err(wrong(reason)),
            }
        }
        Ok(chunks)
    }
}

/// Opens and expands a chunk that stands alone.
fn open_record(
    decoder: &mut Decoder,
    directory: &PackDirectory,
    chunk: &StoredChunk,
    block: u32,
    stored: &[u8],
) -> Result<Vec<u8>, &'static str> {
    let mut stored = stored.to_vec();
    directory.open_block(block, &mut stored)?;
    let block = &directory.blocks()[block as usize];
    let mut data = vec![0; block.plain_bytes as usize];
    decoder.decode(block.encoding, &stored, &[], &mut data)?;
    let mut plain = vec![0; chunk.plain_bytes as usize];
    chunk.pages.assemble(&data, &[], &[], &mut plain)?;
    Ok(plain)
}
