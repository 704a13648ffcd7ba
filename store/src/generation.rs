//! Reading a snapshot's index together with its base's: what is where, checked against the manifest.

use std::collections::HashSet;
use std::sync::Arc;

use sustain_proto::limits::INDEX_ENTRIES_MAX;
use sustain_proto::{
    ChunkId, IndexRoot, Manifest, RegionIndex, RegionName, SnapshotId, SnapshotIndex, chunk_bytes_at,
};

use crate::ReadError;
use crate::catalogue::{BlockPlace, Catalogue};
use crate::error::Fault;
use crate::index_parts::{IndexPart, merged};
use crate::located::Located;
use crate::pack_file::PackFile;
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::whole::{overlay, whole_of_base};

/// A snapshot with its whole index and the catalogue of all packs that it needs.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) snapshot: Arc<Snapshot>,
    /// What its base's restore would yield; for a base, its own.
    pub(crate) base: Arc<Located>,
    /// What its restore yields.
    pub(crate) located: Arc<Located>,
    /// A delta's index as it is stored.
    pub(crate) parts: Vec<IndexPart>,
    /// The base's packs come first, so that a chunk found in both is the base's.
    pub(crate) catalogue: Catalogue,
}

/// The base and the delta, or the base twice. A base that is not here is damage: no delta is without one.
pub(crate) fn with_base(
    shared: &Shared,
    state: &State,
    snapshot: &Arc<Snapshot>,
) -> Result<(Arc<Snapshot>, Arc<Snapshot>), ReadError> {
    let base = state
        .snapshots
        .get(&snapshot.generation())
        .ok_or_else(|| shared.absence(state, snapshot.generation()))?;
    Ok((base.clone(), snapshot.clone()))
}

impl Whole {
    /// Loads a visible snapshot. The caller has pinned its packs.
    pub(crate) fn load(
        shared: &Shared,
        base: &Arc<Snapshot>,
        snapshot: &Arc<Snapshot>,
    ) -> Result<Self, ReadError> {
        let mut catalogue = Catalogue::default();
        catalogue.add(shared, &base.manifest.packs)?;
        catalogue.add(shared, &snapshot.manifest.packs)?;
        Self::load_with(shared, base, snapshot, catalogue)
    }

    /// The same, with a catalogue of its packs. Those that hold its indexes must be here.
    pub(crate) fn load_with(
        shared: &Shared,
        base: &Arc<Snapshot>,
        snapshot: &Arc<Snapshot>,
        catalogue: Catalogue,
    ) -> Result<Self, ReadError> {
        let inconsistent = |reason: String| ReadError::Inconsistent {
            id: snapshot.id,
            path: shared.layout.manifest(&snapshot.id),
            reason,
        };
        let read = |of: &Snapshot| {
            read_parts(shared, &catalogue, &of.manifest).map_err(|error| error.in_read(inconsistent))
        };
        let base_index = whole_of_base(&together(&read(base)?), &base.manifest.regions);
        if base.id == snapshot.id {
            let located = check_whole(&snapshot.manifest, &base_index, &catalogue).map_err(inconsistent)?;
            let (located, parts) = (Arc::new(located), Vec::new());
            return Ok(Self { snapshot: snapshot.clone(), base: located.clone(), located, parts, catalogue });
        }
        let parts = read(snapshot)?;
        let index = overlay(&base_index, &together(&parts), &snapshot.manifest.regions);
        let located = check_whole(&snapshot.manifest, &index, &catalogue).map_err(inconsistent)?;
        let find = |name: &RegionName, _, chunk: &ChunkId| {
            catalogue.number(chunk).ok_or_else(|| inconsistent(absent(name, chunk)))
        };
        let (base, located) = (Arc::new(Located::new(&base_index, find)?), Arc::new(located));
        Ok(Self { snapshot: snapshot.clone(), base, located, parts, catalogue })
    }

    /// The whole index.
    pub(crate) fn index(&self) -> SnapshotIndex {
        self.located.index(&self.catalogue)
    }
}

fn absent(region: &RegionName, chunk: &ChunkId) -> String {
    format!("no listed pack holds chunk {} of region {region}", chunk.short())
}

/// Why an index can't be read.
#[derive(Debug)]
pub(crate) enum IndexFault {
    Absent(IndexRoot),
    Undecodable(sustain_proto::CodecError),
    TooLarge,
    Fault(Fault),
}

impl IndexFault {
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Absent(root) => format!("no listed pack holds the index {}", root.short()),
            Self::Undecodable(error) => error.to_string(),
            Self::TooLarge => format!("its index has more than {INDEX_ENTRIES_MAX} entries"),
            Self::Fault(fault) => fault.to_string(),
        }
    }

    fn in_read(self, inconsistent: impl Fn(String) -> ReadError) -> ReadError {
        match self {
            Self::Fault(fault) => fault.into(),
            other => inconsistent(other.reason()),
        }
    }
}

/// Reads a snapshot's index.
pub(crate) fn read_parts(
    shared: &Shared,
    catalogue: &Catalogue,
    manifest: &Manifest,
) -> Result<Vec<IndexPart>, IndexFault> {
    let mut entries = 0;
    let read = |root: &IndexRoot| {
        let index = read_index(shared, catalogue, root)?;
        entries += index.regions.values().map(RegionIndex::len).sum::<usize>();
        if entries > INDEX_ENTRIES_MAX {
            return Err(IndexFault::TooLarge);
        }
        Ok(IndexPart { root: *root, index: Arc::new(index) })
    };
    manifest.indexes.iter().map(read).collect()
}

/// What the parts of an index say together.
pub(crate) fn together(parts: &[IndexPart]) -> SnapshotIndex {
    merged(parts.iter().map(|part| part.index.as_ref()))
}

/// Reads a part of an index from the pack that holds it.
fn read_index(shared: &Shared, catalogue: &Catalogue, root: &IndexRoot) -> Result<SnapshotIndex, IndexFault> {
    let place = catalogue.index(root).ok_or(IndexFault::Absent(*root))?;
    let pack = catalogue.pack(place.pack);
    let read = || {
        let file = PackFile::open(shared.disk.as_ref(), &shared.layout, &pack.id)?;
        file.index(catalogue.directory(place.pack), place.block, root)
    };
    let bytes = read().map_err(IndexFault::Fault)?;
    SnapshotIndex::decode(&bytes).map_err(IndexFault::Undecodable)
}

/// Checks that an index is the manifest's, and that every chunk is in a listed pack with the length that
/// its position asks for. Where the chunks are.
pub(crate) fn check_whole(
    manifest: &Manifest,
    index: &SnapshotIndex,
    catalogue: &Catalogue,
) -> Result<Located, String> {
    if index.content_hash(&manifest.regions) != manifest.content {
        return Err("its index does not yield the contents that it says".to_owned());
    }
    let mut blocks = HashSet::new();
    let region_of = |name: &RegionName| manifest.regions.iter().find(|region| region.name == *name);
    Located::new(index, |name, position, chunk| {
        let number = catalogue.number(chunk).ok_or_else(|| absent(name, chunk))?;
        let place = catalogue.place(number);
        let expected = region_of(name).map_or(0, |region| chunk_bytes_at(region.bytes, position));
        if catalogue.plain_bytes(place) as usize != expected {
            return Err(format!("chunk {position} of region {name} does not have {expected} bytes"));
        }
        // What stands alone needs nothing.
        if !catalogue.is_alone(place) {
            check_references(catalogue, catalogue.block_of(place), &mut blocks)?;
        }
        Ok(number)
    })
}

/// Checks that what a block's chunks refer to is in a listed pack and stands alone, and that what they share is
/// stored in one, and that the blocks of that are likewise.
fn check_references(
    catalogue: &Catalogue,
    block: BlockPlace,
    blocks: &mut HashSet<BlockPlace>,
) -> Result<(), String> {
    let absent = |id: &ChunkId| format!("no listed pack holds chunk {}, which is needed", id.short());
    let mut waiting = vec![block];
    while let Some(block) = waiting.pop() {
        if !blocks.insert(block) {
            continue;
        }
        for (_, chunk) in catalogue.chunks_of(block) {
            if let Some(reference) = chunk.reference {
                let place = catalogue.chunk(&reference).ok_or_else(|| absent(&reference))?;
                if !catalogue.is_alone(place) {
                    return Err(format!(
                        "chunk {} is referred to, and does not stand alone",
                        reference.short()
                    ));
                }
            }
            for page in chunk.shared {
                let place = catalogue.chunk(&page.chunk).ok_or_else(|| absent(&page.chunk))?;
                let owner = catalogue.entry(place);
                if owner.pages.data_range(owner.plain_bytes as usize, page.page.into()).is_none() {
                    return Err(format!("chunk {} does not store a page that is shared", page.chunk.short()));
                }
                waiting.push(catalogue.block_of(place));
            }
        }
    }
    Ok(())
}

/// The visible snapshot with this id, or an error that says there is none.
pub(crate) fn visible(state: &State, id: SnapshotId) -> Result<Arc<Snapshot>, ReadError> {
    state.snapshots.get(&id).cloned().ok_or_else(|| ReadError::NotFound { selector: id.to_string() })
}
