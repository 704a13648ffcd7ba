//! What differs between two snapshots of a service: pages of regions and, where a region holds an ext4 file system,
//! whose they are.

mod files;
mod pages;
mod paths;
mod spans;

use std::io;
use std::sync::Arc;

use serde::Serialize;
use sustain_proto::{RegionName, ServiceName};
use sustain_store::{Progress, ReadError, SnapshotReader};

pub(crate) use self::files::map as fuzz_map;
pub use self::files::{FileChange, FileKind, FilesDiff};
use self::pages::Side;
pub use self::spans::Span;
use crate::ext4::{self, Bytes, Ext4Fault};
use crate::limits;
use crate::view::{ChunkFault, Chunks, RegionView};

/// What differs in a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegionDiff {
    /// The region.
    pub region: RegionName,
    /// Its size in the earlier snapshot; none if that has no such region.
    pub bytes_before: Option<u64>,
    /// Its size in the later one; none if that has no such region.
    pub bytes_after: Option<u64>,
    /// Chunks that are not the same, as far as both go. Only these were decoded.
    pub chunks_changed: u64,
    /// Pages of 4 KiB that are not the same. What only one of the two has counts as changed.
    pub pages_changed: u64,
    /// Bytes in those pages.
    pub bytes_changed: u64,
    /// Where they are.
    pub ranges: Vec<Span>,
    /// Whether there were so many ranges that some are of whole chunks.
    pub coarse: bool,
    /// Whose they are, if the later snapshot's region holds an ext4 file system.
    pub ext4: Option<FilesDiff>,
    /// Why it is not known whose they are although there is such a file system.
    pub ext4_problem: Option<String>,
}

/// Why two snapshots can't be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// They are of different services.
    #[error("the snapshots are of two services, {before} and {after}")]
    Services {
        /// The first one's.
        before: ServiceName,
        /// The second one's.
        after: ServiceName,
    },
    /// A chunk can't be read.
    #[error(transparent)]
    Read(#[from] ChunkFault),
    /// A snapshot can't be opened.
    #[error(transparent)]
    Open(#[from] ReadError),
    /// A thread can't be started, or died.
    #[error("could not compare on threads of its own")]
    Thread(#[source] io::Error),
    /// The caller wants no more.
    #[error("interrupted")]
    Cancelled,
}

/// Compares two snapshots of a service, region by region: first those of the later one, then those that only the
/// earlier one has.
///
/// # Errors
/// If they are of different services, or a chunk that differs can't be read.
pub fn compare(
    before: &SnapshotReader,
    after: &Arc<SnapshotReader>,
    progress: &dyn Progress,
) -> Result<Vec<RegionDiff>, DiffError> {
    let services = [&before.manifest().service, &after.manifest().service];
    if services[0] != services[1] {
        return Err(DiffError::Services { before: services[0].clone(), after: services[1].clone() });
    }
    let bytes_in = |reader: &SnapshotReader, name: &RegionName| {
        reader.regions().iter().find(|region| region.name == *name).map(|region| region.bytes)
    };
    let later = after.regions().iter().map(|region| region.name.clone());
    let gone = before.regions().iter().map(|region| region.name.clone());
    let gone = gone.filter(|name| bytes_in(after, name).is_none());
    let names: Vec<RegionName> = later.chain(gone).collect();
    let mut diffs = Vec::new();
    for name in names {
        let sizes = (bytes_in(before, &name), bytes_in(after, &name));
        let old = Side { reader: before, bytes: sizes.0.unwrap_or(0) };
        let new = Side { reader: after, bytes: sizes.1.unwrap_or(0) };
        let pages = pages::compare(&name, old, new, progress)?;
        let mut diff = RegionDiff {
            region: name,
            bytes_before: sizes.0,
            bytes_after: sizes.1,
            chunks_changed: pages.chunks,
            pages_changed: pages.pages,
            bytes_changed: spans::total(&pages.spans),
            ranges: pages.spans,
            coarse: pages.coarse,
            ext4: None,
            ext4_problem: None,
        };
        if diff.pages_changed > 0 && diff.bytes_after.is_some() {
            look_into(after, &mut diff)?;
        }
        diffs.push(diff);
    }
    Ok(diffs)
}

/// Says whose the changed pages are, if the region holds a file system.
fn look_into(reader: &Arc<SnapshotReader>, diff: &mut RegionDiff) -> Result<(), DiffError> {
    let chunks = Arc::new(Chunks::new(limits::EXT4_CACHE_BYTES));
    let Some(view) = RegionView::new(reader.clone(), chunks, &diff.region) else { return Ok(()) };
    let mut superblock = [0; 1024];
    Bytes::read(&view, 1024, &mut superblock)?;
    if !ext4::holds_ext4(&superblock) {
        return Ok(());
    }
    match files::map(view, &diff.ranges) {
        Ok(files) => diff.ext4 = Some(files),
        Err(Ext4Fault::Read(fault)) => return Err(fault.into()),
        Err(fault) => diff.ext4_problem = Some(fault.to_string()),
    }
    Ok(())
}
