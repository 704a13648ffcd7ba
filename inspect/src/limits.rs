//! Bounds of looking into a store.

use std::time::Duration;

/// How often a snapshot's present id is looked up: each time a rebase has come between that and opening it, which takes
/// milliseconds. A guess: even the second time is rare.
pub const CHOICES_MAX: u32 = 8;

/// Most bytes of decoded chunks that a mount keeps: 512 chunks, so that programs which read a few files of a guest's
/// file system find its tables again. A guess.
pub const CHUNK_CACHE_BYTES: usize = 32 << 20;

/// Most snapshots that a mount has open at once. Each keeps its index in memory, about 80 bytes a chunk.
pub const OPEN_SNAPSHOTS_MAX: usize = 64;

/// Most snapshots that a mount keeps open though nobody has a file of theirs open.
pub const IDLE_SNAPSHOTS_MAX: usize = 8;

/// How long such a snapshot stays open after its last use. An open one keeps its packs from being removed, so this is
/// what a mount delays a rebase's freeing of space by.
pub const IDLE_SNAPSHOT: Duration = Duration::from_secs(5);

/// How often a mount looks for snapshots to close.
pub const JANITOR_INTERVAL: Duration = Duration::from_secs(1);

/// Most files and folders of a mount that are open at once: as many as Linux lets a process open by default.
pub const OPEN_FILES_MAX: usize = 1_024;

/// Most inodes that the kernel may know of at once. It forgets the oldest when memory gets scarce; this bounds what
/// they take here, some hundred bytes each.
pub const INODES_MAX: usize = 1 << 18;

/// How long the kernel may use what it was told of a name or a file. What is pushed or rebased meanwhile shows after
/// that.
pub const ENTRY_LIFE: Duration = Duration::from_secs(1);

/// Threads that answer a mount's requests, at most one per processor.
pub const MOUNT_THREADS_MAX: usize = 4;

/// Chunks of which one thread reads ahead all that follow, when a file is read from front to back: up to the next
/// multiple. As many as are compressed together, so that none is decompressed twice.
pub const AHEAD_CHUNKS: u64 = 16;

/// Locks that keep threads from decoding the same chunks at once. A guess.
pub const DECODING_LOCKS: usize = 16;

/// Damaged chunks that are remembered, so that each is told of once.
pub const DAMAGES_MAX: usize = 1_024;

/// Most threads that decode for `cat` and for a comparison. Four of them are faster than a pipe's reader.
pub const CAT_THREADS_MAX: usize = 4;

/// Decoded pieces of 1 MiB that wait for being written, for each thread.
pub const CAT_QUEUE_PIECES: usize = 2;

/// Most groups of blocks of a file system that is looked into: 16 TiB of blocks of 4 KiB.
pub const EXT4_GROUPS_MAX: u64 = 1 << 17;

/// Most nodes of one file's tree of extents: 300 extents each are a file of 2 TiB in pieces of 128 KiB.
pub const EXT4_EXTENT_NODES_MAX: usize = 1 << 16;

/// Most blocks of a journal. The usual ones have up to 262,144.
pub const EXT4_JOURNAL_BLOCKS_MAX: u32 = 1 << 20;

/// Most extents of all files together that are read: more are those of an image that is made to harm.
pub const EXT4_EXTENTS_MAX: u64 = 1 << 25;

/// Most inodes that are looked at: a file system of 256 GiB has as many.
pub const EXT4_INODES_MAX: u64 = 1 << 24;

/// Most blocks of folders that are read, 4 GiB.
pub const EXT4_FOLDER_BLOCKS_MAX: u64 = 1 << 20;

/// Most folders within one another, and so most names in a path.
pub const EXT4_DEPTH_MAX: usize = 256;

/// Most folders that are looked into. Each is kept with its name, of at most 255 bytes.
pub const EXT4_FOLDERS_MAX: usize = 1 << 19;

/// Most bytes of all paths together. Files are listed without theirs past it.
pub const CHANGED_PATH_BYTES_MAX: usize = 64 << 20;

/// Most files with changes that are listed with their path. What others have is summed up.
pub const CHANGED_FILES_MAX: usize = 1 << 17;

/// Most ranges of all files together. Past it a file's bytes are counted, and where they are is left out.
pub const CHANGED_FILE_RANGES_MAX: usize = 1 << 20;

/// Most ranges of a region that are told apart by pages, 64 MiB of them. Past it they are of whole chunks.
pub const CHANGED_RANGES_MAX: usize = 1 << 22;

/// Chunks that a thread compares at a time.
pub const COMPARE_CHUNKS: usize = 16;

/// Things that could not be understood in a file system which are told one by one.
pub const PROBLEMS_MAX: usize = 16;

/// Bytes of decoded chunks that a look into a file system keeps.
pub const EXT4_CACHE_BYTES: usize = 16 << 20;
