//! The guest's memory in a snapshot: as much as possible is taken before the pause, and in it only what was written
//! since.
//!
//! ```text
//! guest runs     look · offer what changed, from the memory itself      } while it is too much to be staged
//!                look · stage what was written                          } until it is little
//! guest stands   look · stage what was written
//! guest runs     offer what was staged
//! ```
//! A page that is written while it is read may be torn, but then the next look finds it, and it is taken again; the
//! last look finds what no later one has to. Where looks compare all memory with a copy, the copy is what is
//! offered after the pause, and a look while the guest runs only saves the one in the pause from copying.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sustain_proto::RegionName;
use sustain_store::RegionSource;

use crate::driver::{REGION_RAM, SnapshotScope, SnapshotSink};
use crate::error::SnapshotError;
use crate::limits::{self, DIRECT_ROUNDS_MAX, PAUSE_RESERVE_CHUNKS, STAGE_PAGES_FEW, STAGE_ROUNDS_MAX};
use crate::staging::Staging;
use crate::tracking::{CHUNK_BYTES, PageSet, Tracker};

/// The guest's memory, and what of it is not stored yet.
pub(crate) struct GuestMemory {
    file: File,
    tracker: Box<dyn Tracker>,
    staging: Staging,
    /// Written since the last snapshot that was stored. The sets below are parts of it.
    unsaved: PageSet,
    /// What the last look found.
    late: PageSet,
    /// Of this snapshot: what has to be offered after the pause.
    rest: PageSet,
    /// Whether everything in `unsaved` is in a snapshot that was taken.
    taken: bool,
}

impl GuestMemory {
    /// A memory of which these pages were written since it was stored.
    pub(crate) fn new(file: File, tracker: Box<dyn Tracker>, unsaved: PageSet, run_dir: &Path) -> Self {
        let bytes = unsaved.bytes();
        let empty = || PageSet::empty(bytes);
        Self {
            file,
            tracker,
            staging: Staging::new(bytes, limits::staging_bytes_max(bytes), run_dir),
            late: empty(),
            rest: empty(),
            unsaved,
            taken: false,
        }
    }

    /// What was taken last is stored.
    pub(crate) fn committed(&mut self) {
        // Looks are part of snapshots only, so nothing was found since.
        if std::mem::take(&mut self.taken) {
            self.unsaved.clear();
        }
    }

    fn look(&mut self) -> Result<(), SnapshotError> {
        self.late.clear();
        match self.tracker.look(&mut self.late) {
            Ok(()) => {
                self.unsaved.join(&self.late);
                Ok(())
            }
            Err(source) => {
                // What it found before it failed is protected again and not found another time.
                self.unsaved.fill();
                Err(SnapshotError::Track { source })
            }
        }
    }

    fn stage_late(&mut self) -> Result<(), SnapshotError> {
        self.rest.join(&self.late);
        let staged = self.staging.stage(&self.file, &self.late);
        staged.map_err(|source| SnapshotError::MemoryFile { doing: "copy the guest's memory", source })
    }

    /// While the guest runs: takes nearly everything.
    pub(crate) fn before_pause(
        &mut self,
        scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<(), SnapshotError> {
        self.taken = false;
        self.rest.clear();
        self.staging.clear(limits::STAGING_KEPT_BYTES);
        if scope == SnapshotScope::Whole {
            self.unsaved.fill();
        }
        self.look()?;
        if self.tracker.is_still() {
            return Ok(());
        }
        let staged_max = limits::staging_bytes_max(self.unsaved.bytes()) / CHUNK_BYTES;
        self.late.clone_from(&self.unsaved);
        if scope == SnapshotScope::Whole {
            offer(sink, REGION_RAM, self.tracker.source(), None)?;
            self.look()?;
        }
        for _ in 0..DIRECT_ROUNDS_MAX {
            if self.late.chunk_count() <= staged_max {
                break;
            }
            offer(sink, REGION_RAM, self.tracker.source(), Some(&self.late.chunk_ranges()))?;
            self.look()?;
        }
        for _ in 0..STAGE_ROUNDS_MAX {
            self.stage_late()?;
            self.look()?;
            if self.late.pages() <= STAGE_PAGES_FEW {
                break;
            }
        }
        self.stage_late()?;
        self.staging.reserve(PAUSE_RESERVE_CHUNKS);
        Ok(())
    }

    /// While it stands: takes what was written meanwhile.
    pub(crate) fn in_pause(&mut self) -> Result<(), SnapshotError> {
        self.look()?;
        if self.tracker.is_still() { Ok(()) } else { self.stage_late() }
    }

    /// When it runs again: hands over what is left.
    pub(crate) fn after_pause(
        &mut self,
        scope: SnapshotScope,
        sink: &mut dyn SnapshotSink,
    ) -> Result<(), SnapshotError> {
        if !self.tracker.is_still() {
            // Also if nothing is left: a region that is never offered would not be part of the snapshot.
            offer(sink, REGION_RAM, &self.staging, Some(&self.rest.chunk_ranges()))?;
        } else if scope == SnapshotScope::Whole {
            offer(sink, REGION_RAM, self.tracker.source(), None)?;
        } else {
            offer(sink, REGION_RAM, self.tracker.source(), Some(&self.unsaved.chunk_ranges()))?;
        }
        self.taken = true;
        Ok(())
    }

    /// All of it, for tests that compare.
    pub(crate) fn read_whole(&self) -> Result<Vec<u8>, SnapshotError> {
        let mut bytes = vec![0; usize::try_from(self.unsaved.bytes()).unwrap_or(usize::MAX)];
        let read = self.file.read_exact_at(&mut bytes, 0);
        read.map_err(|source| SnapshotError::MemoryFile { doing: "copy all of the guest's memory", source })?;
        Ok(bytes)
    }
}

/// Hands a region, or what changed of it, to the sink.
pub(crate) fn offer(
    sink: &mut dyn SnapshotSink,
    name: &str,
    source: &dyn RegionSource,
    changed: Option<&[Range<u64>]>,
) -> Result<(), SnapshotError> {
    let region = RegionName::new(name).map_err(|error| SnapshotError::Save { reason: error.to_string() })?;
    sink.region(&region, source, changed).map_err(|source| SnapshotError::Sink { region, source })
}
