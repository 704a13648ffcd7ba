//! A server with snapshots, and nodes that take what it retains.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sustain_proto::limits::GROUP_BYTES;
use sustain_proto::{Cut, NodeId, RegionName, ServiceName, Signature, SnapshotId, Term};
use sustain_store::disk::{Disk, RealDisk};
use sustain_store::{
    DirectoryTarget, KeySource, NoProgress, PushLineage, PushRequest, RegionSource, Store, StoreOptions,
};
use tempfile::TempDir;

use crate::depot::{Depot, DepotError};
use crate::keeper::{Catalog, Entry, Kept, Pack, Part, Version};

pub(super) const SERVICE: &str = "mail";
pub(super) const GROUP: usize = GROUP_BYTES as usize;

pub(super) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(super) fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

pub(super) fn term(counter: u64, number: u8) -> Term {
    Term { counter, node: node(number), nonce: 1 }
}

struct Bytes<'a>(&'a [u8]);

impl RegionSource for Bytes<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// Bytes that don't compress, the same for the same seed.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

pub(super) fn open_store(disk: &Arc<dyn Disk>, root: &Path, key: KeySource) -> Store {
    try_open_store(disk, root, key).unwrap()
}

pub(super) fn try_open_store(
    disk: &Arc<dyn Disk>,
    root: &Path,
    key: KeySource,
) -> Result<Store, sustain_store::OpenError> {
    let options = StoreOptions { key, create: true, disk: disk.clone(), ..StoreOptions::default() };
    Store::open(root, options)
}

/// A node: its store, and its depot while it is open.
pub(super) struct Node {
    pub(super) me: NodeId,
    pub(super) folder: TempDir,
    pub(super) key: KeySource,
    pub(super) store: Store,
    pub(super) depot: Option<Depot>,
    pub(super) kept: Kept,
}

impl Node {
    pub(super) fn new(number: u8) -> Self {
        Self::with_key(number, KeySource::Given([3; 32]))
    }

    pub(super) fn with_key(number: u8, key: KeySource) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let store = open_store(&disk, &folder.path().join("store"), key.clone());
        let (depot, kept) = Depot::open(store.clone(), node(number), &folder.path().join("kept")).unwrap();
        Self { me: node(number), folder, key, store, depot: Some(depot), kept }
    }

    pub(super) fn depot(&self) -> &Depot {
        self.depot.as_ref().unwrap()
    }

    /// Closes it and opens it again.
    pub(super) fn again(self) -> Self {
        let Self { me, folder, key, store, depot, .. } = self;
        drop((depot, store));
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let store = open_store(&disk, &folder.path().join("store"), key.clone());
        let (depot, kept) = Depot::open(store.clone(), me, &folder.path().join("kept")).unwrap();
        Self { me, folder, key, store, depot: Some(depot), kept }
    }

    pub(super) fn push(&self, bytes: &[u8]) -> SnapshotId {
        push(&self.store, SERVICE, self.me, bytes)
    }

    pub(super) fn restored(&self, id: SnapshotId) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        self.store.restore(id, &DirectoryTarget::new(folder.path()), &NoProgress).unwrap();
        std::fs::read(folder.path().join("ram")).unwrap()
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("kept").join(name)
    }

    /// The parts that it said to be here when it was opened.
    pub(super) fn parts(&self) -> BTreeSet<Part> {
        self.kept.parts.iter().map(|(part, _)| *part).collect()
    }
}

pub(super) fn push(store: &Store, name: &str, node: NodeId, bytes: &[u8]) -> SnapshotId {
    let lineage = PushLineage::ContinueNewest { node, nonce: 1 };
    let mut push = store.begin_push(PushRequest { service: service(name), lineage, time_ms: 0 }).unwrap();
    push.ingest(&RegionName::new("ram").unwrap(), &Bytes(bytes)).unwrap();
    push.commit().unwrap().snapshot
}

/// A catalog of these entries, which follows one that is known.
pub(super) fn catalog(
    server: u8,
    known: Option<&Catalog>,
    mut entries: Vec<Entry>,
    warm: &[NodeId],
) -> Arc<Catalog> {
    let number = known.map_or(1, |known| known.version.number + 100);
    let mut packs: std::collections::BTreeMap<_, u64> = std::collections::BTreeMap::new();
    for (at, entry) in entries.iter_mut().enumerate() {
        let before = known.and_then(|known| known.entries.iter().find(|other| other.id == entry.id));
        entry.added = before.map_or(number + at as u64, |before| before.added);
        for pack in &mut entry.packs {
            pack.added = *packs.entry(pack.id).or_insert(entry.added);
        }
    }
    Arc::new(Catalog {
        service: service(SERVICE),
        version: Version { term: term(1, server), number: number + 99 },
        inherits: None,
        server: node(server),
        tolerance: 1,
        warm: warm.iter().copied().collect(),
        encoders: BTreeSet::new(),
        spread_to: 0,
        terms: Default::default(),
        merged: BTreeSet::new(),
        entries,
        signature: Signature::from_bytes(&[0; 64]),
    })
}

/// What a server's store retains, as the catalog that follows.
pub(super) fn published(
    server: &Node,
    known: Option<&Catalog>,
    cut: Option<Cut>,
    warm: &[NodeId],
) -> Arc<Catalog> {
    let entries = server.depot().entries(&service(SERVICE), cut, known).unwrap();
    let catalog = catalog(server.me.as_bytes()[0], known, entries, warm);
    server.depot().remember(&catalog).unwrap();
    catalog
}

/// All bytes of a part as a depot gives them.
pub(super) fn bytes_of(depot: &Depot, part: &Part, pack: &Pack) -> Result<Vec<u8>, DepotError> {
    let mut bytes = Vec::new();
    depot.read(part, pack, 0..pack.part_bytes(part.which), &mut |more| {
        bytes.extend(more);
        true
    })?;
    Ok(bytes)
}

/// Has a depot receive a part, group by group from the last one on, without syncing it.
pub(super) fn receive(from: &Depot, to: &Depot, part: &Part, pack: &Pack) -> Result<(), DepotError> {
    let list = from.list(part, pack)?.unwrap();
    let bytes = bytes_of(from, part, pack)?;
    let receiver = to.receive(pack, part, list)?;
    for (group, bytes) in bytes.chunks(GROUP).enumerate().rev() {
        receiver.write(group, bytes)?;
    }
    assert!(receiver.is_whole());
    Ok(())
}

/// Parts that a report says to be synced.
pub(super) fn synced(report: &super::super::SyncReport) -> BTreeSet<Part> {
    report.parts.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(part, _)| *part).collect()
}
