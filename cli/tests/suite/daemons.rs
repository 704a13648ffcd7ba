//! Daemons without a VM: files pushed at one node are held by the others, and survive it.

use std::fs;

use rustix::process::Signal;

use crate::cluster::Cluster;
use crate::support::{Bench, noise, patch, snapctl};

#[test]
fn files_pushed_at_a_node_that_is_then_lost_are_gathered_at_another() {
    let bench = Bench::new();
    let ram = bench.write("ram", &noise(3, 3 << 20));
    let region = format!("ram={}", ram.display());
    let mut cluster = Cluster::start(4, &[]);
    let push = |cluster: &Cluster, more: &[&str]| {
        let arguments = [&["push", "files", "--region", &region], more].concat();
        let pushed = cluster.wait("a push", || cluster.at(0, &arguments));
        pushed["snapshot"].as_str().unwrap().to_owned()
    };
    let first = push(&cluster, &[]);
    patch(&ram, 1 << 20, &noise(4, 5_000));
    // A node is told what changed as a lone store is.
    let list = format!("ram={}", bench.write("ram.changed", b"1048576 5000").display());
    let newest = push(&cluster, &["--changed", &list, "--since", &first]);
    let durable = |cluster: &Cluster, node: usize| {
        let log = cluster.at(node, &["log", "files"])?;
        let held =
            |snapshot: &&serde_json::Value| snapshot["id"] == newest.as_str() && snapshot["durable"] == true;
        log.as_array()?.iter().find(held).map(drop)
    };
    cluster.wait("durability", || durable(&cluster, 0));
    // What was pushed there is known to be durable there alone: "no" was wrong elsewhere.
    let elsewhere = cluster.wait("the copy", || {
        let log = cluster.at(1, &["log", "files"])?;
        log.as_array()?.iter().find(|snapshot| snapshot["id"] == newest.as_str()).cloned()
    });
    assert!(elsewhere["durable"].is_null(), "{elsewhere}");

    cluster.kill(0);
    for node in 1..4 {
        let out = bench.path(&format!("out{node}"));
        let to = out.to_str().unwrap().to_owned();
        let gather = ["gather", newest.as_str(), "--to", &to];
        cluster.wait("a gather", || cluster.at(node, &gather));
        assert_eq!(fs::read(out.join("ram")).unwrap(), fs::read(&ram).unwrap());
    }

    cluster.spawn(0);
    cluster.wait("the returned node", || durable(&cluster, 0));
    let verified = cluster.at(0, &["verify"]).unwrap();
    assert_eq!(verified["bad"].as_array().unwrap().len(), 0);
    // A second daemon with the same configuration is told so.
    let second = snapctl().args(["node", "--config"]).arg(cluster.config(0)).output().unwrap();
    assert_eq!(second.status.code(), Some(11), "{}", String::from_utf8_lossy(&second.stderr));
}

/// A node whose configuration was copied, with a store of its own, removed the first one's disks.
#[test]
fn a_second_node_with_the_same_run_folder_is_refused() {
    let cluster = Cluster::start(1, &[]);
    cluster.wait("the node", || cluster.status(0));
    let config = fs::read_to_string(cluster.config(0)).unwrap();
    let config = config.replace("store = \"store\"", "store = \"own-store\"");
    let config = config.replace("\"admin.sock\"", "\"own.sock\"");
    let copy = cluster.config(0).with_file_name("copy.toml");
    fs::write(&copy, config).unwrap();
    let second = snapctl().args(["node", "--config"]).arg(copy).output().unwrap();
    let says = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(11), "{says}");
    assert!(says.contains("another node keeps its VMs there"), "{says}");
}

/// SIGHUP, which asks most daemons to read their configuration again, ended a node without a word.
#[test]
fn a_node_outlives_sighup_and_says_what_a_restart_would_do() {
    let cluster = Cluster::start(1, &[]);
    cluster.wait("the node", || cluster.status(0));
    let says = |what: &str| {
        cluster.signal(0, Signal::HUP);
        cluster.wait(what, || cluster.log(0).contains(what).then_some(()));
    };
    says("is as it was when this node started");
    let path = cluster.config(0);
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("cluster = \"test\"", "cluster = \"other\"")).unwrap();
    says("the configuration has changed");
    fs::write(&path, "no configuration").unwrap();
    says("would not start again");
    fs::write(&path, config).unwrap();
    cluster.wait("the node is still there", || cluster.status(0));
}
