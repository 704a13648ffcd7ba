//! When each pack was checked last: a small file that makes scrubbing resumable. Losing it costs no more than checking
//! again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sustain_proto::{Format, PackId, decode, encode};

use crate::disk::Disk;
use crate::error::DiskContext;
use crate::layout::Layout;
use crate::publish::{TemporaryFile, new_name};
use crate::store::{Shared, Store};
use crate::{Fault, limits};

pub(crate) const FORMAT: Format = Format {
    name: "list of checked packs",
    magic: *b"SUSc",
    version: 1,
    bytes_max: limits::CHECKED_BYTES_MAX,
};

/// What was checked when. Times are milliseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checked {
    /// When the full pass began that has not ended yet.
    pub(crate) began_ms: Option<u64>,
    /// When a full pass ended last.
    pub(crate) full_ms: Option<u64>,
    /// When each pack was found good last.
    pub(crate) packs: BTreeMap<PackId, u64>,
}

/// When a store was last scrubbed, in milliseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// When the pass over all packs began that has not ended yet.
    pub began_ms: Option<u64>,
    /// When such a pass ended last.
    pub full_ms: Option<u64>,
    /// Packs that are here.
    pub packs: u64,
    /// Those of them that were never found good: they came after the last pass, or it has not met them yet.
    pub packs_unchecked: u64,
}

impl Store {
    /// When the store was last scrubbed.
    #[must_use]
    pub fn scrubbed(&self) -> Scrubbed {
        let Checked { began_ms, full_ms, packs: checked } =
            Checked::read(self.shared.disk.as_ref(), &self.shared.layout);
        let state = self.shared.state();
        let unchecked = state.packs.keys().filter(|id| !checked.contains_key(id));
        Scrubbed {
            began_ms,
            full_ms,
            packs: state.packs.len() as u64,
            packs_unchecked: unchecked.count() as u64,
        }
    }

    /// Bytes of all packs that are here.
    #[must_use]
    pub fn packs_bytes(&self) -> u64 {
        self.shared.state().packs.values().sum()
    }
}

impl Checked {
    /// Reads the file. One that is missing or damaged says nothing.
    pub(crate) fn read(disk: &dyn Disk, layout: &Layout) -> Self {
        let read = || {
            let file = disk.open(&layout.checked(), false).ok()?;
            let bytes = file.bytes().ok().filter(|bytes| *bytes <= limits::CHECKED_BYTES_MAX as u64)?;
            let mut encoded = vec![0; usize::try_from(bytes).ok()?];
            file.read_at(0, &mut encoded).ok()?;
            decode(FORMAT, &encoded).ok()
        };
        read().unwrap_or_default()
    }

    /// Writes the file so that it is there whole or as it was.
    pub(crate) fn write(&self, shared: &Shared) -> Result<(), Fault> {
        let path = shared.layout.checked();
        // More packs than fit are checked again sooner.
        let mut cut = self.clone();
        while cut.packs.len() > limits::CHECKED_PACKS_MAX {
            cut.packs.pop_last();
        }
        let encoded = encode(FORMAT, &cut).map_err(|error| Fault::damaged(&path, error))?;
        let folder = shared.layout.temporaries();
        let temporary = TemporaryFile::create(&shared.disk, folder.join(new_name("checked")?))?;
        temporary.file().write_at(0, &encoded).during("write", temporary.path())?;
        temporary.file().sync().during("sync", temporary.path())?;
        temporary.rename(&path)
    }
}
