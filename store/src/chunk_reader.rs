//! Reading chunks: each is put together from its block, what it refers to and what it shares, and checked against
//! its id.
//!
//! ```text
//! chunk ─┬─ its block ── with a dictionary: what its chunks refer to ── chunks that stand alone
//!        ├─ pages that are as in the chunk referred to ──────────────── a chunk that stands alone
//!        └─ pages that are stored with other chunks ── their blocks
//! ```
//! What is referred to stands alone, and a page that is shared is stored where it is said to be: so this has an end,
//! whatever a pack says.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::ChunkId;
use sustain_proto::limits::CHUNK_BYTES;

use crate::block::{Decoder, Encoding, StoredChunk};
use crate::catalogue::{BlockPlace, Catalogue, Place};
use crate::ingest::no_memory;
use crate::pack_file::PackFile;
use crate::store::Shared;
use crate::{Fault, ReadError, limits};

const FORGED: &str = "a chunk is not what its id says";

/// Where chunks are read from. A reader is for one of these.
#[derive(Clone, Copy)]
pub(crate) struct Chunks<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) catalogue: &'a Catalogue,
    /// What came of packs that are not here.
    pub(crate) supplied: Option<&'a Supplied>,
}

/// Chunks of packs that are not here, as they came one by one: the last few.
#[derive(Debug, Default)]
pub(crate) struct Supplied {
    chunks: Mutex<VecDeque<(ChunkId, Arc<[u8]>)>>,
}

impl Supplied {
    pub(crate) fn put(&self, chunk: ChunkId, plain: Arc<[u8]>) {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        if kept(&mut chunks, &chunk).is_none() {
            keep(&mut chunks, chunk, plain, limits::SUPPLIED_CHUNKS_MAX);
        }
    }

    fn get(&self, chunk: &ChunkId) -> Option<Arc<[u8]>> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        kept(&mut chunks, chunk).map(|found| chunks[found].1.clone())
    }
}

/// Reads chunks. One a thread; its memory is reused, and what was read lately is kept.
pub(crate) struct ChunkReader {
    decoder: Decoder,
    /// Packs that are open, those used last at the end.
    files: VecDeque<(u32, PackFile)>,
    /// Blocks of several chunks, likewise.
    blocks: VecDeque<(BlockPlace, Arc<[u8]>)>,
    /// Chunks that were referred to, likewise.
    references: VecDeque<(Place, Arc<[u8]>)>,
    stored: Vec<u8>,
    data: Vec<u8>,
    plain: Vec<u8>,
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(shared: &'a Shared, catalogue: &'a Catalogue) -> Self {
        Self { shared, catalogue, supplied: None }
    }

    fn damaged(&self, pack: u32, reason: impl Display) -> Fault {
        Fault::damaged(&self.shared.layout.pack(&self.catalogue.pack(pack).id), reason)
    }

    /// Where a chunk is that another one needs.
    fn needed(&self, by: u32, chunk: &ChunkId) -> Result<Place, Fault> {
        let place = self.catalogue.chunk(chunk);
        place.ok_or_else(|| {
            self.damaged(by, format_args!("it needs chunk {}, which is nowhere", chunk.short()))
        })
    }

    /// Where a chunk's bytes begin in its block.
    fn start(&self, place: Place) -> usize {
        let block = self.catalogue.block_of(place);
        let before = self.catalogue.chunks_of(block).take_while(|(other, _)| other.chunk < place.chunk);
        before.map(|(_, chunk)| chunk.data_bytes()).sum()
    }

    /// Whether a block's pack is here. One that came since is used if its own directory is the one that was given: that
    /// may have been false.
    fn check_arrived(&self, place: BlockPlace) -> Result<(), ReadError> {
        if !self.catalogue.is_foreign(place.pack) {
            return Ok(());
        }
        let (pack, given) = &self.catalogue.packs()[place.pack as usize];
        let here = self.shared.state().packs.contains_key(&pack.id);
        if here && *self.shared.directory(pack)? == **given {
            return Ok(());
        }
        // What is not here stands alone, or the snapshot would not have been opened.
        let chunk = self.catalogue.chunks_of(place).next();
        let (_, chunk) = chunk.ok_or_else(|| self.damaged(place.pack, "it has an empty block"))?;
        Err(ReadError::Elsewhere { pack: *pack, chunk: chunk.id })
    }

    fn check(&self, place: Place, id: &ChunkId, plain: &[u8]) -> Result<(), Fault> {
        if self.catalogue.directory(place.pack).key().chunk_id(plain) == *id {
            Ok(())
        } else {
            Err(self.damaged(place.pack, FORGED))
        }
    }
}

/// What is kept under a key, which then counts as used last.
fn kept<K: PartialEq, V>(cache: &mut VecDeque<(K, V)>, key: &K) -> Option<usize> {
    let found = cache.iter().position(|(other, _)| other == key)?;
    if let Some(used) = cache.remove(found) {
        cache.push_back(used);
    }
    Some(cache.len() - 1)
}

fn keep<K, V>(cache: &mut VecDeque<(K, V)>, key: K, value: V, most: usize) {
    if cache.len() >= most {
        cache.pop_front();
    }
    cache.push_back((key, value));
}

impl ChunkReader {
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            decoder: Decoder::new().map_err(no_memory)?,
            files: VecDeque::new(),
            blocks: VecDeque::new(),
            references: VecDeque::new(),
            stored: Vec::new(),
            data: Vec::new(),
            plain: Vec::with_capacity(CHUNK_BYTES),
        })
    }

    /// A chunk's bytes, checked against its id.
    pub(crate) fn chunk(&mut self, from: Chunks<'_>, place: Place) -> Result<&[u8], ReadError> {
        let entry = from.catalogue.entry(place);
        let read = if from.catalogue.is_alone(place) {
            self.alone(from, place, &entry)
        } else {
            self.assemble(from, place, &entry)
        };
        match read.and_then(|()| Ok(from.check(place, &entry.id, &self.plain)?)) {
            Ok(()) => Ok(&self.plain),
            Err(error @ ReadError::Fault(Fault::Damaged { .. })) => {
                Err(self.blame(from, place).map_or(error, ReadError::Fault))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a chunk that stands alone into `plain`.
    fn alone(&mut self, from: Chunks<'_>, place: Place, entry: &StoredChunk) -> Result<(), ReadError> {
        if from.catalogue.is_foreign(place.pack) {
            if let Some(plain) = from.supplied.and_then(|supplied| supplied.get(&entry.id)) {
                self.plain.clear();
                self.plain.extend_from_slice(&plain);
                return Ok(());
            }
        }
        self.decode(from, from.catalogue.block_of(place), &[])?;
        self.plain.resize(entry.plain_bytes as usize, 0);
        let assembled = entry.pages.assemble(&self.data, &[], &[], &mut self.plain);
        Ok(assembled.map_err(|reason| from.damaged(place.pack, reason))?)
    }

    /// Puts a chunk together in `plain`.
    fn assemble(&mut self, from: Chunks<'_>, place: Place, entry: &StoredChunk) -> Result<(), ReadError> {
        let block = self.block(from, from.catalogue.block_of(place))?;
        let reference = match &entry.reference {
            Some(reference) => self.reference(from, place.pack, reference)?,
            None => Arc::default(),
        };
        let mut shared = Vec::new();
        for page in &entry.shared {
            let owner = from.needed(place.pack, &page.chunk)?;
            let owned = from.catalogue.entry(owner);
            let range = owned.pages.data_range(owned.plain_bytes as usize, page.page.into());
            let range = range.ok_or_else(|| {
                from.damaged(place.pack, "a chunk shares a page that is not stored where it says")
            })?;
            let block = self.block(from, from.catalogue.block_of(owner))?;
            let start = from.start(owner);
            shared.extend_from_slice(&block[start + range.start..start + range.end]);
        }
        let start = from.start(place);
        self.plain.resize(entry.plain_bytes as usize, 0);
        let data = &block[start..start + entry.data_bytes()];
        let assembled = entry.pages.assemble(data, &reference, &shared, &mut self.plain);
        Ok(assembled.map_err(|reason| from.damaged(place.pack, reason))?)
    }

    /// The bytes that a block expands to, which are as many as its chunks have.
    fn block(&mut self, from: Chunks<'_>, place: BlockPlace) -> Result<Arc<[u8]>, ReadError> {
        if let Some(found) = kept(&mut self.blocks, &place) {
            return Ok(self.blocks[found].1.clone());
        }
        let mut prefix = Vec::new();
        if from.catalogue.block(place).encoding == Encoding::Delta {
            for (at, chunk) in from.catalogue.chunks_of(place) {
                let Some(reference) = &chunk.reference else { continue };
                let reference = self.reference(from, at.pack, reference)?;
                chunk.pages.append_prefix(chunk.plain_bytes as usize, &reference, &mut prefix);
            }
        }
        self.decode(from, place, &prefix)?;
        let data: Arc<[u8]> = self.data.as_slice().into();
        keep(&mut self.blocks, place, data.clone(), limits::BLOCKS_KEPT);
        Ok(data)
    }

    /// A chunk that is referred to.
    fn reference(&mut self, from: Chunks<'_>, by: u32, id: &ChunkId) -> Result<Arc<[u8]>, ReadError> {
        let place = from.needed(by, id)?;
        if let Some(found) = kept(&mut self.references, &place) {
            return Ok(self.references[found].1.clone());
        }
        if !from.catalogue.is_alone(place) {
            return Err(from.damaged(by, "a chunk refers to one that does not stand alone").into());
        }
        self.alone(from, place, &from.catalogue.entry(place))?;
        let plain: Arc<[u8]> = self.plain.as_slice().into();
        keep(&mut self.references, place, plain.clone(), limits::BLOCK_CHUNKS_MAX);
        Ok(plain)
    }

    /// Reads a block and expands it into `data`.
    fn decode(&mut self, from: Chunks<'_>, place: BlockPlace, prefix: &[u8]) -> Result<(), ReadError> {
        let block = from.catalogue.block(place);
        let file = match kept(&mut self.files, &place.pack) {
            Some(found) => found,
            None => {
                from.check_arrived(place)?;
                let id = from.catalogue.pack(place.pack).id;
                let file = PackFile::open(from.shared.disk.as_ref(), &from.shared.layout, &id)?;
                keep(&mut self.files, place.pack, file, limits::PACKS_KEPT_OPEN);
                self.files.len() - 1
            }
        };
        let directory = from.catalogue.directory(place.pack);
        self.files[file].1.open_block(directory, place.block, &mut self.stored)?;
        self.data.resize(block.plain_bytes as usize, 0);
        let decoded = self.decoder.decode(block.encoding, &self.stored, prefix, &mut self.data);
        Ok(decoded.map_err(|reason| from.damaged(place.pack, reason))?)
    }

    /// Whose fault it is that a chunk can't be read, if it is that of a chunk which it needs.
    fn blame(&mut self, from: Chunks<'_>, place: Place) -> Option<Fault> {
        let mut blocks = vec![from.catalogue.block_of(place)];
        let owners = from.catalogue.entry(place).shared;
        let owners = owners.iter().filter_map(|page| from.catalogue.chunk(&page.chunk));
        blocks.extend(owners.map(|owner| from.catalogue.block_of(owner)));
        self.blocks.clear();
        self.references.clear();
        for block in &blocks {
            for reference in from.catalogue.chunks_of(*block).filter_map(|(_, chunk)| chunk.reference) {
                let Some(referred) = from.catalogue.chunk(&reference) else { continue };
                let read = self.reference(from, block.pack, &reference);
                let read = read.and_then(|plain| Ok(from.check(referred, &reference, &plain)?));
                if let Err(ReadError::Fault(fault)) = read {
                    return Some(fault);
                }
            }
        }
        // The chunk's own block comes first, and is blamed by default.
        let others = blocks.iter().skip(1).filter(|block| **block != blocks[0]);
        others.copied().find_map(|block| match self.block(from, block) {
            Err(ReadError::Fault(fault)) => Some(fault),
            _ => None,
        })
    }
}
