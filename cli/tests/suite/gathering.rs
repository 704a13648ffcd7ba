//! What daemons gather from one another into folders: over kills, and when the newest snapshot is not whole anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::sharing::share;
use crate::support::{Bench, noise, patch, snapctl};

const MIB: usize = 1 << 20;

fn push(cluster: &Cluster, ram: &Path) -> String {
    let region = format!("ram={}", ram.display());
    let pushed = cluster.wait("a push", || cluster.at(0, &["push", "files", "--region", &region]));
    pushed["snapshot"].as_str().unwrap().to_owned()
}

fn wait_for_copies(cluster: &Cluster, nodes: std::ops::Range<usize>, snapshot: &str) {
    for node in nodes {
        cluster.wait("the copy", || {
            let log = cluster.at(node, &["log", "files"])?;
            log.as_array()?.iter().any(|held| held["id"] == snapshot).then_some(())
        });
    }
}

fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_in(&path) } else { vec![path] }).collect()
}

/// Bytes that the files in a folder take on the disk.
fn bytes_in(folder: &Path) -> u64 {
    files_in(folder).iter().filter_map(|path| fs::metadata(path).ok()).map(|file| 512 * file.blocks()).sum()
}

/// All of a pack was fetched anew if its transfer had not come to its end.
#[test]
fn what_came_before_a_node_was_killed_is_not_fetched_again() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(5, 160 * MIB));
    let mut cluster = Cluster::planned(4, &[]);
    (0..3).for_each(|node| cluster.spawn(node));
    let snapshot = push(&cluster, &ram);
    wait_for_copies(&cluster, 1..3, &snapshot);
    // It would send the last one what it lacks, and there would be nothing to gather.
    cluster.kill(0);
    let out = bench.path("out");
    let gather = ["gather", snapshot.as_str(), "--to", out.to_str().unwrap()];
    let store = cluster.folder().join("node-4/store");
    let mut came = 0;
    while came == 0 {
        let _ = fs::remove_dir_all(&store);
        cluster.spawn(3);
        cluster.wait("the empty node", || cluster.status(3));
        let mut command = snapctl();
        command.args(gather).arg("--config").arg(cluster.config(3)).stderr(Stdio::null());
        let mut gathering = command.stdout(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        while gathering.try_wait().unwrap().is_none() && Instant::now() < until {
            if bytes_in(&store.join("incoming")) > 30 << 20 {
                came = 30 << 20;
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        cluster.kill(3);
        assert!(!gathering.wait().unwrap().success() || came == 0);
    }
    cluster.spawn(3);
    let gathered = cluster.wait("the gather", || cluster.at(3, &gather));
    let number = |name: &str| gathered[name].as_u64().unwrap();
    assert!(number("bytes_resumed") > 0, "{gathered}");
    // Both were asked for the same groups at the end, perhaps.
    assert!(number("bytes_fetched") < (160 * MIB) as u64 - came + (8 << 20), "{gathered}");
    assert!(fs::read(out.join("ram")).unwrap() == fs::read(&ram).unwrap());
    assert_eq!(files_in(&store.join("incoming")), Vec::<PathBuf>::new());
}

#[test]
fn a_gather_that_is_interrupted_ends_at_the_node_too() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(7, 160 * MIB));
    let mut cluster = Cluster::planned(3, &[]);
    // It keeps nothing for others: else it would fetch the snapshot by itself.
    share(&cluster, 2, "storage = \"64B\"");
    (0..2).for_each(|node| cluster.spawn(node));
    let snapshot = push(&cluster, &ram);
    wait_for_copies(&cluster, 1..2, &snapshot);
    cluster.kill(0);
    let out = bench.path("out");
    let store = cluster.folder().join("node-3/store");
    let interrupted = (0..20).any(|_| {
        let _ = fs::remove_dir_all(&store);
        cluster.spawn(2);
        cluster.wait("the empty node", || cluster.status(2));
        let mut command = snapctl();
        command.args(["gather", &snapshot, "--to"]).arg(&out).arg("--config").arg(cluster.config(2));
        let mut gathering = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while gathering.try_wait().unwrap().is_none() && bytes_in(&store.join("incoming")) < 20 << 20 {
            std::thread::sleep(Duration::from_millis(2));
        }
        let pid = rustix::process::Pid::from_child(&gathering);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let ended = gathering.wait().unwrap().code() == Some(130);
        if ended {
            // Nothing more comes once the node has noticed.
            std::thread::sleep(Duration::from_millis(500));
            let packs = || bytes_in(&store.join("incoming")) + bytes_in(&store.join("packs"));
            let before = packs();
            std::thread::sleep(Duration::from_millis(500));
            assert_eq!(packs(), before);
            assert!(files_in(&out).is_empty(), "nothing is written");
            cluster
                .wait("the gather", || cluster.at(2, &["gather", &snapshot, "--to", out.to_str().unwrap()]));
            assert!(fs::read(out.join("ram")).unwrap() == fs::read(&ram).unwrap());
        }
        cluster.kill(2);
        let _ = fs::remove_dir_all(&out);
        ended
    });
    assert!(interrupted, "each gather was done before it could be interrupted");
}

/// The newest snapshot was gathered or none, though an older one could be had.
#[test]
fn the_newest_whole_snapshot_is_gathered_and_the_others_are_named() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(3, 3 * MIB));
    let mut cluster = Cluster::start(3, &[]);
    let first = push(&cluster, &ram);
    wait_for_copies(&cluster, 1..3, &first);
    let packs = |node: usize| -> BTreeSet<PathBuf> {
        files_in(&cluster.folder().join(format!("node-{}/store/packs", node + 1))).into_iter().collect()
    };
    let before: Vec<_> = (0..3).map(packs).collect();
    let content = fs::read(&ram).unwrap();
    patch(&ram, MIB as u64, &noise(4, 500_000));
    let newest = push(&cluster, &ram);
    wait_for_copies(&cluster, 1..3, &newest);
    let lost: Vec<_> =
        (0..3).flat_map(|node| packs(node).difference(&before[node]).cloned().collect::<Vec<_>>()).collect();
    assert!(lost.len() >= 3);
    (0..3).for_each(|node| cluster.kill(node));
    lost.iter().for_each(|path| fs::remove_file(path).unwrap());
    (0..3).for_each(|node| cluster.spawn(node as u8));
    let out = bench.path("out");
    let gather = ["gather", "files@latest", "--to", out.to_str().unwrap()];
    let reaches =
        |status: &Value| status["peers"].as_array().unwrap().iter().all(|peer| peer["reachable"] == true);
    cluster.wait("the others", || cluster.status(1).filter(reaches));
    let gathered = cluster.wait("the gather", || cluster.at(1, &gather));
    assert_eq!(gathered["snapshot"], first.as_str());
    assert_eq!(gathered["passed_over"][0]["snapshot"], newest.as_str(), "{gathered}");
    assert!(gathered["passed_over"][0]["reason"].as_str().unwrap().contains("pack"), "{gathered}");
    assert!(fs::read(out.join("ram")).unwrap() == content);
    let said = snapctl().args(gather).arg("--config").arg(cluster.config(1)).output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("passed over") && said.contains(&newest), "{said}");
    // By its name it is that one or none.
    assert!(cluster.at(1, &["gather", &newest, "--to", out.to_str().unwrap()]).is_none());
}

#[test]
fn an_empty_node_gathers_the_newest_by_its_services_name_and_tells_how_far_it_is() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(6, 96 * MIB));
    let mut cluster = Cluster::planned(3, &[]);
    (0..2).for_each(|node| cluster.spawn(node));
    let snapshot = push(&cluster, &ram);
    wait_for_copies(&cluster, 1..2, &snapshot);
    cluster.kill(0);
    cluster.spawn(2);
    cluster.wait("the other", || {
        cluster.status(2).filter(|status| status.to_string().contains("\"reachable\":true"))
    });
    let out = bench.path("out");
    let mut command = snapctl();
    command.args(["gather", "files@latest", "--json", "--events", "--to"]).arg(&out);
    let done = command.arg("--config").arg(cluster.config(2)).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let lines: Vec<Value> = String::from_utf8(done.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (result, events) = lines.split_last().unwrap();
    assert_eq!(result["snapshot"], snapshot.as_str());
    for event in events {
        assert_eq!(event["event"], "progress");
        assert!(event["bytes"].as_u64() <= event["bytes_total"].as_u64(), "{event}");
    }
    assert!(fs::read(out.join("ram")).unwrap() == fs::read(&ram).unwrap());
}
