//! Bounds of the local store. Those of formats are in `sustain_proto::limits`.

/// Positions that a worker takes at a time when it reads, hashes or restores: 1 MiB of a region, enough
/// that taking work costs nothing and little enough that all cores finish together.
pub const BATCH_POSITIONS: u64 = 16;

/// Chunks that a worker restores at a time: some blocks, so that few of them are decoded by two workers.
pub const BATCH_JOBS: usize = 4 * BATCH_POSITIONS as usize;

/// Most worker threads of one operation. Each holds about 3 MiB of buffers, so memory stays bounded on
/// machines with many cores.
pub const WORKERS_MAX: usize = 16;

/// Folders that are synced at the same time: a journal of the file system's then has all of them, where one after the
/// other takes one each.
pub const AT_ONCE_MAX: usize = 16;

/// Cores that work behind others' leaves to them: one, for the VM that is saved. A guess at its processors' number
/// that is right on the small machines where it matters.
pub const CORES_LEFT_BEHIND: usize = 1;

/// By how much nicer work behind others is than whoever asked for it. By 10 it gets a tenth of a core that they want
/// too: enough to get done on a machine that is always busy.
pub const NICE_BEHIND: i32 = 10;

/// Level of zstd for bases, and the shortest match that it looks for there, which at this level is 6 by default.
/// Against level 2 this takes 1 % more of a guest's state, at 1.1 times the speed; 6 would take 1.8 % more
/// (docs/benchmarks.md).
pub const ZSTD_LEVEL: i32 = 1;
/// See [`ZSTD_LEVEL`]; in bytes.
pub const ZSTD_MATCH_BYTES: u32 = 5;
/// Slots of zstd's hash table there, as a power of 2: twice as many as by default. It saves 0.6 %, for 1 % of the speed
/// (docs/benchmarks.md).
pub const ZSTD_HASH_LOG: u32 = 15;

/// Level of zstd for blocks with a dictionary: level 3 saves 4 % of a mail guest's changes for a third more of the
/// time, which is longer than a wire of 1 Gbit/s takes for them; level 1 takes a quarter more, in as much time
/// (docs/benchmarks.md).
pub const ZSTD_DELTA_LEVEL: i32 = 2;

/// Most chunks of a block. More gain next to nothing (docs/benchmarks.md), and reading one chunk takes decoding the
/// whole block and what all its chunks refer to.
pub const BLOCK_CHUNKS_MAX: usize = 16;

/// Most chunks of a block of a base, of which single chunks are read: by a guest whose disk is restored on demand, and
/// for what refers to them. Against 4 it saves 2 % of a base, and a later push takes 5 % more of the processor
/// (docs/benchmarks.md).
pub const BASE_BLOCK_CHUNKS: usize = 8;

/// Decoded blocks that a reader of chunks keeps for itself: it reads the chunks of a block one after the other.
pub const BLOCKS_KEPT: usize = 4;

/// Bytes of decoded blocks that a store keeps: of those that chunks refer to or share pages with. A guess: it spans 256
/// MiB of memory of which a quarter changes all the time. What is referred to beyond that is decoded again and again.
pub const BLOCK_CACHE_BYTES: u64 = 64 << 20;

/// The same, for each worker of the first push since a store was opened, which for a process that pushes once is the
/// only one: memory that is taken for the first time costs as much as decoding what it would hold. With half of it a
/// push of a mail guest's changes took 1.4 times the processor's time.
pub const PUSH_CACHE_BYTES: u64 = 8 << 20;

/// Blocks of these that its table is laid out for.
pub const PUSH_CACHE_ITEMS: usize = 16;

/// Blocks that its table is laid out for.
pub const BLOCK_CACHE_ITEMS: usize = 512;

/// Services of which a store keeps what the last push has read. A guess: nodes run few at once.
pub const RECENT_SERVICES_MAX: usize = 4;

/// Packs that a reader of chunks keeps open. A guess.
pub const PACKS_KEPT_OPEN: usize = 8;

/// Chunks of packs that are not here which a reader keeps: as many as some blocks refer to. A guess.
pub const SUPPLIED_CHUNKS_MAX: usize = 64;

/// How long a rebase that is ready waits for a push that is going on. A guess: most take less than a second, and
/// one that takes longer leaves no pause to wait for.
pub const REBASE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Bytes gathered before a pack's file is written to.
pub const PACK_BUFFER_BYTES: usize = 1 << 20;

/// Packs that are synced while the next one is written; past it the disk is waited for. A guess: it evens out what the
/// disk does in bursts, and bounds what a sync at the end may take.
pub const SYNCS_BEHIND_MAX: usize = 3;

/// How often files that are being restored are synced before they are complete. A guess: some tens of MiB at a time.
pub const WRITE_BACK_EVERY: std::time::Duration = std::time::Duration::from_millis(20);

/// Most records whose directory entries are kept in memory between operations: about 64 MiB. A guess:
/// the directories of a 32 GiB memory of which half is in use.
pub const DIRECTORY_CACHE_RECORDS_MAX: usize = 1 << 20;

/// Files of packs that come group by group from which on those that nobody receives are removed.
pub const INCOMING_FILES_MAX: usize = 256;

/// Most packs that were received but that no imported manifest lists yet. Past it the oldest are
/// dropped and would be fetched again. A base's and a delta's longest lists fit.
pub const RECEIVED_PACKS_MAX: usize = 2 * sustain_proto::limits::MANIFEST_PACKS_MAX;

/// Deltas after which a generation ends, unless said otherwise: at a snapshot a second it lasts a minute. It bounds
/// what a manifest lists: a pack or two a snapshot, far under the limit.
pub const REBASE_DELTAS: u32 = 60;

/// What a generation's deltas may take, in percent of its base, unless said otherwise. A rebase writes about as much
/// as the base has at most, so at this share it at most doubles what is written, and the store at most doubles too. A
/// smaller share writes more, a greater one stores more.
pub const REBASE_DELTA_PERCENT: u32 = 100;

/// What may be dead in a store, in percent of what is alive, unless said otherwise. A rebase copies a pack at half
/// its size at most then, so each dead byte costs the writing of one that is alive.
pub const REBASE_DEAD_PERCENT: u32 = 100;

/// Bytes below which no share ends a generation: those of four packs. Less is not worth a rebase, and small
/// services would do nothing else. A guess.
pub const REBASE_BYTES_MIN: u64 = 4 << 20;

/// Most former ids by which a snapshot is still found. Each rebase adds one. Which ones are given up is left to chance,
/// but never the last.
pub const FORMER_IDS_MAX: usize = 64;

/// Most pins that people set: each keeps what its snapshot takes.
pub const NAMED_PINS_MAX: usize = 1_024;

/// Most bytes of a pin's file; a usual one has 200.
pub const PIN_BYTES_MAX: usize = 1_024;

/// Most bytes of the text that says why a pack was set aside.
pub const ASIDE_REASON_BYTES_MAX: usize = 1_024;

/// How often it is noted what was checked: a run that is killed loses as much. A guess.
pub const CHECKED_WRITE_EVERY: std::time::Duration = std::time::Duration::from_secs(3);

/// Most packs whose last check is noted: 4 TiB of usual ones. The others count as never checked.
pub const CHECKED_PACKS_MAX: usize = 1 << 18;

/// Most bytes of those notes: an entry has at most 42.
pub const CHECKED_BYTES_MAX: usize = 12 << 20;

/// How long verifying sleeps at most, when it keeps to a rate, before it looks whether it is to stop.
pub const VERIFY_NAP: std::time::Duration = std::time::Duration::from_millis(100);

/// Fewest hexadecimal digits of a snapshot id's prefix.
pub const PREFIX_DIGITS_MIN: usize = 4;

/// Most aliases that a chain may have: each rebase adds one link.
pub const ALIAS_STEPS_MAX: usize = 1_024;

/// Most secrets of a service, or of a cluster: the newest, and those that open what a rebase has not sealed anew yet. A
/// guess: usually there is one, and two from a change to the next rebase.
pub const SECRETS_MAX: usize = 16;

/// Most bytes of a file of keys; one with the most secrets has some 1,300.
pub const KEY_FILE_BYTES_MAX: u64 = 4_096;

/// Most services whose derived keys are kept at hand. Of those beyond it what comes is kept, and read after the next
/// opening. A guess: far more than a node runs.
pub const SERVICES_KNOWN_MAX: usize = 4_096;

/// Most bytes of a file that is copied into memory because the file system is read-only. The database is such a file: a
/// million snapshots fit.
pub const READ_ONLY_COPY_BYTES_MAX: u64 = 256 << 20;

/// Most bytes of the database: a row has under 50, and a snapshot or pack one each, so ten millions of them fit.
pub const DATABASE_BYTES_MAX: u64 = 1 << 30;

/// The database is written anew when it has grown to so many times what it says, and
pub const DATABASE_GROWTH: u64 = 2;

/// so many bytes more: after hundreds of commits at least, so that what this takes is shared by all of them.
pub const DATABASE_BYTES_MIN: u64 = 128 << 10;

/// How often a journal is read on whose end is being cut off. A guess: once is rare.
pub const FOLLOW_TRIES: usize = 3;

/// How often opening reads a store that others change meanwhile, before it keeps them from it. A guess.
pub const JOIN_TRIES: usize = 3;

/// How long the commit lock is waited for. Who holds it syncs a few files; only one that was stopped, or whose disk
/// hangs, takes so long.
pub const COMMIT_LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// As long, for removing packs that nobody reads any more: else the next opening does it.
pub const TIDYING_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// The longest pause between two looks at a lock; the first are far shorter. A guess: a tenth of a slow disk's sync.
pub const LOCK_POLL_MAX: std::time::Duration = std::time::Duration::from_millis(2);

/// How long a rebase that waits for another process's push sleeps between two looks. A guess.
pub const PUSH_POLL: std::time::Duration = std::time::Duration::from_millis(20);

/// Bytes of a process's file that are there from the beginning, so that pins can be written on a full disk: 512 pins.
pub const PROCESS_FILE_BYTES: usize = 16 << 10;

/// Bytes that are kept for a full disk: for the file of a process, and for what its commits append to the database. A
/// guess.
pub const RESERVE_BYTES: usize = 64 << 10;

/// Most bytes of a process's file: a million pins. Whoever finds a longer one removes nothing.
pub const PROCESS_FILE_BYTES_MAX: u64 = 32 << 20;

/// How often a rebase looks again at what others have pushed or pinned while it was about to be committed. A guess:
/// each time there is less to do.
pub const REBASE_LOOKS_MAX: usize = 32;

/// Decoders with an open pack that a snapshot's reader keeps for the next read: a guess at how many
/// threads read at once.
pub const READERS_IDLE_MAX: usize = 16;

/// Codes whose matrices are kept: one for each pair of numbers of fragments. A cluster has one, and another one when it
/// grows.
pub const CODES_KEPT: usize = 8;

/// Most bytes of a sheet with what its maker's signature takes.
pub const STORED_SHEET_BYTES_MAX: usize = sustain_proto::limits::SHEET_BYTES_MAX + 1_024;

/// Bytes of a segment of fragments past which the next one begins. A guess: what is dropped together fills some, and a
/// hundred thousand fragments are in thousands of files at most.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// Most fragments and sheets of a store: each takes some 300 bytes of memory.
pub const FRAGMENTS_MAX: usize = 1 << 20;

/// Fragments on their way in past which those that nobody receives are given up.
pub const FRAGMENT_PARTS_MAX: usize = 1_024;

/// Bytes of a pack that are coded at a time, where an extent is not larger: with 24 fragments of which 6 are needed,
/// five times as much is in memory.
pub const CODED_BYTES: u64 = 2 << 20;

/// Fragments that one worker makes at a time: their sums are in the processor's registers.
pub const CODED_TOGETHER: usize = 4;
