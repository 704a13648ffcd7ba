//! A disk over a snapshot whose pack is damaged: it is sent again when the guest needs it, and once.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sustain_proto::{NodeId, RegionName, ServiceName};
use sustain_store::{PushLineage, PushRequest, RegionSource, Store, StoreOptions};
use sustain_vmdriver::disk::{Disk, DiskOrigin, SnapshotBlocks, Unavailable};

use crate::client::Client;
use crate::support::options;

struct Bytes(Vec<u8>);

impl RegionSource for Bytes {
    fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        buf.copy_from_slice(&self.0[offset as usize..][..buf.len()]);
        Ok(())
    }
}

/// Bytes that don't compress: xorshift64*, Vigna 2016.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let words = (0..bytes / 8).flat_map(|_| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    });
    words.collect()
}

fn pack(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut packs = entries.filter_map(|path| {
        if path.is_dir() { Some(pack(&path)) } else { (path.extension()? == "pack").then_some(path) }
    });
    packs.next().unwrap_or_default()
}

/// The node that restored it had a rotten copy: the guest stood, waiting for its disk, for ever.
#[test]
fn a_damaged_pack_is_had_again_when_the_guest_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = Store::open(&path, StoreOptions { create: true, ..StoreOptions::default() }).unwrap();
    let content = Bytes(noise(2 << 20));
    let lineage = PushLineage::ContinueNewest { node: NodeId::from_bytes([7; 32]), nonce: 9 };
    let request = PushRequest { service: ServiceName::new("mail").unwrap(), lineage, time_ms: 1 };
    let mut push = store.begin_push(request).unwrap();
    push.ingest(&RegionName::new("disk0").unwrap(), &content).unwrap();
    let id = push.commit().unwrap().snapshot;

    // Opened while all is well, as a node does before it restores; the pack rots afterwards.
    let blocks = SnapshotBlocks::new(store.open_snapshot(id).unwrap()).unwrap();
    let pack = pack(&path.join("packs"));
    let (good, kept) = (fs::read(&pack).unwrap(), folder.path().join("kept"));
    fs::write(&kept, &good).unwrap();
    fs::write(&pack, good.iter().map(|byte| byte ^ 0x55).collect::<Vec<_>>()).unwrap();

    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let blocks = blocks.mended_by(move |_| {
        // At first nobody has it.
        if counted.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(Unavailable::new("no node has it"));
        }
        fs::rename(&kept, &pack).map_err(Unavailable::new)
    });
    let disk = Disk::create(&folder.path().join("disk"), DiskOrigin::Blocks(Arc::new(blocks)), &options());
    let disk = disk.unwrap();
    let mut client = Client::connect(disk.socket()).unwrap();
    assert!(client.read(0, content.0.len()).unwrap().unwrap() == content.0);
    assert_eq!(tries.load(Ordering::SeqCst), 2, "mended once, and for all chunks");
}
