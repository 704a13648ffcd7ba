//! `snapctl status` says what is wrong, for as long as it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::Cluster;
use crate::command_failover::example;
use crate::support::{Bench, snapctl};

/// A cluster that is not started, with the service on all of its nodes.
fn planned(nodes: u8, programs: &Path) -> Cluster {
    let cluster = Cluster::planned(nodes, &[]);
    let mut add = snapctl();
    // Also what can't run here.
    add.args(["service", "add", "counter", "--force", "--interval", "250ms", "--forward", "8080:80"]);
    add.arg("--command-dir").arg(programs);
    for node in 0..nodes {
        add.arg("--config").arg(cluster.config(node.into()));
    }
    let added = add.output().unwrap();
    assert!(matches!(added.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&added.stderr));
    cluster
}

/// Puts lines at the beginning of a program of the example, or another in its place.
fn replace(programs: &Path, verb: &str, script: &str) -> PathBuf {
    let path = programs.join(verb);
    // By another process: a file that is open for writing in one that forks meanwhile can't be run.
    let write = "rm -f \"$1\" && printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 755 \"$1\"";
    let written = Command::new("sh").args(["-c", write, "sh"]).arg(&path).arg(script).status().unwrap();
    assert!(written.success());
    path
}

/// Waits until a node's status names this problem.
fn wait_for_problem(cluster: &Cluster, node: usize, words: &str) {
    cluster.wait(words, || {
        let status = cluster.status(node)?;
        let problem = &status["services"][0]["problem"];
        let is_it = problem["what"].as_str()?.contains(words) && problem["age_ms"].is_u64();
        is_it.then_some(())
    });
}

fn table(cluster: &Cluster, node: usize) -> String {
    let output = snapctl().args(["status", "--config"]).arg(cluster.config(node)).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_node_that_awaits_a_majority_and_snapshots_that_fail_are_told_until_they_are_over() {
    let bench = Bench::new();
    let programs = example(&bench);
    let flag = bench.write("fail", b"");
    let real = bench.path("real-snapshot");
    std::fs::rename(programs.join("snapshot"), &real).unwrap();
    let script = format!(
        "[ ! -e {} ] || {{ echo no room for it >&2; exit 4; }}\nexec {}",
        flag.display(),
        real.display()
    );
    replace(&programs, "snapshot", &script);
    let mut cluster = planned(3, &programs);
    cluster.spawn(0);
    wait_for_problem(&cluster, 0, "1 of 3 nodes can be asked");
    (1..3).for_each(|node| cluster.spawn(node));
    assert_eq!(cluster.server(None), 0);
    wait_for_problem(&cluster, 0, "no room for it");
    assert!(table(&cluster, 0).contains("\n  problem: can't take a snapshot: "), "{}", table(&cluster, 0));
    let log = std::fs::read_to_string(cluster.config(0).with_file_name("log")).unwrap();
    let warning = log.lines().find(|line| line.contains("no room for it")).unwrap();
    assert!(warning.contains("service") && warning.contains("counter"), "{warning}");
    std::fs::remove_file(flag).unwrap();
    cluster.wait_for_durability(0);
    for node in 0..3 {
        cluster
            .wait("no problem", || cluster.status(node)?["services"][0]["problem"].is_null().then_some(()));
        assert!(!table(&cluster, node).contains("problem:"));
    }
}

#[test]
fn a_service_that_does_not_start_is_told_where_it_was_tried_and_where_it_is_missed() {
    let bench = Bench::new();
    let programs = example(&bench);
    replace(&programs, "start", "echo nothing to serve >&2\nexit 3");
    let mut cluster = planned(2, &programs);
    (0..2).for_each(|node| cluster.spawn(node));
    wait_for_problem(&cluster, 0, "nothing to serve");
    wait_for_problem(&cluster, 0, "exit code 3");
    wait_for_problem(&cluster, 1, "no server: there is no snapshot to go on from");
}

#[test]
fn a_machine_that_cannot_run_the_service_says_so_in_its_status() {
    let bench = Bench::new();
    let programs = example(&bench);
    replace(&programs, "check", "echo a part is missing >&2\nexit 1");
    let mut cluster = planned(2, &programs);
    (0..2).for_each(|node| cluster.spawn(node));
    wait_for_problem(&cluster, 0, "stands in no election");
    wait_for_problem(&cluster, 1, "a part is missing");
}

/// Nodes that don't know the service can't be asked about it, which looked like a node that only waits.
#[test]
fn a_service_on_too_few_nodes_is_told_with_the_nodes_that_lack_it() {
    let bench = Bench::new();
    let programs = example(&bench);
    let mut cluster = Cluster::planned(3, &[]);
    let mut add = snapctl();
    add.args(["service", "add", "counter", "--forward", "8080:80", "--command-dir"]).arg(&programs);
    assert!(add.arg("--config").arg(cluster.config(0)).output().unwrap().status.success());
    (0..3).for_each(|node| cluster.spawn(node));
    wait_for_problem(&cluster, 0, "1 of 3 nodes can be asked");
    cluster.wait("the nodes that lack it", || {
        let status = cluster.status(0)?;
        let what = status["services"][0]["problem"]["what"].as_str()?.to_owned();
        (what.contains("node-2") && what.contains("node-3")).then_some(())
    });
}
