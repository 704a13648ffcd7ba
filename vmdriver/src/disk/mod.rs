//! The guest's disk: layers over a base, served by NBD from a process of its own.
//!
//! ```text
//! node                                     the disk's process (serve)
//! Disk ── supervisor ═ control ═══════════ engine: freeze, fold, prefetch
//!   └ blocks::Server ═ blocks ════════════   └ volume: stack of layers over the base
//!                                    QEMU ═══ nbd ┘
//! ```
//! A snapshot freezes the layer that takes the writes and begins another, which was made before; the frozen
//! one is read in the node's process, from the same files, and then folded into the layer below all.
//!
//! **What a flush means.** A write is answered once it is in the page cache, where the death of this
//! process, by whatever signal, does not touch it: so what was flushed is there when the process is started
//! again, and a flush has nothing to do. The host's own death would lose it; but that takes the VM with it,
//! which then goes on from a snapshot, with the snapshot's disk. [`DiskOptions::syncs`] is for those who
//! want to look at the files of a dead host all the same.

mod base;
mod blocks;
mod channel;
mod control;
mod description;
mod engine;
mod error;
mod frozen;
mod handle;
mod image;
mod layer;
mod lazy;
mod map;
mod nbd;
mod ranges;
mod serve;
mod snapshot_blocks;
mod stack;
mod stamp;
mod supervisor;
mod view;
mod volume;

pub use blocks::{BlockSource, ChunkContent, Unavailable};
pub use control::DiskStatus;
pub use error::DiskError;
pub(crate) use handle::remove_folder;
pub use handle::{Disk, DiskOptions, DiskOrigin, FrozenDisk};
pub use image::raw_image;
pub(crate) use nbd::converse as fuzz_nbd;
pub use serve::{ServeError, serve};
pub use snapshot_blocks::SnapshotBlocks;
pub(crate) use stamp::Stamp;

/// The socket for NBD clients, in the disk's folder.
const NBD_SOCKET: &str = "nbd.sock";
/// The socket at which the disk's process asks for blocks.
const BLOCK_SOCKET: &str = "blocks.sock";
