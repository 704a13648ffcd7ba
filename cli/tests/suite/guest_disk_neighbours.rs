//! A VM whose disk is still on other nodes: the node that takes over has an empty store, and a pack of the disk can't
//! come whole. The guest reads its disk all the same, chunk by chunk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

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

/// Flips a byte of the payload in the pack of this node that has it; returns the pack's file, and its bytes before.
fn spoil(cluster: &Cluster, node: usize, payload: &[u8]) -> (PathBuf, Vec<u8>) {
    let at = ROTTEN_MIB * MIB + MIB / 2;
    let wanted = &payload[at..at + 64];
    for path in files_below(&store(cluster, node)) {
        let bytes = std::fs::read(&path).unwrap();
        let first = |at: &usize| bytes[*at] == wanted[0] && bytes[*at..].starts_with(wanted);
        if let Some(found) = (0..bytes.len()).find(first) {
            let mut spoilt = bytes.clone();
            spoilt[found] ^= 1;
            std::fs::write(&path, spoilt).unwrap();
            return (path, bytes);
        }
    }
    panic!("no pack of node {node} has the payload");
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
    let spoilt: Vec<_> = (2..4).map(|node| spoil(&cluster, node, &payload)).collect();
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
    let log = || std::fs::read_to_string(cluster.config(1).with_file_name("log")).unwrap();
    cluster.wait("the reason", || log().contains("the rest of snapshot").then_some(()));

    for (path, bytes) in spoilt {
        std::fs::write(path, bytes).unwrap();
    }
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
    cluster.spawn(0);
    cluster.wait("the first node", || service(&cluster, 0)?["durable_seq"].as_u64());
    cluster.kill_with_vm(1);
    assert_eq!(cluster.server(Some(1)), 0);
    let (restored, same) = cluster.wait("an answer after the second loss", || cluster.ask(2, "/peek"));
    assert!(restored >= counted && same == boot, "{counted} before, {restored} after, {boot} and {same}");
    check(&cluster, &payload, (0..PAYLOAD_MIB).step_by(7));
}
