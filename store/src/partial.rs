//! Opening a snapshot of which not all packs are here: what a restore can do without comes later.

use std::collections::BTreeSet;
use std::sync::Arc;

use sustain_proto::{PackRef, RegionName};

use crate::ReadError;
use crate::catalogue::Catalogue;
use crate::foreign::ForeignDirectory;
use crate::generation::Whole;
use crate::import::{Given, ImportError};
use crate::reader::SnapshotReader;
use crate::state::{Snapshot, State};
use crate::store::Store;

/// How far a snapshot can be opened.
#[derive(Debug)]
pub enum Partial {
    /// These packs must be received first; then it is to be tried again, which may show that others are needed too.
    Lacking(Vec<PackRef>),
    /// All regions can be restored but those that may wait, whose chunks are here or in a known pack elsewhere.
    Open(Box<SnapshotReader>),
}

impl Store {
    /// Opens the last snapshot of these manifests, as they came from elsewhere, without importing it. The regions in
    /// `lazy` may wait. For each of its packs that is not here, its directory is given.
    ///
    /// # Errors
    /// If the manifests don't decode, a directory is missing, or the directories and what is here contradict them.
    pub fn open_partial(
        &self,
        manifests: &[Vec<u8>],
        directories: &[ForeignDirectory],
        lazy: &[RegionName],
    ) -> Result<Partial, ImportError> {
        let shared = &self.shared;
        let given = Given::decode(&shared.keys, manifests)?;
        let snapshot = given.in_order().last().cloned();
        let snapshot = snapshot.ok_or_else(|| ReadError::NotFound { selector: "no manifest".to_owned() })?;
        let choose = |state: &State| {
            let base = given.base(state, &snapshot)?;
            let packs: Vec<PackRef> =
                base.manifest.packs.iter().chain(&snapshot.manifest.packs).copied().collect();
            let pinned = packs.iter().map(|pack| *pack.id.as_bytes()).collect();
            let is_here = |pack: &PackRef| state.packs.get(&pack.id) == Some(&pack.bytes);
            let (here, elsewhere): (Vec<_>, Vec<_>) = packs.into_iter().partition(is_here);
            Ok::<_, ImportError>(((base, here, elsewhere), pinned))
        };
        let ((base, here, elsewhere), pin) = shared.pinned(choose)?;
        let mut catalogue = Catalogue::default();
        // First, so that a record that is also elsewhere is the one that is here.
        catalogue.add(shared, &here)?;
        for pack in elsewhere {
            let found = directories.iter().find(|given| given.pack() == pack);
            let found = found.ok_or(ImportError::PackMissing { id: pack.id })?;
            catalogue.add_foreign(pack, found.directory().clone());
        }
        let lacking = lacking_for_indexes(&catalogue, &base, &snapshot)?;
        if !lacking.is_empty() {
            return Ok(Partial::Lacking(lacking));
        }
        let whole = Whole::load_with(shared, &base, &snapshot, catalogue).map_err(|error| match error {
            ReadError::Inconsistent { id, reason, .. } => ImportError::Contradiction { snapshot: id, reason },
            error => error.into(),
        })?;
        let lacking = lacking_for_regions(&whole, lazy);
        if !lacking.is_empty() {
            return Ok(Partial::Lacking(lacking));
        }
        Ok(Partial::Open(Box::new(SnapshotReader::new(shared, whole, pin))))
    }
}

fn lacking_for_indexes(
    catalogue: &Catalogue,
    base: &Arc<Snapshot>,
    snapshot: &Arc<Snapshot>,
) -> Result<Vec<PackRef>, ImportError> {
    let mut lacking = Vec::new();
    let roots = |of: &Arc<Snapshot>| {
        let id = of.id;
        of.manifest.indexes.clone().into_iter().map(move |root| (id, root))
    };
    for (id, root) in roots(base).chain(roots(snapshot)) {
        let place = catalogue.index(&root).ok_or_else(|| ImportError::Contradiction {
            snapshot: id,
            reason: format!("no listed pack holds the index {}", root.short()),
        })?;
        let pack = catalogue.pack(place.pack);
        if catalogue.is_foreign(place.pack) && !lacking.contains(&pack) {
            lacking.push(pack);
        }
    }
    Ok(lacking)
}

fn lacking_for_regions(whole: &Whole, lazy: &[RegionName]) -> Vec<PackRef> {
    let catalogue = &whole.catalogue;
    let places = |may_wait: bool| {
        let regions = whole.snapshot.manifest.regions.iter().map(|region| &region.name);
        let regions = regions.filter(move |name| lazy.contains(name) == may_wait);
        let chunks = regions.flat_map(|name| whole.located.chunks_from(name, 0));
        chunks.map(|(_, chunk)| catalogue.place(chunk))
    };
    let mut blocks = catalogue.blocks_needed(places(false).map(|place| catalogue.block_of(place)));
    // What stands alone can be had one by one, whether it is wanted or another chunk refers to it.
    let together = places(true).filter(|place| !catalogue.is_alone(*place));
    let needed = catalogue.blocks_needed(together.map(|place| catalogue.block_of(place)));
    blocks.extend(needed.into_iter().filter(|block| !catalogue.is_block_alone(*block)));
    let packs: BTreeSet<u32> = blocks.into_iter().map(|block| block.pack).collect();
    packs.into_iter().filter(|pack| catalogue.is_foreign(*pack)).map(|pack| catalogue.pack(pack)).collect()
}
