//! Helpers: regions in memory, targets in memory, pushes in one call.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sustain_proto::{NodeId, PackId, Region, RegionName, ServiceName, SnapshotId};
use sustain_store::{
    NoProgress, Push, PushError, PushLineage, PushReport, PushRequest, RegionSource, RestoreError,
    RestoreTarget, Store, StoreOptions,
};

/// Regions by name.
pub(crate) type Regions = BTreeMap<String, Vec<u8>>;

/// A region in memory.
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl RegionSource for Bytes<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = offset as usize;
        let bytes = self.0.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }
}

/// Restores into unnamed files, to be read back.
#[derive(Default)]
pub(crate) struct Memory(Mutex<BTreeMap<String, File>>);

impl RestoreTarget for Memory {
    fn open(&self, region: &Region) -> io::Result<Option<File>> {
        let file = File::from(rustix::fs::memfd_create("region", rustix::fs::MemfdFlags::CLOEXEC)?);
        self.0.lock().unwrap().insert(region.name.to_string(), file.try_clone()?);
        Ok(Some(file))
    }
}

impl Memory {
    pub(crate) fn read(self) -> Regions {
        let files = self.0.into_inner().unwrap();
        let read = |(name, mut file): (String, File)| {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
            (name, bytes)
        };
        files.into_iter().map(read).collect()
    }
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn region(name: &str) -> RegionName {
    RegionName::new(name).unwrap()
}

pub(crate) fn create(dir: &Path) -> Store {
    Store::open(dir, StoreOptions { create: true, ..StoreOptions::default() }).unwrap()
}

pub(crate) fn begin(store: &Store, name: &str) -> Result<Push, PushError> {
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([7; 32]), nonce: 9 };
    store.begin_push(PushRequest { service: service(name), lineage, time_ms: 1_000 })
}

pub(crate) fn try_push(store: &Store, name: &str, regions: &Regions) -> Result<PushReport, PushError> {
    let mut push = begin(store, name)?;
    for (name, bytes) in regions {
        push.ingest(&region(name), &Bytes(bytes))?;
    }
    push.commit()
}

pub(crate) fn push(store: &Store, name: &str, regions: &Regions) -> PushReport {
    try_push(store, name, regions).unwrap()
}

pub(crate) fn try_restore(store: &Store, id: SnapshotId) -> Result<Regions, RestoreError> {
    let memory = Memory::default();
    let report = store.restore(id, &memory, &NoProgress)?;
    let regions = memory.read();
    assert_eq!(report.bytes_out, regions.values().map(|bytes| bytes.len() as u64).sum::<u64>());
    Ok(regions)
}

pub(crate) fn restore(store: &Store, id: SnapshotId) -> Regions {
    try_restore(store, id).unwrap()
}

pub(crate) fn verify_good(store: &Store) {
    let report = store.verify(&NoProgress).unwrap();
    assert_eq!(report.bad, [], "of {} packs", report.packs);
}

/// Bytes that don't compress, the same for the same seed.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
    noise
}

/// Bytes that compress about like memory: short runs of noise between zeros.
pub(crate) fn memory_like(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = noise(seed, bytes);
    for (number, run) in content.chunks_mut(48).enumerate() {
        if number % 3 != 0 {
            run.fill((number % 7) as u8);
        }
    }
    content
}

pub(crate) fn regions(list: &[(&str, Vec<u8>)]) -> Regions {
    list.iter().map(|(name, bytes)| (name.to_string(), bytes.clone())).collect()
}

/// All files below a folder.
pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// Where the file of a pack is, unless it was set aside.
pub(crate) fn pack_file(dir: &Path, pack: PackId) -> PathBuf {
    let id = pack.to_string();
    dir.join("packs").join(&id[..2]).join(format!("{id}.pack"))
}

/// Damages a file: a bit of this byte is another one.
pub(crate) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(path, bytes).unwrap();
}
