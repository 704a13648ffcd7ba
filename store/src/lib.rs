//! The local store: chunks, packs, base and delta manifests, restore, rebase, verify, and the local half
//! of replication. Synchronous, no network.
//!
//! On disk: `DIR/{key, keys/SERVICE, journal, checked, packs/<2 hex>/<id>.pack, aside/<id>.pack, incoming/<id>.pack,
//! manifests/<id>.manifest, pins/NAME, processes/, tmp/, reserve}`. Packs and manifests are the truth; the journal
//! holds only what can be rebuilt from them, and the durable marks. Order of every change: write to `tmp/`, sync,
//! rename, sync the folder; then one entry of the journal.

pub mod disk;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;

mod aside;
mod block;
mod block_cache;
mod catalogue;
mod change_key;
mod checked;
mod chunk_reader;
mod coding;
mod collect;
mod commit;
mod commit_lock;
mod database;
mod directory;
mod entries;
mod error;
mod expected;
mod fate;
mod foreign;
mod fragments;
mod gate;
mod generation;
mod growth;
mod holds;
mod id_table;
mod import;
mod incoming;
mod index_parts;
mod ingest;
mod join;
mod key;
mod key_files;
mod keys;
mod layout;
mod let_go;
mod listing;
mod located;
mod lost;
mod mend;
mod named_pins;
mod new_names;
mod open;
mod pack_ends;
mod pack_file;
mod pack_writer;
mod pages;
mod parallel;
mod partial;
mod pins;
mod policy;
mod processes;
mod progress;
mod promote;
mod publish;
mod push;
mod push_error;
mod push_regions;
mod push_request;
mod push_settle;
mod query;
mod rate;
mod read_only;
mod reader;
mod reader_chunks;
mod rebase;
mod rebase_error;
mod rebase_report;
mod receive;
mod receive_groups;
mod recent;
mod replace;
mod reserve;
mod restore;
mod retention;
mod retire;
mod rewrite;
mod scrub;
mod scrub_plan;
mod secret;
mod selector;
mod service_key;
mod source;
mod state;
mod store;
mod sweep;
mod syncing;
mod target;
mod verify;
mod verify_contents;
mod verify_run;
mod whole;
mod write_back;

pub use aside::BadPack;
pub use change_key::{ChangeKeyError, KeyInfo, ServiceKeys};
pub use checked::Scrubbed;
pub use coding::CodingError;
pub use collect::{Collected, GcReport, NewGeneration, PreparedGc, UnlistedReport};
pub use error::{ErrorKind, Fault, error_chain};
pub use foreign::{ForeignDirectory, ForeignError, RecordRun};
pub use fragments::{
    Appended, CutReader, FragmentBuilder, FragmentError, FragmentReader, FragmentReceiver, FragmentSink,
    FragmentUsage, Fragments, FragmentsFreed, HeldFragment, KeptManifest, PackBuilder, StoredSheet,
};
pub use holds::Reason;
pub use import::ImportError;
pub use key::{ClusterKeys, KeySource};
pub use let_go::LetGo;
pub use named_pins::{NamedPin, PinError};
pub use open::{OpenError, OpenReport, StoreOptions};
pub use parallel::Pace;
pub use partial::Partial;
pub use policy::{Growth, RebasePolicy, Trigger};
pub use progress::{NoProgress, Progress};
pub use push::Push;
pub use push_error::PushError;
pub use push_request::{PushLineage, PushReport, PushRequest};
pub use query::{PackReader, ReadError, SnapshotInfo};
pub use rate::Bucket;
pub use reader::{ChunkRead, SnapshotReader};
pub use rebase::{PreparedRebase, RebaseOptions};
pub use rebase_error::RebaseError;
pub use rebase_report::RebaseReport;
pub use receive::PackReceiver;
pub use receive_groups::{GroupReceiver, Received};
pub use restore::{RestoreError, RestoreReport};
pub use retention::{Dated, Retention, Rule};
pub use retire::RetireReport;
pub use scrub_plan::Sample;
pub use secret::{Secret, Secrets, TooManySecrets};
pub use service_key::ServiceKey;
pub use source::{FileSource, RegionSource};
pub use store::Store;
pub use target::{DirectoryTarget, RestoreTarget};
pub use verify::{BadFile, DamagedSnapshot, Depth, Scope, VerifyError, VerifyOptions, VerifyReport};
