//! Logic: inodes: what a file is, and the beginning of the list of its blocks.

use super::fields::{le16, le32};

const EXTENTS: u32 = 0x8_0000;
const INLINE: u32 = 0x1000_0000;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InodeKind {
    File,
    Folder,
    Link,
    /// Devices, pipes and sockets, which have no blocks.
    Other,
}

/// A file in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) kind: InodeKind,
    /// Its bytes, as it says.
    pub(crate) bytes: u64,
    /// Whether its blocks are listed as extents.
    pub(crate) extents: bool,
    /// Whether its data are in the inode.
    pub(crate) inline: bool,
    /// The first node of the tree of extents.
    pub(crate) root: [u8; 60],
}

impl Inode {
    /// From its bytes; none if it is not in use.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (mode, links) = (le16(bytes, 0), le16(bytes, 0x1A));
        if mode == 0 || links == 0 {
            return None;
        }
        let kind = match mode & 0xF000 {
            0x8000 => InodeKind::File,
            0x4000 => InodeKind::Folder,
            0xA000 => InodeKind::Link,
            _ => InodeKind::Other,
        };
        let flags = le32(bytes, 0x20);
        let mut root = [0; 60];
        root.copy_from_slice(bytes.get(0x28..0x64)?);
        let bytes_of_file = u64::from(le32(bytes, 0x4)) | u64::from(le32(bytes, 0x6C)) << 32;
        // A short link's target is in the inode, in place of blocks.
        let short = kind == InodeKind::Link && bytes_of_file < 60 && flags & EXTENTS == 0;
        Some(Self {
            kind,
            bytes: bytes_of_file,
            extents: flags & EXTENTS != 0,
            inline: flags & INLINE != 0 || short,
            root,
        })
    }

    /// Whether it has blocks that can't be found here: they are listed in the way of ext2 and ext3.
    pub(crate) fn is_old(&self) -> bool {
        !self.extents
            && !self.inline
            && self.kind != InodeKind::Other
            && self.root.iter().any(|byte| *byte != 0)
    }
}
