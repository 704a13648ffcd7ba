//! Fragments of packs: kept in segments that are appended to, made of packs, and made into packs.
//!
//! ```text
//!  receive ─▶ fragments/SERVICE/incoming/ID.fragment ─┐
//!                                                     ├─▶ appended to a segment ─▶ sync ─▶ held
//!  put ───────────────────────────────────────────────┘
//!  held ─▶ open ─▶ read_at       held, or ranges as they come ─▶ PackBuilder ─▶ pack
//!  pack ─▶ cut_pack ─▶ sheet, fragments                         FragmentBuilder ─▶ fragment
//! ```
//!
//! One process at a time keeps the fragments of a store, and holds their folder locked; others may look at them. What
//! was appended counts once it was synced, any number of fragments by one sync. A fragment is dropped when no kept
//! manifest and no snapshot lists its pack any more, and not before.

mod append;
mod build;
mod cut;
mod cut_reader;
mod drop;
mod error;
mod gather;
mod held;
mod incoming;
mod kept;
mod open;
mod reader;
mod record;
mod scan;
mod settle;
mod sync;
mod table;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sustain_proto::{ServiceName, Sheet};

use crate::BadFile;
use crate::disk::DiskLock;
use crate::store::Shared;
pub use append::Appended;
pub(crate) use append::example;
pub use build::{FragmentBuilder, PackBuilder};
pub use cut::FragmentSink;
pub use cut_reader::CutReader;
pub use drop::FragmentsFreed;
pub use error::FragmentError;
pub use held::{FragmentUsage, HeldFragment};
pub use incoming::FragmentReceiver;
pub use reader::FragmentReader;
pub(crate) use reader::check_record;
pub(crate) use record::with_check;
pub(crate) use scan::scan;
pub use table::KeptManifest;
use table::Shelf;
pub(crate) use verify::ToVerify;

/// A sheet as it is kept: what it says, and the bytes in which its maker has signed it. Whoever gives it has checked
/// the signature, and that the bytes say the same; the store looks at neither.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSheet {
    /// What it says.
    pub sheet: Sheet,
    /// The bytes that are kept and given back.
    pub bytes: Vec<u8>,
}

/// The fragments of a store. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Fragments(pub(crate) Arc<Inner>);

impl fmt::Debug for Fragments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fragments").field("path", &self.0.shared.layout.fragments()).finish_non_exhaustive()
    }
}

/// What all clones share. `syncing` is taken before `shelves`, which is never held over a sync.
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) shelves: Mutex<BTreeMap<ServiceName, Shelf>>,
    pub(crate) syncing: Mutex<()>,
    /// What opening found to be damaged.
    pub(crate) bad: Vec<BadFile>,
    /// None if this process only looks.
    pub(crate) lock: Option<Box<dyn DiskLock>>,
}

impl Inner {
    pub(crate) fn shelves(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses what changes something if this process only looks.
    pub(crate) fn must_keep(&self) -> Result<(), FragmentError> {
        if self.lock.is_some() { Ok(()) } else { Err(FragmentError::ReadOnly) }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.lock.is_some() {
            self.close();
        }
    }
}
