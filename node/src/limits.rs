//! Bounds of the daemon's queues, connections and retries.

use std::time::Duration;

/// Events that a node remembers.
pub const EVENTS_KEPT: usize = 4_096;

/// Commands and events waiting for a service's task. Heartbeats that find it full are dropped: the next
/// one comes soon.
pub const SERVICE_QUEUE: usize = 1_024;

/// Commands waiting for a VM's thread. Each is part of a take-over, and there is one at a time.
pub const VM_QUEUE: usize = 16;

/// Notes from VM threads waiting for the service's task.
pub const VM_NOTES: usize = 64;

/// Clients' connections that one node forwards at a time, per service. Fewer where the limit on open files is low.
pub const CLIENTS_MAX: usize = 1_024;

/// File descriptors that a client takes: its own connection, and the one to the VM.
pub const CLIENT_DESCRIPTORS: u64 = 2;

/// File descriptors that clients leave to the VM, the store and the other nodes. A guess.
pub const DESCRIPTORS_RESERVED: u64 = 256;

/// Open files for which a node raises its own limit, if it may: enough for the clients of many services. Programs that
/// go through all descriptors that they could have would take long with the millions that some systems allow.
pub const DESCRIPTORS_WANTED: u64 = 1 << 16;

/// How often it is looked whether there is room for another client.
pub const CLIENTS_WATCH: Duration = Duration::from_secs(1);

/// How long a client's connection is held while there is no server. A take-over takes a few seconds, and
/// most clients wait that long.
pub const CLIENT_HOLD: Duration = Duration::from_secs(10);

/// How long to wait before a server that was not reached is tried again for a client: a tenth of what most
/// restores take.
pub const CLIENT_RETRY: Duration = Duration::from_millis(100);

/// Most bytes of a client that are kept until it is answered, to be said again to another server. Most requests
/// are shorter; longer ones are not said again.
pub const CLIENT_REPEAT_BYTES_MAX: usize = 64 * 1024;

/// How long a connection that broke before it was answered is held to see whether its server is lost: a VM's end
/// is noticed within [`VM_WATCH`], and an election waits up to 400 ms.
pub const CLIENT_DOUBT: Duration = Duration::from_secs(1);

/// How long the connection to a service inside its VM may take to be made.
pub const CLIENT_CONNECT: Duration = Duration::from_secs(5);

/// How often a VM is looked at between snapshots, to see that it is still there.
pub const VM_WATCH: Duration = Duration::from_millis(100);

/// Snapshots for which a rebase waits while none becomes durable. A manifest may list 1,500 packs, and a
/// snapshot usually adds one.
pub const REBASE_POSTPONED_MAX: u32 = 1_000;

/// A rebase that failed is tried again once the generation has grown by this share of what makes one due. A guess.
pub const REBASE_RETRY_SHARE: u32 = 4;

/// How long a restore, or a disk under a running guest, waits for the other nodes to send damaged packs again. The
/// guest stands meanwhile, and its disk then tries anew.
pub const MEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Intervals after which people are shown that nothing new is durable. A guess.
pub const DURABLE_LATE_INTERVALS: u32 = 10;

/// The same, at the least. A guess.
pub const DURABLE_LATE_MIN: Duration = Duration::from_secs(10);

/// Intervals after which people are shown that there was no snapshot: one or two are skipped now and then. A guess.
pub const SNAPSHOT_LATE_INTERVALS: u32 = 5;

/// The same at least, however short the interval: a snapshot takes its time.
pub const SNAPSHOT_LATE_MIN: Duration = Duration::from_secs(2);

/// First and longest pause before another try to fetch the rest of a snapshot whose VM runs. It runs without, but takes
/// no snapshots meanwhile.
pub const REST_RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`REST_RETRY_MIN`].
pub const REST_RETRY_MAX: Duration = Duration::from_secs(30);

/// Chunks that are fetched one by one for one that a guest's disk waits for: those that its block refers to, and those
/// of the blocks that it shares pages with. What needs more waits for whole packs. A guess.
pub const CHUNKS_FETCHED_FOR_ONE: usize = 64;

/// Slowest pace of a pass over the store, in bytes a second: a small store is gone through in minutes. A guess.
pub const SCRUB_RATE_MIN: u64 = 1 << 20;

/// Longest wait before it is looked again whether a pass is due, and after one that failed.
pub const SCRUB_WAIT_MAX: Duration = Duration::from_secs(60);

/// How often it is looked for bad packs that are to be sent again. It takes a walk over the manifests in memory.
pub const SCRUB_MEND_LOOK: Duration = Duration::from_secs(2);

/// First and longest pause before a bad pack is asked for again. A guess.
pub const SCRUB_MEND_RETRY_MIN: Duration = Duration::from_secs(5);
/// See [`SCRUB_MEND_RETRY_MIN`].
pub const SCRUB_MEND_RETRY_MAX: Duration = Duration::from_secs(600);

/// How long a request of a reader of events may wait for the next one.
pub const EVENTS_WAIT_MAX: Duration = Duration::from_secs(30);

/// Most bytes of a request to the admin API.
pub const ADMIN_BODY_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of a list of a region's changes: three million ranges, as many as single pages of 24 GiB of which every
/// other one changed. A longer list had better name longer ranges.
pub const CHANGED_LIST_BYTES_MAX: u64 = 64 << 20;

/// How long a stopping node waits for its tasks.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// How long a node that starts waits for the servers of what its store holds, at least, before it has that kept itself.
/// A guess: other nodes are reached within seconds.
pub const UNCOVERED_PATIENCE: Duration = Duration::from_secs(10);

/// Losses that a snapshot of plain files survives once it is durable: the same as a service's default.
pub const FILES_TOLERANCE: u32 = 1;

/// A VM that ends within this time after its restore is held against the snapshot that it was restored from. A guess:
/// long enough for a guest to finish the shutdown in the middle of which it was saved.
pub const EARLY_EXIT: Duration = Duration::from_secs(10);

/// Failed restores of a snapshot, over all nodes, before an older one is restored: one alone may be bad luck.
pub const FAILED_TRIES_MIN: u32 = 2;
/// The same while a node that can be reached gives no ballot, and may be one that has not tried. A guess.
pub const FAILED_TRIES_UNHEARD_MIN: u32 = 4;

/// A snapshot that a guest asks for is begun no sooner after the last such one than this share of the time between two
/// that are taken in any case: about as much again, and a few more. A guess.
pub const ASKED_GAP_SHARE: u32 = 4;
/// The gap is at least this, whatever the share: a snapshot takes some tens of milliseconds itself.
pub const ASKED_GAP_MIN: Duration = Duration::from_millis(50);
/// The gap is at most this: the guest waits for it, and does not ask often where snapshots are rare.
pub const ASKED_GAP_MAX: Duration = Duration::from_secs(1);

/// After each line of a guest's, its next one waits for this long: a thousand a second cost the node little.
pub const CHANNEL_LINE_PAUSE: Duration = Duration::from_millis(1);

/// Questions of a guest that wait for a snapshot at a time.
pub const CHANNEL_WAITING_MAX: usize = 64;

/// Most bytes of a question's id, which is sent back with the answer.
pub const CHANNEL_ID_BYTES_MAX: usize = 256;

/// How long a guest's question waits for its snapshot to be taken, or to be durable. Without enough other
/// nodes a snapshot is never durable, so it must end.
pub const CHANNEL_WAIT: Duration = Duration::from_secs(600);

/// How often the snapshot that a text names is chosen: each time a rebase has come between that and opening it, which
/// takes milliseconds. A guess: even the second time is rare.
pub const CHOICES_MAX: u32 = 8;

/// How often files are pushed that another process overtakes by a rebase, before it is told to the user: a rebase waits
/// for pushes of some seconds, so that even the second time is rare.
pub const PUSH_TRIES_MAX: u32 = 5;

/// Most services that a hint names: a line or two.
pub const SERVICES_NAMED_MAX: usize = 8;

/// Snapshots of a service that are tried, from the newest on, when the newest is to be gathered. A guess.
pub const GATHER_CANDIDATES_MAX: usize = 16;

/// Gatherings into folders that can be watched at once.
pub const GATHERS_WATCHED_MAX: usize = 64;
