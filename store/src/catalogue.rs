//! Catalogues: where each chunk and index of a set of packs is; and the cache of packs' directories behind them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sustain_proto::{ChunkId, IndexRoot, PackId, PackRef};

use crate::block::StoredChunk;
use crate::directory::{Block, PackDirectory};
use crate::id_table::IdTable;
use crate::pack_file::PackFile;
use crate::store::Shared;
use crate::{Fault, limits};

#[derive(Debug, Default)]
struct Cached {
    directories: BTreeMap<PackId, (Arc<PackDirectory>, u64)>,
    records: usize,
    clock: u64,
}

/// The directories of packs that were used lately.
#[derive(Debug, Default)]
pub(crate) struct DirectoryCache {
    cached: Mutex<Cached>,
}

impl DirectoryCache {
    fn get(&self, id: &PackId) -> Option<Arc<PackDirectory>> {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.clock += 1;
        let clock = cached.clock;
        let (directory, used) = cached.directories.get_mut(id)?;
        *used = clock;
        Some(directory.clone())
    }

    /// Remembers a directory, and forgets the ones used longest ago if there are too many.
    pub(crate) fn put(&self, id: PackId, directory: Arc<PackDirectory>) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.clock += 1;
        let clock = cached.clock;
        cached.records += directory.records() + 1;
        if let Some((old, _)) = cached.directories.insert(id, (directory, clock)) {
            cached.records -= old.records() + 1;
        }
        while cached.records > limits::DIRECTORY_CACHE_RECORDS_MAX {
            let oldest = cached.directories.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            let Some((old, _)) = oldest.and_then(|id| cached.directories.remove(&id)) else {
                break;
            };
            cached.records -= old.records() + 1;
        }
    }

    /// Forgets a pack that is gone.
    pub(crate) fn forget(&self, id: &PackId) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((old, _)) = cached.directories.remove(id) {
            cached.records -= old.records() + 1;
        }
    }
}

/// The blocks that each block of a pack shares pages with.
type Owners = Box<[Box<[BlockPlace]>]>;

/// A chunk's pack and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) chunk: u32,
}

/// A chunk's number among all those of a catalogue's packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkNumber(u32);

/// A block's pack and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlockPlace {
    pub(crate) pack: u32,
    pub(crate) block: u32,
}

/// Where each chunk and index of some packs is. What is in several is taken from the first of them where
/// its block can be read by itself, or else from the first.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    packs: Vec<(PackRef, Arc<PackDirectory>)>,
    /// Of each pack and block the blocks that its chunks share pages with, once somebody has asked.
    owners: Vec<OnceLock<Owners>>,
    known: BTreeMap<PackId, u32>,
    /// Packs that were not here when they were added.
    foreign: BTreeSet<u32>,
    /// The number of each pack's first chunk.
    firsts: Vec<u32>,
    chunks_total: u32,
    chunks: IdTable,
    indexes: HashMap<IndexRoot, BlockPlace>,
}

impl Catalogue {
    /// Adds packs, all of which must be readable.
    pub(crate) fn add(&mut self, shared: &Shared, packs: &[PackRef]) -> Result<(), Fault> {
        let new = packs.iter().filter(|pack| !self.known.contains_key(&pack.id));
        let found = new.map(|pack| Ok((*pack, shared.directory(pack)?)));
        let found = found.collect::<Result<Vec<_>, Fault>>()?;
        self.insert_all(found);
        Ok(())
    }

    /// Adds packs, leaving out those that can't be read: what they hold is then stored again.
    pub(crate) fn add_readable(&mut self, shared: &Shared, packs: &[PackRef]) {
        let new: Vec<&PackRef> = packs.iter().filter(|pack| !self.known.contains_key(&pack.id)).collect();
        // What is set aside is to be replaced, not relied on.
        let is_here = |pack: &&PackRef| shared.state().packs.contains_key(&pack.id);
        let readable = |pack: &PackRef| match shared.directory(pack) {
            Ok(directory) => Some((*pack, directory)),
            Err(error) => {
                tracing::warn!(pack = %pack.id, %error, "a pack is not used for what it should hold");
                None
            }
        };
        self.insert_all(new.into_iter().filter(is_here).filter_map(readable).collect());
    }

    fn insert_all(&mut self, packs: Vec<(PackRef, Arc<PackDirectory>)>) {
        self.reserve(packs.iter().map(|(_, directory)| directory.chunk_count()).sum());
        for (pack, directory) in packs {
            if !self.known.contains_key(&pack.id) {
                self.insert(pack, directory);
            }
        }
    }

    fn reserve(&mut self, chunks: usize) {
        let mut table = std::mem::take(&mut self.chunks);
        table.reserve(chunks, |number| self.id(ChunkNumber(number)));
        self.chunks = table;
    }

    /// Adds a pack that is not here, by a directory that nobody has compared with it.
    pub(crate) fn add_foreign(&mut self, pack: PackRef, directory: Arc<PackDirectory>) {
        if !self.known.contains_key(&pack.id) {
            let number = self.insert(pack, directory);
            self.foreign.insert(number);
        }
    }

    /// Whether a pack was not here when it was added.
    pub(crate) fn is_foreign(&self, pack: u32) -> bool {
        self.foreign.contains(&pack)
    }

    /// The packs that were not here when they were added.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = PackRef> + '_ {
        self.foreign.iter().map(|number| self.packs[*number as usize].0)
    }

    fn insert(&mut self, pack: PackRef, directory: Arc<PackDirectory>) -> u32 {
        // A generation's packs are bounded by manifests: their chunks are far fewer than 2^32.
        let (number, first) = (self.packs.len() as u32, self.chunks_total);
        self.packs.push((pack, directory.clone()));
        self.firsts.push(first);
        self.chunks_total += directory.chunk_count() as u32;
        self.owners.push(OnceLock::new());
        let mut table = std::mem::take(&mut self.chunks);
        for (new, id) in (first..).zip(directory.chunk_ids()) {
            let is_alone = |number| self.is_alone(self.place(ChunkNumber(number)));
            let replaces = |old| is_alone(new) && !is_alone(old);
            table.insert(&id, new, |number| self.id(ChunkNumber(number)), replaces);
        }
        self.chunks = table;
        for (root, block) in directory.indexes() {
            self.indexes.entry(*root).or_insert(BlockPlace { pack: number, block: *block });
        }
        self.known.insert(pack.id, number);
        number
    }

    /// The number of a chunk.
    pub(crate) fn number(&self, id: &ChunkId) -> Option<ChunkNumber> {
        self.chunks.get(id, |number| self.id(ChunkNumber(number))).map(ChunkNumber)
    }

    /// Where a chunk is, by its number.
    pub(crate) fn place(&self, ChunkNumber(number): ChunkNumber) -> Place {
        let pack = self.firsts.partition_point(|first| *first <= number) - 1;
        Place { pack: pack as u32, chunk: number - self.firsts[pack] }
    }

    /// A chunk's id, by its number.
    pub(crate) fn id(&self, number: ChunkNumber) -> ChunkId {
        self.id_at(self.place(number))
    }

    /// A chunk's id, by its place.
    pub(crate) fn id_at(&self, Place { pack, chunk }: Place) -> ChunkId {
        self.packs[pack as usize].1.id(chunk)
    }

    pub(crate) fn chunk(&self, id: &ChunkId) -> Option<Place> {
        self.number(id).map(|number| self.place(number))
    }

    pub(crate) fn index(&self, root: &IndexRoot) -> Option<BlockPlace> {
        self.indexes.get(root).copied()
    }

    /// A pack's directory, by its number here.
    pub(crate) fn directory(&self, pack: u32) -> &PackDirectory {
        &self.packs[pack as usize].1
    }

    /// A pack, by its number here.
    pub(crate) fn pack(&self, number: u32) -> PackRef {
        self.packs[number as usize].0
    }

    /// How many plain bytes a chunk has.
    pub(crate) fn plain_bytes(&self, place: Place) -> u32 {
        self.packs[place.pack as usize].1.plain_bytes(place.chunk)
    }

    pub(crate) fn entry(&self, place: Place) -> StoredChunk {
        self.packs[place.pack as usize].1.chunk(place.chunk)
    }

    /// Where a chunk's bytes begin among those that its block expands to.
    pub(crate) fn start_of(&self, place: Place) -> usize {
        self.packs[place.pack as usize].1.start_of(place.chunk)
    }

    /// The block that holds a chunk.
    pub(crate) fn block_of(&self, place: Place) -> BlockPlace {
        BlockPlace { pack: place.pack, block: self.packs[place.pack as usize].1.block_of(place.chunk) }
    }

    pub(crate) fn block(&self, place: BlockPlace) -> Block {
        self.packs[place.pack as usize].1.blocks()[place.block as usize]
    }

    /// The chunks of a block, each with its place.
    pub(crate) fn chunks_of(&self, block: BlockPlace) -> impl Iterator<Item = (Place, StoredChunk)> + '_ {
        let directory = &self.packs[block.pack as usize].1;
        let numbers = directory.chunks_of(block.block);
        numbers.map(move |chunk| (Place { pack: block.pack, chunk }, directory.chunk(chunk)))
    }

    /// Whether a chunk's block can be read by itself. Bases' chunks are in such.
    pub(crate) fn is_alone(&self, place: Place) -> bool {
        self.packs[place.pack as usize].1.is_alone(place.chunk)
    }

    /// Whether a block can be read by itself.
    pub(crate) fn is_block_alone(&self, block: BlockPlace) -> bool {
        self.packs[block.pack as usize].1.is_block_alone(block.block)
    }

    /// The chunks that reading a block's chunks takes besides: what they refer to, and what they share pages with.
    pub(crate) fn needed_by(&self, block: BlockPlace) -> impl Iterator<Item = ChunkId> + '_ {
        self.chunks_of(block).flat_map(|(_, chunk)| {
            let shared = chunk.shared.into_iter().map(|page| page.chunk);
            chunk.reference.into_iter().chain(shared)
        })
    }

    /// These blocks, and all that reading them takes.
    pub(crate) fn blocks_needed(&self, blocks: impl IntoIterator<Item = BlockPlace>) -> HashSet<BlockPlace> {
        let mut waiting: Vec<BlockPlace> = blocks.into_iter().collect();
        let mut needed = HashSet::new();
        while let Some(block) = waiting.pop() {
            if needed.insert(block) {
                let chunks = self.needed_by(block).filter_map(|chunk| self.chunk(&chunk));
                waiting.extend(chunks.map(|place| self.block_of(place)));
            }
        }
        needed
    }

    /// The packs of these blocks and of those with which their chunks share pages, and so on. What they refer to is not
    /// followed: that is in the base.
    pub(crate) fn packs_sharing(&self, blocks: impl IntoIterator<Item = BlockPlace>) -> BTreeSet<u32> {
        let mut waiting: Vec<BlockPlace> = blocks.into_iter().collect();
        let (mut seen, mut packs) = (HashSet::new(), BTreeSet::new());
        while let Some(block) = waiting.pop() {
            if seen.insert(block) {
                packs.insert(block.pack);
                waiting.extend(self.owners_of(block));
            }
        }
        packs
    }

    /// The blocks with which a block's chunks share pages.
    fn owners_of(&self, block: BlockPlace) -> &[BlockPlace] {
        let (_, directory) = &self.packs[block.pack as usize];
        let all = self.owners[block.pack as usize].get_or_init(|| {
            let owners = |number| {
                let shared = directory.owners_of(number).filter_map(|chunk| self.chunk(&chunk));
                let blocks: BTreeSet<BlockPlace> = shared.map(|place| self.block_of(place)).collect();
                blocks.into_iter().collect()
            };
            (0..directory.blocks().len() as u32).map(owners).collect()
        });
        &all[block.block as usize]
    }

    /// All packs with their directories.
    pub(crate) fn packs(&self) -> &[(PackRef, Arc<PackDirectory>)] {
        &self.packs
    }
}

impl Shared {
    /// A pack's directory, from memory or from its file.
    pub(crate) fn directory(&self, pack: &PackRef) -> Result<Arc<PackDirectory>, Fault> {
        if let Some(directory) = self.directories.get(&pack.id) {
            return Ok(directory);
        }
        let file = PackFile::open(self.disk.as_ref(), &self.layout, &pack.id)?;
        if file.bytes()? != pack.bytes {
            return Err(Fault::damaged(file.path(), "it has another size than its manifest says"));
        }
        let directory = Arc::new(file.directory(&self.keys)?);
        self.directories.put(pack.id, directory.clone());
        Ok(directory)
    }
}
