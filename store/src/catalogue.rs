//! Catalogues: where each record of a set of packs is; and the cache of packs' directories behind them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use sustain_proto::{ChunkId, IndexRoot, PackId, PackRef};

use crate::directory::{Entry, PackDirectory};
use crate::pack_file::PackFile;
use crate::record::RecordKind;
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
        cached.records += directory.entries.len() + 1;
        if let Some((old, _)) = cached.directories.insert(id, (directory, clock)) {
            cached.records -= old.entries.len() + 1;
        }
        while cached.records > limits::DIRECTORY_CACHE_RECORDS_MAX {
            let oldest = cached.directories.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            let Some((old, _)) = oldest.and_then(|id| cached.directories.remove(&id)) else {
                break;
            };
            cached.records -= old.entries.len() + 1;
        }
    }

    /// Forgets a pack that is gone.
    pub(crate) fn forget(&self, id: &PackId) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((old, _)) = cached.directories.remove(id) {
            cached.records -= old.entries.len() + 1;
        }
    }
}

/// A record's pack and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) pack: u32,
    pub(crate) record: u32,
}

/// Where each record of some packs is. A record that is in several is taken from the first of them.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    packs: Vec<(PackRef, Arc<PackDirectory>)>,
    known: BTreeMap<PackId, u32>,
    /// Packs that were not here when they were added.
    foreign: BTreeSet<u32>,
    chunks: HashMap<ChunkId, Place>,
    indexes: HashMap<IndexRoot, Place>,
}

impl Catalogue {
    /// Adds packs, all of which must be readable.
    pub(crate) fn add(&mut self, shared: &Shared, packs: &[PackRef]) -> Result<(), Fault> {
        packs.iter().try_for_each(|pack| self.add_pack(shared, *pack))
    }

    /// Adds packs, leaving out those that can't be read: what they hold is then stored again.
    pub(crate) fn add_readable(&mut self, shared: &Shared, packs: &[PackRef]) {
        for pack in packs {
            if let Err(error) = self.add_pack(shared, *pack) {
                tracing::warn!(pack = %pack.id, %error, "a pack is not used for what it should hold");
            }
        }
    }

    fn add_pack(&mut self, shared: &Shared, pack: PackRef) -> Result<(), Fault> {
        if self.known.contains_key(&pack.id) {
            return Ok(());
        }
        let directory = shared.directory(&pack)?;
        self.insert(pack, directory);
        Ok(())
    }

    /// Adds a pack that is not here, by a directory that nobody has compared with it.
    pub(crate) fn add_foreign(&mut self, pack: PackRef, directory: Arc<PackDirectory>) {
        if !self.known.contains_key(&pack.id) {
            let number = self.insert(pack, directory);
            self.foreign.insert(number);
        }
    }

    /// Whether a record's pack was not here when it was added.
    pub(crate) fn is_foreign(&self, place: Place) -> bool {
        self.foreign.contains(&place.pack)
    }

    /// The packs that were not here when they were added.
    pub(crate) fn foreign(&self) -> impl Iterator<Item = PackRef> + '_ {
        self.foreign.iter().map(|number| self.packs[*number as usize].0)
    }

    fn insert(&mut self, pack: PackRef, directory: Arc<PackDirectory>) -> u32 {
        // A store of more than 2^32 packs can't be listed by manifests.
        let number = self.packs.len() as u32;
        for (record, entry) in directory.entries.iter().enumerate() {
            let place = Place { pack: number, record: record as u32 };
            match entry.kind {
                RecordKind::Chunk => {
                    self.chunks.entry(ChunkId::from_bytes(entry.id)).or_insert(place);
                }
                RecordKind::Index => {
                    self.indexes.entry(IndexRoot::from_bytes(entry.id)).or_insert(place);
                }
            }
        }
        self.known.insert(pack.id, number);
        self.packs.push((pack, directory));
        number
    }

    pub(crate) fn chunk(&self, id: &ChunkId) -> Option<Place> {
        self.chunks.get(id).copied()
    }

    pub(crate) fn index(&self, root: &IndexRoot) -> Option<Place> {
        self.indexes.get(root).copied()
    }

    pub(crate) fn pack(&self, place: Place) -> PackRef {
        self.packs[place.pack as usize].0
    }

    pub(crate) fn entry(&self, place: Place) -> Entry {
        self.packs[place.pack as usize].1.entries[place.record as usize]
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
        let directory = Arc::new(file.directory()?);
        self.directories.put(pack.id, directory.clone());
        Ok(directory)
    }
}
