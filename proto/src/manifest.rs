//! Manifests: the small description of a snapshot whose hash is the snapshot's id.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError, Format};
use crate::{
    ContentHash, IndexRoot, KeyId, PackId, RegionName, ServiceName, SnapshotId, Term, TermOrigin, limits,
};

const FORMAT: Format =
    Format { name: "manifest", magic: *b"SUSM", version: 1, bytes_max: limits::MANIFEST_BYTES_MAX };

/// A region's name and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Region {
    /// Its name, unique within the snapshot.
    pub name: RegionName,
    /// Its size.
    pub bytes: u64,
}

/// A pack that a snapshot needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRef {
    /// Its id.
    pub id: PackId,
    /// Bytes of its file.
    pub bytes: u64,
}

/// A snapshot, named by what a rebase does not change. Its id it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Held {
    /// The reign in which it was taken.
    pub term: Term,
    /// Its number.
    pub seq: u64,
}

/// Whether a snapshot stands alone or refers to a base (P9, P10).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotKind {
    /// The first snapshot of a generation; its index is whole.
    Base {
        /// The snapshots with the same contents that this one was made of by a rebase; empty for the
        /// first base of a service.
        came_from: Vec<SnapshotId>,
        /// Older snapshots and heads of other branches that the rebase kept, the newest first. Who follows it waits
        /// for them before it lets go of what it has of them.
        held: Vec<Held>,
    },
    /// Everything that is not in this snapshot's index is as in the base.
    Delta {
        /// The base, always a base itself: depth is one.
        base: SnapshotId,
    },
}

/// A snapshot's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The service whose state it is.
    pub service: ServiceName,
    /// The key that its packs are sealed under.
    pub key: KeyId,
    /// The reign in which it was taken.
    pub term: Term,
    /// Where that reign branched off; none for a service's first term.
    pub origin: Option<TermOrigin>,
    /// Counts the snapshots along a lineage: one more than its first parent's. A rebase keeps it.
    pub seq: u64,
    /// Wall clock when it was taken, in milliseconds since 1970. For display only.
    pub time_ms: u64,
    /// Base or delta.
    pub kind: SnapshotKind,
    /// The snapshots that it continues: none, one, or two for a merge.
    pub parents: Vec<SnapshotId>,
    /// The regions, in the order in which they were given.
    pub regions: Vec<Region>,
    /// The roots of its index, which may be in parts: what a later part says of a position counts. A base has one.
    pub indexes: Vec<IndexRoot>,
    /// The hash of what a restore yields, under this manifest's key.
    pub content: ContentHash,
    /// What that hash was under the key that the snapshot was first stored under, if that was another one.
    pub first_content: Option<ContentHash>,
    /// The packs that hold its index and those of its chunks that are not in the base's packs.
    pub packs: Vec<PackRef>,
}

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are no manifest.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// More of something than its limit.
    #[error("a manifest lists at most {max} {what}, this one lists {found}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
        /// What was found.
        found: usize,
    },
    /// Two regions of one name.
    #[error("region {name} is listed twice")]
    DuplicateRegion {
        /// Its name.
        name: RegionName,
    },
    /// A region or pack of an impossible size.
    #[error("{what} has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge {
        /// What it is.
        what: String,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
}

impl Manifest {
    /// Checks the limits, encodes, and computes the snapshot's id.
    ///
    /// # Errors
    /// If a limit is exceeded.
    pub fn encode(&self) -> Result<(SnapshotId, Vec<u8>), ManifestError> {
        self.check()?;
        let bytes = codec::encode(FORMAT, self)?;
        Ok((SnapshotId::of_manifest(&bytes), bytes))
    }

    /// Decodes and checks the limits. The id is that of exactly these bytes.
    ///
    /// Only the bytes that [`encode`](Self::encode) writes are taken: numbers can be written longer than
    /// needed, and one snapshot would have several ids.
    ///
    /// # Errors
    /// Not a manifest, another version, damaged, or a limit exceeded.
    pub fn decode(bytes: &[u8]) -> Result<(SnapshotId, Self), ManifestError> {
        let manifest: Self = codec::decode(FORMAT, bytes)?;
        manifest.check()?;
        if codec::encode(FORMAT, &manifest)? != bytes {
            return Err(CodecError::NotCanonical { format: FORMAT.name }.into());
        }
        Ok((SnapshotId::of_manifest(bytes), manifest))
    }

    /// The base that a delta refers to; none for a base.
    #[must_use]
    pub fn base(&self) -> Option<SnapshotId> {
        match &self.kind {
            SnapshotKind::Base { .. } => None,
            SnapshotKind::Delta { base } => Some(*base),
        }
    }

    /// A hash of what a restore yields that no rebase changes, not even one that changes the key.
    #[must_use]
    pub fn identity(&self) -> ContentHash {
        self.first_content.unwrap_or(self.content)
    }

    /// Sum of the regions' sizes. It saturates where a manifest that was not checked has absurd ones.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.regions.iter().fold(0, |sum, region| sum.saturating_add(region.bytes))
    }

    fn check(&self) -> Result<(), ManifestError> {
        check_count("regions", self.regions.len(), limits::REGIONS_MAX)?;
        check_count("parents", self.parents.len(), limits::PARENTS_MAX)?;
        check_count("parts of an index", self.indexes.len(), limits::INDEX_PARTS_MAX)?;
        check_count("packs", self.packs.len(), limits::MANIFEST_PACKS_MAX)?;
        if let SnapshotKind::Base { came_from, held } = &self.kind {
            check_count("snapshots that it came from", came_from.len(), limits::CAME_FROM_MAX)?;
            check_count("snapshots that were kept", held.len(), limits::HELD_MAX)?;
        }
        for (position, region) in self.regions.iter().enumerate() {
            if self.regions[..position].iter().any(|other| other.name == region.name) {
                return Err(ManifestError::DuplicateRegion { name: region.name.clone() });
            }
            check_bytes(|| format!("region {}", region.name), region.bytes, limits::REGION_BYTES_MAX)?;
        }
        for pack in &self.packs {
            check_bytes(|| format!("pack {}", pack.id.short()), pack.bytes, limits::PACK_BYTES_MAX)?;
        }
        Ok(())
    }
}

fn check_count(what: &'static str, found: usize, max: usize) -> Result<(), ManifestError> {
    if found > max { Err(ManifestError::TooMany { what, max, found }) } else { Ok(()) }
}

fn check_bytes(what: impl FnOnce() -> String, bytes: u64, bytes_max: u64) -> Result<(), ManifestError> {
    if bytes > bytes_max { Err(ManifestError::TooLarge { what: what(), bytes, bytes_max }) } else { Ok(()) }
}
