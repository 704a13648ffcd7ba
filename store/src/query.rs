//! Looking: snapshots, services, selectors, manifests and packs.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::Serialize;
use sustain_proto::wire::SnapshotSummary;
use sustain_proto::{ChunkId, Manifest, PackId, PackRef, ServiceName, SnapshotId, Term, TermOrigin};

use crate::database::{Changes, Contents};
use crate::generation::{visible, with_base};
use crate::pack_file::PackFile;
use crate::state::Snapshot;
use crate::store::Store;
use crate::{ErrorKind, Fault};

/// A snapshot that is known here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// Its id.
    pub id: SnapshotId,
    /// Whose state it is.
    pub service: ServiceName,
    /// Its base; none if it is one itself.
    pub base: Option<SnapshotId>,
    /// The snapshots that it continues.
    pub parents: Vec<SnapshotId>,
    /// The reign in which it was taken.
    pub term: Term,
    /// Where that reign branched off.
    pub origin: Option<TermOrigin>,
    /// Its number along the lineage.
    pub seq: u64,
    /// Wall clock when it was taken, in milliseconds since 1970.
    pub time_ms: u64,
    /// Bytes of its regions.
    pub bytes: u64,
    /// Bytes of the packs that it lists and no older snapshot of this store does.
    pub bytes_new: u64,
    /// Whether enough other nodes have it.
    pub durable: bool,
    /// How many losses it survives, if it is durable.
    pub level: Option<u32>,
    /// For a base: the snapshots that it was made of by a rebase.
    pub came_from: Vec<SnapshotId>,
}

/// Why something can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No such snapshot.
    #[error("there is no snapshot {selector} here")]
    NotFound {
        /// What was asked for.
        selector: String,
    },
    /// No such pack.
    #[error("there is no pack {id} here")]
    PackNotFound {
        /// Its id.
        id: PackId,
    },
    /// A chunk's pack is not here. Somebody else has it.
    #[error("chunk {} is in pack {}, which is not here", chunk.short(), pack.id.short())]
    Elsewhere {
        /// The pack.
        pack: PackRef,
        /// The chunk.
        chunk: ChunkId,
    },
    /// A prefix of several ids.
    #[error("{selector} is the beginning of {count} snapshots' ids")]
    Ambiguous {
        /// What was asked for.
        selector: String,
        /// How many it fits.
        count: usize,
    },
    /// Neither an id nor `SERVICE@latest` nor `SERVICE@-1`.
    #[error("{selector:?} names no snapshot: {reason}")]
    Selector {
        /// What was asked for.
        selector: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The packs hold something else than the manifest says.
    #[error("snapshot {id} can't be put together from {}: {reason}", path.display())]
    Inconsistent {
        /// The snapshot.
        id: SnapshotId,
        /// Its manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file or the database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl SnapshotInfo {
    /// The snapshot as peers speak of it, which is whole here.
    #[must_use]
    pub fn summary(&self) -> SnapshotSummary {
        SnapshotSummary {
            id: self.id,
            term: self.term,
            origin: self.origin,
            seq: self.seq,
            durable: self.durable,
            whole: true,
        }
    }
}

impl ReadError {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::PackNotFound { .. } | Self::Elsewhere { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. } | Self::Selector { .. } => ErrorKind::Refused,
            Self::Inconsistent { .. } => ErrorKind::Corrupt,
            Self::Fault(fault) => fault.kind(),
        }
    }
}

/// A pack opened for reading, as raw bytes. It stays readable while it is held, whatever is dropped.
#[derive(Debug)]
pub struct PackReader {
    file: PackFile,
    bytes: u64,
}

#[allow(clippy::len_without_is_empty)]
impl PackReader {
    /// Bytes of the pack.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.bytes
    }

    /// Fills the buffer from this offset.
    ///
    /// # Errors
    /// If the pack ends before, or the disk fails.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), ReadError> {
        Ok(self.file.read_at(offset, buf)?)
    }
}

impl Store {
    /// The services that have snapshots here.
    ///
    /// # Errors
    /// None at present.
    pub fn services(&self) -> Result<Vec<ServiceName>, ReadError> {
        Ok(self.shared.state().services().into_iter().collect())
    }

    /// The snapshots that are whole here, oldest first, of one service or of all, one after the other.
    ///
    /// # Errors
    /// None at present.
    pub fn snapshots(&self, service: Option<&ServiceName>) -> Result<Vec<SnapshotInfo>, ReadError> {
        let state = self.shared.state();
        let services = match service {
            Some(service) => BTreeSet::from([service.clone()]),
            None => state.services(),
        };
        let mut list = Vec::new();
        for service in &services {
            let mut seen = BTreeSet::new();
            for snapshot in state.of_service(service) {
                let new = snapshot.manifest.packs.iter().filter(|pack| seen.insert(pack.id));
                let bytes_new = new.map(|pack| pack.bytes).sum();
                list.push(describe(&snapshot, bytes_new));
            }
        }
        Ok(list)
    }

    /// All snapshots of a service that are known here, oldest first, and whether each can be read whole: files that it
    /// needs may be missing or damaged. [`Store::bad_packs`] says which packs these are.
    #[must_use]
    pub fn snapshots_known(&self, service: &ServiceName) -> Vec<(SnapshotInfo, bool)> {
        let state = self.shared.state();
        let mut seen = BTreeSet::new();
        let info = |snapshot: &Snapshot| {
            let new = snapshot.manifest.packs.iter().filter(|pack| seen.insert(pack.id));
            (describe(snapshot, new.map(|pack| pack.bytes).sum()), state.is_whole(snapshot))
        };
        state.all_of_service(service).iter().map(|snapshot| &**snapshot).map(info).collect()
    }

    /// A snapshot's manifest, decoded and as the bytes that its id names.
    ///
    /// # Errors
    /// If it is not here.
    pub fn manifest(&self, id: SnapshotId) -> Result<(Manifest, Vec<u8>), ReadError> {
        let snapshot = visible(&self.shared.state(), id)?;
        Ok((snapshot.manifest.clone(), snapshot.encoded.clone()))
    }

    /// The encoded manifests that a snapshot needs: its base's, then its own; or its own if it is a base.
    ///
    /// # Errors
    /// If one is not here.
    pub fn manifests_for(&self, id: SnapshotId) -> Result<Vec<Vec<u8>>, ReadError> {
        let state = self.shared.state();
        let (base, snapshot) = with_base(&self.shared, &state, &visible(&state, id)?)?;
        let mut manifests = vec![base.encoded.clone()];
        if base.id != snapshot.id {
            manifests.push(snapshot.encoded.clone());
        }
        Ok(manifests)
    }

    /// The packs that a snapshot needs: its base's, then its own.
    ///
    /// # Errors
    /// If its manifest or its base's is not here.
    pub fn packs_needed(&self, id: SnapshotId) -> Result<Vec<PackRef>, ReadError> {
        let state = self.shared.state();
        let (base, snapshot) = with_base(&self.shared, &state, &visible(&state, id)?)?;
        let mut seen = BTreeSet::new();
        let packs = base.manifest.packs.iter().chain(&snapshot.manifest.packs);
        Ok(packs.filter(|pack| seen.insert(pack.id)).copied().collect())
    }

    /// Whether a snapshot is known here by this id, whole or not.
    #[must_use]
    pub fn has_snapshot(&self, id: &SnapshotId) -> bool {
        self.shared.state().snapshots.contains_key(id)
    }

    /// The packs that snapshots list and that are here.
    #[must_use]
    pub fn packs_listed(&self) -> BTreeSet<PackId> {
        let state = self.shared.state();
        let mut listed = state.listed_packs();
        listed.retain(|pack| state.packs.contains_key(pack));
        listed
    }

    /// Whether a pack is here.
    #[must_use]
    pub fn has_pack(&self, id: &PackId) -> bool {
        self.shared.state().packs.contains_key(id)
    }

    /// Bytes of a pack, if it is here.
    #[must_use]
    pub fn pack_bytes(&self, id: &PackId) -> Option<u64> {
        self.shared.state().packs.get(id).copied()
    }

    /// Opens a pack to send it somewhere.
    ///
    /// # Errors
    /// If it is not here.
    pub fn read_pack(&self, id: PackId) -> Result<PackReader, ReadError> {
        let absent = || ReadError::PackNotFound { id };
        let bytes = *self.shared.state().packs.get(&id).ok_or_else(absent)?;
        match PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, &id) {
            Ok(file) => Ok(PackReader { file, bytes }),
            // It may have been dropped in between.
            Err(_) if !self.shared.state().packs.contains_key(&id) => Err(absent()),
            Err(fault) => Err(fault.into()),
        }
    }

    /// Opens a pack, or what is left of one that was set aside as damaged: for single parts of it, each of which is
    /// checked by whoever uses it.
    ///
    /// # Errors
    /// If there is nothing of it here.
    pub fn read_remains(&self, id: PackId) -> Result<PackReader, ReadError> {
        match self.read_pack(id) {
            Err(ReadError::PackNotFound { .. }) => {}
            outcome => return outcome,
        }
        let file = PackFile::open(self.shared.disk.as_ref(), &self.shared.layout, &id)
            .map_err(|_| ReadError::PackNotFound { id })?;
        let bytes = file.bytes()?;
        Ok(PackReader { file, bytes })
    }

    /// Notes that enough other nodes have a snapshot to survive so many losses.
    ///
    /// # Errors
    /// If it is not here, or the database fails.
    pub fn mark_durable(&self, id: SnapshotId, level: u32) -> Result<(), ReadError> {
        let mut commit = self.shared.begin_commit()?;
        let snapshot = {
            let state = self.shared.state();
            // A rebase may have renamed it while it was on its way.
            state.follow(id).ok_or_else(|| ReadError::NotFound { selector: id.to_string() })?
        };
        if snapshot.level == Some(level) {
            return Ok(());
        }
        let mut add = Contents::default();
        add.snapshots.insert(snapshot.id, Some(level));
        commit.apply(&Changes { add, ..Changes::default() }, Vec::new())?;
        Ok(())
    }
}

fn describe(snapshot: &Snapshot, bytes_new: u64) -> SnapshotInfo {
    let manifest = &snapshot.manifest;
    SnapshotInfo {
        id: snapshot.id,
        service: manifest.service.clone(),
        base: manifest.base(),
        parents: manifest.parents.clone(),
        term: manifest.term,
        origin: manifest.origin,
        seq: manifest.seq,
        time_ms: manifest.time_ms,
        bytes: manifest.bytes(),
        bytes_new,
        durable: snapshot.level.is_some(),
        level: snapshot.level,
        came_from: snapshot.came_from().to_vec(),
    }
}
