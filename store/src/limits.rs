//! Bounds of the local store. Those of formats are in `sustain_proto::limits`.

/// Positions that a worker takes at a time when it reads, hashes or restores: 1 MiB of a region, enough
/// that taking work costs nothing and little enough that all cores finish together.
pub const BATCH_POSITIONS: u64 = 16;

/// Most worker threads of one operation. Each holds about 3 MiB of buffers, so memory stays bounded on
/// machines with many cores.
pub const WORKERS_MAX: usize = 16;

/// Cores that work behind others' leaves to them: one, for the VM that is saved. A guess at its processors' number
/// that is right on the small machines where it matters.
pub const CORES_LEFT_BEHIND: usize = 1;

/// By how much nicer work behind others is than whoever asked for it. By 10 it gets a tenth of a core that they want
/// too: enough to get done on a machine that is always busy.
pub const NICE_BEHIND: i32 = 10;

/// Level of zstd. Design's measurements: 280 MB/s a core on guest memory, and later levels gain little.
pub const ZSTD_LEVEL: i32 = 1;

/// How long a rebase that is ready waits for a push that is going on. A guess: most take less than a second, and
/// one that takes longer leaves no pause to wait for.
pub const REBASE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Bytes gathered before a pack's file is written to.
pub const PACK_BUFFER_BYTES: usize = 1 << 20;

/// Most records whose directory entries are kept in memory between operations: about 64 MiB. A guess:
/// the directories of a 32 GiB memory of which half is in use.
pub const DIRECTORY_CACHE_RECORDS_MAX: usize = 1 << 20;

/// Most packs that were received but that no imported manifest lists yet. Past it the oldest are
/// dropped and would be fetched again. A base's and a delta's longest lists fit.
pub const RECEIVED_PACKS_MAX: usize = 2 * sustain_proto::limits::MANIFEST_PACKS_MAX;

/// Least share of a pack, in percent, that must be alive for a rebase to keep it as it is.
pub const LIVE_PERCENT_MIN: u64 = 50;

/// Fewest hexadecimal digits of a snapshot id's prefix.
pub const PREFIX_DIGITS_MIN: usize = 4;

/// Most aliases that a chain may have: each rebase adds one link.
pub const ALIAS_STEPS_MAX: usize = 1_024;

/// Most bytes of the key file; a whole one has under 300.
pub const KEY_FILE_BYTES_MAX: u64 = 4_096;

/// Most chunks that are tried to find out whether a given key is the store's.
pub const KEY_PROBES_MAX: usize = 8;

/// Most bytes that the database is asked for in one read; its pages are far smaller.
pub const DATABASE_READ_BYTES_MAX: usize = 1 << 30;

/// Most bytes of a file that is copied into memory because the file system is read-only. The database is such a file: a
/// million snapshots fit.
pub const READ_ONLY_COPY_BYTES_MAX: u64 = 256 << 20;

/// Most bytes of the database: a row has under 100, so this is more than any store needs.
pub const DATABASE_BYTES_MAX: u64 = 16 << 30;

/// Bytes of the database's own cache. It is only written to, so little is enough.
pub const DATABASE_CACHE_BYTES: usize = 8 << 20;

/// Decoders with an open pack that a snapshot's reader keeps for the next read: a guess at how many
/// threads read at once.
pub const READERS_IDLE_MAX: usize = 16;
