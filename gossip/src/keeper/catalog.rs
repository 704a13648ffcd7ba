//! Logic: what of a service is to be kept, as its server says. It goes to every node; the newest one counts.

use std::collections::{BTreeMap, BTreeSet};

use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};
use sustain_proto::limits::{MANIFEST_BYTES_MAX, MANIFEST_PACKS_MAX};
use sustain_proto::{Held, NodeId, PackId, ServiceName, Signature, SnapshotId, Term, TermOrigin, bounded};

use super::codec;
use super::line::Line;
use super::part::Pack;
use crate::limits;

/// The greatest number of a catalog, so that adding to it is safe.
const NUMBER_MAX: u64 = 1 << 48;

/// Which catalog of a service: its line is named by the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// The server's term.
    pub term: Term,
    /// Counts the catalogs of the line, on from the one that it inherits from.
    pub number: u64,
}

/// A snapshot that is retained.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The snapshot: the BLAKE3 of its manifest.
    pub id: SnapshotId,
    /// The term in which it was taken.
    pub term: Term,
    /// Where that term branched off.
    pub origin: Option<TermOrigin>,
    /// Its number in its line. A rebase keeps it, so two entries may have the same one.
    pub seq: u64,
    /// Numbers the entries in the order in which they were added: no two of a catalog have the same one, none is
    /// greater than the catalog's own number, and "synced up to" is said in it.
    pub added: u64,
    /// The snapshot that it refers to, which is in the catalog, too.
    pub base: Option<SnapshotId>,
    /// The encoded manifest.
    #[serde(serialize_with = "as_bytes", deserialize_with = "bounded::bytes::<_, MANIFEST_BYTES_MAX>")]
    pub manifest: Arc<[u8]>,
    /// The packs that it lists itself. Others may list them, too.
    #[serde(deserialize_with = "bounded::list::<_, _, MANIFEST_PACKS_MAX>")]
    pub packs: Vec<Pack>,
}

fn as_bytes<S: Serializer>(bytes: &Arc<[u8]>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

/// Signs what a node's server makes known, and checks what others have signed.
pub trait Signer: std::fmt::Debug + Send + Sync {
    /// This node's signature of these bytes.
    fn sign(&self, bytes: &[u8]) -> [u8; 64];

    /// Whether a node has signed these bytes.
    fn is_by(&self, node: &NodeId, bytes: &[u8], signature: &[u8; 64]) -> bool;
}

/// What of a service is to be kept, and by whom as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// The service.
    pub service: ServiceName,
    /// Which catalog of the service it is.
    pub version: Version,
    /// The catalog of another term that this line went on from, if any: entries that were added up to its number are
    /// the same in both.
    pub inherits: Option<Version>,
    /// Its server, which holds everything, and signs. Always the node of the term.
    pub server: NodeId,
    /// Losses of nodes that what is retained is to survive (f).
    pub tolerance: u8,
    /// Warm candidates: they hold everything.
    #[serde(deserialize_with = "bounded::set::<_, _, _, { limits::WARM_MAX }>")]
    pub warm: BTreeSet<NodeId>,
    /// Nodes that hold what is new as a whole until it is spread, and make the fragments.
    #[serde(deserialize_with = "bounded::set::<_, _, _, { limits::WARM_MAX }>")]
    pub encoders: BTreeSet<NodeId>,
    /// Everything that was added up to here was spread when this was published.
    pub spread_to: u64,
    /// Term records that are known: where each term branched off.
    #[serde(deserialize_with = "bounded::set::<_, _, _, { limits::TERMS_MAX }>")]
    pub terms: BTreeMap<Term, Option<TermOrigin>>,
    /// Heads of other lines that were merged into this one, or released: they and what they continue need not be kept.
    #[serde(deserialize_with = "bounded::set::<_, _, _, { limits::MERGED_MAX }>")]
    pub merged: BTreeSet<Held>,
    /// What is retained, in the order in which it was added.
    #[serde(deserialize_with = "bounded::list::<_, _, { limits::ENTRIES_MAX }>")]
    pub entries: Vec<Entry>,
    /// The server's, over everything else.
    pub signature: Signature,
}

impl Catalog {
    /// Whether a node is to hold everything.
    #[must_use]
    pub fn is_whole_holder(&self, node: &NodeId) -> bool {
        *node == self.server || self.warm.contains(node)
    }

    /// Each pack once, in the order in which they were added.
    #[must_use]
    pub fn packs(&self) -> Vec<Pack> {
        let mut packs: Vec<Pack> =
            self.entries.iter().flat_map(|entry| entry.packs.iter().copied()).collect();
        packs.sort_unstable_by_key(|pack| (pack.added, pack.id));
        packs.dedup_by_key(|pack| pack.id);
        packs
    }

    /// All packs that a snapshot needs: its own and its base's.
    #[must_use]
    pub fn needed_by(&self, entry: &Entry) -> BTreeMap<PackId, Pack> {
        let base = self.entries.iter().find(|other| Some(other.id) == entry.base);
        let both = base.into_iter().chain([entry]);
        both.flat_map(|entry| &entry.packs).map(|pack| (pack.id, *pack)).collect()
    }

    /// The line that it is of.
    #[must_use]
    pub fn line(&self) -> Line {
        Line { service: self.service.clone(), term: self.version.term }
    }

    /// Signs it.
    pub(super) fn sign(&mut self, signer: &dyn Signer) -> bool {
        let Ok(hash) = codec::signed(self) else { return false };
        self.signature = Signature::from_bytes(&signer.sign(&hash));
        true
    }

    /// Whether its server has signed it.
    #[must_use]
    pub fn is_signed(&self, signer: &dyn Signer) -> bool {
        let signature = self.signature.to_bytes();
        codec::signed(self).is_ok_and(|hash| signer.is_by(&self.server, &hash, &signature))
    }

    /// Checks what does not take all entries.
    pub(super) fn check_head(&self) -> Result<(), &'static str> {
        let number = self.version.number;
        if self.server != self.version.term.node {
            return Err("a catalog of a server in another one's term");
        }
        if number > NUMBER_MAX
            || self.spread_to > number
            || self.inherits.is_some_and(|it| it.number > number)
        {
            return Err("a catalog with impossible numbers");
        }
        Ok(())
    }

    /// Checks entries that stand one after the other in it, and after a number.
    pub(super) fn check_entries(&self, after: u64) -> Result<(), &'static str> {
        let mut last = after;
        for entry in &self.entries {
            if entry.added <= last || entry.added > self.version.number {
                return Err("entries of a catalog out of order");
            }
            if SnapshotId::of_manifest(&entry.manifest) != entry.id {
                return Err("an entry with another snapshot's manifest");
            }
            if !entry.packs.iter().all(|pack| pack.is_possible() && pack.added <= entry.added) {
                return Err("an entry with an impossible pack");
            }
            last = entry.added;
        }
        Ok(())
    }

    /// Bytes of all packs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.packs().iter().map(|pack| pack.bytes).sum()
    }
}
