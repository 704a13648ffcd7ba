//! Why fragments can't be kept, found or made.

use std::path::PathBuf;

use sustain_proto::{CutError, FragmentId, ManifestError, PackId, SnapshotId};

use crate::{CodingError, ErrorKind, Fault, ImportError, ReadError};

/// Why something with fragments was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FragmentError {
    /// It is not here.
    #[error("fragment {id} is not here")]
    NotFound {
        /// Its id.
        id: FragmentId,
    },
    /// Another process keeps the fragments of this store.
    #[error("the fragments at {} are another process's, which is running", path.display())]
    Busy {
        /// Their folder.
        path: PathBuf,
    },
    /// Somebody here receives it already.
    #[error("fragment {id} is being received already")]
    Receiving {
        /// Its id.
        id: FragmentId,
    },
    /// These fragments can only be looked at: another process keeps them, or may.
    #[error("the fragments were opened only to be read")]
    ReadOnly,
    /// A sheet that names something impossible.
    #[error(transparent)]
    Sheet(#[from] CutError),
    /// A sheet, as it is to be stored, is too large.
    #[error("a sheet of {bytes} bytes, at most {max} are allowed", max = crate::limits::STORED_SHEET_BYTES_MAX)]
    SheetTooLarge {
        /// Its bytes.
        bytes: usize,
    },
    /// A fragment that the sheet does not name.
    #[error("there is no fragment {index} of {total}")]
    NoIndex {
        /// The number asked for.
        index: u8,
        /// Fragments in all.
        total: u8,
    },
    /// The bytes, or the list of their groups, are another fragment's.
    #[error("what was given is not fragment {id}")]
    Wrong {
        /// The fragment that it should be.
        id: FragmentId,
    },
    /// What is here of it is damaged. It was set aside, and counts as not here.
    #[error("fragment {id} is damaged")]
    Damaged {
        /// Its id.
        id: FragmentId,
    },
    /// The sheet that is here is damaged.
    #[error("the sheet of pack {pack} is damaged")]
    SheetDamaged {
        /// The pack.
        pack: PackId,
    },
    /// Parts of it have not come.
    #[error("{groups} groups have not come")]
    Incomplete {
        /// How many groups are lacking.
        groups: usize,
    },
    /// What a sheet names is not what its pack is cut into, or the other way round.
    #[error("the sheet of pack {pack} is not what is made of that pack")]
    Contradiction {
        /// The pack.
        pack: PackId,
    },
    /// It was written, but nobody knows whether it is on the disk.
    #[error("fragment {id} was lost on its way to the disk")]
    NotDurable {
        /// Its id.
        id: FragmentId,
    },
    /// There are as many as a store holds.
    #[error("there are {max} fragments here already", max = crate::limits::FRAGMENTS_MAX)]
    TooMany,
    /// The bytes are no manifest.
    #[error("this is no manifest")]
    Manifest(#[from] ManifestError),
    /// A base whose deltas are kept.
    #[error("the base {base} is needed by {delta}, which is kept")]
    BaseNeeded {
        /// The base.
        base: SnapshotId,
        /// A delta against it.
        delta: SnapshotId,
    },
    /// Not the fragments that it takes.
    #[error(transparent)]
    Coding(#[from] CodingError),
    /// The pack that fragments are to be made of.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The pack that was made of fragments.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// A file.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl FragmentError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::Incomplete { .. } => ErrorKind::NotFound,
            Self::Busy { .. } | Self::Receiving { .. } => ErrorKind::Busy,
            Self::ReadOnly => ErrorKind::ReadOnly,
            Self::Wrong { .. }
            | Self::Damaged { .. }
            | Self::SheetDamaged { .. }
            | Self::Contradiction { .. }
            | Self::Manifest(_) => ErrorKind::Corrupt,
            Self::Sheet(_)
            | Self::SheetTooLarge { .. }
            | Self::NoIndex { .. }
            | Self::TooMany
            | Self::BaseNeeded { .. }
            | Self::Coding(_) => ErrorKind::Refused,
            Self::NotDurable { .. } => ErrorKind::Failed,
            Self::Read(error) => error.kind(),
            Self::Import(error) => error.kind(),
            Self::Fault(fault) => fault.kind(),
        }
    }
}
