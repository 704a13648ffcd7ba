//! Reading an ext4 file system in an image: which blocks each file has, and what it is called. Only reading, only from
//! what a snapshot holds; a file system that was in use is seen as its next mount would show it, with what its journal
//! says. An image may be damaged or made to harm: every walk has a bound, and every number is checked before its use.
//!
//! Written for this because no library that only reads tells where on the disk a file's bytes are. The format is that
//! of the kernel's documentation (`filesystems/ext4`). Features that change where things are and are not known here
//! are refused by name.

mod extents;
mod fields;
mod folder;
mod group;
mod image;
mod inode;
mod journal;
mod superblock;

pub(crate) use extents::Extent;
pub(crate) use folder::names;
pub(crate) use image::{Bytes, Image};
pub(crate) use inode::{Inode, InodeKind};
pub(crate) use superblock::holds_ext4;

use crate::view::ChunkFault;

/// Why an image, or a part of it, can't be understood.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ext4Fault {
    /// The snapshot can't be read.
    #[error(transparent)]
    Read(#[from] ChunkFault),
    /// It says what can't be.
    #[error("{0}")]
    Damaged(String),
    /// It is made in a way that is not known here.
    #[error("it uses {0}, which is not understood here")]
    Unknown(String),
}

/// A fault of this kind with a text.
pub(crate) fn damaged(what: impl Into<String>) -> Ext4Fault {
    Ext4Fault::Damaged(what.into())
}
