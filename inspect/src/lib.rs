//! Looking into a store: its snapshots as files of a read-only file system, bytes of a region, and what differs
//! between two snapshots, down to the files of an ext4 file system in a region.
//!
//! Nothing here changes a store. Every byte that is handed out was checked against its chunk's id.

#[doc(hidden)]
pub mod fuzzing;
pub mod limits;

mod cache;
mod cat;
mod diff;
mod ext4;
mod mount;
mod readers;
mod view;

pub use cat::{CatError, cat};
pub use diff::{DiffError, FileChange, FileKind, FilesDiff, RegionDiff, Span, compare};
pub use mount::{Mount, MountError, Unmounted};
pub use view::ChunkFault;
