//! Why something can't be kept, found or made on a node's disk.

use std::io;
use std::path::PathBuf;

use sustain_proto::{CodecError, CutError, GroupListError, PackId, SnapshotId};
use sustain_store::{ErrorKind, Fault, FragmentError, ImportError, ReadError, RebaseError};

use crate::keeper::Part;

/// Why the depot did not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DepotError {
    /// One of its own files.
    #[error("could not {doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A claim or catalog that is too large.
    #[error("{what} can't be kept")]
    Encode {
        /// Which one.
        what: String,
        /// Why.
        source: CodecError,
    },
    /// It is not here, or not all of what was asked for.
    #[error("{} is not here", name(part))]
    NotHere {
        /// The part.
        part: Part,
    },
    /// Nothing that this node knows of lists it.
    #[error("{} is listed by no catalog", name(part))]
    Unlisted {
        /// The part.
        part: Part,
    },
    /// The sheet that is needed did not come, and is not here.
    #[error("the sheet of pack {pack} is not here")]
    NoSheet {
        /// The pack.
        pack: PackId,
    },
    /// The sheet is not the one that the catalog names.
    #[error("this is not the sheet of pack {pack}")]
    WrongSheet {
        /// The pack.
        pack: PackId,
    },
    /// A sheet that contradicts itself.
    #[error("the sheet of pack {pack} contradicts itself")]
    Sheet {
        /// The pack.
        pack: PackId,
        /// What is wrong.
        source: CutError,
    },
    /// The list of groups is not the part's.
    #[error("this is not the list of groups of {}", name(part))]
    List {
        /// The part.
        part: Part,
        /// Why.
        source: GroupListError,
    },
    /// What is here of it is damaged.
    #[error("{} is damaged here", name(part))]
    Damaged {
        /// The part.
        part: Part,
    },
    /// As many parts are coming as may.
    #[error("{count} parts are being received already")]
    TooMany {
        /// How many.
        count: usize,
    },
    /// All that lists it are snapshots that the store does not take, though all their packs are here.
    #[error("{} counts for nothing: snapshot {snapshot} is not what its packs hold", name(part))]
    Refused {
        /// The part.
        part: Part,
        /// A snapshot that lists it.
        snapshot: SnapshotId,
    },
    /// Something with fragments.
    #[error(transparent)]
    Fragment(#[from] FragmentError),
    /// Something with packs that come.
    #[error(transparent)]
    Pack(#[from] ImportError),
    /// Something with what is here.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A file of the store, or its database.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Letting go of snapshots.
    #[error(transparent)]
    LetGo(#[from] RebaseError),
}

fn name(part: &Part) -> String {
    use crate::keeper::Which;
    match part.which {
        Which::Whole => format!("pack {}", part.pack.short()),
        Which::Fragment(index) => format!("fragment {index} of pack {}", part.pack.short()),
    }
}

impl DepotError {
    /// Whether trying again is of no use, nor fetching it again: what was published is itself wrong.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// Whether a refusal to import will be the same the next time, with the same bytes.
pub(super) fn is_lasting(error: &ImportError) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Refused)
        && !matches!(error, ImportError::Read(_) | ImportError::Fault(_))
}
