//! Bounds on everything that crosses a process or a disk. Each is checked when writing and when reading.

/// Bytes of a chunk: the fixed grid on which regions are cut. Memory and disks are block-structured, so
/// a fixed grid finds what changed; 64 KiB keeps an index entry (about 40 bytes) under 0.1 % of its data.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Most bytes that a region may have: 16 TiB, so that a grid position fits 28 bits.
pub const REGION_BYTES_MAX: u64 = 16 << 40;

/// Most regions that a snapshot may have. A VM has one for memory, one for devices, one per disk.
pub const REGIONS_MAX: usize = 32;

/// Bytes at which a pack is closed and the next one begun. A pack that is spread and breaks off is sent anew, so this
/// bounds what a broken connection costs; a guess until it is measured.
pub const PACK_BYTES_TARGET: u64 = 16 << 20;

/// Most bytes of a pack: the target, and whatever one record and the directory add to it.
pub const PACK_BYTES_MAX: u64 = 160 << 20;

/// Most records in one pack. Records of a few bytes (chunks of one repeated pattern) reach this before
/// the byte target.
pub const PACK_RECORDS_MAX: usize = 1 << 16;

/// Most bytes of an encoded manifest. A usual one is under 4 KiB; this leaves room for 1,500 packs.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;

/// Most packs that one manifest may list.
pub const MANIFEST_PACKS_MAX: usize = 1_500;

/// Most snapshots that a base may name as those it came from.
pub const CAME_FROM_MAX: usize = 16;

/// Most snapshots that a base may name as those that its rebase kept. More are kept all the same; a manifest that lists
/// as much as it may of everything still fits.
pub const HELD_MAX: usize = 100;

/// Most parents of a snapshot: none for the first, one usually, two for a merge (P24).
pub const PARENTS_MAX: usize = 2;

/// Most entries of an index, all regions together: 128 GiB of chunks. It bounds the memory that decoding
/// takes (about 80 bytes an entry), which the bytes alone do not.
pub const INDEX_ENTRIES_MAX: usize = 2 << 20;

/// Most parts of a delta's index. Each is at least twice as large as the next, so that a handful spans any index.
pub const INDEX_PARTS_MAX: usize = 24;

/// Most bytes of an encoded index: [`INDEX_ENTRIES_MAX`] entries of at most 38 bytes, and the names.
pub const INDEX_BYTES_MAX: usize = 80 << 20;

/// Most bytes of a frame on the control lane: heartbeats, probes, ballots.
pub const CONTROL_FRAME_BYTES_MAX: usize = 64 * 1024;

/// Most bytes of a frame on the bulk lane: manifests and lists of packs (raw pack bytes are not framed).
pub const BULK_FRAME_BYTES_MAX: usize = 1 << 20;

/// Most bytes of a service's name.
pub const SERVICE_NAME_BYTES_MAX: usize = 63;

/// Most bytes of a pin's name.
pub const PIN_NAME_BYTES_MAX: usize = 63;

/// Most bytes of a region's name.
pub const REGION_NAME_BYTES_MAX: usize = 32;

/// Most snapshots that a node lists for a peer in one message, the newest ones.
pub const MESSAGE_SNAPSHOTS_MAX: usize = 4_096;

/// Most pack ids in one message: a base's and a delta's lists together.
pub const MESSAGE_PACKS_MAX: usize = 2 * MANIFEST_PACKS_MAX;

/// Most snapshots in a ballot: a summary has under 200 bytes, so all of them fit a control frame.
pub const CONTROL_SNAPSHOTS_MAX: usize = 256;

/// Most snapshots that a ballot says failed on the voter. When so many different ones fail, the cause is hardly in the
/// snapshots, and no more are given up. A guess.
pub const CONTROL_FAILED_MAX: usize = 16;

/// Bytes of a group, the part of a piece that is verified by itself: its value in the list is 0.05 % of it. A power of
/// two of BLAKE3's chunks.
pub const GROUP_BYTES: u64 = 64 << 10;

/// Most groups whose values are asked for in one message, as by the pieces' sizes: 1 GiB of pieces, 512 KiB of values.
pub const MESSAGE_GROUPS_MAX: usize = 1 << 14;

/// Most pieces whose lists of groups are asked for in one message.
pub const MESSAGE_PIECES_MAX: usize = 256;

/// Most sheets in one message: the largest ones fit a frame.
pub const MESSAGE_SHEETS_MAX: usize = 64;

/// Most ranges of pieces that are asked for in one message.
pub const MESSAGE_RANGES_MAX: usize = 256;

/// Most bytes that the ranges of one message have together.
pub const MESSAGE_RANGE_BYTES_MAX: u64 = 16 << 20;

/// Most ranges of a part that are asked for in one message.
pub const MESSAGE_ASKED_RANGES_MAX: usize = 64;

/// Most nodes that are named to a node that is to ask elsewhere.
pub const MESSAGE_HINTS_MAX: usize = 16;

/// Most groups of a part of a pack: those of the largest pack. Their values fit a bulk frame.
pub const PART_GROUPS_MAX: usize = PACK_BYTES_MAX.div_ceil(GROUP_BYTES) as usize;

/// Most bytes of a text (a reason, an address) in a message.
pub const MESSAGE_TEXT_BYTES_MAX: usize = 1_024;

/// Fewest bytes of an extent: below this a shard would be less than its overhead.
pub const EXTENT_BYTES_MIN: u32 = 4 << 10;

/// Most bytes of an extent: what is held in memory while it is coded is this, and as much again for each `needed`
/// fragments that are made.
pub const EXTENT_BYTES_MAX: u32 = 4 << 20;

/// Most bytes of an encoded sheet: 255 ids, a service's name, and some numbers.
pub const SHEET_BYTES_MAX: usize = 9_000;

/// Most bytes of a node's name.
pub const NODE_NAME_BYTES_MAX: usize = 63;

/// Most bytes of the label of a failure domain.
pub const DOMAIN_BYTES_MAX: usize = 63;

/// Most bytes of a statement of the roster as it is signed: two ids, a name, an address, a label and some numbers.
pub const STATEMENT_BYTES_MAX: usize = 512;

/// Most facts of the roster in one message. None has over 400 bytes, so that they fit a control frame.
pub const MESSAGE_FACTS_MAX: usize = 150;

/// Most services that a node is told of when it joins.
pub const OFFERED_MAX: usize = 64;

/// Most bytes of a service's definition that a node is told when it joins.
pub const DEFINITION_BYTES_MAX: usize = 4_096;

/// Most bytes of all of them together, so that they fit a control frame with the facts that come along.
pub const DEFINITIONS_BYTES_MAX: usize = 16 * 1_024;

/// Most facts that an outline of the roster names, 8 bytes each.
pub const OUTLINE_FACTS_MAX: usize = 8_000;
