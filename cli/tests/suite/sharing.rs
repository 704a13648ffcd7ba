//! Limits on what a node gives: each holds, and what it costs is said.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::Cluster;
use crate::command_failover::{example, planned};
use crate::support::{Bench, noise, snapctl};

/// Adds a table to a node's configuration.
pub(crate) fn share(cluster: &Cluster, node: usize, limits: &str) {
    let path = cluster.config(node);
    // A table ends where the next one begins: at the front of them all.
    let config = fs::read_to_string(&path).unwrap();
    let table = config.find("\n[timing]").unwrap();
    fs::write(&path, format!("{}\n[share]\n{limits}\n{}", &config[..table], &config[table..])).unwrap();
}

fn push(cluster: &Cluster, bench: &Bench, bytes: usize) -> String {
    let region = format!("state={}", bench.write("state", &noise(1, bytes)).display());
    let pushed = cluster.wait("a push", || cluster.at(0, &["push", "files", "--region", &region]));
    pushed["snapshot"].as_str().unwrap().to_owned()
}

fn durable(cluster: &Cluster, snapshot: &str) -> Option<()> {
    let log = cluster.at(0, &["log", "files"])?;
    let is = |found: &&Value| found["id"] == snapshot && found["durable"] == true;
    log.as_array()?.iter().find(is).map(drop)
}

fn refusal(cluster: &Cluster, name: &str) -> Option<String> {
    let status = cluster.status(0)?;
    let peer = status["peers"].as_array()?.iter().find(|peer| peer["name"] == name)?.clone();
    peer["refuses"].as_str().map(str::to_owned)
}

#[test]
fn a_node_takes_no_more_than_its_limit_on_storage_and_says_so() {
    let bench = Bench::new();
    let mut cluster = Cluster::planned(3, &[]);
    share(&cluster, 2, "storage = \"300KiB\"");
    (0..3).for_each(|node| cluster.spawn(node));
    let snapshot = push(&cluster, &bench, 400_000);
    let reason = cluster.wait("a refusal", || refusal(&cluster, "node-3"));
    assert!(reason.contains("its limit on storage leaves no room"), "{reason}");
    cluster.wait("the copy at the other", || {
        let log = cluster.at(1, &["log", "files"])?;
        log.as_array()?.iter().any(|found| found["id"] == snapshot.as_str()).then_some(())
    });
    assert_eq!(durable(&cluster, &snapshot), None, "one copy is not two");
    assert_eq!(cluster.at(2, &["log", "files"]), None, "it has none of it");

    cluster.kill(2);
    let config = fs::read_to_string(cluster.config(2)).unwrap();
    fs::write(cluster.config(2), config.replace("300KiB", "3MiB")).unwrap();
    cluster.spawn(2);
    cluster.wait("durability", || durable(&cluster, &snapshot));
    assert_eq!(refusal(&cluster, "node-3"), None);
}

#[test]
fn a_push_can_be_waited_for_until_it_is_durable_or_time_is_over() {
    let bench = Bench::new();
    let mut cluster = Cluster::planned(3, &[]);
    share(&cluster, 2, "storage = \"300KiB\"");
    (0..3).for_each(|node| cluster.spawn(node));
    let push = |seed: u64, bytes: usize, wait: &[&str]| {
        let region = format!("state={}", bench.write("state", &noise(seed, bytes)).display());
        let command = [&["push", "files", "--region", &region], wait].concat();
        snapctl().args(command).arg("--config").arg(cluster.config(0)).output().unwrap()
    };
    cluster.wait("a push", || push(1, 50_000, &["--wait", "durable"]).status.success().then_some(()));
    let one = push(2, 400_000, &["--wait", "0", "--json"]);
    let said: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert!(one.status.success() && said["survives"] == 0, "{said}");
    let late = push(3, 400_000, &["--wait", "1", "--timeout", "2"]);
    let words = String::from_utf8_lossy(&late.stderr).into_owned();
    assert_eq!(late.status.code(), Some(3), "{words}");
    assert!(words.contains("survives 0 losses besides this node's, of 1"), "{words}");
}

/// A server whose snapshots nobody takes looked well: they are taken in time.
#[test]
fn that_nothing_is_durable_since_nobody_takes_it_is_a_problem_of_the_service() {
    let bench = Bench::new();
    let mut cluster = planned(&example(&bench));
    (1..4).for_each(|node| share(&cluster, node, "storage = \"64B\""));
    (0..4).for_each(|node| cluster.spawn(node));
    let server = cluster.server(None);
    let problem = cluster.wait("the problem", || {
        let status = cluster.status(server)?;
        let what = status["services"][0]["problem"]["what"].as_str()?.to_owned();
        what.contains("nothing new is durable").then_some(what)
    });
    assert!(problem.contains("fewer than 2 other nodes have it"), "{problem}");
    assert!(problem.contains("does not take all: its limit on storage leaves no room"), "{problem}");
}

#[test]
fn a_node_sends_no_faster_than_its_limit_on_uploads() {
    let bench = Bench::new();
    let mut cluster = Cluster::planned(3, &[]);
    share(&cluster, 0, "upload = \"1MiB\"");
    (0..3).for_each(|node| cluster.spawn(node));
    cluster.wait("the node", || cluster.status(0));
    let begun = Instant::now();
    let snapshot = push(&cluster, &bench, 4 << 20);
    cluster.wait("durability", || durable(&cluster, &snapshot));
    // One copy for both, less what the first second had saved up.
    assert!(begun.elapsed() >= Duration::from_millis(2_900), "{:?}", begun.elapsed());
}

#[test]
fn a_node_keeps_to_its_cores() {
    let mut cluster = Cluster::planned(1, &[]);
    share(&cluster, 0, "cores = 1");
    cluster.spawn(0);
    let pid = cluster.wait("the node", || cluster.status(0)?["pid"].as_u64());
    for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(thread.unwrap().path().join("status")) else { continue };
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        assert!(allowed.parse::<u32>().is_ok(), "a thread may use the cores {allowed}");
    }
}

/// Both would have given out one number twice in one term.
#[test]
fn two_nodes_that_push_one_service_do_so_in_terms_of_their_own() {
    let bench = Bench::new();
    let mut cluster = Cluster::planned(3, &[]);
    (0..3).for_each(|node| cluster.spawn(node));
    let push = |cluster: &Cluster, node: usize, seed: u64| {
        let region = format!("state={}", bench.write("state", &noise(seed, 300_000)).display());
        let pushed = cluster.wait("a push", || cluster.at(node, &["push", "files", "--region", &region]));
        pushed["snapshot"].as_str().unwrap().to_owned()
    };
    let entry = |cluster: &Cluster, node: usize, snapshot: &str| {
        let log = cluster.at(node, &["log", "files"])?;
        log.as_array()?.iter().find(|found| found["id"] == snapshot).cloned()
    };
    let is_durable = |cluster: &Cluster, node: usize, snapshot: &str| {
        entry(cluster, node, snapshot).filter(|found| found["durable"] == true)
    };
    let first = push(&cluster, 0, 1);
    cluster.wait("durability", || is_durable(&cluster, 0, &first));
    cluster.wait("the first one at the other", || entry(&cluster, 1, &first));
    let second = push(&cluster, 1, 2);
    let second = cluster.wait("durability there", || is_durable(&cluster, 1, &second));
    let first = entry(&cluster, 1, &first).unwrap();
    assert_ne!(first["term"], second["term"]);
    assert_eq!(second["seq"].as_u64(), first["seq"].as_u64().map(|seq| seq + 1));
    let third = push(&cluster, 1, 3);
    let third = cluster.wait("durability of the next", || is_durable(&cluster, 1, &third));
    assert_eq!(third["term"], second["term"], "it goes on in its own");
}
