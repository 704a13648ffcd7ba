//! The local store: chunks, packs, base and delta manifests, restore, rebase, verify, and the local half
//! of replication. Synchronous, no network.
//!
//! On disk: `DIR/{key, index.redb, packs/<2 hex>/<id>.pack, manifests/<id>.manifest, tmp/}`. Packs and
//! manifests are the truth; the database holds only what can be rebuilt from them, and the durable marks.
//! Order of every change: write to `tmp/`, sync, rename, sync the folder; then one transaction.

pub mod disk;
pub mod limits;

mod error;
mod import;
mod key;
mod open;
mod progress;
mod push;
mod query;
mod rebase;
mod receive;
mod restore;
mod retire;
mod source;
mod store;
mod target;
mod verify;

pub use error::{ErrorKind, Fault};
pub use import::ImportError;
pub use key::KeySource;
pub use open::{OpenError, OpenReport, StoreOptions};
pub use progress::{NoProgress, Progress};
pub use push::{Push, PushError, PushLineage, PushReport, PushRequest};
pub use query::{PackReader, ReadError, SnapshotInfo};
pub use rebase::{RebaseError, RebaseReport};
pub use receive::PackReceiver;
pub use restore::{RestoreError, RestoreReport};
pub use retire::RetireReport;
pub use source::{FileSource, RegionSource};
pub use store::Store;
pub use target::{DirectoryTarget, RestoreTarget};
pub use verify::{BadFile, VerifyError, VerifyReport};
