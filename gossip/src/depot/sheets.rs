//! Sheets, which name the fragments of packs, and the manifests that are kept so that what fragments are for is known.

use std::collections::BTreeSet;

use sustain_proto::{PackId, ServiceName, Sheet, SnapshotId};
use sustain_store::StoredSheet;

use super::known::Known;
use super::{Depot, DepotError};
use crate::keeper::Pack;
use crate::transport::links::lock;

impl Depot {
    /// Decodes a sheet, if it is the one that the catalog names.
    pub(super) fn check_sheet(&self, pack: &Pack, bytes: Vec<u8>) -> Result<StoredSheet, DepotError> {
        let wrong = DepotError::WrongSheet { pack: pack.id };
        if pack.sheet.as_ref() != Some(blake3::hash(&bytes).as_bytes()) {
            return Err(wrong);
        }
        let Ok(sheet) = Sheet::decode(&bytes) else { return Err(wrong) };
        sheet.check().map_err(|source| DepotError::Sheet { pack: pack.id, source })?;
        let is_of_pack =
            (sheet.pack.id, sheet.pack.bytes, Some(sheet.cut)) == (pack.id, pack.bytes, pack.cut);
        // A server speaks for its service only.
        let is_of_service = self
            .known()
            .listing(&pack.id)
            .any(|(catalog, _, listed)| catalog.service == sheet.service && listed.sheet == pack.sheet);
        if is_of_pack && is_of_service { Ok(StoredSheet { sheet, bytes }) } else { Err(wrong) }
    }

    /// Has a sheet at hand as long as parts of its pack are coming, and stored when one is.
    pub(super) fn note_sheet(&self, pack: &Pack, sheet: StoredSheet) {
        lock(&self.sheets).insert(pack.id, sheet);
    }

    /// Sheets of packs of which nothing is coming any more need not be at hand.
    pub(super) fn forget_sheets(&self, packs: impl Iterator<Item = PackId>) {
        let packs: BTreeSet<PackId> = packs.collect();
        let coming: BTreeSet<PackId> = lock(&self.coming).keys().map(|part| part.pack).collect();
        lock(&self.sheets).retain(|pack, _| !packs.contains(pack) || coming.contains(pack));
    }

    /// The sheet of a pack, if it is here and the one that the catalog names.
    pub(super) fn sheet(&self, pack: &Pack) -> Result<Option<StoredSheet>, DepotError> {
        let noted = lock(&self.sheets).get(&pack.id).cloned();
        if let Some(noted) = noted.filter(|noted| pack.sheet == Some(*blake3::hash(&noted.bytes).as_bytes()))
        {
            return Ok(Some(noted));
        }
        let services: BTreeSet<ServiceName> =
            self.known().listing(&pack.id).map(|(catalog, ..)| catalog.service.clone()).collect();
        for service in services {
            if let Some(bytes) = self.fragments.sheet(&service, &pack.id)? {
                // There may be one of another cut.
                match self.check_sheet(pack, bytes) {
                    Err(DepotError::WrongSheet { .. }) => {}
                    sheet => return sheet.map(Some),
                }
            }
        }
        Ok(None)
    }

    /// Keeps the manifests of a service, if anything of it is cut.
    pub(super) fn keep_manifests(&self, known: &Known, service: &ServiceName) -> Result<(), DepotError> {
        let kept = self.manifests_kept(service);
        let manifests = known.manifests(service).into_iter().filter(|(id, _)| !kept.contains(id));
        let manifests: Vec<Vec<u8>> = manifests.map(|(_, manifest)| manifest.to_vec()).collect();
        if !manifests.is_empty() {
            self.fragments.keep_manifests(&manifests)?;
        }
        Ok(())
    }

    fn manifests_kept(&self, service: &ServiceName) -> BTreeSet<SnapshotId> {
        self.fragments.manifests(service).iter().map(|kept| kept.id).collect()
    }

    /// Keeps those manifests of a service no longer that no catalog lists, unless one is damaged: it may list them.
    pub(super) fn release_manifests(&self, service: &ServiceName) -> Result<(), DepotError> {
        let known = self.known();
        if !known.is_certain(service) {
            return Ok(());
        }
        let needed = known.manifests(service);
        let mut unneeded = self.manifests_kept(service);
        unneeded.retain(|id| !needed.contains_key(id));
        if !unneeded.is_empty() {
            self.fragments.release(&unneeded)?;
        }
        Ok(())
    }
}
