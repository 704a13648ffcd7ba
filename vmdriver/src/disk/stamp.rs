//! What tells one state of an image's file from another, by a look at its metadata.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Which file it is, and when and how large it was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: i64,
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        }
    }

    /// All of it, as text that no other stamp has.
    pub(crate) fn text(&self) -> String {
        let Self { device, inode, bytes, seconds, nanoseconds } = self;
        format!("{device}-{inode}-{bytes}-{seconds}.{nanoseconds:09}")
    }
}
