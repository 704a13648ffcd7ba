//! Indexes: which chunk is at which grid position of which region.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Format};
use crate::{ChunkId, ContentHash, IndexRoot, RegionName, limits};

const FORMAT: Format =
    Format { name: "index", magic: *b"SUSi", version: 1, bytes_max: limits::INDEX_BYTES_MAX };

/// Grid positions of one region, each with its chunk.
///
/// In a base, a position that is absent is all zero. In a delta, a position that is absent is as in the
/// base, and `None` says that it is all zero now.
pub type RegionIndex = BTreeMap<u64, Option<ChunkId>>;

/// What a snapshot's regions hold: for a base, all its chunks; for a delta, what differs from its base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotIndex {
    /// The regions by name. Their sizes are in the manifest.
    pub regions: BTreeMap<RegionName, RegionIndex>,
}

impl SnapshotIndex {
    /// Encodes the index and computes its root.
    ///
    /// # Errors
    /// If it is over [`limits::INDEX_BYTES_MAX`].
    pub fn encode(&self) -> Result<(IndexRoot, Vec<u8>), CodecError> {
        let bytes = codec::encode(FORMAT, self)?;
        Ok((IndexRoot::of(&bytes), bytes))
    }

    /// Decodes an index. The caller has compared the bytes with the manifest's index root.
    ///
    /// # Errors
    /// Not an index, another version, too large or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(FORMAT, bytes)
    }

    /// The hash of whole contents: `self` must be a whole (base-like) index, sizes come from the manifest.
    #[must_use]
    pub fn content_hash(&self, regions: &[crate::Region]) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 snapshot contents v1");
        let none = RegionIndex::new();
        for region in regions {
            let name = region.name.as_str().as_bytes();
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name);
            hasher.update(&region.bytes.to_le_bytes());
            for (position, chunk) in self.regions.get(&region.name).unwrap_or(&none) {
                if let Some(chunk) = chunk {
                    hasher.update(&position.to_le_bytes());
                    hasher.update(chunk.as_bytes());
                }
            }
            hasher.update(&u64::MAX.to_le_bytes());
        }
        ContentHash::from_bytes(*hasher.finalize().as_bytes())
    }
}
