//! Which pages of a guest's memory were written to since one looked last.
//!
//! ```text
//! Tracker ── Protected: the kernel notes writes (preload/ + pagemap)      a look takes 0.3 ms for 256 MiB
//!         └─ Compared: all memory is compared with a copy of it           a look takes 50 ms, and the copy
//! ```
//! The first takes Linux 6.7 and rights that every user has unless something was forbidden on purpose; see
//! [`probe`] for what can stand in its way and what to set. The second works everywhere.
//!
//! What neither sees: writes past the processor's page tables. QEMU's own are seen, and so are the kernel's on
//! its behalf (a socket read into guest memory). A disk with `O_DIRECT` or `io_uring` with registered buffers
//! could write by DMA to a page that was looked up before a look and is filled after it, so no VM gets one.

mod compared;
mod page_set;
mod pagemap;
mod preload;
mod probe;
mod protected;

use std::fs::File;
use std::io;

use sustain_store::RegionSource;

pub(crate) use compared::Compared;
#[cfg(test)]
pub(crate) use page_set::PAGE_BYTES;
pub(crate) use page_set::{CHUNK_BYTES, PageSet, runs};
pub(crate) use preload::Announcement;
pub(crate) use probe::probe;
pub(crate) use protected::Protected;

/// Finds what was written.
pub(crate) trait Tracker: Send {
    /// Puts the pages that were written since the last look into the set. What is written from then on, the
    /// next look finds.
    ///
    /// # Errors
    /// If the look fails halfway: then every page has to be taken for written.
    fn look(&mut self, written: &mut PageSet) -> io::Result<()>;

    /// What the pages that were found are to be read from, after the look that found them.
    fn source(&self) -> &dyn RegionSource;

    /// Whether the source changes by looks only. If not, it changes under the reader while the guest runs.
    fn is_still(&self) -> bool;
}

/// Finds out how the writes of this QEMU can be tracked. What was written before is put into the set: everything, if
/// it can't be known.
///
/// # Errors
/// If there is no memory for the second way.
pub(crate) fn choose(
    announcement: Option<Announcement>,
    pid: u32,
    memory: &File,
    written: &mut PageSet,
) -> io::Result<Box<dyn Tracker>> {
    if let Some(announcement) = announcement {
        match Protected::new(announcement, pid, memory, written) {
            Ok(tracker) => return Ok(Box::new(tracker)),
            Err(obstacle) => obstacle.warn_once(),
        }
    }
    written.fill();
    Ok(Box::new(Compared::new(memory)?))
}
