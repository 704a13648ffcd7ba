//! Records of packs that are not here: by a directory that somebody else gave, and checked one by one.
//!
//! Only a whole pack can be compared with its id. So a directory alone may be false: it is taken as a hint where to
//! look, and what is found there counts only if it is what its id says.

use std::ops::Range;
use std::sync::Arc;

use sustain_proto::{ChunkId, PackId, PackRef};

use crate::block::Decoder;
use crate::directory::{Block, PackDirectory};
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

/// A chunk in a pack, and what lies back to back with it: blocks that can each be read by itself.
#[derive(Debug, Clone)]
pub struct RecordRun {
    of: ForeignDirectory,
    wanted: ChunkId,
    blocks: Range<u32>,
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

    /// The block of a chunk and those that follow it, of at most so many stored bytes unless the first has more. None
    /// if the chunk is not there, or can't be read without others.
    #[must_use]
    pub fn run(&self, chunk: &ChunkId, bytes_max: u64) -> Option<RecordRun> {
        let directory = &self.directory;
        let start = directory.find(chunk).filter(|chunk| directory.is_alone(*chunk))?;
        let start = directory.block_of(start);
        let mut bytes = 0;
        let follows = |block: &u32| {
            bytes += u64::from(directory.blocks()[*block as usize].stored_bytes);
            // An index holds no chunks.
            !directory.chunks_of(*block).is_empty() && directory.is_block_alone(*block) && bytes <= bytes_max
        };
        let count = (start..directory.blocks().len() as u32).take_while(follows).count().max(1);
        Some(RecordRun { of: self.clone(), wanted: *chunk, blocks: start..start + count as u32 })
    }
}

impl RecordRun {
    fn blocks(&self) -> &[Block] {
        &self.of.directory.blocks()[self.blocks.start as usize..self.blocks.end as usize]
    }

    /// Where it begins in the pack.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.blocks().first().map_or(0, |block| u64::from(block.offset))
    }

    /// How many bytes it has there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks().iter().map(|block| u64::from(block.stored_bytes)).sum()
    }
}

impl Store {
    /// The plain bytes of the chunk that a run is for, and then of others in it, from its stored bytes. Each is
    /// compared with its id; one that is something else ends the run.
    ///
    /// # Errors
    /// If the chunk is not what its id says: the bytes or the directory are false.
    pub fn open_records(
        &self,
        run: &RecordRun,
        stored: &[u8],
    ) -> Result<Vec<(ChunkId, Vec<u8>)>, ForeignError> {
        let wrong = |reason: &str| ForeignError::Wrong { id: run.of.pack.id, reason: reason.to_owned() };
        let directory = &run.of.directory;
        let mut decoder = Decoder::new().map_err(ingest::no_memory)?;
        let mut rest = stored;
        let mut chunks: Vec<(ChunkId, Vec<u8>)> = Vec::new();
        for (number, block) in run.blocks.clone().zip(run.blocks()) {
            let opened = rest.split_at_checked(block.stored_bytes as usize).ok_or("it came short");
            let opened = opened.and_then(|(record, after)| {
                rest = after;
                open_block(&mut decoder, directory, number, record)
            });
            let mut opened = match opened {
                Ok(opened) => opened,
                Err(_) if !chunks.is_empty() => break,
                Err(reason) => return Err(wrong(reason)),
            };
            // The first block has it; it comes before its neighbours.
            opened.sort_by_key(|(id, _)| *id != run.wanted);
            let sound =
                opened.iter().take_while(|(id, plain)| directory.key().chunk_id(plain) == *id).count();
            if chunks.is_empty() && sound == 0 {
                return Err(wrong("a record is not what its id says"));
            }
            let all = sound == opened.len();
            opened.truncate(sound);
            chunks.append(&mut opened);
            if !all {
                break;
            }
        }
        Ok(chunks)
    }
}

/// Opens and expands a block that can be read by itself into its chunks, which are not compared with their ids.
fn open_block(
    decoder: &mut Decoder,
    directory: &PackDirectory,
    number: u32,
    stored: &[u8],
) -> Result<Vec<(ChunkId, Vec<u8>)>, &'static str> {
    let mut stored = stored.to_vec();
    directory.open_block(number, &mut stored)?;
    let block = directory.blocks()[number as usize];
    let mut data = Vec::new();
    decoder.decode(block.encoding, &stored, &[], block.plain_bytes as usize, &mut data)?;
    let mut rest = data.as_slice();
    let mut chunks = Vec::new();
    for chunk in directory.chunks_of(number).map(|chunk| directory.chunk(chunk)) {
        // The block's bytes are as many as its chunks have.
        let (now, later) = rest.split_at_checked(chunk.data_bytes()).ok_or("a block is too short")?;
        rest = later;
        let mut plain = vec![0; chunk.plain_bytes as usize];
        chunk.pages.assemble(now, &[], &[], &mut plain)?;
        chunks.push((chunk.id, plain));
    }
    Ok(chunks)
}
