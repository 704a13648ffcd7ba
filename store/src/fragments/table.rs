//! What is known of the fragments of a service: where each is, and what is on its way to the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sustain_proto::{FragmentId, Manifest, PackRef, SnapshotId};

use super::record::{Header, Key, Kind, Salt};
use super::scan::Found;
use crate::disk::DiskFile;

/// Where a record is, and what one has to know of it without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) at: u64,
    pub(crate) pack: PackRef,
    pub(crate) fragment: FragmentId,
    pub(crate) sheet_bytes: u32,
    pub(crate) fragment_bytes: u64,
    pub(crate) sheet_check: [u8; 16],
}

impl Place {
    pub(crate) fn of(segment: u32, found: &Found) -> Self {
        let Header { pack, fragment, sheet_bytes, fragment_bytes, sheet_check, .. } = found.header;
        Self { segment, at: found.place, pack, fragment, sheet_bytes, fragment_bytes, sheet_check }
    }

    /// The header that it was read from, as far as it matters here.
    pub(crate) fn header(&self, key: &Key) -> Header {
        Header {
            kind: if key.index.is_some() { Kind::Fragment } else { Kind::Sheet },
            index: key.index.unwrap_or_default(),
            cut: key.cut,
            pack: self.pack,
            fragment: self.fragment,
            sheet_bytes: self.sheet_bytes,
            fragment_bytes: self.fragment_bytes,
            sheet_check: self.sheet_check,
            synced: 0,
        }
    }
}

/// The segment that is appended to.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: Salt,
    pub(crate) end: u64,
    pub(crate) synced: u64,
    /// Its last record is a mark.
    pub(crate) marked: bool,
}

/// A record that was written and is not known to be on the disk.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) place: Place,
    /// It was received into a file of its own, which goes then.
    pub(crate) from_part: bool,
}

/// A manifest that is kept, whether its packs are here or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptManifest {
    /// Its snapshot's id.
    pub id: SnapshotId,
    /// What it says.
    pub manifest: Manifest,
    /// The bytes that its id names.
    pub encoded: Vec<u8>,
}

/// The fragments, sheets and manifests of a service.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// Each segment, and how many of its records are needed.
    pub(crate) segments: BTreeMap<u32, usize>,
    pub(crate) records: BTreeMap<Key, Place>,
    pub(crate) names: BTreeMap<FragmentId, Key>,
    /// Records that are damaged, until they are dropped.
    pub(crate) aside: Vec<(Key, Place)>,
    pub(crate) manifests: BTreeMap<SnapshotId, Arc<KeptManifest>>,
    /// Manifests that can't be read, and may list any pack.
    pub(crate) unreadable: BTreeSet<SnapshotId>,
    /// The greatest number that a segment was given.
    pub(crate) last_number: u32,
    /// The folder of manifests is there, and lasts.
    pub(crate) has_manifests: bool,
    pub(crate) current: Option<Current>,
    /// Segments that were full before they were synced.
    pub(crate) full: Vec<Current>,
    pub(crate) pending: BTreeMap<Key, Pending>,
    /// The folder has new names since it was synced.
    pub(crate) new_names: bool,
    /// Fragments that are being received here.
    pub(crate) receiving: BTreeSet<FragmentId>,
    /// Files of fragments in the making.
    pub(crate) parts: BTreeSet<FragmentId>,
}

impl Shelf {
    /// Makes a record visible.
    pub(crate) fn show(&mut self, key: Key, place: Place) {
        if key.index.is_some() {
            self.names.insert(place.fragment, key);
        }
        self.records.insert(key, place);
    }

    /// Takes a record out of sight.
    pub(crate) fn hide(&mut self, key: &Key) -> Option<Place> {
        let place = self.records.remove(key)?;
        if self.names.get(&place.fragment) == Some(key) {
            self.names.remove(&place.fragment);
        }
        Some(place)
    }

    /// Whether it is here, or on its way to the disk.
    pub(crate) fn has(&self, key: &Key) -> bool {
        self.records.contains_key(key) || self.pending.contains_key(key)
    }

    /// A record of a segment is not needed any more. Whether none of its records is.
    pub(crate) fn release(&mut self, segment: u32) -> bool {
        let Some(needed) = self.segments.get_mut(&segment) else { return false };
        *needed = needed.saturating_sub(1);
        *needed == 0
    }

    /// A number for the next segment, which none had: the file of one that was dropped may be about to be removed.
    pub(crate) fn next_number(&mut self) -> u32 {
        let known = self.segments.last_key_value().map_or(0, |(last, _)| *last);
        self.last_number = self.last_number.max(known).saturating_add(1);
        self.last_number
    }
}
