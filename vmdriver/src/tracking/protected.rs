//! The tracker that the kernel works for: see [`Pagemap`] and the crate in `preload/`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use sustain_store::{FileSource, RegionSource};

use super::Tracker;
use super::page_set::PageSet;
use super::pagemap::Pagemap;
use super::preload::{Announcement, Obstacle, Protection};

/// Pages are found by their lost write protection, and read in the guest's memory itself.
#[derive(Debug)]
pub(crate) struct Protected {
    pagemap: Pagemap,
    source: FileSource,
    /// Keeps the protection up.
    _descriptor: OwnedFd,
}

impl Protected {
    /// Takes over from the library in QEMU, and looks for the first time: what QEMU wrote since it began is put
    /// into the set. The kernel may lack what this takes, or forbid it: better known now than at a snapshot.
    pub(crate) fn new(
        announcement: Announcement,
        pid: u32,
        memory: &File,
        written: &mut PageSet,
    ) -> Result<Self, Obstacle> {
        let Protection { descriptor, address, bytes } = announcement.receive(pid)?;
        let failed = |source| Obstacle::Look { source };
        let mut pagemap = Pagemap::open(pid, address, bytes).map_err(failed)?;
        pagemap.scan(written).map_err(failed)?;
        let source = memory.try_clone().and_then(FileSource::from_file).map_err(failed)?;
        Ok(Self { pagemap, source, _descriptor: descriptor })
    }
}

impl Tracker for Protected {
    fn look(&mut self, written: &mut PageSet) -> io::Result<()> {
        self.pagemap.scan(written)
    }

    fn source(&self) -> &dyn RegionSource {
        &self.source
    }

    fn is_still(&self) -> bool {
        false
    }
}
