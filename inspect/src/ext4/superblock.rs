//! Logic: the superblock, which says how a file system is laid out.

use super::fields::{joined, le16, le32};
use super::{Ext4Fault, damaged};
use crate::limits;

/// Where the superblock is, and its size.
pub(crate) const SUPERBLOCK_AT: u64 = 1024;
pub(crate) const SUPERBLOCK_BYTES: usize = 1024;

const MAGIC: u16 = 0xEF53;

/// Features that an image may have although a reader has to know them.
const RECOVER: u32 = 0x4;
const WIDE: u32 = 0x80;
/// File types in folders, recovery, extents, 64 bits, multiple mount protection, flexible groups, values of attributes
/// in inodes, seeds of checksums, large folders, data in inodes, encryption, names without case.
const KNOWN: u32 =
    0x2 | RECOVER | 0x40 | WIDE | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
/// Names of those that are refused.
const REFUSED: [(u32, &str); 4] = [
    (0x1, "compression"),
    (0x8, "a journal device"),
    (0x10, "meta block groups"),
    (0x1000, "data in folders"),
];

/// Features for writers, which are told apart because they change what a group's description means.
const GROUP_CHECKSUMS: u32 = 0x10;
const CLUSTERS: u32 = 0x200;
const METADATA_CHECKSUMS: u32 = 0x400;

/// How a file system is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) block_bytes: u64,
    pub(crate) blocks: u64,
    pub(crate) first_block: u64,
    pub(crate) blocks_per_group: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_per_group: u64,
    pub(crate) inode_bytes: u64,
    pub(crate) descriptor_bytes: u64,
    pub(crate) journal_inode: u32,
    /// Whether the journal holds what is not in its place yet.
    pub(crate) recover: bool,
    /// Whether groups say which of their parts were never written.
    pub(crate) groups_tell: bool,
}

/// Whether an image may hold an ext4 file system: the magic number is in its place.
pub(crate) fn holds_ext4(superblock: &[u8]) -> bool {
    le16(superblock, 0x38) == MAGIC
}

impl Superblock {
    /// From its bytes. `image_bytes` is what there is of the disk.
    pub(crate) fn parse(bytes: &[u8], image_bytes: u64) -> Result<Self, Ext4Fault> {
        if !holds_ext4(bytes) {
            return Err(damaged("there is no ext4 superblock"));
        }
        let (incompatible, writers) = (le32(bytes, 0x60), le32(bytes, 0x64));
        refuse_unknown(incompatible, writers)?;
        let wide = incompatible & WIDE != 0;
        let shift = le32(bytes, 0x18);
        if shift > 6 {
            return Err(damaged(format!("blocks of 2^{} bytes", u64::from(shift) + 10)));
        }
        let high = if wide { le32(bytes, 0x150) } else { 0 };
        let old = le32(bytes, 0x4C) == 0;
        let superblock = Self {
            block_bytes: 1024 << shift,
            blocks: joined(high, le32(bytes, 0x4)),
            first_block: u64::from(le32(bytes, 0x14)),
            blocks_per_group: u64::from(le32(bytes, 0x20)),
            inodes: u64::from(le32(bytes, 0)),
            inodes_per_group: u64::from(le32(bytes, 0x28)),
            inode_bytes: if old { 128 } else { u64::from(le16(bytes, 0x58)) },
            descriptor_bytes: if wide { u64::from(le16(bytes, 0xFE)) } else { 32 },
            journal_inode: if le32(bytes, 0x5C) & 0x4 != 0 { le32(bytes, 0xE0) } else { 0 },
            recover: incompatible & RECOVER != 0,
            groups_tell: writers & (GROUP_CHECKSUMS | METADATA_CHECKSUMS) != 0,
        };
        superblock.check(image_bytes)?;
        Ok(superblock)
    }

    fn check(&self, image_bytes: u64) -> Result<(), Ext4Fault> {
        if self.blocks.checked_mul(self.block_bytes).is_none_or(|bytes| bytes > image_bytes) {
            return Err(damaged(format!("{} blocks, more than the image has", self.blocks)));
        }
        // A bitmap of one block describes a group.
        let per_group_max = self.block_bytes * 8;
        let sound = self.first_block == u64::from(self.block_bytes == 1024)
            && (1..=per_group_max).contains(&self.blocks_per_group)
            && (1..=per_group_max).contains(&self.inodes_per_group)
            && self.inode_bytes.is_power_of_two()
            && (128..=self.block_bytes).contains(&self.inode_bytes)
            && self.descriptor_bytes.is_power_of_two()
            && (32..=self.block_bytes).contains(&self.descriptor_bytes)
            && self.blocks > self.first_block;
        if !sound {
            return Err(damaged("the superblock's numbers don't fit one another"));
        }
        let groups = self.groups();
        if groups > limits::EXT4_GROUPS_MAX {
            return Err(damaged(format!(
                "{groups} groups of blocks, at most {} are read",
                limits::EXT4_GROUPS_MAX
            )));
        }
        Ok(())
    }

    /// How many groups of blocks there are.
    pub(crate) fn groups(&self) -> u64 {
        (self.blocks - self.first_block).div_ceil(self.blocks_per_group)
    }
}

fn refuse_unknown(incompatible: u32, writers: u32) -> Result<(), Ext4Fault> {
    if let Some((_, name)) = REFUSED.iter().find(|(bit, _)| incompatible & bit != 0) {
        return Err(Ext4Fault::Unknown((*name).to_owned()));
    }
    if incompatible & !KNOWN != 0 {
        return Err(Ext4Fault::Unknown(format!("features {:#x}", incompatible & !KNOWN)));
    }
    if writers & CLUSTERS != 0 {
        return Err(Ext4Fault::Unknown("clusters of blocks (bigalloc)".to_owned()));
    }
    Ok(())
}
