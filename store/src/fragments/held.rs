//! What is held, and what becomes of what is found to be damaged.

use std::collections::BTreeMap;

use serde::Serialize;
use sustain_proto::{Cut, FragmentId, PackId, PackRef, ServiceName};

use super::reader::{FragmentReader, check_all, read_sheet};
use super::record::{Header, Key, RECORD_HEADER_BYTES, State};
use super::settle::write_state;
use super::table::{Place, Shelf};
use super::{FragmentError, Fragments, Inner};
use crate::{BadFile, Fault};

/// A fragment that is held, or a sheet alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldFragment {
    /// The pack.
    pub pack: PackRef,
    /// How it is cut.
    pub cut: Cut,
    /// Which of its fragments this is; none of a sheet alone.
    pub index: Option<u8>,
    /// The fragment; zeros of a sheet alone.
    pub fragment: FragmentId,
    /// Bytes of the fragment.
    pub bytes: u64,
    /// The first half of the BLAKE3 of the stored sheet.
    pub sheet_check: [u8; 16],
}

/// What the fragments of a service take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FragmentUsage {
    /// How many fragments are held.
    pub fragments: usize,
    /// Bytes of these, as they are stored with their sheets, and of sheets alone.
    pub bytes: u64,
    /// How many are damaged, and were set aside.
    pub aside: usize,
}

fn describe((key, place): (&Key, &Place)) -> HeldFragment {
    let Place { pack, fragment, fragment_bytes, sheet_check, .. } = *place;
    HeldFragment { pack, cut: key.cut, index: key.index, fragment, bytes: fragment_bytes, sheet_check }
}

/// The records of a pack.
fn of_pack<'a>(shelf: &'a Shelf, pack: &PackId) -> impl Iterator<Item = (&'a Key, &'a Place)> {
    let pack = *pack;
    let first = Key { pack, cut: Cut { needed: 0, total: 0, extent_bytes: 0 }, index: None };
    shelf.records.range(first..).take_while(move |(key, _)| key.pack == pack)
}

impl Fragments {
    /// What is held of a service, by pack.
    #[must_use]
    pub fn held(&self, service: &ServiceName) -> Vec<HeldFragment> {
        let shelves = self.0.shelves();
        shelves.get(service).into_iter().flat_map(|shelf| shelf.records.iter()).map(describe).collect()
    }

    /// What is held of a pack.
    #[must_use]
    pub fn of_pack(&self, service: &ServiceName, pack: &PackId) -> Vec<HeldFragment> {
        let shelves = self.0.shelves();
        shelves.get(service).into_iter().flat_map(|shelf| of_pack(shelf, pack)).map(describe).collect()
    }

    /// What is held of each service.
    #[must_use]
    pub fn usage(&self) -> BTreeMap<ServiceName, FragmentUsage> {
        let bytes = |(key, place): (&Key, &Place)| place.header(key).record_bytes();
        let usage = |shelf: &Shelf| FragmentUsage {
            fragments: shelf.records.keys().filter(|key| key.index.is_some()).count(),
            bytes: shelf.records.iter().map(bytes).sum(),
            aside: shelf.aside.len(),
        };
        self.0.shelves().iter().map(|(service, shelf)| (service.clone(), usage(shelf))).collect()
    }

    /// What opening found to be damaged.
    #[must_use]
    pub fn bad(&self) -> &[BadFile] {
        &self.0.bad
    }

    /// Opens a fragment that is held, by its id.
    ///
    /// # Errors
    /// If it is not here, or damaged, or the disk fails.
    pub fn open(&self, id: &FragmentId) -> Result<FragmentReader, FragmentError> {
        let found = self.0.shelves().iter().find_map(|(service, shelf)| {
            let key = shelf.names.get(id)?;
            Some((service.clone(), *key, *shelf.records.get(key)?))
        });
        let (service, key, place) = found.ok_or(FragmentError::NotFound { id: *id })?;
        FragmentReader::open(&self.0, &service, (key, place))
    }

    /// The sheet of a pack as it was given with one of its fragments, or alone. None if none is here.
    ///
    /// # Errors
    /// If all that are here are damaged, or the disk fails.
    pub fn sheet(&self, service: &ServiceName, pack: &PackId) -> Result<Option<Vec<u8>>, FragmentError> {
        let places: Vec<(Key, Place)> = {
            let shelves = self.0.shelves();
            let found = shelves.get(service).into_iter().flat_map(|shelf| of_pack(shelf, pack));
            found.map(|(key, place)| (*key, *place)).collect()
        };
        let mut outcome = Ok(None);
        for (key, place) in places {
            match self.0.read_sheet(service, (key, place)) {
                Ok(sheet) => return Ok(Some(sheet)),
                Err(FragmentError::NotFound { .. }) => {}
                Err(FragmentError::Damaged { .. }) => {
                    outcome = Err(FragmentError::SheetDamaged { pack: *pack });
                }
                Err(error) => return Err(error),
            }
        }
        outcome
    }
}

impl Inner {
    fn read_sheet(&self, service: &ServiceName, record: (Key, Place)) -> Result<Vec<u8>, FragmentError> {
        let (key, place) = record;
        let path = self.shared.layout.segment(service, place.segment);
        let file = self.shared.disk.open(&path, false).map_err(|error| Fault::reading(&path, error));
        let sheet = file.and_then(|file| read_sheet(&path, file.as_ref(), &place.header(&key), place.at));
        sheet.map_err(|fault| self.doubt(service, record, fault))
    }

    /// A record could not be read. If it was dropped meanwhile, it is not here. If it is damaged, it is set aside.
    pub(super) fn doubt(
        &self,
        service: &ServiceName,
        (key, place): (Key, Place),
        fault: Fault,
    ) -> FragmentError {
        let id = place.fragment;
        // What went wrong on the way from the disk is no damage.
        if !fault.is_unreadable() || self.check(service, &key, &place).is_ok() {
            return fault.into();
        }
        let mut shelves = self.shelves();
        let shelf = shelves.get_mut(service);
        let Some(shelf) = shelf.filter(|shelf| shelf.records.get(&key) == Some(&place)) else {
            return FragmentError::NotFound { id };
        };
        if self.lock.is_none() {
            return if self.is_dropped(service, &place) {
                FragmentError::NotFound { id }
            } else {
                FragmentError::Damaged { id }
            };
        }
        shelf.hide(&key);
        shelf.aside.push((key, place));
        drop(shelves);
        tracing::warn!(fragment = %id, pack = %place.pack.id, %fault, "a damaged fragment is set aside");
        let path = self.shared.layout.segment(service, place.segment);
        // What can't be noted is found again.
        let noted = self.shared.disk.open(&path, true).map_err(|error| Fault::reading(&path, error));
        let noted = noted.and_then(|file| write_state(&path, file.as_ref(), place.at, State::Aside));
        if let Err(error) = noted {
            tracing::debug!(%error, "a damaged fragment is not noted");
        }
        FragmentError::Damaged { id }
    }

    /// Reads all of a record.
    fn check(&self, service: &ServiceName, key: &Key, place: &Place) -> Result<(), Fault> {
        let path = self.shared.layout.segment(service, place.segment);
        let file = self.shared.disk.open(&path, false).map_err(|error| Fault::reading(&path, error))?;
        check_all(&path, file.as_ref(), &place.header(key), place.at, |_| Ok(()))
    }

    /// Whether a record that was found to be damaged was not dropped meanwhile.
    pub(super) fn is_held(&self, service: &ServiceName, (key, place): &(Key, Place)) -> bool {
        let known = self.shelves().get(service).is_some_and(|shelf| shelf.records.get(key) == Some(place));
        known && (self.lock.is_some() || !self.is_dropped(service, place))
    }

    /// Whether its keeper has dropped a record that this process only looks at.
    fn is_dropped(&self, service: &ServiceName, place: &Place) -> bool {
        let path = self.shared.layout.segment(service, place.segment);
        let Ok(file) = self.shared.disk.open(&path, false) else { return true };
        let (mut head, mut header) = ([0; super::record::SEGMENT_HEADER_BYTES], [0; RECORD_HEADER_BYTES]);
        if file.read_at(0, &mut head).is_err() || file.read_at(place.at, &mut header).is_err() {
            return true;
        }
        let salt = super::record::read_segment_header(&head);
        let found = salt.ok().and_then(|salt| Header::decode(salt, place.at, &header));
        found.is_some_and(|(found, state)| found.fragment != place.fragment || state >= State::Dropped)
    }
}
