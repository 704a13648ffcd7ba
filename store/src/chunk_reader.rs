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

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Display;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::ChunkId;
use sustain_proto::limits::CHUNK_BYTES;

use crate::block::{Decoder, Encoding, StoredChunk};
use crate::block_cache::BlockCache;
use crate::catalogue::{BlockPlace, Catalogue, Place};
use crate::ingest::no_memory;
use crate::pack_file::PackFile;
use crate::pages::PageMap;
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
    /// Blocks that other chunks need. Who wants to know what is on the disk brings an empty one.
    pub(crate) cache: &'a BlockCache,
}

/// What became of packs that were not here: chunks that came one by one, the last few, and packs that came whole.
#[derive(Debug, Default)]
pub(crate) struct Supplied {
    chunks: Mutex<VecDeque<(ChunkId, Arc<[u8]>)>>,
    arrived: Mutex<BTreeSet<u32>>,
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
    /// Decoded blocks, likewise.
    blocks: VecDeque<(BlockPlace, Arc<Vec<u8>>)>,
    /// Chunks that were referred to, likewise.
    references: VecDeque<(Place, Part)>,
    stored: Vec<u8>,
    shared: Vec<u8>,
    prefix: Vec<u8>,
    /// The chunk that was read last: a part of its block, or put together.
    part: Option<Part>,
    plain: Vec<u8>,
}

/// A part of a block, or of bytes that were put together.
#[derive(Clone)]
pub(crate) struct Part {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Part {
    fn whole(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self { bytes: Arc::new(bytes), range }
    }

    pub(crate) fn get(&self) -> &[u8] {
        &self.bytes[self.range.clone()]
    }
}

impl<'a> Chunks<'a> {
    pub(crate) fn new(shared: &'a Shared, catalogue: &'a Catalogue) -> Self {
        Self { shared, catalogue, supplied: None, cache: &shared.blocks }
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

    /// Whether a pack is here that was not. One that came since is used if its own directory is the one that was given:
    /// that may have been false.
    fn has_arrived(&self, number: u32) -> Result<bool, Fault> {
        let arrived =
            |supplied: &'a Supplied| supplied.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        if self.supplied.is_some_and(|supplied| arrived(supplied).contains(&number)) {
            return Ok(true);
        }
        let (pack, given) = &self.catalogue.packs()[number as usize];
        let here = self.shared.state().packs.contains_key(&pack.id);
        let has = here && *self.shared.directory(pack)? == **given;
        if let (true, Some(supplied)) = (has, self.supplied) {
            arrived(supplied).insert(number);
        }
        Ok(has)
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
            shared: Vec::new(),
            prefix: Vec::new(),
            part: None,
            plain: Vec::with_capacity(CHUNK_BYTES),
        })
    }

    /// A chunk's bytes as they are stored: what another chunk shares with this one, it has in common with these.
    pub(crate) fn as_stored(&mut self, from: Chunks<'_>, place: Place) -> Result<&[u8], ReadError> {
        self.part = None;
        self.read(from, place, &from.catalogue.entry(place))?;
        Ok(self.last())
    }

    /// A chunk's bytes, checked against its id.
    pub(crate) fn chunk(&mut self, from: Chunks<'_>, place: Place) -> Result<&[u8], ReadError> {
        let entry = from.catalogue.entry(place);
        self.part = None;
        let read = self.read(from, place, &entry);
        match read.and_then(|()| Ok(from.check(place, &entry.id, self.last())?)) {
            Ok(()) => Ok(self.last()),
            Err(error @ ReadError::Fault(Fault::Damaged { .. })) => {
                Err(self.blame(from, place).map_or(error, ReadError::Fault))
            }
            Err(error) => Err(error),
        }
    }

    fn last(&self) -> &[u8] {
        self.part.as_ref().map_or(&self.plain, Part::get)
    }

    /// Reads a chunk into `part`, or puts it together in `plain`.
    fn read(&mut self, from: Chunks<'_>, place: Place, entry: &StoredChunk) -> Result<(), ReadError> {
        let reference = match &entry.reference {
            Some(reference) => Some(self.reference(from, place.pack, reference)?),
            None if entry.shared.is_empty() => {
                self.part = Some(self.alone(from, place, entry, false)?);
                return Ok(());
            }
            None => None,
        };
        let block = self.block(from, from.catalogue.block_of(place), true)?;
        let mut shared = std::mem::take(&mut self.shared);
        shared.clear();
        for page in &entry.shared {
            let owner = from.needed(place.pack, &page.chunk)?;
            let owned = from.catalogue.entry(owner);
            let range = owned.pages.data_range(owned.plain_bytes as usize, page.page.into());
            let range = range.ok_or_else(|| {
                from.damaged(place.pack, "a chunk shares a page that is not stored where it says")
            })?;
            let block = self.block(from, from.catalogue.block_of(owner), true)?;
            let start = from.catalogue.start_of(owner);
            shared.extend_from_slice(&block[start + range.start..start + range.end]);
        }
        let start = from.catalogue.start_of(place);
        self.plain.resize(entry.plain_bytes as usize, 0);
        let (data, reference) = (&block[start..start + entry.data_bytes()], reference.as_ref());
        let reference = reference.map(Part::get).unwrap_or_default();
        let assembled = entry.pages.assemble(data, reference, &shared, &mut self.plain);
        self.shared = shared;
        Ok(assembled.map_err(|reason| from.damaged(place.pack, reason))?)
    }

    /// Reads a chunk that refers to nothing and shares nothing, because another one needs it or for itself.
    fn alone(
        &mut self,
        from: Chunks<'_>,
        place: Place,
        entry: &StoredChunk,
        needed: bool,
    ) -> Result<Part, ReadError> {
        if from.catalogue.is_foreign(place.pack) {
            if let Some(plain) = from.supplied.and_then(|supplied| supplied.get(&entry.id)) {
                return Ok(Part::whole(plain.to_vec()));
            }
            if !from.has_arrived(place.pack)? {
                let pack = from.catalogue.pack(place.pack);
                return Err(ReadError::Elsewhere { pack, chunk: entry.id });
            }
        }
        let block = self.block(from, from.catalogue.block_of(place), needed)?;
        let start = from.catalogue.start_of(place);
        let range = start..start + entry.data_bytes();
        if entry.pages == PageMap::all_data(entry.plain_bytes as usize) {
            return Ok(Part { bytes: block, range });
        }
        let mut plain = vec![0; entry.plain_bytes as usize];
        let assembled = entry.pages.assemble(&block[range], &[], &[], &mut plain);
        assembled.map_err(|reason| from.damaged(place.pack, reason))?;
        Ok(Part::whole(plain))
    }

    /// The bytes that a block expands to, which are as many as its chunks have. One that others need is worth keeping.
    fn block(
        &mut self,
        from: Chunks<'_>,
        place: BlockPlace,
        needed: bool,
    ) -> Result<Arc<Vec<u8>>, ReadError> {
        if let Some(found) = kept(&mut self.blocks, &place) {
            return Ok(self.blocks[found].1.clone());
        }
        let pack = from.catalogue.pack(place.pack).id;
        if let Some(found) = from.cache.get(pack, place.block) {
            return Ok(found);
        }
        let mut prefix = std::mem::take(&mut self.prefix);
        prefix.clear();
        if from.catalogue.block(place).encoding == Encoding::Delta {
            for (at, chunk) in from.catalogue.chunks_of(place) {
                let Some(reference) = &chunk.reference else { continue };
                let reference = self.reference(from, at.pack, reference)?;
                chunk.pages.append_prefix(chunk.plain_bytes as usize, reference.get(), &mut prefix);
            }
        }
        let is_full = !needed && self.blocks.len() >= limits::BLOCKS_KEPT;
        let oldest = if is_full { self.blocks.pop_front() } else { None };
        let mut data = oldest.and_then(|(_, oldest)| Arc::try_unwrap(oldest).ok()).unwrap_or_default();
        self.decode(from, place, &prefix, &mut data)?;
        self.prefix = prefix;
        let data = Arc::new(data);
        if needed {
            from.cache.put(pack, place.block, data.clone());
        } else {
            keep(&mut self.blocks, place, data.clone(), limits::BLOCKS_KEPT);
        }
        Ok(data)
    }

    /// A chunk that is referred to.
    fn reference(&mut self, from: Chunks<'_>, by: u32, id: &ChunkId) -> Result<Part, ReadError> {
        let place = from.needed(by, id)?;
        if !from.catalogue.is_alone(place) {
            return Err(from.damaged(by, "a chunk refers to one that does not stand alone").into());
        }
        self.referred(from, place)
    }

    /// A chunk that stands alone and is referred to, or may soon be, as it is stored: not compared with its id.
    pub(crate) fn referred(&mut self, from: Chunks<'_>, place: Place) -> Result<Part, ReadError> {
        if let Some(found) = kept(&mut self.references, &place) {
            return Ok(self.references[found].1.clone());
        }
        let plain = self.alone(from, place, &from.catalogue.entry(place), true)?;
        keep(&mut self.references, place, plain.clone(), limits::BLOCK_CHUNKS_MAX);
        Ok(plain)
    }

    /// Reads a block and expands it.
    fn decode(
        &mut self,
        from: Chunks<'_>,
        place: BlockPlace,
        prefix: &[u8],
        data: &mut Vec<u8>,
    ) -> Result<(), ReadError> {
        let block = from.catalogue.block(place);
        let file = match kept(&mut self.files, &place.pack) {
            Some(found) => found,
            None => {
                let id = from.catalogue.pack(place.pack).id;
                let file = PackFile::open(from.shared.disk.as_ref(), &from.shared.layout, &id)?;
                keep(&mut self.files, place.pack, file, limits::PACKS_KEPT_OPEN);
                self.files.len() - 1
            }
        };
        let directory = from.catalogue.directory(place.pack);
        self.files[file].1.open_block(directory, place.block, &mut self.stored)?;
        let bytes = block.plain_bytes as usize;
        let decoded = self.decoder.decode(block.encoding, &self.stored, prefix, bytes, data);
        Ok(decoded.map_err(|reason| from.damaged(place.pack, reason))?)
    }

    /// Whose fault it is that a chunk can't be read, if it is that of a chunk which it needs.
    fn blame(&mut self, from: Chunks<'_>, place: Place) -> Option<Fault> {
        let mut blocks = vec![from.catalogue.block_of(place)];
        let owners = from.catalogue.entry(place).shared;
        let owners = owners.iter().filter_map(|page| from.catalogue.chunk(&page.chunk));
        blocks.extend(owners.map(|owner| from.catalogue.block_of(owner)));
        self.blocks.clear();
        from.cache.clear();
        self.references.clear();
        for block in &blocks {
            for reference in from.catalogue.chunks_of(*block).filter_map(|(_, chunk)| chunk.reference) {
                let Some(referred) = from.catalogue.chunk(&reference) else { continue };
                let read = self.reference(from, block.pack, &reference);
                let read = read.and_then(|plain| Ok(from.check(referred, &reference, plain.get())?));
                if let Err(ReadError::Fault(fault)) = read {
                    return Some(fault);
                }
            }
        }
        // The chunk's own block comes first, and is blamed by default.
        let others = blocks.iter().skip(1).filter(|block| **block != blocks[0]);
        others.copied().find_map(|block| match self.block(from, block, true) {
            Err(ReadError::Fault(fault)) => Some(fault),
            _ => None,
        })
    }
}
