//! A VM with a disk, the whole way: added by `service add`, its server killed while the guest writes one growing
//! number to memory and disk, and both as they were at one instant on the node that goes on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::support::{Bench, guest, snapctl};

const DISK_BYTES: u64 = 64 << 20;

/// What the guest says about its number, by what it was asked through this node's port.
fn instants(cluster: &Cluster, node: u8, query: &str) -> Option<(u64, u64)> {
    let value = cluster.get(node, &format!("/instant{query}"))?;
    assert_eq!((&value["mismatches"], &value["errors"]), (&0.into(), &0.into()), "{value}");
    Some((value["memory"].as_u64()?, value["disk"].as_u64().unwrap_or(0)))
}

fn image(bench: &Bench) -> PathBuf {
    let image = bench.path("image");
    File::create(&image).unwrap().set_len(DISK_BYTES).unwrap();
    let made = Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&image).status().unwrap();
    assert!(made.success());
    image
}

fn add_service(cluster: &Cluster, nodes: usize, image: &Path) {
    let guest = guest();
    let mut add = snapctl();
    add.args(["service", "add", "instant", "--memory", "128M", "--interval", "500ms"]);
    add.args(["--forward", "8080", "--disk"]).arg(image);
    add.arg("--kernel").arg(guest.join("vmlinuz")).arg("--initramfs").arg(guest.join("initramfs.cpio.gz"));
    for node in 0..nodes {
        add.arg("--config").arg(cluster.config(node));
    }
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    for node in 0..nodes {
        // Generations end often, so that the disk that is restored, and read on demand, has been rebased.
        let text = std::fs::read_to_string(cluster.config(node)).unwrap();
        assert!(text.contains("rebase-after = 60"), "{text}");
        std::fs::write(cluster.config(node), text.replace("rebase-after = 60", "rebase-after = 3")).unwrap();
    }
}

#[test]
fn guest_disk_and_memory_agree_after_the_loss_of_the_server() {
    let bench = Bench::new();
    let image = image(&bench);
    let mut cluster = Cluster::planned(3, &[]);
    add_service(&cluster, 3, &image);
    (0..3).for_each(|node| cluster.spawn(node));
    let server = cluster.server(None);
    let (_, boot) = cluster.wait("the guest's first answer", || cluster.ask(2, "/peek"));
    cluster.wait("the start of writing", || instants(&cluster, 2, "?run=1"));
    let (written, _) =
        cluster.wait("numbers on the disk", || instants(&cluster, 2, "").filter(|(memory, _)| *memory >= 50));
    cluster.wait_for_durability(server);

    // Only what the snapshot has is left: neither the image nor the server's node, QEMU and disk.
    std::fs::remove_file(&image).unwrap();
    cluster.kill_with_vm(server);
    let successor = cluster.server(Some(server));
    let (restored, on_disk) = cluster.wait("an answer after the loss", || instants(&cluster, 2, "?run=0"));
    assert!(restored >= written, "{written} was durable, {restored} came back");
    assert!(on_disk >= written, "{written} was durable on the disk, {on_disk} came back");
    assert_eq!(cluster.wait("the boot id", || cluster.ask(2, "/peek")).1, boot, "it booted again");

    // Each write checks first that the disk has the number before it, the first one that of the snapshot.
    cluster.wait("the start of writing", || instants(&cluster, 2, "?run=1"));
    cluster.wait("further numbers", || {
        instants(&cluster, 2, "").filter(|(memory, disk)| *memory >= restored + 20 && disk == memory)
    });
    assert_eq!(cluster.server(None), successor);
}
