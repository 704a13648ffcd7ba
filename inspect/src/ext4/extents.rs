//! Where a file's bytes are: its tree of extents.

use super::fields::{le16, le32};
use super::image::{Bytes, Image};
use super::inode::Inode;
use super::{Ext4Fault, damaged};
use crate::limits;

const MAGIC: u16 = 0xF30A;
const HEADER_BYTES: usize = 12;
const ENTRY_BYTES: usize = 12;
/// Most levels below the inode, by the format.
const DEPTH_MAX: u16 = 5;
/// A length above it is that of blocks that are the file's and were never written.
const WRITTEN_BLOCKS_MAX: u16 = 32_768;

/// Some blocks of a file that lie one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The first one's number in the file.
    pub(crate) logical: u64,
    /// The first one's number on the disk.
    pub(crate) physical: u64,
    /// How many there are.
    pub(crate) blocks: u64,
}

impl<B: Bytes> Image<B> {
    /// Calls `each` for every extent of a file, in the order of its bytes.
    pub(crate) fn extents(&self, inode: &Inode, each: &mut dyn FnMut(Extent)) -> Result<(), Ext4Fault> {
        if !inode.extents || inode.inline {
            return Ok(());
        }
        let mut walk = Walk { image: self, nodes: 0, next: 0, each };
        walk.node(&inode.root, None)
    }
}

struct Walk<'a, B> {
    image: &'a Image<B>,
    /// Nodes seen.
    nodes: usize,
    /// The first block of the file that has not been seen. What goes backwards is damaged.
    next: u64,
    each: &'a mut dyn FnMut(Extent),
}

impl<B: Bytes> Walk<'_, B> {
    fn node(&mut self, node: &[u8], expected_depth: Option<u16>) -> Result<(), Ext4Fault> {
        self.nodes += 1;
        if self.nodes > limits::EXT4_EXTENT_NODES_MAX {
            return Err(damaged("a file has too large a tree of extents"));
        }
        let (magic, entries, depth) = (le16(node, 0), usize::from(le16(node, 2)), le16(node, 6));
        let fits = HEADER_BYTES + entries * ENTRY_BYTES <= node.len();
        if magic != MAGIC
            || !fits
            || depth > DEPTH_MAX
            || expected_depth.is_some_and(|expected| expected != depth)
        {
            return Err(damaged("a node of extents is none"));
        }
        for entry in node[HEADER_BYTES..].chunks_exact(ENTRY_BYTES).take(entries) {
            self.image.count_extent()?;
            if depth == 0 {
                self.leaf(entry)?;
            } else {
                let block = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                let below = self.image.block(block)?;
                self.node(&below, Some(depth - 1))?;
            }
        }
        Ok(())
    }

    fn leaf(&mut self, entry: &[u8]) -> Result<(), Ext4Fault> {
        let length = le16(entry, 4);
        let blocks = if length > WRITTEN_BLOCKS_MAX { length - WRITTEN_BLOCKS_MAX } else { length };
        let extent = Extent {
            logical: u64::from(le32(entry, 0)),
            physical: u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32,
            blocks: u64::from(blocks),
        };
        let end = extent.physical + extent.blocks;
        if extent.logical < self.next || end > self.image.superblock().blocks {
            return Err(damaged("an extent lies where none can be"));
        }
        self.next = extent.logical + extent.blocks;
        (self.each)(extent);
        Ok(())
    }
}
