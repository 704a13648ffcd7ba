//! A guest with a disk whose QEMU hangs, is killed, and whose node is killed: each time it goes on from a snapshot, and
//! nothing of it is left behind, in the end least of all.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::Cluster;
use crate::support::{Bench, files_below, guest, processes_with, snapctl};

fn signal(pid: u64, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Four nodes with the service, not started yet.
fn planned(bench: &Bench) -> Cluster {
    let cluster = Cluster::planned(4, &[]);
    let guest = guest();
    let image = bench.path("image");
    fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    assert!(
        Command::new("/usr/sbin/mke2fs").args(["-q", "-t", "ext4"]).arg(&image).status().unwrap().success()
    );
    let mut add = snapctl();
    add.args([
        "service",
        "add",
        "endings",
        "--interval",
        "500ms",
        "--forward",
        "8080:8080",
        "--memory",
        "128M",
    ]);
    add.args(["--accel", "tcg", "--disk"]).arg(&image);
    add.arg("--kernel").arg(guest.join("vmlinuz")).arg("--initramfs").arg(guest.join("initramfs.cpio.gz"));
    for node in 0..4 {
        add.arg("--config").arg(cluster.config(node));
    }
    let added = add.output().unwrap();
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));
    cluster
}

/// The node that serves with another process than this one, and its process.
fn server_after(cluster: &Cluster, before: Option<u64>) -> (usize, u64) {
    cluster.wait("a VM", || {
        (0..cluster.nodes.len()).find_map(|node| {
            let status = cluster.status(node)?;
            let service = &status["services"][0];
            let pid = service["vm_pid"].as_u64().filter(|pid| Some(*pid) != before)?;
            (service["role"] == "server").then_some((node, pid))
        })
    })
}

/// Counts, and waits until what was counted would survive.
fn count_durably(cluster: &Cluster, server: usize) -> (u64, String) {
    let counted = cluster.wait("a count", || cluster.ask(3, "/count"));
    let number = |name: &str| cluster.status(server)?["services"][0][name].as_u64();
    let running = cluster.wait("a snapshot", || number("running_seq"));
    cluster.wait("a durable snapshot", || number("durable_seq").filter(|durable| *durable >= running + 2));
    counted
}

/// The processes of the disk of this node's VM.
fn disk_servers(run: &Path) -> Vec<u32> {
    let serves = |pid: &u32| command_line(*pid).contains("\0disk-server\0");
    processes_with(run.to_str().unwrap()).into_iter().filter(serves).collect()
}

fn command_line(pid: u32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

fn is_node(pid: u32) -> bool {
    command_line(pid).contains("\0node\0")
}

#[test]
fn guest_outlives_a_qemu_that_hangs_or_dies_and_a_killed_node_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let mut cluster = planned(&bench);
    (0..4).for_each(|node| cluster.spawn(node));
    let (mut server, mut qemu) = server_after(&cluster, None);
    let (mut counted, boot) = count_durably(&cluster, server);

    for ending in [Signal::STOP, Signal::KILL] {
        let old_servers = disk_servers(&run_folder(&cluster, server));
        assert_eq!(old_servers.len(), 1, "a disk has one process");
        signal(qemu, ending);
        (server, qemu) = server_after(&cluster, Some(qemu));
        let (count, same) = cluster.wait("an answer", || cluster.ask(3, "/peek"));
        assert!(same == boot && count >= counted, "{count} after {counted}, {same} after {boot}");
        cluster.wait("the end of the old ones", || {
            let old = old_servers.iter().any(|pid| command_line(*pid).contains("disk-server"));
            (processes_with("sustain:endings").len() == 1 && !old).then_some(())
        });
        counted = count_durably(&cluster, server).0;
    }

    // A killed node takes its VM along, and removes the disk when it is back.
    let run = run_folder(&cluster, server);
    cluster.kill(server);
    cluster.wait("the end of the killed node's processes", || {
        (disk_servers(&run).is_empty() && !Path::new(&format!("/proc/{qemu}")).exists()).then_some(())
    });
    let killed = server;
    (server, _) = server_after(&cluster, Some(qemu));
    assert_ne!(server, killed);
    let asked = if killed == 3 { 2 } else { 3 };
    let (count, same) = cluster.wait("an answer", || cluster.ask(asked, "/peek"));
    assert!(same == boot && count >= counted);
    cluster.spawn(u8::try_from(killed).unwrap());
    cluster.wait("the returned node", || cluster.status(killed));
    cluster.wait("the end of its old disk", || (!run.join("disk").exists()).then_some(()));

    for node in 0..4 {
        drop(cluster.nodes[node].as_mut().unwrap().stdin.take());
    }
    cluster.wait("the end of all nodes", || {
        let mut nodes = cluster_nodes(&cluster).into_iter();
        nodes.all(|pid| !is_node(pid)).then_some(())
    });
    assert_eq!(processes_with("sustain:endings"), [] as [u32; 0]);
    for node in 0..4 {
        let run = run_folder(&cluster, node);
        assert_eq!(disk_servers(&run), [] as [u32; 0]);
        let left = if run.exists() { files_below(&run) } else { Vec::new() };
        let logs = |path: &std::path::PathBuf| {
            path.file_name().unwrap().to_str().unwrap().starts_with("console.log")
        };
        assert!(left.iter().all(logs), "{left:?}");
    }
}

fn cluster_nodes(cluster: &Cluster) -> Vec<u32> {
    cluster.nodes.iter().flatten().map(std::process::Child::id).collect()
}

/// Where this node's VM has its files.
fn run_folder(cluster: &Cluster, node: usize) -> std::path::PathBuf {
    cluster.config(node).with_file_name("run").join("endings")
}
