//! What can go wrong with a disk.

use std::io;
use std::path::PathBuf;

use crate::error::ErrorKind;
use crate::image_info::ImageError;

/// Why a disk does not do as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The image can't be used.
    #[error("can't use the disk image {}", path.display())]
    Image {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image is none that a guest may have.
    #[error(transparent)]
    Inspect(#[from] ImageError),
    /// The image below a disk is not what it was.
    #[error(
        "the disk image {} was changed while its guest ran from it: what the guest reads is a mixture of both. \
         Restore the service from a snapshot that was taken before",
        path.display()
    )]
    ImageChanged {
        /// Which.
        path: PathBuf,
    },
    /// The disk is empty, or larger than can be.
    #[error("the disk has {found} bytes: it must be from 1 to {max}")]
    Size {
        /// Its size.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The folder can't be used.
    #[error("can't make the disk's files in {}", folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is longer than the system's sockets can have.
    #[error(
        "the disk's socket {} would have a path of {} bytes, where {max} are possible: \
         the VM's folder needs a shorter path",
        path.display(), path.as_os_str().len()
    )]
    SocketPath {
        /// Where it would be.
        path: PathBuf,
        /// The system's limit.
        max: usize,
    },
    /// The disk's process does not start.
    #[error("can't start the disk's process")]
    Start {
        /// Why.
        source: io::Error,
    },
    /// Earlier snapshots are still being folded.
    #[error("the disk has as many frozen layers as it may have: the snapshot has to be left out")]
    Busy,
    /// The disk's process does not answer, or refuses.
    #[error("the disk's process does not {doing}")]
    Control {
        /// What it should have done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// What was frozen can't be read.
    #[error("can't read the disk's frozen layer {layer}")]
    Frozen {
        /// Which.
        layer: u64,
        /// Why.
        source: io::Error,
    },
}

impl DiskError {
    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Size { .. } | Self::SocketPath { .. } => ErrorKind::Invalid,
            Self::Image { .. } => ErrorKind::Missing,
            Self::Inspect(error) => error.kind(),
            Self::Busy => ErrorKind::Busy,
            Self::ImageChanged { .. } => ErrorKind::Corrupt,
            Self::Folder { .. } | Self::Start { .. } | Self::Control { .. } | Self::Frozen { .. } => {
                ErrorKind::Failed
            }
        }
    }
}
