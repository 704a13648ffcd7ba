//! A store in a folder of its own, bytes that are known, and mounting it where that is possible.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sustain_inspect::{Mount, MountError};
use sustain_proto::{NodeId, RegionName, ServiceName, SnapshotId};
use sustain_store::{PushLineage, PushRequest, RegionSource, Store, StoreOptions};

/// When the first snapshot is taken; each later one is a minute after the one before.
pub(crate) const TIME_MS: u64 = 1_700_000_000_000;

/// Bytes in memory as a region.
struct Memory<'a>(&'a [u8]);

impl RegionSource for Memory<'_> {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..offset as usize + buf.len()]);
        Ok(())
    }
}

/// A store.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions { create: true, ..StoreOptions::default() };
        let store = Store::open(&folder.path().join("store"), options).unwrap();
        Self { folder, store }
    }

    pub(crate) fn push(&self, service: &str, regions: &[(&str, &[u8])]) -> SnapshotId {
        let service = name(service);
        let before = self.store.snapshots(Some(&service)).unwrap().len() as u64;
        let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([1; 32]), nonce: 1 };
        let request = PushRequest { service, lineage, time_ms: TIME_MS + before * 60_000 };
        let mut push = self.store.begin_push(request).unwrap();
        for (region, bytes) in regions {
            push.ingest(&RegionName::new(*region).unwrap(), &Memory(bytes)).unwrap();
        }
        push.commit().unwrap().snapshot
    }

    /// Mounts it; none, and a word about it, where this machine can't.
    pub(crate) fn mount(&self) -> Option<(Mount, PathBuf)> {
        let point = self.folder.path().join("mount");
        std::fs::create_dir_all(&point).unwrap();
        match Mount::new(self.store.clone(), &point, false) {
            Ok(mount) => Some((mount, point)),
            Err(error @ (MountError::NoDevice | MountError::NoHelper | MountError::Helper { .. })) => {
                skip(&error.to_string());
                None
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    /// The store's files below a folder of it.
    pub(crate) fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![self.store.path().join(below)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { folders.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

/// Says that a test was not run.
#[expect(clippy::print_stdout, reason = "nothing is skipped silently")]
pub(crate) fn skip(reason: &str) {
    println!("skipped: {reason}");
}

pub(crate) fn name(service: &str) -> ServiceName {
    ServiceName::new(service).unwrap()
}

/// Bytes that don't compress, from a seed: xorshift64*, Vigna 2016.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        noise.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// Waits until a condition holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
