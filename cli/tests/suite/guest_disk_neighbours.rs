//! A VM whose disk is still on other nodes: the node that takes over has an empty store, and a pack of the disk can't
//! come whole. The guest reads its disk all the same, chunk by chunk.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sustain_proto::RegionName;
use sustain_proto::limits::CHUNK_BYTES;
use sustain_store::{KeySource, Store, StoreOptions};

use crate::cluster::Cluster;
use crate::support::{Bench, files_below, guest, noise, snapctl};

const DISK_BYTES: u64 = 128 << 20;
const MIB: usize = 1 << 20;
const PAYLOAD_MIB: usize = 96;
/// In the middle of the payload, so that its pack has nothing but the disk.
const ROTTEN_MIB: usize = 60;

/// What the guest says of a MiB of the payload; see `testdata/guest/counter`.
fn sum(mib: &[u8]) -> u64 {
    let words = mib.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(0x100_0000_01b3))
}

/// An image with the payload as a file.
fn image(bench: &Bench, payload: &[u8]) -> PathBuf {
    std::fs::create_dir(bench.path("files")).unwrap();
    bench.write("files/payload", payload);
    let image = bench.path("image");
    File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    let mut make = Command::new("/usr/sbin/mke2fs");
    make.args(["-q", "-t", "ext4", "-d"]).arg(bench.path("files")).arg(&image);
    assert!(make.status().unwrap().success());
    image
}

/// Four nodes, of which the last two hold copies and can't run the service.
fn cluster(image: &Path) -> Cluster {
    let (guest, cluster) = (guest(), Cluster::planned(4, &[]));
    let mut add = snapctl();
    add.args(["service", "add", "disk", "--memory", "128M", "--interval", "500ms", "--forward", "8080"]);
    add.arg("--disk").arg(image).arg("--kernel").arg(guest.join("vmlinuz"));
    add.arg("--initramfs").arg(guest.join("initramfs.cpio.gz"));
    for node in 0..4 {
        add.arg("--config").arg(cluster.config(node));
    }
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    for node in 2..4 {
        let text = std::fs::read_to_string(cluster.config(node)).unwrap();
        assert!(text.contains("vmlinuz"), "{text}");
        std::fs::write(cluster.config(node), text.replace("vmlinuz", "no-kernel-here")).unwrap();
    }
    cluster
}

fn store(cluster: &Cluster, node: usize) -> PathBuf {
    cluster.config(node).with_file_name("store")
}

/// Where the disk has the middle of the MiB that is to rot.
fn rotten_position(image: &Path, payload: &[u8]) -> u64 {
    let at = ROTTEN_MIB * MIB + MIB / 2;
    let wanted = &payload[at..at + 64];
    let bytes = std::fs::read(image).unwrap();
    let first = |at: &usize| bytes[*at] == wanted[0] && bytes[*at..].starts_with(wanted);
    let found = (0..bytes.len()).find(first).unwrap();
    (found / CHUNK_BYTES) as u64
}

/// The pack that has this chunk of the disk, by its path in a node's store, and a byte of it without which the chunk
/// can't be read. Packs are sealed: it is found by trying, on a copy.
fn rotten_byte(cluster: &Cluster, node: usize, bench: &Bench, position: u64) -> (PathBuf, usize) {
    let (from, copy) = (store(cluster, node), bench.path("copy"));
    for path in files_below(&from) {
        let to = copy.join(path.strip_prefix(&from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        // The node goes on: what is gone meanwhile is not needed.
        let _ = std::fs::copy(&path, to);
    }
    let keys = sustain_node::config::load(&cluster.config(node)).unwrap().cluster_keys().unwrap();
    let options = StoreOptions { key: KeySource::Cluster(keys), ..StoreOptions::default() };
    let store = Store::open(&copy, options).unwrap();
    let disk: RegionName = "disk0".parse().unwrap();
    let snapshot = store.snapshots(None).unwrap().pop().unwrap().id;
    let pack = store.open_snapshot(snapshot).unwrap().chunk_of(&disk, position).unwrap().0.id.to_string();
    let path = files_below(&copy).into_iter().find(|path| path.to_string_lossy().contains(&pack)).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let fails = |at: &usize| {
        file.write_all_at(&[bytes[*at] ^ 1], *at as u64).unwrap();
        let reader = store.open_snapshot(snapshot).unwrap();
        let read = reader.read_chunk(&disk, position, &mut vec![0; CHUNK_BYTES]);
        file.write_all_at(&bytes[*at..=*at], *at as u64).unwrap();
        read.is_err()
    };
    // The chunk is noise, so its block has more bytes than a step.
    let found = (0..bytes.len()).step_by(CHUNK_BYTES / 2).find(fails).unwrap();
    (path.strip_prefix(&copy).unwrap().to_owned(), found)
}

/// Flips a byte in a pack of this node.
fn spoil(cluster: &Cluster, node: usize, (pack, at): &(PathBuf, usize)) {
    let path = store(cluster, node).join(pack);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[*at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
}

fn check(cluster: &Cluster, payload: &[u8], mibs: impl Iterator<Item = usize>) {
    for mib in mibs {
        let path = format!("/sum?mib={mib}");
        let found = cluster.wait(&path, || cluster.get(2, &path)?["sum"].as_u64());
        assert_eq!(found, sum(&payload[mib * MIB..][..MIB]), "MiB {mib}");
    }
}

fn service(cluster: &Cluster, node: usize) -> Option<Value> {
    Some(cluster.status(node)?["services"][0].clone())
}

#[test]
fn guest_disk_is_read_from_neighbours_until_it_is_here() {
    let bench = Bench::new();
    let payload = noise(8, PAYLOAD_MIB * MIB);
    let image = image(&bench, &payload);
    let mut cluster = cluster(&image);
    (0..4).for_each(|node| cluster.spawn(node));
    assert_eq!(cluster.server(None), 0);
    let (counted, boot) = cluster.wait("the guest's first answer", || cluster.ask(2, "/count"));
    cluster.wait_for_durability(0);

    // The first candidate comes back with nothing when the server is lost, and of the image only its name is left.
    cluster.kill(1);
    std::fs::remove_dir_all(store(&cluster, 1)).unwrap();
    let rotten = rotten_byte(&cluster, 2, &bench, rotten_position(&image, &payload));
    (2..4).for_each(|node| spoil(&cluster, node, &rotten));
    cluster.kill_with_vm(0);
    File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    cluster.spawn(1);
    assert_eq!(cluster.server(Some(0)), 1);

    // All of the disk is read but the one MiB that nobody has, from a pack that nobody can fetch whole.
    let (restored, same) = cluster.wait("an answer after the loss", || cluster.ask(2, "/peek"));
    assert!(restored >= counted && same == boot, "{counted} at first, {restored} after, {boot} and {same}");
    check(&cluster, &payload, (0..PAYLOAD_MIB).rev().filter(|mib| *mib != ROTTEN_MIB));
    let status = service(&cluster, 1).unwrap();
    assert!(status["bytes_left"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["snapshots_taken"], 0, "a base was begun: {status}");
    assert!(status["snapshot_age_ms"].as_u64().unwrap() > 0, "{status}");
    let path = cluster.config(1).with_file_name("log");
    let log = || std::fs::read_to_string(&path).unwrap();
    cluster.wait("the reason", || log().contains("the rest of snapshot").then_some(()));

    // The lost server comes back, and has it.
    cluster.spawn(0);
    cluster.wait("the rest", || service(&cluster, 1)?["bytes_left"].is_null().then_some(()));
    check(&cluster, &payload, std::iter::once(ROTTEN_MIB));
    let events =
        ["can be restored", "goes on from snapshot", "is whole"].map(|event| log().find(event).unwrap());
    assert!(events.is_sorted(), "{events:?}");
    assert_eq!(log().matches("snapshots are skipped").count(), 1, "{}", log());

    // Snapshots go on from there, and are good for the next loss.
    cluster.wait_for_durability(1);
    let (counted, _) = cluster.wait("a count", || cluster.ask(2, "/count"));
    cluster.wait_for_durability(1);
    let held = cluster.at(1, &["log", "disk"]).unwrap();
    let bases = held.as_array().unwrap().iter().filter(|snapshot| snapshot["base"].is_null()).count();
    assert_eq!(bases, 1, "a base was begun: {held}");
    cluster.wait("the first node", || service(&cluster, 0)?["durable_seq"].as_u64());
    cluster.kill_with_vm(1);
    assert_eq!(cluster.server(Some(1)), 0);
    let (restored, same) = cluster.wait("an answer after the second loss", || cluster.ask(2, "/peek"));
    assert!(restored >= counted && same == boot, "{counted} before, {restored} after, {boot} and {same}");
    check(&cluster, &payload, (0..PAYLOAD_MIB).step_by(7));
}
