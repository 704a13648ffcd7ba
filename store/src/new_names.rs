//! What chunks are called under another key. A chunk's id is keyed, so whatever is sealed anew is named anew too.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sustain_proto::{ChunkId, KeyId, Manifest, RegionIndex, SnapshotIndex};

use crate::catalogue::Place;
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::Whole;
use crate::rebase_error::RebaseError;
use crate::rewrite::stop_if_wanted;
use crate::service_key::ServiceKey;
use crate::store::Shared;
use crate::{Fault, Progress};

/// The names of chunks under one key, by those that they have under others.
#[derive(Debug)]
pub(crate) struct NewNames {
    key: ServiceKey,
    names: Mutex<HashMap<ChunkId, ChunkId>>,
}

impl NewNames {
    pub(crate) fn under(key: ServiceKey) -> Self {
        Self { key, names: Mutex::default() }
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Whether what this manifest describes is sealed under another key.
    pub(crate) fn differ_from(&self, manifest: &Manifest) -> bool {
        manifest.key != self.key.id()
    }

    fn names(&self) -> MutexGuard<'_, HashMap<ChunkId, ChunkId>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a chunk with these bytes, which its id from before was compared with.
    pub(crate) fn name(&self, former: ChunkId, plain: &[u8]) -> ChunkId {
        if let Some(name) = self.names().get(&former) {
            return *name;
        }
        // Not under the lock: others look names up meanwhile.
        let name = self.key.chunk_id(plain);
        self.names().insert(former, name);
        name
    }

    /// The name of a chunk that was named, or that is sealed under the key already.
    pub(crate) fn now(&self, chunk: ChunkId) -> ChunkId {
        self.names().get(&chunk).copied().unwrap_or(chunk)
    }

    /// A snapshot's index under the key. Chunks whose names are not known yet are read for it.
    pub(crate) fn index(
        &self,
        shared: &Shared,
        whole: &Whole,
        progress: &dyn Progress,
    ) -> Result<SnapshotIndex, RebaseError> {
        let mut index = whole.index();
        if !self.differ_from(&whole.snapshot.manifest) {
            return Ok(index);
        }
        self.read_unknown(shared, whole, progress)?;
        let names = self.names();
        for chunks in index.regions.values_mut() {
            let renamed = chunks.chunks().map(|(position, former)| {
                let new = names.get(&former).ok_or_else(|| absent(whole, former))?;
                Ok((position, Some(*new)))
            });
            *chunks = renamed.collect::<Result<RegionIndex, Fault>>()?;
        }
        drop(names);
        Ok(index)
    }

    /// Reads chunks in the order in which they lie in the packs: those of a block then come together.
    fn read_unknown(
        &self,
        shared: &Shared,
        whole: &Whole,
        progress: &dyn Progress,
    ) -> Result<(), RebaseError> {
        let mut unknown: BTreeSet<Place> = whole.located.places(&whole.catalogue).collect();
        {
            let names = self.names();
            unknown.retain(|place| !names.contains_key(&whole.catalogue.id_at(*place)));
        }
        let from = Chunks::new(shared, &whole.catalogue);
        let mut reader = ChunkReader::new()?;
        for place in unknown {
            stop_if_wanted(progress)?;
            let plain = reader.chunk(from, place)?;
            self.name(whole.catalogue.id_at(place), plain);
        }
        Ok(())
    }
}

/// For a chunk that loading the snapshot has found in its packs.
pub(crate) fn absent(whole: &Whole, chunk: ChunkId) -> Fault {
    let reason = format!("no pack holds chunk {}", chunk.short());
    Fault::damaged(std::path::Path::new(&whole.snapshot.id.to_string()), reason)
}

/// Has a manifest say that its contents, which this is the index of, are sealed under this key.
pub(crate) fn change_key(manifest: &mut Manifest, key: KeyId, index: &SnapshotIndex) {
    if manifest.key == key {
        return;
    }
    let identity = manifest.identity();
    manifest.key = key;
    manifest.content = index.content_hash(&manifest.regions);
    // Under the very first key again it is what it was.
    manifest.first_content = (manifest.content != identity).then_some(identity);
}
