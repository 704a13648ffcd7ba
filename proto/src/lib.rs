//! What sustain's parts agree on: ids, terms, manifests, indexes, wire messages, limits and their codec.
//!
//! No I/O, no clock, no randomness and no async here: everything is a value or a pure function, so that
//! stores, nodes and simulations speak the same language. Requirement numbers (P1–P41) refer to
//! `docs/paper.md`.

pub mod bounded;
pub mod limits;

mod codec;
mod fragment;
mod frame;
mod grid;
mod group_hasher;
mod groups;
mod hex;
pub mod human;
mod ids;
mod index;
pub mod join;
mod lineage;
mod manifest;
mod name;
mod region_index;
mod roster;
mod term;
pub mod wire;

pub use codec::{CodecError, Format, decode, encode};
pub use fragment::{Cut, CutError, Piece, Sheet};
pub use frame::{FRAME_HEADER_BYTES, FrameError, FrameHeader, decode_frame, encode_frame};
pub use grid::{chunk_bytes_at, chunk_count, is_zero};
pub use group_hasher::GroupHasher;
pub use groups::{
    GROUP_VALUE_BYTES, GroupList, GroupListError, GroupValue, PieceRange, group_count, group_value,
};
pub use hex::HexError;
pub use ids::{ChunkId, ChunkKey, ContentHash, FragmentId, IndexRoot, KeyId, NodeId, PackId, SnapshotId};
pub use index::SnapshotIndex;
pub use lineage::Lineage;
pub use manifest::{Held, Manifest, ManifestError, PackRef, Region, SnapshotKind};
pub use name::{NameError, PinName, RegionName, ServiceName};
pub use region_index::RegionIndex;
pub use roster::{Admission, Details, DetailsError, Fact, Record, Removal, Signature, Signed, Statement};
pub use term::{Term, TermOrigin};
pub use wire::WireError;
