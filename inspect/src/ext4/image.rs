//! A file system in an image: its blocks, as the journal has them, and its inodes.

use std::cell::Cell;

use super::fields::{le16, le32};
use super::group::Group;
use super::inode::Inode;
use super::journal::{self, Log};
use super::superblock::{SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use super::{Ext4Fault, Extent, damaged};
use crate::limits;
use crate::view::{ChunkFault, RegionView};

/// An image that can be read anywhere.
pub(crate) trait Bytes {
    /// Its size.
    fn bytes(&self) -> u64;

    /// Fills the buffer from an offset on; what is past the end is zero.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ChunkFault>;
}

impl Bytes for RegionView {
    fn bytes(&self) -> u64 {
        Self::bytes(self)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), ChunkFault> {
        let read = self.read_at(offset, buf, false)?;
        buf[read..].fill(0);
        Ok(())
    }
}

/// A file system.
pub(crate) struct Image<B> {
    bytes: B,
    superblock: Superblock,
    /// The journal's blocks on the disk.
    journal: Vec<Extent>,
    log: Log,
    /// How many more extents are read.
    extents_left: Cell<u64>,
}

impl<B: Bytes> Image<B> {
    /// Reads how it is laid out, and its journal.
    pub(crate) fn open(bytes: B) -> Result<Self, Ext4Fault> {
        let mut head = vec![0; SUPERBLOCK_BYTES];
        bytes.read(SUPERBLOCK_AT, &mut head)?;
        let superblock = Superblock::parse(&head, bytes.bytes())?;
        let mut image = Self {
            bytes,
            superblock,
            journal: Vec::new(),
            log: Log::new(),
            extents_left: Cell::new(limits::EXT4_EXTENTS_MAX),
        };
        if image.superblock.journal_inode != 0 {
            image.open_journal()?;
        }
        Ok(image)
    }

    fn open_journal(&mut self) -> Result<(), Ext4Fault> {
        let Some(inode) = self.inode(self.superblock.journal_inode)? else {
            return Err(damaged("the journal's inode is not in use"));
        };
        let mut extents = Vec::new();
        self.extents(&inode, &mut |extent| extents.push(extent))?;
        self.journal = extents;
        if self.superblock.recover {
            let read = &mut |number| self.raw_block(self.journal_block(number)?);
            let log = journal::replay(read)?;
            self.log = log;
        }
        Ok(())
    }

    /// Where a block of the journal is on the disk.
    fn journal_block(&self, number: u32) -> Result<u64, Ext4Fault> {
        let number = u64::from(number);
        let holds = |extent: &&Extent| (extent.logical..extent.logical + extent.blocks).contains(&number);
        let extent = self.journal.iter().find(holds).ok_or_else(|| damaged("the journal has a hole"))?;
        Ok(extent.physical + (number - extent.logical))
    }

    pub(crate) const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Where the journal is.
    pub(crate) fn journal(&self) -> &[Extent] {
        &self.journal
    }

    /// Counts an extent, so that an image in which all files have all blocks ends some day.
    pub(super) fn count_extent(&self) -> Result<(), Ext4Fault> {
        let left = self.extents_left.get();
        if left == 0 {
            return Err(damaged("it has more extents than are read"));
        }
        self.extents_left.set(left - 1);
        Ok(())
    }

    fn raw_block(&self, number: u64) -> Result<Vec<u8>, Ext4Fault> {
        if number >= self.superblock.blocks {
            return Err(damaged(format!("block {number} of {}", self.superblock.blocks)));
        }
        let mut block = vec![0; self.superblock.block_bytes as usize];
        self.bytes.read(number * self.superblock.block_bytes, &mut block)?;
        Ok(block)
    }

    /// A block of metadata, the newest that there is.
    pub(crate) fn block(&self, number: u64) -> Result<Vec<u8>, Ext4Fault> {
        let Some(logged) = self.log.get(&number) else { return self.raw_block(number) };
        let mut block = self.raw_block(self.journal_block(logged.block)?)?;
        if let (true, Some(first)) = (logged.escaped, block.get_mut(..4)) {
            first.copy_from_slice(&journal::ESCAPED_BYTES);
        }
        Ok(block)
    }

    /// A group's description.
    pub(crate) fn group(&self, number: u64) -> Result<Group, Ext4Fault> {
        let Superblock { block_bytes, descriptor_bytes, first_block, .. } = self.superblock;
        let at = number * descriptor_bytes;
        let block = self.block(first_block + 1 + at / block_bytes)?;
        let from = (at % block_bytes) as usize;
        let bytes = block.get(from..from + descriptor_bytes as usize);
        Ok(Group::parse(bytes.unwrap_or_default(), &self.superblock))
    }

    /// A file; none if nobody uses it.
    pub(crate) fn inode(&self, number: u32) -> Result<Option<Inode>, Ext4Fault> {
        if number == 0 || u64::from(number) > self.superblock.inodes {
            return Err(damaged(format!("inode {number} of {}", self.superblock.inodes)));
        }
        let index = u64::from(number) - 1;
        let group = self.group(index / self.superblock.inodes_per_group)?;
        let at = index % self.superblock.inodes_per_group * self.superblock.inode_bytes;
        let block = self.block(group.inode_table.saturating_add(at / self.superblock.block_bytes))?;
        let from = (at % self.superblock.block_bytes) as usize;
        Ok(block.get(from..from + self.superblock.inode_bytes as usize).and_then(Inode::parse))
    }

    /// Calls `each` for every inode of a group that is in use, with its number.
    pub(crate) fn inodes_of_group(
        &self,
        number: u64,
        each: &mut dyn FnMut(u32, &Inode) -> Result<(), Ext4Fault>,
    ) -> Result<(), Ext4Fault> {
        let group = self.group(number)?;
        let Superblock { block_bytes, inode_bytes, inodes_per_group, inodes, .. } = self.superblock;
        let per_block = block_bytes / inode_bytes;
        for block in 0..group.inodes_used.div_ceil(per_block) {
            let content = self.block(group.inode_table.saturating_add(block))?;
            for (place, bytes) in content.chunks_exact(inode_bytes as usize).enumerate() {
                let within = block * per_block + place as u64;
                let inode = number * inodes_per_group + within + 1;
                if within >= group.inodes_used || inode > inodes {
                    return Ok(());
                }
                // Most are not in use.
                if le16(bytes, 0) == 0 && le32(bytes, 4) == 0 {
                    continue;
                }
                if let (Some(found), Ok(inode)) = (Inode::parse(bytes), u32::try_from(inode)) {
                    each(inode, &found)?;
                }
            }
        }
        Ok(())
    }
}
