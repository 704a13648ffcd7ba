//! Records of packs that are not here: by a directory that somebody else gave, and checked one by one.
//!
//! Only a whole pack can be compared with its id. So a directory alone may be false: it is taken as a hint where to
//! look, and what is found there counts only if it is what its id says.

use std::ops::Range;
use std::sync::Arc;

use sustain_proto::{ChunkId, PackId, PackRef};

use crate::directory::{Entry, PackDirectory, TRAILER_BYTES, Trailer};
use crate::record::{Decoder, RecordKind};
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

/// Chunks that lie back to back in a pack.
#[derive(Debug, Clone)]
pub struct RecordRun {
    of: ForeignDirectory,
    records: Range<usize>,
}

impl ForeignDirectory {
    /// Takes the last bytes of a pack.
    ///
    /// # Errors
    /// If they are too few, or hold no directory of such a pack.
    pub fn decode(pack: PackRef, tail: &[u8]) -> Result<Self, ForeignError> {
        let wrong = |reason: String| ForeignError::Wrong { id: pack.id, reason };
        let Some((before, trailer)) = tail.split_last_chunk::<TRAILER_BYTES>() else {
            return Err(ForeignError::Short { bytes: TRAILER_BYTES as u64 });
        };
        let trailer = Trailer::decode(trailer, pack.bytes).map_err(wrong)?;
        let bytes = trailer.directory_bytes();
        let Some(start) = before.len().checked_sub(bytes) else {
            return Err(ForeignError::Short { bytes: (bytes + TRAILER_BYTES) as u64 });
        };
        let directory = PackDirectory::decode(&trailer, &before[start..]).map_err(wrong)?;
        Ok(Self { pack, directory: Arc::new(directory) })
    }

    /// The pack.
    #[must_use]
    pub fn pack(&self) -> PackRef {
        self.pack
    }

    /// How many records it lists: what it costs to keep.
    #[must_use]
    pub fn records(&self) -> usize {
        self.directory.entries.len()
    }

    pub(crate) fn directory(&self) -> &Arc<PackDirectory> {
        &self.directory
    }

    /// A chunk's record and the chunks that follow it, of at most so many stored bytes unless the first has more.
    #[must_use]
    pub fn run(&self, chunk: &ChunkId, bytes_max: u64) -> Option<RecordRun> {
        let start = self.directory.find(RecordKind::Chunk, chunk.as_bytes())?;
        let mut bytes = 0;
        let follows = |entry: &&Entry| {
            bytes += u64::from(entry.stored_bytes);
            entry.kind == RecordKind::Chunk && bytes <= bytes_max
        };
        let count = self.directory.entries[start..].iter().take_while(follows).count().max(1);
        Some(RecordRun { of: self.clone(), records: start..start + count })
    }
}

impl RecordRun {
    fn entries(&self) -> &[Entry] {
        &self.of.directory.entries[self.records.clone()]
    }

    /// Where it begins in the pack.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.entries().first().map_or(0, |entry| u64::from(entry.offset))
    }

    /// How many bytes it has there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.entries().iter().map(|entry| u64::from(entry.stored_bytes)).sum()
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
        let key = self.shared.key_to_read()?;
        let mut decoder = Decoder::new().map_err(ingest::no_memory)?;
        let mut rest = stored;
        let mut chunks = Vec::with_capacity(run.records.len());
        for entry in run.entries() {
            let plain = rest.split_at_checked(entry.stored_bytes as usize).ok_or("it came short");
            let plain = plain.and_then(|(record, after)| {
                rest = after;
                decoder.decode(entry.encoding, entry.plain_bytes as usize, record)
            });
            match plain {
                Ok(plain) if key.chunk_id(plain).as_bytes() == &entry.id => {
                    chunks.push((ChunkId::from_bytes(entry.id), plain.to_vec()));
                }
                _ if !chunks.is_empty() => break,
                Ok(_) => return Err(wrong("a record is not what its id says")),
                Err(reason) => return Err(wrong(reason)),
            }
        }
        Ok(chunks)
    }
}
