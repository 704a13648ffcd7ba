//! What nodes say to one another.
//!
//! Three lanes, each a QUIC connection of its own, so that none delays another: *control* (heartbeats,
//! probes, elections), *bulk* (manifests and packs) and *forward* (clients' TCP connections on their way
//! to the server). Every message is one frame; a request is answered by one [`Response`] on its stream.
//! Where raw bytes follow a frame, the message says how many.
//!
//! Decoding already refuses a list that is over its limit. [`Request::check`] and [`Response::check`] check
//! all limits: senders call them before, receivers after.

mod parts;
mod pieces;
mod service;
mod version;

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::{
    Fact, PackId, Piece, PieceRange, Record, ServiceName, Signed, SnapshotId, Term, TermOrigin, bounded,
    limits,
};

pub use parts::{Ask, ByteRange, Denial, Granted};
pub use pieces::HeldFragments;
pub use service::{Ballot, Heartbeat, SnapshotSummary};
pub use version::{VERSIONS_ALPN, Versions, WIRE_VERSION, WIRE_VERSION_MIN};

/// Which connection a message travels on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Small and urgent.
    Control,
    /// Large and patient.
    Bulk,
    /// Clients' bytes.
    Forward,
}

impl Lane {
    /// All lanes.
    pub const ALL: [Self; 3] = [Self::Control, Self::Bulk, Self::Forward];

    /// Most bytes of a frame on this lane.
    #[must_use]
    pub const fn frame_bytes_max(self) -> usize {
        match self {
            Self::Control | Self::Forward => limits::CONTROL_FRAME_BYTES_MAX,
            Self::Bulk => limits::BULK_FRAME_BYTES_MAX,
        }
    }
}

/// One-way messages on the control lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Are you there? (P15)
    Probe {
        /// Comes back in the reply.
        nonce: u64,
    },
    /// Yes.
    ProbeReply {
        /// The probe's.
        nonce: u64,
    },
    /// The server is alive.
    Heartbeat(Heartbeat),
    /// What the sender's roster is, in short. Whoever has another one asks for what it lacks.
    Roster {
        /// Of all its facts.
        digest: [u8; 32],
        /// Whether it answers another such message; then none answers it.
        is_reply: bool,
        /// What the sender says of itself, on a new connection: it may have moved, so that nobody can ask it.
        record: Option<Box<Signed<Record>>>,
    },
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Control: the sender misses the server; who would stand?
    Poll {
        /// The service.
        service: ServiceName,
        /// The term whose heartbeats stay out; none if the sender never heard one.
        lost: Option<Term>,
    },
    /// Control: the sender takes over, from this snapshot on (P21).
    Claim {
        /// The service.
        service: ServiceName,
        /// The new term.
        term: Term,
        /// Where it branches off; none when it starts the service for the first time.
        origin: Option<TermOrigin>,
    },
    /// Bulk: which snapshots of this service do you know?
    Snapshots {
        /// The service.
        service: ServiceName,
    },
    /// Bulk: a manifest, please.
    GetManifest {
        /// Its snapshot.
        id: SnapshotId,
    },
    /// Bulk: which of these packs do you hold?
    HavePacks {
        /// At most [`limits::MESSAGE_PACKS_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_PACKS_MAX }>")]
        ids: Vec<PackId>,
    },
    /// Bulk: the bytes of a pack, raw, from an offset on.
    GetPack {
        /// The pack.
        id: PackId,
        /// First byte wanted: a broken transfer goes on where it stopped.
        offset: u64,
        /// How many are wanted; fewer come where the pack ends. A part of a pack is sent before whole ones.
        bytes: u64,
    },
    /// Forward: connect this stream to the service; raw bytes follow both ways.
    Connect {
        /// The service.
        service: ServiceName,
        /// Which of its ports, by the number inside the guest: nodes may listen on different ports for it,
        /// the guest's is the same everywhere.
        guest_port: NonZeroU16,
    },
    /// Bulk: the values of the groups of these pieces, please.
    GetGroups {
        /// At most [`limits::MESSAGE_PIECES_MAX`], which have at most [`limits::MESSAGE_GROUPS_MAX`] groups.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_PIECES_MAX }>")]
        pieces: Vec<Piece>,
    },
    /// Bulk: these ranges of pieces, raw.
    GetRanges {
        /// At most [`limits::MESSAGE_RANGES_MAX`], of at most [`limits::MESSAGE_RANGE_BYTES_MAX`] bytes together.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_RANGES_MAX }>")]
        ranges: Vec<PieceRange>,
    },
    /// Control: which facts of the roster do you have that are not among these?
    Roster {
        /// Goes into the hashes, so that nobody can prepare facts that look alike.
        nonce: u64,
        /// A short hash of each fact, at most [`limits::OUTLINE_FACTS_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::OUTLINE_FACTS_MAX }>")]
        hashes: Vec<[u8; 8]>,
    },
    /// Bulk: bytes of a part of a pack that is retained, raw.
    Ask(Ask),
    /// Bulk: which fragments of these packs do you hold?
    HaveFragments {
        /// At most [`limits::MESSAGE_PACKS_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_PACKS_MAX }>")]
        ids: Vec<PackId>,
    },
    /// Bulk: the sheets of these packs, please.
    GetSheets {
        /// At most [`limits::MESSAGE_SHEETS_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_SHEETS_MAX }>")]
        packs: Vec<PackId>,
    },
}

impl Request {
    /// The lane that the request belongs on; on another it is refused.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        match self {
            Self::Poll { .. } | Self::Claim { .. } | Self::Roster { .. } => Lane::Control,
            Self::Connect { .. } => Lane::Forward,
            _ => Lane::Bulk,
        }
    }

    /// Checks the limits on lists and sizes.
    ///
    /// # Errors
    /// Names the limit that is exceeded.
    pub fn check(&self) -> Result<(), WireError> {
        match self {
            Self::HavePacks { ids } | Self::HaveFragments { ids } => check_packs(ids),
            Self::GetSheets { packs } => {
                at_most("packs", packs.len() as u64, limits::MESSAGE_SHEETS_MAX as u64)
            }
            Self::GetPack { offset, bytes, .. } => {
                at_most("bytes of offset", *offset, limits::PACK_BYTES_MAX)?;
                at_most("bytes of a pack", *bytes, limits::PACK_BYTES_MAX)
            }
            Self::GetGroups { pieces } => {
                at_most("pieces", pieces.len() as u64, limits::MESSAGE_PIECES_MAX as u64)
            }
            Self::GetRanges { ranges } => pieces::check_ranges(ranges),
            Self::Roster { hashes, .. } => {
                at_most("facts", hashes.len() as u64, limits::OUTLINE_FACTS_MAX as u64)
            }
            Self::Ask(ask) => ask.check(),
            Self::Poll { .. }
            | Self::Claim { .. }
            | Self::Snapshots { .. }
            | Self::GetManifest { .. }
            | Self::Connect { .. } => Ok(()),
        }
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// To `Poll`.
    Ballot(Ballot),
    /// To `Claim`: the greatest term that the peer knows for the service. If it is greater than the
    /// claim's, the claimant yields.
    Claimed {
        /// The claim itself where the peer follows it.
        greatest: Term,
    },
    /// To `Snapshots`.
    Snapshots {
        /// Newest last, at most [`limits::MESSAGE_SNAPSHOTS_MAX`].
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_SNAPSHOTS_MAX }>")]
        list: Vec<SnapshotSummary>,
    },
    /// To `GetManifest`.
    Manifest {
        /// Encoded.
        bytes: Vec<u8>,
    },
    /// To `HavePacks`: those that the peer holds.
    Having {
        /// Their ids.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_PACKS_MAX }>")]
        packs: Vec<PackId>,
    },
    /// To `GetPack`: the bytes follow, raw.
    Pack {
        /// Bytes of the whole pack; what follows is this less the offset, or as much as was asked for.
        bytes: u64,
    },
    /// To `Connect`: raw bytes follow.
    Connected,
    /// The peer can't or won't, and why.
    Refused {
        /// At most [`limits::MESSAGE_TEXT_BYTES_MAX`] bytes.
        reason: String,
    },
    /// To `GetGroups`: the values of all these groups follow, raw,
    /// [`GROUP_VALUE_BYTES`](crate::GROUP_VALUE_BYTES) each.
    Groups {
        /// For each piece that was asked for its number of groups; 0 for one that is not here, or is damaged here.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_PIECES_MAX }>")]
        counts: Vec<u32>,
    },
    /// To `GetRanges`: the bytes of those that are here follow, raw, one range after the other.
    Ranges {
        /// For each range that was asked for, whether its piece is here and has it.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_RANGES_MAX }>")]
        here: Vec<bool>,
    },
    /// To `Roster`.
    Facts {
        /// At most [`limits::MESSAGE_FACTS_MAX`]; there may be more.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_FACTS_MAX }>")]
        facts: Vec<Fact>,
    },
    /// To `Ask`: the bytes follow, raw.
    Granted(Granted),
    /// To `Ask`: no bytes come.
    Denied(Denial),
    /// To `HaveFragments`: those that the peer holds.
    Fragments {
        /// At most one for each pack that was asked for and each sheet.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_PACKS_MAX }>")]
        held: Vec<HeldFragments>,
    },
    /// To `GetSheets`.
    Sheets {
        /// For each pack that was asked for its encoded sheet; empty where it is not here.
        #[serde(deserialize_with = "bounded::list::<_, _, { limits::MESSAGE_SHEETS_MAX }>")]
        sheets: Vec<Vec<u8>>,
    },
}

impl Response {
    /// A refusal, its reason cut to [`limits::MESSAGE_TEXT_BYTES_MAX`].
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        let mut end = reason.len().min(limits::MESSAGE_TEXT_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Self::Refused { reason }
    }

    /// Checks the limits on lists, sizes and texts.
    ///
    /// # Errors
    /// Names the limit that is exceeded.
    pub fn check(&self) -> Result<(), WireError> {
        match self {
            Self::Ballot(ballot) => {
                let failed = ballot.failed.len() as u64;
                at_most("failed snapshots", failed, limits::CONTROL_FAILED_MAX as u64)?;
                at_most("snapshots", ballot.snapshots.len() as u64, limits::CONTROL_SNAPSHOTS_MAX as u64)
            }
            Self::Having { packs } => check_packs(packs),
            Self::Snapshots { list } => {
                at_most("snapshots", list.len() as u64, limits::MESSAGE_SNAPSHOTS_MAX as u64)
            }
            Self::Manifest { bytes } => check_manifest(bytes),
            Self::Pack { bytes } => at_most("bytes of a pack", *bytes, limits::PACK_BYTES_MAX),
            Self::Refused { reason } => {
                at_most("bytes of a reason", reason.len() as u64, limits::MESSAGE_TEXT_BYTES_MAX as u64)
            }
            Self::Groups { counts } => {
                at_most("pieces", counts.len() as u64, limits::MESSAGE_PIECES_MAX as u64)?;
                let groups = counts.iter().map(|count| u64::from(*count)).sum();
                at_most("groups", groups, limits::MESSAGE_GROUPS_MAX as u64)
            }
            Self::Ranges { here } => at_most("ranges", here.len() as u64, limits::MESSAGE_RANGES_MAX as u64),
            Self::Facts { facts } => at_most("facts", facts.len() as u64, limits::MESSAGE_FACTS_MAX as u64),
            Self::Fragments { held } => pieces::check_held(held),
            Self::Sheets { sheets } => pieces::check_sheets(sheets),
            Self::Granted(granted) => granted.check(),
            Self::Denied(denial) => denial.check(),
            Self::Claimed { .. } | Self::Connected => Ok(()),
        }
    }
}

/// A message over one of its limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a message with {found} {what}, where at most {max} are allowed")]
pub struct WireError {
    /// Of what there are too many.
    pub what: &'static str,
    /// The limit.
    pub max: u64,
    /// What was found.
    pub found: u64,
}

fn at_most(what: &'static str, found: u64, max: u64) -> Result<(), WireError> {
    if found > max { Err(WireError { what, max, found }) } else { Ok(()) }
}

fn check_packs(packs: &[PackId]) -> Result<(), WireError> {
    at_most("packs", packs.len() as u64, limits::MESSAGE_PACKS_MAX as u64)
}

fn check_manifest(manifest: &[u8]) -> Result<(), WireError> {
    at_most("bytes of a manifest", manifest.len() as u64, limits::MANIFEST_BYTES_MAX as u64)
}
