//! Logic: the description of a group of blocks: where its bitmap and its inodes are.

use super::fields::{joined, le16, le32};
use super::superblock::Superblock;

const INODES_UNWRITTEN: u16 = 0x1;
const BLOCKS_UNWRITTEN: u16 = 0x2;

/// A group of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    /// The block with a bit for each block in use; none where none was used yet.
    pub(crate) bitmap: Option<u64>,
    /// The first block of its inodes.
    pub(crate) inode_table: u64,
    /// How many inodes from the first on may be in use.
    pub(crate) inodes_used: u64,
}

impl Group {
    /// From its bytes.
    pub(crate) fn parse(bytes: &[u8], superblock: &Superblock) -> Self {
        let wide = superblock.descriptor_bytes >= 64;
        let high = |at: usize| if wide { le32(bytes, at) } else { 0 };
        let flags = if superblock.groups_tell { le16(bytes, 0x12) } else { 0 };
        let unused_high = if wide { u64::from(le16(bytes, 0x32)) << 16 } else { 0 };
        let unused = u64::from(le16(bytes, 0x1C)) | unused_high;
        let inodes_used = match (superblock.groups_tell, flags & INODES_UNWRITTEN != 0) {
            (false, _) => superblock.inodes_per_group,
            (true, true) => 0,
            (true, false) => superblock.inodes_per_group.saturating_sub(unused),
        };
        Self {
            bitmap: (flags & BLOCKS_UNWRITTEN == 0).then(|| joined(high(0x20), le32(bytes, 0))),
            inode_table: joined(high(0x28), le32(bytes, 0x8)),
            inodes_used,
        }
    }
}
