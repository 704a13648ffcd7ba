//! Logic: the numbers of the NBD protocol, as its specification (doc/proto.md of the NBD project) gives
//! them. Everything on the wire is big endian.

/// First eight bytes of a server's greeting.
pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second eight bytes, and the start of each option.
pub(crate) const MAGIC_OPTION: u64 = 0x4948_4156_454f_5054;
/// Start of each reply to an option.
pub(crate) const MAGIC_OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// Start of each request.
pub(crate) const MAGIC_REQUEST: u32 = 0x2560_9513;
/// Start of a simple reply.
pub(crate) const MAGIC_SIMPLE_REPLY: u32 = 0x6744_6698;
/// Start of a chunk of a structured reply.
pub(crate) const MAGIC_CHUNK: u32 = 0x668e_33ef;

/// Handshake flag: the server understands options.
pub(crate) const FLAG_FIXED_NEWSTYLE: u16 = 1;
/// Handshake flag: the 124 zero bytes may be left out.
pub(crate) const FLAG_NO_ZEROES: u16 = 2;

/// Options.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
    pub(crate) const LIST_META_CONTEXT: u32 = 9;
    pub(crate) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub(crate) mod answer {
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const META_CONTEXT: u32 = 4;
    pub(crate) const ERR_UNSUPPORTED: u32 = (1 << 31) + 1;
    pub(crate) const ERR_INVALID: u32 = (1 << 31) + 3;
    pub(crate) const ERR_UNKNOWN: u32 = (1 << 31) + 6;
    pub(crate) const ERR_TOO_BIG: u32 = (1 << 31) + 9;
}

/// Kinds of information about an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const DESCRIPTION: u16 = 2;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// What the export can do: has flags, flush, FUA, trim, write-zeroes, don't-fragment, multi-conn, cache
/// and fast zero. A flush on one connection covers the writes of all, because a write is answered only
/// when it is where a flush would have it.
pub(crate) const TRANSMISSION_FLAGS: u16 =
    1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 11;

/// Commands.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const CACHE: u16 = 5;
    pub(crate) const WRITE_ZEROES: u16 = 6;
    pub(crate) const BLOCK_STATUS: u16 = 7;
}

/// Flags of commands.
pub(crate) mod flag {
    pub(crate) const FUA: u16 = 1;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DONT_FRAGMENT: u16 = 1 << 2;
    pub(crate) const REQUEST_ONE: u16 = 1 << 3;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

/// Kinds of chunks of a structured reply.
pub(crate) mod chunk {
    pub(crate) const NONE: u16 = 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const OFFSET_HOLE: u16 = 2;
    pub(crate) const BLOCK_STATUS: u16 = 5;
    pub(crate) const ERROR: u16 = (1 << 15) + 1;
    /// Flag of the last chunk of a reply.
    pub(crate) const FLAG_DONE: u16 = 1;
}

/// The one metadata context: what is allocated, and what is zero.
pub(crate) const CONTEXT_NAME: &str = "base:allocation";
/// The number by which block status replies name it.
pub(crate) const CONTEXT_ID: u32 = 1;
/// Block status of what is not there and reads as zeros.
pub(crate) const STATUS_HOLE_ZERO: u32 = 3;

/// Errors of requests, in the protocol's numbers, which are Linux's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Errno {
    /// The disk's data can't be had or kept now.
    Io = 5,
    /// No memory.
    NoMemory = 12,
    /// The request makes no sense.
    Invalid = 22,
    /// No space is left, or the request goes past the end.
    NoSpace = 28,
    /// Too long a request.
    Overflow = 75,
    /// Can't be done the fast way that was asked for.
    NotSupported = 95,
}
