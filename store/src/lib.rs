//! The local store: chunks, packs, base and delta manifests, restore, rebase, verify, and the local half
//! of replication. Synchronous, no network.
//!
//! On disk: `DIR/{key, index.redb, checked, packs/<2 hex>/<id>.pack, aside/<id>.pack, manifests/<id>.manifest,
//! pins/NAME, tmp/}`. Packs and manifests are the truth; the database holds only what can be rebuilt from them, and the
//! durable marks.
//! Order of every change: write to `tmp/`, sync, rename, sync the folder; then one transaction.

pub mod disk;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;

mod aside;
mod block;
mod block_cache;
mod catalogue;
mod checked;
mod chunk_reader;
mod collect;
mod database;
mod directory;
mod entries;
mod error;
mod fate;
mod foreign;
mod gate;
mod generation;
mod growth;
mod guard;
mod holds;
mod import;
mod index_parts;
mod ingest;
mod key;
mod keys;
mod layout;
mod listing;
mod mend;
mod named_pins;
mod open;
mod pack_ends;
mod pack_file;
mod pack_writer;
mod pages;
mod parallel;
mod partial;
mod pins;
mod policy;
mod progress;
mod promote;
mod publish;
mod push;
mod push_error;
mod push_regions;
mod query;
mod rate;
mod read_only;
mod reader;
mod reader_chunks;
mod rebase;
mod rebase_report;
mod receive;
mod recent;
mod replace;
mod restore;
mod retention;
mod retire;
mod rewrite;
mod scrub;
mod scrub_plan;
mod selector;
mod service_key;
mod source;
mod state;
mod store;
mod sweep;
mod target;
mod verify;
mod verify_contents;
mod verify_run;
mod whole;

pub use aside::BadPack;
pub use checked::Scrubbed;
pub use collect::{Collected, GcReport, NewGeneration, PreparedGc, UnlistedReport};
pub use error::{ErrorKind, Fault, error_chain};
pub use foreign::{ForeignDirectory, ForeignError, RecordRun};
pub use holds::Reason;
pub use import::ImportError;
pub use key::KeySource;
pub use named_pins::{NamedPin, PinError};
pub use open::{OpenError, OpenReport, StoreOptions};
pub use parallel::Pace;
pub use partial::Partial;
pub use policy::{Growth, RebasePolicy, Trigger};
pub use progress::{NoProgress, Progress};
pub use push::{Push, PushLineage, PushReport, PushRequest};
pub use push_error::PushError;
pub use query::{PackReader, ReadError, SnapshotInfo};
pub use reader::{ChunkRead, SnapshotReader};
pub use rebase::{PreparedRebase, RebaseError, RebaseOptions};
pub use rebase_report::RebaseReport;
pub use receive::PackReceiver;
pub use restore::{RestoreError, RestoreReport};
pub use retention::{Dated, Retention, Rule};
pub use retire::RetireReport;
pub use scrub_plan::Sample;
pub use service_key::ServiceKey;
pub use source::{FileSource, RegionSource};
pub use store::Store;
pub use target::{DirectoryTarget, RestoreTarget};
pub use verify::{BadFile, Depth, Scope, VerifyError, VerifyOptions, VerifyReport};
