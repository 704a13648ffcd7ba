//! The local store: chunks, packs, base and delta manifests, restore, rebase, verify, and the local half
//! of replication. Synchronous, no network.
//!
//! On disk: `DIR/{key, index.redb, packs/<2 hex>/<id>.pack, manifests/<id>.manifest, tmp/}`. Packs and
//! manifests are the truth; the database holds only what can be rebuilt from them, and the durable marks.
//! Order of every change: write to `tmp/`, sync, rename, sync the folder; then one transaction.

pub mod disk;
pub mod limits;

mod catalogue;
mod database;
mod directory;
mod error;
mod foreign;
mod gate;
mod generation;
mod guard;
mod import;
mod ingest;
mod key;
mod layout;
mod listing;
mod mend;
mod open;
mod pack_file;
mod pack_writer;
mod parallel;
mod partial;
mod pins;
mod progress;
mod promote;
mod publish;
mod push;
mod push_error;
mod push_regions;
mod query;
mod read_only;
mod reader;
mod rebase;
mod receive;
mod record;
mod replace;
mod restore;
mod retire;
mod selector;
mod source;
mod state;
mod store;
mod sweep;
mod target;
mod verify;
mod whole;

pub use error::{ErrorKind, Fault, error_chain};
pub use foreign::{ForeignDirectory, ForeignError, RecordRun};
pub use import::ImportError;
pub use key::KeySource;
pub use open::{OpenError, OpenReport, StoreOptions};
pub use parallel::Pace;
pub use partial::Partial;
pub use progress::{NoProgress, Progress};
pub use push::{Push, PushLineage, PushReport, PushRequest};
pub use push_error::PushError;
pub use query::{PackReader, ReadError, SnapshotInfo};
pub use reader::{ChunkRead, SnapshotReader};
pub use rebase::{PreparedRebase, RebaseError, RebaseReport};
pub use receive::PackReceiver;
pub use restore::{RestoreError, RestoreReport};
pub use retire::RetireReport;
pub use source::{FileSource, RegionSource};
pub use store::Store;
pub use target::{DirectoryTarget, RestoreTarget};
pub use verify::{BadFile, VerifyError, VerifyReport};
