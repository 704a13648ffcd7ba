//! Indexes: which chunk is at which grid position of which region.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Format};
use crate::{ChunkId, ContentHash, IndexRoot, RegionIndex, RegionName, chunk_count, limits};

const FORMAT: Format =
    Format { name: "index", magic: *b"SUSi", version: 1, bytes_max: limits::INDEX_BYTES_MAX };

/// Bytes that are hashed at a time.
const HASH_BUFFER_BYTES: usize = 16 * 1024;

/// Grid positions that the largest region has.
const POSITIONS_MAX: u64 = chunk_count(limits::REGION_BYTES_MAX);

/// What a snapshot's regions hold: for a base, all its chunks; for a delta, what differs from its base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotIndex {
    /// The regions by name. Their sizes are in the manifest.
    #[serde(deserialize_with = "regions")]
    pub regions: BTreeMap<RegionName, RegionIndex>,
}

impl SnapshotIndex {
    /// Encodes the index and computes its root.
    ///
    /// # Errors
    /// If it has more regions, entries or bytes than the limits allow, or a position past the end of any
    /// region.
    pub fn encode(&self) -> Result<(IndexRoot, Vec<u8>), CodecError> {
        self.check()?;
        let bytes = codec::encode(FORMAT, self)?;
        Ok((IndexRoot::of(&bytes), bytes))
    }

    /// Decodes an index. The caller has compared the bytes with the manifest's index root.
    ///
    /// # Errors
    /// Not an index, another version, too large or damaged. Names and positions must ascend.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode(FORMAT, bytes)
    }

    /// What decoding checks as it goes along.
    fn check(&self) -> Result<(), CodecError> {
        let too_many = |what, max| CodecError::TooMany { format: FORMAT.name, what, max };
        if self.regions.len() > limits::REGIONS_MAX {
            return Err(too_many("regions", limits::REGIONS_MAX));
        }
        if self.regions.values().map(RegionIndex::len).sum::<usize>() > limits::INDEX_ENTRIES_MAX {
            return Err(too_many("entries", limits::INDEX_ENTRIES_MAX));
        }
        let last = self.regions.values().filter_map(RegionIndex::last_position).max();
        if last.is_some_and(|last| last >= POSITIONS_MAX) {
            return Err(too_many("grid positions in a region", POSITIONS_MAX as usize));
        }
        Ok(())
    }

    /// The hash of whole contents: `self` must be a whole (base-like) index, sizes come from the manifest.
    #[must_use]
    pub fn content_hash(&self, regions: &[crate::Region]) -> ContentHash {
        let mut hasher = blake3::Hasher::new_derive_key("sustain 2026 snapshot contents v1");
        let none = RegionIndex::new();
        // Hashing is quick from buffers of some KiB on.
        let mut bytes = Vec::new();
        for region in regions {
            let name = region.name.as_str().as_bytes();
            bytes.extend_from_slice(&(name.len() as u64).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(&region.bytes.to_le_bytes());
            for (position, chunk) in self.regions.get(&region.name).unwrap_or(&none).chunks() {
                bytes.extend_from_slice(&position.to_le_bytes());
                bytes.extend_from_slice(chunk.as_bytes());
                if bytes.len() >= HASH_BUFFER_BYTES {
                    hasher.update(&bytes);
                    bytes.clear();
                }
            }
            bytes.extend_from_slice(&u64::MAX.to_le_bytes());
        }
        hasher.update(&bytes);
        ContentHash::from_bytes(*hasher.finalize().as_bytes())
    }
}

/// Decodes the regions with every limit checked before memory is taken for what is over it.
fn regions<'de, D>(deserializer: D) -> Result<BTreeMap<RegionName, RegionIndex>, D::Error>
where
    D: Deserializer<'de>,
{
    deserializer.deserialize_map(RegionsVisitor)
}

struct RegionsVisitor;

impl<'de> Visitor<'de> for RegionsVisitor {
    type Value = BTreeMap<RegionName, RegionIndex>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} regions in ascending order", limits::REGIONS_MAX)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut regions = Self::Value::new();
        let mut entries_left = limits::INDEX_ENTRIES_MAX;
        while let Some(name) = map.next_key::<RegionName>()? {
            if regions.len() == limits::REGIONS_MAX {
                return Err(A::Error::invalid_length(limits::REGIONS_MAX + 1, &self));
            }
            if regions.last_key_value().is_some_and(|(last, _)| *last >= name) {
                return Err(A::Error::custom("regions out of order"));
            }
            let region = map.next_value_seed(EntriesSeed { entries_left: &mut entries_left })?;
            regions.insert(name, region);
        }
        Ok(regions)
    }
}

/// Decodes one region's entries and counts them off from what the whole index may still have.
struct EntriesSeed<'a> {
    entries_left: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for EntriesSeed<'_> {
    type Value = RegionIndex;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<RegionIndex, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntriesSeed<'_> {
    type Value = RegionIndex;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} entries in ascending order", self.entries_left)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RegionIndex, A::Error> {
        let mut entries = RegionIndex::new();
        while let Some((position, chunk)) = map.next_entry::<u64, Option<ChunkId>>()? {
            let ascends = entries.last_position().is_none_or(|last| last < position);
            if !ascends || position >= POSITIONS_MAX {
                return Err(A::Error::custom("grid position out of order or past the end"));
            }
            *self.entries_left =
                self.entries_left.checked_sub(1).ok_or_else(|| A::Error::custom("too many entries"))?;
            entries.insert(position, chunk);
        }
        Ok(entries)
    }
}
