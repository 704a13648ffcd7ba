//! What chunks are called under another key. A chunk's id is keyed, so whatever is sealed anew is named anew too.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use sustain_proto::{ChunkId, KeyId, Manifest, RegionIndex, SnapshotIndex};

use crate::catalogue::Place;
use crate::chunk_reader::{ChunkReader, Chunks};
use crate::generation::Whole;
use crate::rebase::RebaseError;
use crate::rewrite::stop_if_wanted;
use crate::service_key::ServiceKey;
use crate::store::Shared;
use crate::{Fault, Progress};

/// The names of chunks under one key, by those that they have under others.
#[derive(Debug)]
pub(crate) struct NewNames {
    key: ServiceKey,
    names: HashMap<ChunkId, ChunkId>,
}

impl NewNames {
    pub(crate) fn under(key: ServiceKey) -> Self {
        Self { key, names: HashMap::new() }
    }

    pub(crate) fn key(&self) -> &ServiceKey {
        &self.key
    }

    /// Whether what this manifest describes is sealed under another key.
    pub(crate) fn differ_from(&self, manifest: &Manifest) -> bool {
        manifest.key != self.key.id()
    }

    /// The name of a chunk with these bytes, which its id from before was compared with.
    pub(crate) fn name(&mut self, former: ChunkId, plain: &[u8]) -> ChunkId {
        *self.names.entry(former).or_insert_with(|| self.key.chunk_id(plain))
    }

    /// A snapshot's index under the key. Chunks whose names are not known yet are read for it.
    pub(crate) fn index<'w>(
        &mut self,
        shared: &Shared,
        whole: &'w Whole,
        progress: &dyn Progress,
    ) -> Result<Cow<'w, SnapshotIndex>, RebaseError> {
        if !self.differ_from(&whole.snapshot.manifest) {
            return Ok(Cow::Borrowed(&whole.index));
        }
        self.read_unknown(shared, whole, progress)?;
        let mut index = SnapshotIndex::default();
        for (name, chunks) in &whole.index.regions {
            let renamed = chunks.iter().map(|(position, former)| {
                let new = former.map(|former| self.names.get(&former).copied().ok_or(former)).transpose();
                new.map(|new| (*position, new))
            });
            let renamed: Result<RegionIndex, ChunkId> = renamed.collect();
            index.regions.insert(name.clone(), renamed.map_err(|chunk| absent(whole, chunk))?);
        }
        Ok(Cow::Owned(index))
    }

    /// Reads chunks in the order in which they lie in the packs: those of a block then come together.
    fn read_unknown(
        &mut self,
        shared: &Shared,
        whole: &Whole,
        progress: &dyn Progress,
    ) -> Result<(), RebaseError> {
        let mut unknown: BTreeMap<Place, ChunkId> = BTreeMap::new();
        for chunk in whole.index.regions.values().flat_map(|chunks| chunks.values()).flatten() {
            if !self.names.contains_key(chunk) {
                let place = whole.catalogue.chunk(chunk).ok_or_else(|| absent(whole, *chunk))?;
                unknown.insert(place, *chunk);
            }
        }
        let from = Chunks::new(shared, &whole.catalogue);
        let mut reader = ChunkReader::new()?;
        for (place, chunk) in unknown {
            stop_if_wanted(progress)?;
            let plain = reader.chunk(from, place)?;
            self.name(chunk, plain);
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
