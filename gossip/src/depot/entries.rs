//! On a service's server: what its store retains, as a catalog is to list it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{Cut, PackId, PackRef, ServiceName, SnapshotId};
use sustain_store::{Appended, Pace, ReadError, SnapshotInfo, StoredSheet, error_chain};

use super::{Depot, DepotError};
use crate::keeper::{Catalog, Entry, Pack, Part};

impl Depot {
    /// Everything that the store retains of a service that this node serves, oldest first. Packs that are in the
    /// catalog that is known stay cut as they are; new ones are cut like this, and their sheets are kept. A snapshot
    /// that is damaged here is among them, since others have it: what it lacks [`Depot::lacking`] tells.
    pub(crate) fn entries(
        &self,
        service: &ServiceName,
        cut: Option<Cut>,
        known: Option<&Catalog>,
    ) -> Result<Vec<Entry>, DepotError> {
        let lost = self.bring_back(service, known)?;
        let retained = self.store.snapshots_known(service);
        let mut packs: BTreeMap<PackId, Pack> = BTreeMap::new();
        let lines = self.known();
        let entries = lines.of_service(service).flat_map(|catalog| &catalog.entries);
        let entries = entries.chain(known.into_iter().flat_map(|known| &known.entries));
        packs.extend(entries.flat_map(|entry| &entry.packs).map(|pack| (pack.id, *pack)));
        let retained_ids: BTreeSet<SnapshotId> = retained.iter().map(|(info, _)| info.id).collect();
        let mut list: Vec<Entry> =
            lost.into_iter().filter(|entry| !retained_ids.contains(&entry.id)).collect();
        let mut sheets = Vec::new();
        for (info, _) in retained {
            let (manifest, encoded) = match self.store.manifest(info.id) {
                // It was dropped in this moment.
                Err(ReadError::NotFound { .. }) => continue,
                found => found?,
            };
            let mut listed = Vec::with_capacity(manifest.packs.len());
            for reference in manifest.packs {
                let pack = match packs.get(&reference.id) {
                    Some(pack) => *pack,
                    None => self.new_pack(service, reference, cut, &mut sheets)?,
                };
                packs.insert(pack.id, pack);
                listed.push(pack);
            }
            list.push(entry(&info, encoded, listed));
        }
        if !sheets.is_empty() {
            self.fragments.sync(&sheets)?;
        }
        Ok(list)
    }

    /// A pack that no catalog lists yet.
    fn new_pack(
        &self,
        service: &ServiceName,
        PackRef { id, bytes }: PackRef,
        cut: Option<Cut>,
        sheets: &mut Vec<Appended>,
    ) -> Result<Pack, DepotError> {
        let pack = Pack { id, bytes, cut: None, sheet: None, added: 0 };
        // One that is lacking here can't be cut. It goes to those who hold whole packs, if anybody has it.
        let Some(cut) = cut.filter(|_| self.store.has_pack(&id)) else { return Ok(pack) };
        let stored = match self.fragments.sheet(service, &id)? {
            Some(bytes) => sustain_proto::Sheet::decode(&bytes).ok().filter(|sheet| sheet.cut == cut),
            None => None,
        };
        let sheet = match stored {
            Some(sheet) => StoredSheet::unsigned(sheet)?,
            None => {
                let mut nowhere = |_: u8, _: &[u8]| Ok(());
                let sheet = self.store.cut_pack(service, id, cut, &[], Pace::Behind, &mut nowhere)?;
                let sheet = StoredSheet::unsigned(sheet)?;
                sheets.push(self.fragments.put_sheet(&sheet)?);
                sheet
            }
        };
        Ok(Pack { cut: Some(cut), sheet: Some(*blake3::hash(&sheet.bytes).as_bytes()), ..pack })
    }

    /// Manifests that the store has lost, as its opening found, come back from the catalog: nobody has let these
    /// snapshots go. Those that can't come back yet, since packs of theirs are lost, too.
    fn bring_back(&self, service: &ServiceName, known: Option<&Catalog>) -> Result<Vec<Entry>, DepotError> {
        let lines = self.known();
        let entries = lines.of_service(service).flat_map(|catalog| &catalog.entries);
        let entries: BTreeMap<SnapshotId, &Entry> =
            entries.chain(known.into_iter().flat_map(|known| &known.entries)).map(|e| (e.id, e)).collect();
        let lost: BTreeSet<SnapshotId> = self.store.forget_lost(true)?;
        let mut still_lost = Vec::new();
        for entry in lost.iter().filter_map(|id| entries.get(id).copied()) {
            let base = entry.base.and_then(|base| entries.get(&base).copied());
            let manifests: Vec<Vec<u8>> =
                base.into_iter().chain([entry]).map(|entry| entry.manifest.to_vec()).collect();
            if let Err(error) = self.store.import(&manifests) {
                let why = error_chain(&error);
                tracing::warn!(snapshot = %entry.id, why, "a lost manifest can't come back yet");
                still_lost.push(entry.clone());
            }
        }
        Ok(still_lost)
    }

    /// Whole packs that entries list and that are not here: they were lost or found to be damaged.
    pub(crate) fn lacking(&self, entries: &[Entry]) -> Vec<Part> {
        let packs = entries.iter().flat_map(|entry| &entry.packs);
        let lacking = packs.filter(|pack| !self.store.has_pack(&pack.id)).map(|pack| (pack.id, pack.whole()));
        lacking.collect::<BTreeMap<_, _>>().into_values().collect()
    }
}

fn entry(info: &SnapshotInfo, manifest: Vec<u8>, packs: Vec<Pack>) -> Entry {
    let SnapshotInfo { id, term, origin, seq, base, .. } = *info;
    Entry { id, term, origin, seq, added: 0, base, manifest: Arc::from(manifest), packs }
}
