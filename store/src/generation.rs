//! Reading a snapshot's index together with its base's: what is where, checked against the manifest.

use std::sync::Arc;

use sustain_proto::{IndexRoot, Manifest, SnapshotId, SnapshotIndex, chunk_bytes_at};

use crate::ReadError;
use crate::catalogue::Catalogue;
use crate::error::Fault;
use crate::pack_file::PackFile;
use crate::record::Decoder;
use crate::state::{Snapshot, State};
use crate::store::Shared;
use crate::whole::{overlay, whole_of_base};

/// A snapshot with its whole index and the catalogue of all packs that it needs.
#[derive(Debug)]
pub(crate) struct Whole {
    pub(crate) snapshot: Arc<Snapshot>,
    /// What its base's restore would yield; for a base, its own.
    pub(crate) base_index: SnapshotIndex,
    /// What its restore yields.
    pub(crate) index: SnapshotIndex,
    /// The base's packs come first, so that a chunk found in both is the base's.
    pub(crate) catalogue: Catalogue,
}

/// The base and the delta, or the base twice.
pub(crate) fn with_base(
    state: &State,
    snapshot: &Arc<Snapshot>,
) -> Result<(Arc<Snapshot>, Arc<Snapshot>), ReadError> {
    let base = state
        .snapshots
        .get(&snapshot.generation())
        .ok_or_else(|| ReadError::NotFound { selector: snapshot.generation().to_string() })?;
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
        let raw =
            read_index(shared, &catalogue, &base.manifest.index_root).map_err(|e| e.in_read(inconsistent))?;
        let base_index = whole_of_base(&raw, &base.manifest.regions);
        let index = if base.id == snapshot.id {
            base_index.clone()
        } else {
            let raw = read_index(shared, &catalogue, &snapshot.manifest.index_root)
                .map_err(|e| e.in_read(inconsistent))?;
            overlay(&base_index, &raw, &snapshot.manifest.regions)
        };
        check_whole(&snapshot.manifest, &index, &catalogue).map_err(inconsistent)?;
        Ok(Self { snapshot: snapshot.clone(), base_index, index, catalogue })
    }
}

/// Why an index can't be read.
#[derive(Debug)]
pub(crate) enum IndexFault {
    Absent(IndexRoot),
    Undecodable(sustain_proto::CodecError),
    Fault(Fault),
}

impl IndexFault {
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Absent(root) => format!("no listed pack holds the index {}", root.short()),
            Self::Undecodable(error) => error.to_string(),
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

/// Reads an index from the pack that holds it.
pub(crate) fn read_index(
    shared: &Shared,
    catalogue: &Catalogue,
    root: &IndexRoot,
) -> Result<SnapshotIndex, IndexFault> {
    let place = catalogue.index(root).ok_or(IndexFault::Absent(*root))?;
    let pack = catalogue.pack(place);
    let read = || {
        let file = PackFile::open(shared.disk.as_ref(), &shared.layout, &pack.id)?;
        let mut decoder = Decoder::new().map_err(|source| Fault::Disk {
            doing: "set memory aside for reading",
            path: file.path().to_owned(),
            source,
        })?;
        let mut stored = Vec::new();
        file.record(&catalogue.entry(place), None, &mut decoder, &mut stored).map(<[u8]>::to_vec)
    };
    let bytes = read().map_err(IndexFault::Fault)?;
    SnapshotIndex::decode(&bytes).map_err(IndexFault::Undecodable)
}

/// Checks that an index is the manifest's, and that every chunk is in a listed pack with the length that
/// its position asks for.
pub(crate) fn check_whole(
    manifest: &Manifest,
    index: &SnapshotIndex,
    catalogue: &Catalogue,
) -> Result<(), String> {
    if index.content_hash(&manifest.regions) != manifest.content {
        return Err("its index does not yield the contents that it says".to_owned());
    }
    for region in &manifest.regions {
        let Some(chunks) = index.regions.get(&region.name) else {
            continue;
        };
        for (position, chunk) in chunks {
            let Some(chunk) = chunk else {
                continue;
            };
            let Some(place) = catalogue.chunk(chunk) else {
                return Err(format!(
                    "no listed pack holds chunk {} of region {}",
                    chunk.short(),
                    region.name
                ));
            };
            let expected = chunk_bytes_at(region.bytes, *position);
            if catalogue.entry(place).plain_bytes as usize != expected {
                return Err(format!(
                    "chunk {position} of region {} does not have {expected} bytes",
                    region.name
                ));
            }
        }
    }
    Ok(())
}

/// The visible snapshot with this id, or an error that says there is none.
pub(crate) fn visible(state: &State, id: SnapshotId) -> Result<Arc<Snapshot>, ReadError> {
    state.snapshots.get(&id).cloned().ok_or_else(|| ReadError::NotFound { selector: id.to_string() })
}
